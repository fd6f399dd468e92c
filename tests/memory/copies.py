"""Which calls on logits of 16 bits copy them: the most memory that each takes over its arguments.

    python tests/memory/copies.py [--quick]

Counts the peak of the process's resident memory, which no allocator can hide, in multiples of the
logits' size, of which a new result is one. --quick has every layout, but few functions.

Knows: what docs/half_precision.md says of copies; Linux's /proc. Must not know: who allocates.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

ROWS, CLASSES = 2048, 8000
BYTES = 2 * ROWS * CLASSES
WORKSPACES = 0.3  # in the same multiples: a few rows of each thread, labels, row weights
# What is freed goes back at once, so that the next call cannot take it for its own.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}

Call = Callable[[], object]


def resident(kind: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(kind):
            return 1024 * int(line.split()[1])
    raise KeyError(kind)


def bytes_taken_by(call: Call) -> int:
    """The peak over what was resident before; what the call returns counts."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def logits(layout: str) -> Any:
    """Numbers of bfloat16 with that layout, and the axis of their classes."""
    row = np.random.default_rng(0).standard_normal(CLASSES).astype(ml_dtypes.bfloat16)
    whole = np.empty((ROWS, CLASSES), row.dtype)
    whole[...] = row
    views = {
        "contiguous": lambda: (whole, -1),
        "classes first": lambda: (np.ascontiguousarray(whole.T), 0),
        "images": lambda: (np.ascontiguousarray(whole.reshape(8, -1, CLASSES).swapaxes(1, 2)), 1),
        "every second class": lambda: (np.repeat(whole, 2, axis=1)[:, ::2], -1),
        "last class first": lambda: (whole[:, ::-1], -1),
        "misaligned": lambda: (misaligned(whole), -1),
    }
    return views[layout]()


def misaligned(array: Any) -> Any:
    place = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    place[...] = array
    return place


def calls_of(layout: str) -> dict[str, Call]:
    """Each writes to the logits' own place where it can."""
    import xent_fast as x

    a, axis = logits(layout)
    v, y = a.copy("K"), np.zeros(np.delete(a.shape, axis), int)
    options: dict[str, Any] = {"axis": axis, "out": a}
    return {
        "loss alone": lambda: x.softmax_cross_entropy(a, y, axis=axis),
        "loss and gradient": lambda: x.softmax_cross_entropy_grad(a, y, **options),
        "smoothed": lambda: x.softmax_cross_entropy_grad(a, y, label_smoothing=0.1, **options),
        "softmax": lambda: x.softmax(a, **options),
        "logsumexp": lambda: x.logsumexp(a, axis=axis),
        "entropy": lambda: x.softmax_entropy_grad(a, **options),
        "diagonal": lambda: x.softmax_cross_entropy_hessian_diagonal(a, y, **options),
        "vjp": lambda: x.softmax_vjp(a, v, **options),
        "hvp": lambda: x.softmax_cross_entropy_hvp(a, y, v, **options),
        "distillation": lambda: x.distillation_loss_grad(a, v, y, **options),
        "dense": lambda: x.softmax_cross_entropy_grad(a, v, **options),
    }


QUICK = ("loss and gradient", "dense")


def layouts(is_quick: bool) -> Iterator[tuple[str, float, Call]]:
    """Nothing is copied where classes or rows lie side by side; elsewhere the logits are.

    A second matrix is contiguous.
    """
    for layout, copies in (
        ("contiguous", 0),
        ("classes first", 0),
        ("images", 0),
        ("every second class", 1),
        ("last class first", 1),
        ("misaligned", 1),
    ):
        for name, call in calls_of(layout).items():
            if name in QUICK or not is_quick:
                yield f"{name}, {layout}", copies, call


def exceptions() -> Iterator[tuple[str, float, Call]]:
    """What the page names besides layouts."""
    import xent_fast as x

    a, _ = logits("contiguous")
    y, p = np.zeros(ROWS, int), np.full_like(a, 1 / 8192)
    first, (images, _) = np.ascontiguousarray(a.T), logits("images")
    wide = np.ones(a.shape, np.float32)
    yield "a new gradient", 1, lambda: x.softmax_cross_entropy_grad(a, y)
    yield "into float32", 0, lambda: x.softmax_cross_entropy_grad(a, y, out=wide)
    for dtype, copies in (("float32", 0), ("float16", 0), ("float64", 2), ("int8", 2)):
        t = np.ones(a.shape, dtype)
        name = f"dense targets of {dtype}"
        yield name, copies, lambda t=t: x.softmax_cross_entropy_grad(a, t, reduction="sum", out=a)
        h, w = np.ones((ROWS, 4), a.dtype), np.ones((CLASSES, 4), a.dtype)
        yield (
            f"{name} in the layer",
            2 * (dtype == "int8"),
            lambda t=t, h=h, w=w: x.linear_softmax_cross_entropy_grad(h, w, None, t, chunk_rows=64),
        )
    yield "statistics", 0, lambda: x.class_statistics(a, y, first_class=0)
    yield "statistics, axis 0", 1, lambda: x.class_statistics(first, y, first_class=0, axis=0)
    yield (
        "statistics, axis 0, in place",
        2,
        lambda: x.class_statistics(first, y, first_class=0, axis=0, out=first),
    )
    yield "probabilities, in place", 1, lambda: x.cross_entropy_grad(p, y, out=p)
    grad_targets = x.softmax_cross_entropy_grad_targets
    yield "gradient of targets", 1, lambda: grad_targets(a)
    yield "gradient of targets, axis 0", 2, lambda: grad_targets(first, axis=0)
    yield "gradient of targets, images", 3, lambda: grad_targets(images, axis=1)


def main() -> None:
    if not all(os.environ.get(name) == value for name, value in ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ENVIRONMENT)
    failures = 0
    for cases in (exceptions(), layouts("--quick" in sys.argv)):
        for name, copies, call in cases:
            taken = bytes_taken_by(call) / BYTES
            is_right = copies - 0.1 <= taken <= copies + WORKSPACES
            failures += not is_right
            print(f"{'' if is_right else 'NOT '}as said ({copies}): {name}: {taken:.2f}")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
