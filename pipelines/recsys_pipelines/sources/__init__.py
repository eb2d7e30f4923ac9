"""Readers of data sets: each streams raw columns and quarantines what its format cannot parse.

The names of `__init__.pyi` are imported when they are first used: who reads one file waits for no other format.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
