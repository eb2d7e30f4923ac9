"""Floor 1: compiled hashing and lookup loops, each with a Python face that validates and allocates.

Importing this package never imports torch: `torch_hashing` and `triton_hashing` are left out on purpose. The names of
`__init__.pyi` are imported when they are first used, for what serves single requests needs no Arrow, and what judges
files no manifests.
"""

import lazy_loader

from recsys_cython_ext.version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ = sorted([*__all__, "__version__"])
