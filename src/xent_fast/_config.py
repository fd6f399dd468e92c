"""What this installation is: version, instruction set, threads, compiler.

Knows: how to present it. Must not know: how any of it is found out.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from xent_fast._binding import engine

__version__: str = engine.configuration()["version"]


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Show what this installation is and what it computes with.

    It says what a report of a wrong or slow result should say.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, default "stdout"
        Print the configuration, or return it.

    Returns
    -------
    dict or None
        For ``mode="dicts"`` nested dicts of strings, numbers and lists, else None:

        ``version``
            Of xent_fast.
        ``isa``
            The instruction set in use (``active``) and those this machine and build support, best
            first (``supported``). The environment variable ``XENT_FAST_ISA``, read at import,
            chooses one.
        ``threads``
            The OpenMP specification the build follows, as yyyymm, or None for a build without
            (``openmp``); the threads a large call takes by default (``default``); how a worker
            waits for the next call (``waiting``: ``"briefly"``, then it sleeps; ``"as the
            environment says"``; or ``"as the OpenMP library was loaded before"``, and then
            ``default`` is 1); the machine's processors (``processors``).
        ``compiler``, ``numpy``, ``python``, ``platform``
            What it was built with and runs under.

    Raises
    ------
    ValueError
        If `mode` is neither of the two.

    Examples
    --------
    >>> from xent_fast import show_config
    >>> config = show_config("dicts")
    >>> config["isa"]["active"] in config["isa"]["supported"]
    True
    """
    config = {
        **engine.configuration(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    if mode == "dicts":
        return config
    if mode != "stdout":
        raise ValueError(f"mode must be 'stdout' or 'dicts', not {mode!r}")
    print(json.dumps(config, indent=2))
    return None


def get_include() -> str:
    """Where the header for compiled code lies: ``xent_fast.h``.

    A compiler finds it with this folder among its include directories, and Cython
    ``xent_fast.c_api`` with it.

    Returns
    -------
    str
        Path of a folder of the installed package.

    See Also
    --------
    show_config : What the package was built with.

    Examples
    --------
    >>> from pathlib import Path
    >>> from xent_fast import get_include
    >>> sorted(path.name for path in Path(get_include()).iterdir())
    ['xent_fast.h']
    """
    return str(Path(__file__).parent / "include")
