"""`python -m xent_fast`: what its commands print, and that they can fail.

Knows the commands' names and words. Must not know how anything is timed or computed.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import xent_fast
from xent_fast import _bits
from xent_fast.__main__ import main
from xent_fast._binding import instruction_sets
from xent_fast._command import bench, check, info, peers

CPUINFO = Path("/proc/cpuinfo")


def test_info_says_what_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for word in ("xent_fast", "instructions", "threads", "OpenMP", "compiler", "NumPy"):
        assert word in text


def test_info_for_programs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "xent_fast", "info", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["version"] == xent_fast.__version__


def test_info_says_in_a_line_what_cannot_be_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "xent_fast", "info"],
        env={**os.environ, "XENT_FAST_ISA": "sse9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert not done.stdout
    assert done.stderr.startswith("XENT_FAST_ISA: 'sse9' cannot be used; valid names are")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "limit", ["OMP_THREAD_LIMIT=1", f"GOMP_CPU_AFFINITY={os.cpu_count()}", "OMP_STACKSIZE=128k"]
)
def test_info_says_what_a_large_call_really_takes(limit: str) -> None:
    name, value = limit.split("=")
    done = subprocess.run(
        [sys.executable, "-m", "xent_fast", "info"],
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
        check=True,
    )
    if sys.platform == "linux" and xent_fast.show_config("dicts")["threads"]["default"] > 1:
        assert f"1 for a large batch, 1 for a small one; limited: {limit}" in done.stdout


def test_info_names_what_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"openmp": 201511, "default": 1, "processors": 8, "waiting": "briefly"}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "limited: OMP_NUM_THREADS=1" in info.threads(given)
    assert "no OpenMP" in info.threads({**given, "openmp": None})
    assert "XENT_FAST_REQUIRE_OPENMP=1" in info.openmp(None)
    monkeypatch.setenv("XENT_FAST_ISA", "portable")
    isa = {"active": "portable", "supported": ["avx2", "portable"]}
    assert "XENT_FAST_ISA=portable asked for it" in info.instructions(isa)


@pytest.mark.smoke
@pytest.mark.skipif(
    not CPUINFO.exists() or platform.machine() != "x86_64", reason="needs /proc/cpuinfo of an x86"
)
def test_every_instruction_set_of_the_processor_is_found() -> None:
    """As the system says: however the package was compiled and linked."""
    (flags,) = {line for line in CPUINFO.read_text("utf-8").splitlines() if line[:5] == "flags"}
    has = set(flags.split())
    want = {"portable"}
    if has >= {"avx2", "fma", "f16c"}:
        want |= {"avx2"} | ({"avx512"} if has >= {"avx512f", "avx512dq", "avx512bw"} else set())
    assert set(instruction_sets.available_isas()) == want


@pytest.mark.smoke
def test_check_passes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The quick cases on the instructions in use; tests/test_digests.py has all on every set."""
    active = xent_fast.show_config("dicts")["isa"]["active"]
    monkeypatch.setattr(instruction_sets, "available_isas", lambda: [active])
    monkeypatch.setattr(instruction_sets, "active_isa_name", lambda: "another")
    assert main(["check"]) == 0
    assert f"All {len(check.CHECKS)} checks passed" in capsys.readouterr().out


def test_check_notices_other_bits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_bits, "digest_of", lambda case: "----")
    monkeypatch.setattr(check, "CHECKS", {"bits": check.same_bits})
    assert main(["check"]) == 1
    text = capsys.readouterr().out
    assert text.count("FAILED") == 1
    assert "1 of 1 checks failed" in text


def test_check_notices_a_wrong_result(monkeypatch: pytest.MonkeyPatch) -> None:
    right = xent_fast.softmax_cross_entropy_grad

    def wrong(logits: np.ndarray, labels: np.ndarray, **options: object) -> object:
        loss, grad = right(logits, labels, **options)
        return xent_fast.LossAndGrad(loss, grad * np.float32(1 + 2e-6))

    monkeypatch.setattr(xent_fast, "softmax_cross_entropy_grad", wrong)
    faults, _ = check.accuracy()
    assert faults
    assert "ulp off" in faults[0]


@pytest.mark.parametrize("name", [peers.LIBRARY, peers.BASELINE])
def test_what_is_timed_is_verified(name: str) -> None:
    logits, labels = peers.make_batch(32, 10)
    step = peers.CONTESTANTS[name].make(logits, labels, 1)
    peers.verify(step, logits, labels)
    with pytest.raises(ArithmeticError, match="32 x 10"):
        peers.verify(lambda: (step()[0], step()[1] * 1.01), logits, labels)


def test_table_chart_and_verdict() -> None:
    count = len(peers.BATCHES)
    times = {
        peers.LIBRARY: [1e-6] * count,
        peers.LIBRARY_ALONE: [2e-6] * count,
        peers.BASELINE: [8e-6] * count,
        "PyTorch": [3e-6] * count,
    }
    assert len(bench.table(times).splitlines()) == 1 + count
    assert "8.0" in bench.chart(times)
    assert bench.verdict(times, 2) == (
        "On this machine xent_fast is 4.0 to 4.0 times as fast as NumPy on one thread each, "
        "8.0 to 8.0 times on 2, and 3.0 to 3.0 times as fast as PyTorch."
    )


def test_plot(tmp_path: object) -> None:
    pytest.importorskip("matplotlib")
    times = {name: [1e-6] * len(peers.BATCHES) for name in (peers.LIBRARY, peers.BASELINE)}
    bench.draw(times, 1, tmp_path / "chart.svg")
    assert "times as fast" in (tmp_path / "chart.svg").read_text()


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["benchmark"])
    assert "info" in capsys.readouterr().err
