"""The extension modules built from a copy of its sources, object by object, with flags of our own.

A build in a copy leaves the checkout and the installed package alone, and compiles again only what
a change touches.

Knows: the sources, what is compiled again when a file changes, compilers.
Must not know: why somebody builds like this.
"""

from __future__ import annotations

import importlib.machinery
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable
from pathlib import Path

import numpy
from checking import NOT_INLINED, ROOT, write_stand_in

PACKAGE = "xent_fast"
ISAS = ("avx512", "avx2", "portable")
BINDING = "_binding"
WITH_KERNELS = "instruction_sets.pyx"  # the module that holds the kernels

# What setup.py gives the extension, but for the optimisation.
FLAGS = ("-ffp-contract=off", "-fvisibility=hidden", "-fPIC", "-fopenmp")
CYTHON_DIRECTIVES = (
    "boundscheck=False",
    "cdivision=True",
    "initializedcheck=False",
    "wraparound=False",
)


def compiler(name: str) -> list[str]:
    """The command of a C compiler, through ccache where there is one."""
    return [*(["ccache"] if shutil.which("ccache") else []), *name.split()]


class Extension:
    """A copy of the package in a directory of its own, to be built and imported from there."""

    def __init__(self, directory: Path, isas: Iterable[str], flags: Iterable[str]) -> None:
        self.directory = directory
        self.package = directory / PACKAGE
        self.isas = tuple(isas)
        self.flags = tuple(flags)

    @classmethod
    def of_checkout(cls, directory: Path, isas: Iterable[str], flags: Iterable[str]) -> Extension:
        """A copy of the checkout's sources with nothing inlined, not built yet."""
        extension = cls(directory, isas, [*flags, NOT_INLINED])
        shutil.copytree(
            ROOT / "src" / PACKAGE,
            extension.package,
            ignore=ignored,
        )
        for isa in set(ISAS) - set(extension.isas):
            write_stand_in(extension.package / "kernels" / f"isa_{isa}.c")
        return extension

    def copied(self, directory: Path) -> Extension:
        """A copy of this one, objects included."""
        shutil.copytree(self.package, directory / PACKAGE)
        return Extension(directory, self.isas, self.flags)

    def sources(self) -> list[Path]:
        """Every source file, as paths within the copy."""
        kernels = sorted((self.package / "kernels").glob("*.c"))
        return [*self.cython_sources(), *(path.relative_to(self.directory) for path in kernels)]

    def cython_sources(self) -> list[Path]:
        """One for each module that `import xent_fast` needs."""
        modules = [*sorted((self.package / BINDING).glob("*.pyx")), *self.package.glob("_*.pyx")]
        return [path.relative_to(self.directory) for path in modules]

    def sources_that_include(self, file: Path) -> list[Path]:
        """What is compiled again when `file`, a path within the copy, changes."""
        kernels = Path(PACKAGE, "kernels")
        if file.suffix in {".c", ".pyx"}:
            return [file]
        if kernels not in file.parents:
            return self.cython_sources()
        return [kernels / f"isa_{isa}.c" for isa in self.isas]

    def build(self, sources: Iterable[Path] | None = None) -> None:
        """Compile sources (None: all) and link; raises CalledProcessError where that fails."""
        for source in self.sources() if sources is None else sources:
            self.compile(source)
        kernels = [str(path.with_suffix(".o")) for path in self.sources() if path.suffix == ".c"]
        for module in self.cython_sources():
            objects = [
                str(module.with_suffix(".o")),
                *(kernels if module.name == WITH_KERNELS else []),
            ]
            library = str(module.with_suffix(importlib.machinery.EXTENSION_SUFFIXES[0]))
            self.run(["cc", "-shared", *self.flags, *FLAGS, *objects, "-o", library, "-lm"])

    def compile(self, source: Path) -> None:
        flags = [*self.flags, *FLAGS]
        if source.suffix == ".pyx":
            self.translate(source)
            flags += [f"-I{PACKAGE}", f"-I{numpy.get_include()}"]
            flags += [f"-I{sysconfig.get_paths()['include']}", f'-DXENT_FAST_VERSION="{version()}"']
            flags += ["-DNPY_NO_DEPRECATED_API=NPY_2_0_API_VERSION"]
        else:
            flags += ["-std=c11"]
        command = [*compiler("cc"), *flags, "-c", str(source.with_suffix(".c"))]
        self.run([*command, "-o", str(source.with_suffix(".o"))])

    def translate(self, source: Path, *options: str) -> None:
        """Cython to C."""
        directives = [word for directive in CYTHON_DIRECTIVES for word in ("-X", directive)]
        self.run([sys.executable, "-m", "cython", "-3", *directives, *options, str(source)])

    def run(self, command: list[str]) -> None:
        subprocess.run(command, cwd=self.directory, check=True)

    def environment(self) -> dict[str, str]:
        """The environment in which Python imports this copy, whatever is installed."""
        paths = [str(self.directory), str(Path(__file__).parent)]
        return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


def ignored(directory: str, names: list[str]) -> set[str]:
    """What is built in a checkout: modules, and the C of Cython's sources."""
    return {
        name
        for name in names
        if name.endswith((".so", "__pycache__"))
        or (name.endswith(".c") and f"{name[:-2]}.pyx" in names)
    }


def version() -> str:
    """The package's version."""
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return metadata["project"]["version"]
