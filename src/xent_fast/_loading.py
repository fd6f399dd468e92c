"""Load the extension so that its idle threads soon leave the processors to others.

An OpenMP library reads from the environment, once, how long a worker that has nothing to do holds
its processor before it sleeps: by default so long that NumPy's matrix products, which come between
two calls of a training step, take twice their time.

Knows: the environment's names for that, which OpenMP library the process has, and how
`python -m xent_fast` tells what keeps the extension from loading. Must not know:
what the extension computes, when a second thread pays.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy  # noqa: F401  loaded before the environment changes, as are its matrix products

from xent_fast import _result  # noqa: F401

# Whoever sets one of these has chosen how threads wait.
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")

# GCC's libgomp counts turns of a loop, some 10 to 100 microseconds in all: enough for the barriers
# within a call and for calls that follow each other at once. LLVM's libomp counts milliseconds.
BOUNDED = {"GOMP_SPINCOUNT": "500", "KMP_BLOCKTIME": "0"}

OPENMP_LIBRARIES = ("libgomp", "libomp", "libiomp")


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """These variables, not set before, and then none of them again."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def openmp_libraries() -> set[str]:
    """The OpenMP libraries that the process has loaded; none where the system does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    files = {line.split(maxsplit=5)[-1] for line in lines if "omp" in line}
    return {file for file in files if Path(file).name.startswith(OPENMP_LIBRARIES)}


def load() -> None:
    """Load the extension, and tell it how its workers will wait."""
    has_chosen = any(name in os.environ for name in CHOICES)
    before = openmp_libraries()
    with environment({} if has_chosen else BOUNDED):
        from xent_fast._binding import engine

        # LLVM's library reads the environment when it is first asked for something.
        has_openmp = engine.configuration()["threads"]["openmp"] is not None
    if not has_openmp:
        engine.set_waiting(None, False)
    elif has_chosen:
        engine.set_waiting("as the environment says", False)
    elif before and openmp_libraries() == before:
        engine.set_waiting("as the OpenMP library was loaded before", True)
    else:
        engine.set_waiting("briefly", False)


def is_command() -> bool:
    """Whether this is `python -m xent_fast`: the package is imported before its `__main__`."""
    return sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)] in ("xent_fast", "-mxent_fast")


def load_or_tell() -> None:
    """Load it; `python -m xent_fast` tells in a line what `XENT_FAST_ISA` keeps it from."""
    try:
        load()
    except ValueError as error:
        if not is_command():
            raise
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


load_or_tell()
