"""Train, compare and serve recommender models on small embedding tables.

Importing this package imports no torch: the names of `__init__.pyi` are imported when they are first used.
"""

import lazy_loader

from recsys_cython_ext.extras import explained as _explained
from recsys_cython_ext.version import __version__ as __version__

_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = _explained(_attribute)
