"""What is timed: one table of workloads named by their use, and the arrays of one of them.

Knows: shapes, dtypes, how the numbers are drawn, the exact answer.
Must not know: who computes it, or how it is timed.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

import xent_fast.reference

INDEX, DENSE = "index", "dense"
IN_PLACE, INTO_OUT, NEW, LOSS_ONLY = "in place", "into out", "new array", "loss only"


@dataclass(frozen=True)
class Workload:
    """Mean loss of one batch and its gradient; `destination` says where the gradient goes."""

    name: str
    rows: int
    classes: int
    dtype: str = "float32"
    targets: str = INDEX
    destination: str = IN_PLACE

    @property
    def shape(self) -> str:
        return f"{self.rows:,} x {self.classes:,}"

    @property
    def variant(self) -> str:
        """What is not as in the first part of the table; empty for that part."""
        differences = [
            self.dtype if self.dtype != "float32" else "",
            f"{self.targets} targets" if self.targets != INDEX else "",
            self.destination if self.destination != IN_PLACE else "",
        ]
        return ", ".join(filter(None, differences))

    @property
    def label(self) -> str:
        return ", ".join(filter(None, [f"{self.name}, {self.shape}", self.variant]))

    @property
    def bytes(self) -> int:
        """Of the logits."""
        return self.rows * self.classes * np.dtype(self.dtype).itemsize

    @property
    def bytes_moved(self) -> int:
        """The least that memory must move: logits and dense targets read, a gradient written."""
        arrays = 1 + (self.targets == DENSE) + (self.destination != LOSS_ONLY)
        return arrays * self.bytes


EVERY_SHAPE = (
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
    Workload("language model, GPT-2", 256, 50_257),
    Workload("language model, large vocabulary", 128, 128_256),
    Workload("one long row", 1, 1_000_000),
)
SOME_SHAPES = tuple(
    shape
    for shape in EVERY_SHAPE
    if (shape.rows, shape.classes)
    in {(32, 10), (65_536, 10), (256, 1_000), (4_096, 1_000), (512, 32_000), (1, 1_000_000)}
)


def _vary(shapes: tuple[Workload, ...], **differences: str) -> tuple[Workload, ...]:
    return tuple(replace(shape, **differences) for shape in shapes)


WORKLOADS = (
    *EVERY_SHAPE,
    *_vary(EVERY_SHAPE, dtype="float64"),
    *_vary(SOME_SHAPES, targets=DENSE),
    *_vary(SOME_SHAPES, destination=INTO_OUT),
    *_vary(SOME_SHAPES, destination=NEW),
    *_vary(SOME_SHAPES, destination=LOSS_ONLY),
)

QUICK_BYTES = 2**20  # the workloads of a quick run are no larger

LOGITS_SPREAD = 3.0  # standard deviation of the logits
SEED = 0


@dataclass(frozen=True)
class Case:
    """The arrays of one workload and its exact answer. They are never written to."""

    workload: Workload
    logits: np.ndarray = field(repr=False)
    targets: np.ndarray = field(repr=False)
    exact_loss: float
    exact_gradient: np.ndarray = field(repr=False)

    @property
    def dense(self) -> bool:
        return self.workload.targets == DENSE

    @property
    def loss_only(self) -> bool:
        return self.workload.destination == LOSS_ONLY

    @property
    def in_place(self) -> bool:
        return self.workload.destination == IN_PLACE

    @cached_property
    def gradient_scale(self) -> np.ndarray:
        """What errors of the gradient are relative to: (|p - y| + y) / rows."""
        rows = len(self.logits)
        scale = np.abs(self.exact_gradient)
        if self.dense:
            scale += self.targets / rows
        else:
            scale[np.arange(rows), self.targets] += 1 / rows
        return scale

    def save(self, directory: Path) -> None:
        for name in ("logits", "targets", "exact_gradient"):
            np.save(directory / f"{name}.npy", getattr(self, name))
        np.save(directory / "exact_loss.npy", self.exact_loss)

    @classmethod
    def load(cls, workload: Workload, directory: Path) -> "Case":
        return cls(
            workload,
            np.load(directory / "logits.npy"),
            np.load(directory / "targets.npy"),
            float(np.load(directory / "exact_loss.npy")),
            np.load(directory / "exact_gradient.npy", mmap_mode="r"),
        )


def draw(workload: Workload) -> Case:
    """Normal logits; class indices drawn evenly, or dense targets: the softmax of other logits."""
    rng = np.random.default_rng(SEED)
    logits = _normal(rng, workload)
    if workload.targets == DENSE:
        targets = np.exp(_normal(rng, workload))
        targets /= targets.sum(axis=1, keepdims=True)
    else:
        targets = rng.integers(0, workload.classes, size=workload.rows)
    return Case(
        workload,
        logits,
        targets,
        *xent_fast.reference.softmax_cross_entropy_grad(logits, targets),
    )


def _normal(rng: np.random.Generator, workload: Workload) -> np.ndarray:
    dtype = np.dtype(workload.dtype)
    numbers = rng.standard_normal((workload.rows, workload.classes), dtype=dtype)
    numbers *= dtype.type(LOGITS_SPREAD)
    return numbers
