"""The schemes, one file each."""

from recsys_tables.schemes.full import Full
from recsys_tables.schemes.hashed import Hash
from recsys_tables.schemes.quotient_remainder import QuotientRemainder
from recsys_tables.schemes.unified import Unified

__all__ = ["Full", "Hash", "QuotientRemainder", "Unified"]
