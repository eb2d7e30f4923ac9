"""Find the packages and build the Cython extensions; everything else is declared in pyproject.toml.

RECSYS_CYTHON_DEBUG=1 turns bounds checks on in every kernel (the directives live here, in one
place, because a misspelt directive in a file header is ignored in silence).
"""

import os
import subprocess
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("RECSYS_CYTHON_DEBUG") == "1"

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "cdivision": True,
    "embedsignature": True,
}

# The folders of the top level hold uniquely named packages: one called `tables` would overwrite PyTables.
FOLDERS = {
    "recsys": "recsys",
    "recsys_tables": "tables/recsys_tables",
    "recsys_pipelines": "pipelines/recsys_pipelines",
    "recsys_cython_ext": "cython_ext/recsys_cython_ext",
    "recsys_configs": "configs",
}
PACKAGES = [
    *FOLDERS,
    *(
        f"{package}.{below}"
        for package, folder in FOLDERS.items()
        for below in find_namespace_packages(folder, exclude=["*__pycache__*"])
    ),
]

KERNELS = "cython_ext/recsys_cython_ext"
EXTENSIONS = [
    Extension(f"recsys_cython_ext.{kernel.stem}", [f"{KERNELS}/{kernel.name}"])
    for kernel in sorted(Path(KERNELS).glob("*.pyx"))
]

# No -march: wheels are portable, and the kernels choose among their clones when they are loaded.
FLAGS = {
    "msvc": ["/O2", "/fp:precise"],
    "clang": ["-O3", "-ffp-contract=off"],  # sums do not depend on whether the machine has FMA
    "gcc": ["-O3", "-ffp-contract=off"],
}
ROW_FLAGS = {
    "gcc": [
        "-fno-trapping-math",  # loops with a choice between floats are vectorised,
        "-fno-math-errno",  # as are roots,
        "-fno-tree-loop-distribute-patterns",  # setting 16 floats to zero,
        "--param=max-completely-peel-times=8",  # and loops over 8 or 16 columns: 2 to 5 times as fast
    ],
}
ROW_KERNELS = ("_lookup", "_table_read", "_table_update")  # which read rows of floats


class BuildKernels(build_ext):
    """Build each kernel with the flags that its compiler knows, as many at once as there are cores."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extension(self, extension: Extension) -> None:
        family = self._compiler_family()
        extension.extra_compile_args = list(FLAGS[family])
        if extension.name.rpartition(".")[2] in ROW_KERNELS:
            extension.extra_compile_args += ROW_FLAGS.get(family, [])
        super().build_extension(extension)

    def _compiler_family(self) -> str:
        """Return "msvc", "clang" or "gcc"; a compiler that is none of them is taken for clang, whose flags are plain."""
        if self.compiler.compiler_type == "msvc":
            return "msvc"
        command = [*self.compiler.compiler, "--version"]
        version = subprocess.run(command, capture_output=True, text=True, check=False).stdout.lower()
        return "gcc" if "free software foundation" in version else "clang"


setup(
    packages=PACKAGES,
    package_dir=FOLDERS,
    ext_modules=cythonize(EXTENSIONS, compiler_directives=DIRECTIVES, quiet=True),
    cmdclass={"build_ext": BuildKernels},
)
