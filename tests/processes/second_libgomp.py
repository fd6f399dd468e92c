"""A library that brings a second libgomp into the process: the compiler's own, under another name.

Knows the linker's names of libraries. Must not know who loads it.
"""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "threads" / "nested.c"
NAME, OTHER_NAME = b"libgomp.so.1\0", b"libgomq.so.1\0"


def compiler() -> list[str]:
    """The C compiler that builds extensions here."""
    return (sysconfig.get_config_var("CC") or "cc").split()


def build_second_libgomp(directory: Path) -> Path:
    """tests/threads/nested.c, linked to a copy of libgomp with a name of its own."""
    found = subprocess.run(
        [*compiler(), "-print-file-name=libgomp.so.1"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    contents = Path(found.stdout.strip()).read_bytes()
    if contents.count(NAME) != 1:
        raise ValueError("libgomp does not name itself once")
    copy = directory / OTHER_NAME.rstrip(b"\0").decode()
    copy.write_bytes(contents.replace(NAME, OTHER_NAME))
    built, library = directory / "nested.o", directory / "nested.so"
    build([*compiler(), "-fPIC", "-fopenmp", "-c", str(SOURCE), "-o", str(built)])
    build(
        [
            *(*compiler(), "-shared", str(built), "-o", str(library)),
            *(str(copy), f"-Wl,-rpath,{directory}"),
        ]
    )
    return library


def build(command: list[str]) -> None:
    subprocess.run(command, check=True)
