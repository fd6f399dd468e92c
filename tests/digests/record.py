"""The digests in the repository: one text file for each family of instruction sets that agree.

Knows the files' form. Must not know what is digested.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def path_of(isa: str) -> Path:
    """Every instruction set but the portable one has fused multiply-add, and the same bits."""
    return HERE / ("portable.txt" if isa == "portable" else "fma.txt")


def read(isa: str) -> dict[str, str]:
    """Digest by case."""
    lines = path_of(isa).read_text(encoding="utf-8").splitlines()
    return {line[17:]: line[:16] for line in lines}


def write(isa: str, digests: dict[str, str]) -> None:
    text = "".join(f"{digest} {name}\n" for name, digest in digests.items())
    path_of(isa).write_text(text, encoding="utf-8")
