"""What the bare installation leaves out: which extra brings a library, said in one sentence where it is missing."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

_TRAINING = ("torch", "torchrec", "fbgemm_gpu", "tensordict", "safetensors", "sklearn", "tensorboard")
_EXTRAS = {
    **dict.fromkeys(_TRAINING, "'recsys-embedding-tables[cpu]', with a GPU 'recsys-embedding-tables[gpu]'"),
    **dict.fromkeys(("ray", "optuna"), "'recsys-embedding-tables[ray]'"),
    **dict.fromkeys(("onnx", "onnxscript"), "'recsys-embedding-tables[export]'"),
    **dict.fromkeys(
        ("onnxruntime", "starlette", "uvicorn", "prometheus_client"), "'recsys-embedding-tables[serve]'"
    ),
    "matplotlib": "'recsys-embedding-tables[pictures]'",
}


class MissingExtra(ImportError):
    """A library that an extra brings is not installed; the message names both."""


def install_hint(module: str) -> str | None:
    """Return a sentence on how to install what an import did not find; None where no extra brings it."""
    library = module.partition(".")[0]
    return f"{library} is not installed: pip install {_EXTRAS[library]}" if library in _EXTRAS else None


def require(*libraries: str) -> None:
    """Raise MissingExtra where one of the libraries is not installed, before work begins that would be for nothing."""
    for library in libraries:
        if find_spec(library) is None:
            raise MissingExtra(install_hint(library))


def explained(attribute: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wrap a package's `__getattr__`, so that a name that needs a missing library says which extra brings it."""

    def lookup(name: str) -> Any:
        try:
            return attribute(name)
        except ModuleNotFoundError as error:
            hint = install_hint(error.name or "")
            if hint is None:
                raise
            raise MissingExtra(f"{name} cannot be imported: {hint}") from None

    return lookup
