"""What is timed: one table of workloads named by their use, and the arrays of one of them.

Knows: shapes, dtypes, how the numbers are drawn, the exact answer.
Must not know: who computes it, or how it is timed.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

import xent_fast.reference


@dataclass(frozen=True)
class Workload:
    """Mean loss and its gradient of one batch; `destination` says where the gradient goes."""

    name: str
    rows: int
    classes: int
    dtype: str = "float32"
    targets: str = "index"
    destination: str = "in place"

    @property
    def shape(self) -> str:
        return f"{self.rows:,} x {self.classes:,}"

    @property
    def label(self) -> str:
        return f"{self.name}, {self.shape}"

    @property
    def bytes(self) -> int:
        return self.rows * self.classes * np.dtype(self.dtype).itemsize


WORKLOADS = (
    Workload("course exercise", 32, 10),
    Workload("MNIST batch", 1_024, 10),
    Workload("pixels, mask", 65_536, 2),
    Workload("pixels, three classes", 65_536, 3),
    Workload("pixels, ten classes", 65_536, 10),
    Workload("pixels, Pascal VOC", 65_536, 21),
    Workload("ImageNet batch", 256, 1_000),
    Workload("ImageNet large batch", 4_096, 1_000),
    Workload("language model, short", 64, 32_000),
    Workload("language model", 512, 32_000),
    Workload("language model, large vocabulary", 128, 128_256),
    Workload("one long row", 1, 1_000_000),
)

QUICK_BYTES = 2**20  # the workloads of a quick run are no larger

LOGITS_SPREAD = 3.0  # standard deviation of the logits
SEED = 0


@dataclass(frozen=True)
class Case:
    """The arrays of one workload. `logits` are never written to: copies of them are."""

    workload: Workload
    logits: np.ndarray = field(repr=False)
    targets: np.ndarray = field(repr=False)

    @cached_property
    def answer(self) -> tuple[float, np.ndarray]:
        """Loss and gradient in float64."""
        return xent_fast.reference.softmax_cross_entropy_grad(self.logits, self.targets)


def draw(workload: Workload) -> Case:
    rng = np.random.default_rng(SEED)
    dtype = np.dtype(workload.dtype)
    logits = rng.standard_normal((workload.rows, workload.classes), dtype=dtype)
    logits *= dtype.type(LOGITS_SPREAD)
    return Case(workload, logits, rng.integers(0, workload.classes, size=workload.rows))
