"""The fuzzers' seed corpus, once more: inputs that together reach what the fuzzers reached.

Knows: how the fuzzers are built and called without libFuzzer.
Must not know: what an input holds.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import corpus
import judge
import pytest

HERE = Path(__file__).parent / "fuzz"
KERNELS = HERE.parent.parent / "src" / "xent_fast" / "kernels"


def test_public_functions() -> None:
    outcomes = set()
    for data in corpus.read("python"):
        try:
            outcomes.add(judge.check(data))
        except judge.Fault as fault:
            pytest.fail(f"{data.hex()}: {fault}")
    assert {"result", "TypeError", "ValueError", "IndexError"} <= outcomes


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform == "win32" or not shutil.which("cc") or not KERNELS.exists(),
    reason="needs a C compiler, the kernels' source and mmap",
)
def test_kernels(tmp_path: Path) -> None:
    """By any C compiler: replay.c calls what libFuzzer would."""
    program = tmp_path / "replay"
    sources = [*HERE.glob("*.c"), *KERNELS.glob("*.c")]
    not_inlined = "-DALWAYS_INLINE=__attribute__((noinline))"  # in a fourth of the time
    flags = ["-std=c11", "-O1", "-ffp-contract=off", not_inlined, f"-I{KERNELS}"]
    subprocess.run(["cc", *flags, "-o", program, *sources, "-lm"], check=True)
    paths = corpus.unpack("kernels", tmp_path / "inputs")
    done = subprocess.run([program, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == f"{len(paths)} inputs replayed\n"
