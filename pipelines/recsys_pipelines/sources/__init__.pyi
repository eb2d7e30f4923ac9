from .base import Chunk, Source, SourceError
from .registry import BESIDE, SOURCES, open_source

__all__ = ["BESIDE", "SOURCES", "Chunk", "Source", "SourceError", "open_source"]
