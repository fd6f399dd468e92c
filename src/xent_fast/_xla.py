"""Calls of XLA, the compiler of JAX, that reach the C entry points without Python.

XLA's header comes with JAX, so that the handlers of `_xla_handlers.c` are compiled on the machine
that uses them: once, in a tenth of a second, kept in the user's cache under a name that the sources
make. Where there is no compiler, `is_available` says so.

Knows: how a library is compiled, kept and loaded. Must not know: derivatives, the mathematics.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.ffi

from xent_fast import c_api
from xent_fast._config import get_include

_SOURCE = Path(__file__).with_name("_xla_handlers.c")
_FLAGS = ("-std=c11", "-O2", "-fPIC", "-shared")
_HANDLERS = ("xent_fast_xla_losses", "xent_fast_xla_losses_and_grads")
_COMPILER_SECONDS = 60
# Of one user's libraries: nobody else may put one there.
_OWN_FOLDER = 0o700


@cache
def is_available() -> bool:
    """Whether the handlers are registered: compiled now or before, and loaded.

    Not where JAX brings no header or the machine has no C compiler.
    """
    try:
        _register(_load())
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """One loss a row, of classes on the last axis.

    `labels` are integers of 32 or 64 bits without that axis, or numbers of the shape and dtype of
    `logits`.
    """
    call = jax.ffi.ffi_call(_HANDLERS[0], _rows_of(logits), vmap_method="broadcast_all")
    result: jax.Array = call(logits, labels)
    return result


def losses_and_grads(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One loss a row, and its gradient, which takes the logits' place where they are done with."""
    call = jax.ffi.ffi_call(
        _HANDLERS[1],
        (_rows_of(logits), jax.ShapeDtypeStruct(logits.shape, logits.dtype)),
        vmap_method="broadcast_all",
        input_output_aliases={0: 1},
    )
    rows, grads = call(logits, labels)
    return rows, grads


def _rows_of(logits: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(logits.shape[:-1], computed_type(logits))


def computed_type(logits: jax.Array) -> Any:
    """Of losses: the dtype of logits, or float32 where that has 16 bits."""
    return jax.numpy.promote_types(logits.dtype, jax.numpy.float32)


def _register(library: ctypes.CDLL) -> None:
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype = ctypes.c_void_p
    pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]
    capsule: Any = c_api._C_API
    library.xent_fast_xla_use(ctypes.c_void_p(pointer_of(capsule, b"xent_fast.c_api._C_API")))
    for name in _HANDLERS:
        handler = jax.ffi.pycapsule(getattr(library, name))
        jax.ffi.register_ffi_target(name, handler, platform="cpu")


def _load() -> ctypes.CDLL:
    """The library from the cache, or compiled into it; into a passing folder if it cannot be."""
    folders = (jax.ffi.include_dir(), get_include())
    headers = [header for folder in folders for header in Path(folder).rglob("*.h")]
    digest = hashlib.sha256(f"{sys.platform} {sysconfig.get_platform()} {_FLAGS}".encode())
    for path in (_SOURCE, *sorted(headers)):
        digest.update(path.read_bytes())
    name = f"xla-{digest.hexdigest()[:32]}.so"
    try:
        library = _cache_folder() / name
        if not library.exists():
            _compile(folders, library)
        return ctypes.CDLL(str(library))
    except OSError:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as passing:
            library = Path(passing) / name
            _compile(folders, library)
            return ctypes.CDLL(str(library))


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "xent_fast"
    folder.mkdir(_OWN_FOLDER, parents=True, exist_ok=True)
    return folder


def _compile(folders: tuple[str, ...], library: Path) -> None:
    """Under another name first: another process may be about to do the same."""
    # as everywhere, CC may have arguments, or be a launcher of a compiler
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(compiler[0]) is None:
        raise FileNotFoundError("no C compiler: neither the variable CC nor cc names one")
    with tempfile.TemporaryDirectory(dir=library.parent) as beside:
        made = Path(beside) / library.name
        include = [f"-I{folder}" for folder in folders]
        subprocess.run(
            [*compiler, *_FLAGS, *include, str(_SOURCE), "-o", str(made)],
            check=True,
            capture_output=True,
            timeout=_COMPILER_SECONDS,
        )
        made.replace(library)
