"""Settings of every test; where torch is not installed, tests of what an extra brings are skipped."""

import os
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

from recsys_cython_ext.extras import MissingExtra, install_hint

# Before torch is loaded: its threads would spin while they wait, and take the cores of the other tests.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
settings.register_profile("no-deadline", deadline=None)  # a busy machine is no defect
settings.load_profile("no-deadline")


def _extra_of(error: BaseException | None) -> str | None:
    """Return how to install what an import did not find; None of other errors."""
    if isinstance(error, MissingExtra):
        return str(error)
    return install_hint(error.name or "") if isinstance(error, ImportError) else None


class _Module(pytest.Module):
    """A file of tests that is skipped where it imports what an extra brings."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        try:
            return super().collect()
        except self.CollectError as error:
            if hint := _extra_of(error.__cause__):
                pytest.skip(hint, allow_module_level=True)
            raise


if find_spec("torch") is None:

    def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
        return _Module.from_parent(parent, path=module_path)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call() -> Iterator[None]:
        try:
            return (yield)
        except ImportError as error:
            if hint := _extra_of(error):
                pytest.skip(hint)
            raise
