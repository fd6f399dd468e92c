"""Types of the compiled calls, whose arrays are as the kernels take them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xent_fast._class_ranges import Settled
from xent_fast._class_statistics import Options

ROW_STATISTICS: int
BLOCK_STATISTICS: int
TARGETS_HERE: int
TARGET_LOGIT: int
TARGET_WEIGHT: int
TARGET_CLASS: int

def class_block_count(dtype: object, classes: int) -> int: ...
def target_kind(is_dense: bool, label_smoothing: float, has_class_weight: bool) -> int: ...
def measure_classes(
    logits: NDArray[Any],
    targets: NDArray[Any],
    weight: NDArray[Any] | None,
    ignore_index: object,
    options: Options,
    z_loss: float,
    first_class: int,
    num_classes: int,
    values: NDArray[np.float64],
    exponentials: NDArray[Any] | None,
) -> None: ...
def settle_classes(
    values: NDArray[np.float64],
    row_loss: NDArray[Any],
    options: Options,
    shared: Settled,
    num_classes: int,
    whole_blocks: int,
) -> None: ...
def write_classes(
    logits: NDArray[Any],
    targets: NDArray[Any],
    weight: NDArray[Any] | None,
    out: NDArray[Any],
    values: NDArray[np.float64],
    options: Options,
    shared: Settled,
    first_class: int,
    num_classes: int,
    whole_blocks: int,
    first_block: int,
    has_exponentials: bool,
) -> None: ...
