"""`xent_fast.mpi` in processes that mpiexec starts, under a time limit.

Knows: how they are started, what they print. Must not know: what they check (mpi_ranks.py).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mpi4py")
HERE = Path(__file__).parent
MPIEXEC = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")
SECONDS = 100


@pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec")
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks(ranks: int) -> None:
    assert MPIEXEC is not None
    command = [MPIEXEC, "-n", str(ranks), sys.executable, str(HERE / "mpi_ranks.py")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    passed = [line for line in run.stdout.splitlines() if line.startswith("passed ")]
    assert len(passed) == 6, run.stdout + run.stderr
    assert all(line.endswith(f" on {ranks}") for line in passed)
