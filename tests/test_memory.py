"""Nothing outside an array is touched, nothing leaks, and a failed allocation changes nothing.

Knows: the public functions, and the programs in tests/memory that `scripts/check memory` runs at
length. Must not know: how a kernel or an allocator works.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import xent_fast


@pytest.mark.parametrize("rows", [15, 16, 17, 18, 33, 64, 300])
def test_one_class_beside_other_memory(isa: str, dtype: type, rows: int) -> None:
    """Rows shorter than anything that a kernel loads or stores at once."""
    memory = np.full(rows + 16, 7, dtype)
    out = memory[8:-8].reshape(rows, 1)
    logits = np.arange(rows, dtype=dtype).reshape(rows, 1)
    options = {"z_loss": 0.5, "reduction": "sum", "num_threads": 1}

    grad = xent_fast.softmax_cross_entropy_grad(
        logits, np.zeros(rows, int), out=out, **options
    ).grad
    np.testing.assert_array_equal(memory[:8], 7)
    np.testing.assert_array_equal(memory[-8:], 7)
    np.testing.assert_allclose(grad, logits, rtol=1e-6)  # 2 z lse p, with lse = x and p = 1

    xent_fast.softmax_cross_entropy_grad(logits, np.zeros(rows, int), out=logits, **options)
    np.testing.assert_array_equal(logits, grad)


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
@pytest.mark.parametrize(
    "cases", ["--one-isa --widths 17 130", pytest.param("", marks=pytest.mark.slow)]
)
def test_calls_over_guarded_pages(cases: str) -> None:
    """One byte beyond an array ends the program; it says in which call."""
    run_program("guard_pages.py", *cases.split())


@pytest.mark.slow
@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or shutil.which("cc") is None,
    reason="needs glibc and a C compiler",
)
def test_each_allocation_fails() -> None:
    run_program("allocation_failures.py")


def test_references() -> None:
    run_program("references.py")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_what_copies_logits_of_16_bits() -> None:
    run_program("copies.py")


def run_program(name: str, *options: str) -> None:
    program = Path(__file__).parent / "memory" / name
    command = [sys.executable, str(program), "--quick", *options]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
