"""Build the Cython extensions and find the packages; everything else is declared in pyproject.toml.

RECSYS_CYTHON_DEBUG=1 turns bounds checks on in every kernel (the directives live here, in one
place, because a misspelt directive in a file header is ignored in silence).
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, find_namespace_packages, setup

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

EXTENSIONS = [
    Extension(
        "recsys_cython_ext._hashing",
        ["cython_ext/recsys_cython_ext/_hashing.pyx"],
        extra_compile_args=["-O3"],  # no -march: wheels are portable
    ),
    Extension(
        "recsys_cython_ext._text",
        ["cython_ext/recsys_cython_ext/_text.pyx"],
        extra_compile_args=["-O3"],
    ),
    Extension(
        "recsys_cython_ext._sums",
        ["cython_ext/recsys_cython_ext/_sums.pyx"],
        extra_compile_args=["-O3"],
    ),
    Extension(
        "recsys_cython_ext._ranks",
        ["cython_ext/recsys_cython_ext/_ranks.pyx"],
        extra_compile_args=["-O3"],
    ),
    Extension(
        "recsys_cython_ext._gather",
        ["cython_ext/recsys_cython_ext/_gather.pyx"],
        extra_compile_args=["-O3"],
    ),
    Extension(
        "recsys_cython_ext._vocabulary",
        ["cython_ext/recsys_cython_ext/_vocabulary.pyx"],
        extra_compile_args=["-O3"],
    ),
    Extension(
        "recsys_cython_ext._static_function",
        ["cython_ext/recsys_cython_ext/_static_function.pyx"],
        extra_compile_args=["-O3"],
    ),
    Extension(
        "recsys_cython_ext._remap",
        ["cython_ext/recsys_cython_ext/_remap.pyx"],
        extra_compile_args=["-O3"],
    ),
    Extension(
        "recsys_cython_ext._lookup",
        ["cython_ext/recsys_cython_ext/_lookup.pyx"],
        extra_compile_args=[
            "-O3",
            "-ffp-contract=off",  # sums do not depend on whether the machine has FMA
            "-fno-trapping-math",  # loops with a choice between floats are vectorised,
            "-fno-tree-loop-distribute-patterns",  # as is setting 16 floats to zero,
            "--param=max-completely-peel-times=4",  # and loops over 8 or 16 columns: 2 to 5 times as fast
        ],
    ),
]

setup(
    packages=PACKAGES,
    package_dir=FOLDERS,
    ext_modules=cythonize(EXTENSIONS, compiler_directives=DIRECTIVES),
)
