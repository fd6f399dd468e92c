"""`python -m xent_fast check`: whether this machine computes right, in about 15 seconds.

Knows: the public functions, the record of bits, the formulas in NumPy's widest type.
Must not know: kernels, how threads are made.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

import xent_fast
from xent_fast import _bits
from xent_fast._binding import instruction_sets

# Of class indices without options, what docs/numerics.md says of loss and gradient; the portable
# kernels do without fused multiply-adds.
MOST_ULPS: dict[type[Any], float] = {np.float32: 5.0, np.float64: 5.5}
MOST_ULPS_PORTABLE: dict[type[Any], float] = {np.float32: 6.0, np.float64: 6.5}
ROWS_AND_CLASSES = ((20_000, 2), (4000, 10), (400, 100), (40, 1000), (4, 10_000))
LONG_ROW = 5000
FORK_SECONDS = 30.0

Array = NDArray[Any]


def check() -> int:
    """Run every check and say what failed; 0 if nothing did."""
    started, failures = time.perf_counter(), 0
    print(f"xent_fast {xent_fast.__version__}, {', '.join(instruction_sets.available_isas())}")
    for name, test in CHECKS.items():
        faults, remark = test()
        print(f"{'FAILED' if faults else 'ok':<7}{name}: {'; '.join(faults) or remark}", flush=True)
        failures += bool(faults)
    seconds = time.perf_counter() - started
    if failures:
        print(
            f"{failures} of {len(CHECKS)} checks failed in {seconds:.1f} s. Please report this, "
            "with what `python -m xent_fast info` prints."
        )
    else:
        print(f"All {len(CHECKS)} checks passed in {seconds:.1f} s.")
    return 1 if failures else 0


Outcome = tuple[list[str], str]  # faults, and what to say if there are none


def on_every_isa(test: Callable[[str], list[str]]) -> list[str]:
    """The faults of each instruction set in turn; the one in use comes back afterwards."""
    faults = []
    for isa in instruction_sets.available_isas():
        previous = instruction_sets.use_isa(isa)
        try:
            faults += [f"{isa}: {fault}" for fault in test(isa)]
        finally:
            instruction_sets.use_isa(previous)
    return faults


def same_bits() -> Outcome:
    """Of every compiled function: all on the instructions in use, most on every other set."""
    in_use, compared = instruction_sets.active_isa_name(), 0
    cases = list(_bits.all_cases())

    def test(isa: str) -> list[str]:
        nonlocal compared
        asked = [isa == in_use or is_quick(case) for case in cases]
        compared += sum(asked)
        digests = [
            _bits.digest_of(case) if ask else None for case, ask in zip(cases, asked, strict=True)
        ]
        faults = _bits.differences(isa, zip(cases, digests, strict=True))
        return [*faults[:3], *([f"{len(faults) - 3} more"] if len(faults) > 3 else [])]

    return on_every_isa(test), f"{compared} results have the recorded bits"


def is_quick(case: _bits.Case) -> bool:
    """How rows lie and how long rows are cut up is the same on every instruction set."""
    return case.layout == _bits.CONTIGUOUS and case.classes <= LONG_ROW


# --- accuracy -------------------------------------------------------------------------------------


def accuracy() -> Outcome:
    """Loss and gradient of random rows, beside the formula in a wider type."""
    dtypes: list[type[Any]] = [np.float32]
    if np.finfo(np.longdouble).eps < np.finfo(np.float64).eps / 100:
        dtypes.append(np.float64)
    worst: dict[str, float] = {}

    def test(isa: str) -> list[str]:
        faults = []
        for dtype in dtypes:
            most = (MOST_ULPS_PORTABLE if isa == "portable" else MOST_ULPS)[dtype]
            error, name = largest_error(dtype), np.dtype(dtype).name
            worst[name] = max(worst.get(name, 0.0), error)
            if not error <= most:
                faults.append(f"{name} is {error:.3g} ulp off; at most {most} are promised")
        return faults

    faults = on_every_isa(test)
    shown = ", ".join(f"{error:.2f} ulp in {name}" for name, error in worst.items())
    return faults, f"random rows are at most {shown} from the exact loss and gradient"


def largest_error(dtype: type[Any]) -> float:
    """In units in the last place, of every loss and every entry of the gradient."""
    rng = np.random.default_rng()
    worst = 0.0
    for rows, classes in ROWS_AND_CLASSES:
        logits = (rng.uniform(0.1, 8, (rows, 1)) * rng.standard_normal((rows, classes))).astype(
            dtype
        )
        labels = rng.integers(0, classes, rows)
        got = xent_fast.softmax_cross_entropy_grad(logits, labels, reduction="none")
        loss, grad = exact(logits, labels)
        worst = max(worst, ulps(got.loss, loss), ulps(got.grad, grad))
    return worst


def exact(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Loss log(1 + R) and gradient p - y, without cancellation, in a wider type."""
    wide = np.float64 if logits.dtype == np.float32 else np.longdouble
    at_target = np.arange(len(labels)), labels
    x = logits.astype(wide)
    largest = x.max(axis=1)
    exponentials = np.exp(x - largest[:, None])
    own = exponentials[at_target]
    exponentials[at_target] = 0
    others = exponentials.sum(axis=1)
    grad = exponentials / (own + others)[:, None]
    grad[at_target] = -others / (own + others)
    return np.log1p(others / own), grad


def ulps(got: Array, want: Array) -> float:
    """The largest distance, in spacings of `got`'s dtype at the wanted numbers."""
    spacing = np.spacing(np.abs(want).astype(got.dtype))
    return float((np.abs(got - want) / spacing).max())


# --- fork and threads -----------------------------------------------------------------------------


def work(num_threads: int | None = None) -> bytes:
    """The bits of a batch that is large enough for threads."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((1000, 1000), dtype=np.float32)
    labels = rng.integers(0, 1000, len(logits))
    loss, grad = xent_fast.softmax_cross_entropy_grad(logits, labels, num_threads=num_threads)
    return np.float64(loss).tobytes() + grad.tobytes()


def thread_counts() -> Outcome:
    """The number of threads does not reach a result."""
    want = work(1)
    faults = [f"other bits on {count} threads" for count in (2, 3, 4) if work(count) != want]
    return faults, "the same bits on 1, 2, 3 and 4 threads"


def python_threads() -> Outcome:
    """Calls from several threads at once do not disturb each other."""
    want = work(1)
    with ThreadPoolExecutor(4) as pool:
        wrong = sum(got != want for got in pool.map(lambda _: work(), range(16)))
    return [
        f"{wrong} of 16 calls gave other bits"
    ] if wrong else [], "16 calls from 4 threads agree"


def fork() -> Outcome:
    """A child of a process that has computed on threads can compute too."""
    if "fork" not in multiprocessing.get_all_start_methods():
        return [], "this system has none"
    want = work()
    child = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(work() != want))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of what is tried here
        child.start()
    child.join(FORK_SECONDS)
    if child.exitcode is None:
        child.kill()
        return [f"the child hung for {FORK_SECONDS:.0f} s"], ""
    faults = [f"the child ended with {child.exitcode}"] if child.exitcode else []
    return faults, "a child gives the same bits"


CHECKS: dict[str, Callable[[], Outcome]] = {
    "bits": same_bits,
    "accuracy": accuracy,
    "thread counts": thread_counts,
    "Python threads": python_threads,
    "fork": fork,
}
