"""Finished runs are scored, exported, and served from: `Predictor` answers without torch, and is imported when used."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
