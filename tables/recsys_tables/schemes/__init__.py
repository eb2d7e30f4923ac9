"""The schemes, a file each: what it is, its declaration in a configuration, and how that spends a budget.

`from recsys_tables.schemes import Full` works for every scheme of the union in `recsys_tables.config`, and for the two
that no configuration declares: `Shared`, which a plan makes, and `DeepHash`, which has no tables. Their types are known
where they are imported from their own files.
"""

from typing import Any

from recsys_tables.scheme import Scheme
from recsys_tables.schemes.deep_hash import DeepHash
from recsys_tables.schemes.shared import Shared

__all__ = ["DeepHash", "Shared", "scheme_classes"]


def scheme_classes() -> dict[str, type[Scheme]]:
    """Return the class of every scheme by its name, which checkpoints and artefacts know it by."""
    from recsys_tables.config import DECLARATIONS  # not above, for it imports every file of this package

    classes = (*(declaration.scheme_class for declaration in DECLARATIONS), DeepHash, Shared)
    return {scheme.__name__: scheme for scheme in classes}


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in (classes := scheme_classes()):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return classes[name]
