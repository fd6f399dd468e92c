"""The fuzzers' seed corpora: one text file a fuzzer, one input a line, in hexadecimal.

    tests/fuzz/corpus.py FILE DIRECTORY    unpack: a file an input, as libFuzzer takes them

Knows: the files' form. Must not know: what an input holds.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

HERE = Path(__file__).parent / "corpus"


def path_of(fuzzer: str) -> Path:
    return HERE / f"{fuzzer}.txt"


def read(fuzzer: str) -> list[bytes]:
    lines = path_of(fuzzer).read_text(encoding="ascii").splitlines()
    return [bytes.fromhex(line) for line in lines]


def write(fuzzer: str, inputs: set[bytes]) -> None:
    """Sorted, so that a difference shows what came and what went."""
    text = "".join(f"{data.hex()}\n" for data in sorted(inputs))
    path_of(fuzzer).write_text(text, encoding="ascii")


def unpack(fuzzer: str, directory: Path) -> list[Path]:
    """Each input in a file of its own, named by its digest."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for data in read(fuzzer):
        path = directory / hashlib.sha256(data).hexdigest()[:16]
        path.write_bytes(data)
        paths.append(path)
    return sorted(paths)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]).stem, Path(sys.argv[2]))
