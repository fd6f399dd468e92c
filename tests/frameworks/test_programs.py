"""The programs of docs/large_vocabularies.md and docs/half_precision.md, in their quick forms.

Knows: how they are started, what they print. Must not know: what they train.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

for needed in ("mpi4py", "distributed", "torch", "tqdm", "matplotlib"):
    pytest.importorskip(needed)
ROOT = Path(__file__).parent.parent.parent


def printed_by(*arguments: str) -> str:
    run = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_word_model(tmp_path: Path) -> None:
    """The script itself fails where the ways' losses differ; the test's go down."""
    plot = tmp_path / "words.png"
    output = printed_by("docs/examples/train_words.py", "--quick", "--output", str(plot))
    assert re.findall(r"^(\w+) and plain: losses of every step within", output, re.MULTILINE) == [
        *("fused", "mpi", "dask")
    ]
    last = re.findall(r"^\| [^|]+ \| (\d\.\d+) \|", output, re.MULTILINE)
    assert len(last) == 5
    assert all(float(loss) < 6.5 for loss in last)
    assert plot.stat().st_size > 10_000


def test_figures() -> None:
    output = printed_by("-m", "benchmarks.large_vocabularies", "--quick")
    assert output.count("| linear_softmax_cross_entropy_grad |") == 1
    ulp = re.search(r"target's gradient is right to\s+(\d+\.\d) ulp", output)
    assert ulp is not None
    assert float(ulp[1]) <= 4


def test_half_precision_figures() -> None:
    """Both tables have a line for every shape and number of threads; PyTorch is there."""
    output = printed_by("-m", "benchmarks.half_precision", "--quick")
    lines = re.findall(r"^\| (\d+) \| [\d,]+ x [\d,]+ \| (.*) \|$", output, re.MULTILINE)
    threads = {count for count, _ in lines}
    assert len(lines) == 2 * 4 * len(threads)
    assert "| PyTorch, bfloat16 |" in output
    assert output.count("Slower than float32") == 1
