"""Checkpoints are copied to a URL, where they are left when the machine that trained is lost."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from recsys_cython_ext.files import new_folder
from recsys_pipelines.sources.location import Url

MANIFEST = "manifest.json"
CHECKPOINT = "steps-"  # what the names of checkpoints begin with; nothing else at the URL is ours


class Mirror:
    """Checkpoint folders at a URL (`location.PROTOCOLS`); each is whole when it has its manifest, which comes last.

    Object stores cannot rename, and need not: a copy that was interrupted has no manifest. Every method raises
    OSError, with the URL in its message, where the store does not do what is asked.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        with self._failures_named():
            self._fs, root = fsspec.core.url_to_fs(str(Url(self.url)))
        self._root = str(root)

    def names(self) -> list[str]:
        """Return the names of the whole checkpoints."""
        with self._failures_named():
            manifests = self._fs.glob(f"{self._root}/{CHECKPOINT}*/{MANIFEST}")
        return sorted(str(path).rsplit("/", 2)[-2] for path in manifests)

    def upload(self, folder: Path) -> None:
        """Copy a checkpoint's files, the manifest last."""
        target = f"{self._root}/{folder.name}"
        with self._failures_named():
            self._fs.makedirs(target, exist_ok=True)
            for file in sorted(folder.iterdir(), key=lambda file: file.name == MANIFEST):
                self._fs.put_file(str(file), f"{target}/{file.name}")

    def download(self, name: str, root: Path) -> None:
        """Copy a checkpoint to a folder of that name below `root`, which gets its name when it is whole."""
        with new_folder(root / name) as partial, self._failures_named():
            for path in self._fs.ls(f"{self._root}/{name}", detail=False):
                self._fs.get_file(path, str(partial / str(path).rsplit("/", 1)[-1]))

    def keep(self, names: Collection[str]) -> None:
        """Remove all other checkpoints, and what interrupted copies left."""
        with self._failures_named():
            for path in self._fs.ls(self._root, detail=False) if self._fs.exists(self._root) else ():
                name = str(path).rstrip("/").rsplit("/", 1)[-1]
                if name.startswith(CHECKPOINT) and name not in names:
                    self._fs.rm(path, recursive=True)

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # every store has exceptions of its own
            why = str(error) or type(error).__name__
            raise OSError(
                f"job.checkpoint.url {self.url}: {why}; see that it can be reached, or take another"
            ) from error
