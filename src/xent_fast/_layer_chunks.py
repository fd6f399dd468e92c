"""The last layer and its loss, some rows at a time.

Knows: in which memory a chunk's logits, their gradient and its sums are made by matrix products.
Must not know: how the loss of those logits is computed; what the caller gave.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xent_fast._layer_arguments import Batch, Layer, Outputs, Progress
from xent_fast._loss import softmax_cross_entropy, softmax_cross_entropy_grad

FloatArray = NDArray[np.floating[Any]]
Rows = slice | NDArray[np.intp]

# What is added or converted before the next step uses it stays in cache.
CACHED_BYTES = 1 << 20
# Blocks of weights and of their gradients, which products make best of some size.
BLOCK_BYTES = 4 << 20


def swept(
    layer: Layer,
    batch: Batch,
    chunk_rows: int,
    progress: Progress | None,
    outputs: Outputs | None,
) -> float | FloatArray:
    """The loss, having written the gradients. All large arrays are allocated before that.

    Without `outputs` there is the loss alone.
    """
    rows = len(layer.hidden)
    row_losses = np.zeros(rows, layer.dtype) if batch.has_row_losses else None
    logits = np.empty((chunk_rows, layer.classes), layer.dtype)
    inputs = _Inputs(layer, chunk_rows, is_gathered=batch.counted is not None)
    sums = None if outputs is None else _Sums(layer, outputs, inputs, chunk_rows)
    telling = _Telling(progress, rows)

    total = 0.0
    for chunk in [] if batch.factor is None else _chunks(rows, chunk_rows, batch.counted):
        hidden = inputs.of_rows(chunk)
        some_logits = logits[: len(hidden)]
        for classes, weight in inputs.weights():
            np.matmul(hidden, weight.T, out=some_logits[:, classes])
        for piece in _pieces(some_logits, layer.bias is not None):
            result = _losses(
                layer, batch, some_logits[piece], _part(chunk, piece), sums is not None
            )
            if row_losses is None:
                total += result
            else:
                row_losses[_part(chunk, piece)] = result
            if sums is not None:
                sums.add_to_bias(some_logits[piece])
        if sums is not None:
            sums.add(some_logits, hidden, chunk)
        telling.tell(chunk.stop if isinstance(chunk, slice) else int(chunk[-1]) + 1)
    if sums is not None:
        sums.finish()
    telling.end()
    if row_losses is not None:
        return row_losses.reshape(layer.hidden_shape[:-1])
    return float("nan") if batch.factor is None else total


def _chunks(rows: int, chunk_rows: int, counted: NDArray[np.intp] | None) -> Iterator[Rows]:
    for first in range(0, rows if counted is None else len(counted), chunk_rows):
        if counted is None:
            yield slice(first, min(first + chunk_rows, rows))
        else:
            yield counted[first : first + chunk_rows]


def _part(chunk: Rows, piece: slice) -> Rows:
    """Some rows of a chunk's, by their places there."""
    if isinstance(chunk, slice):
        return slice(chunk.start + piece.start, min(chunk.start + piece.stop, chunk.stop))
    return chunk[piece]


def _pieces(logits: FloatArray, in_cache: bool) -> Iterator[slice]:
    """The rows whose logits are swept over several times: few enough to stay in cache."""
    step = max(CACHED_BYTES // (logits.shape[1] * logits.itemsize), 1) if in_cache else len(logits)
    for first in range(0, len(logits), step):
        yield slice(first, min(first + step, len(logits)))


def _losses(layer: Layer, batch: Batch, logits: FloatArray, rows: Rows, with_grad: bool) -> Any:
    """The sum of some rows' losses, or each; the gradient takes the logits' place."""
    if layer.bias is not None:
        np.add(logits, layer.bias, out=logits)
    options: dict[str, Any] = {
        "weight": batch.class_weight,
        "sample_weight": None if batch.sample_weight is None else batch.sample_weight[rows],
        "label_smoothing": batch.label_smoothing,
        "temperature": batch.temperature,
        "z_loss": batch.z_loss,
        "reduction": "none" if batch.has_row_losses else "sum",
        "scale": batch.factor,
        "num_threads": batch.num_threads,
    }  # ignored rows are not among these
    targets = batch.targets[rows]
    if with_grad:
        return softmax_cross_entropy_grad(logits, targets, out=logits, **options).loss
    return softmax_cross_entropy(logits, targets, **options)


class _Inputs:
    """Rows of `hidden` and blocks of `weight` in the logits' dtype."""

    def __init__(self, layer: Layer, chunk_rows: int, *, is_gathered: bool) -> None:
        self._hidden, self._weight = layer.hidden, layer.weight
        self._rows: FloatArray | None = None
        if is_gathered or layer.hidden.dtype != layer.dtype:
            self._rows = np.empty((chunk_rows, layer.features), layer.dtype)
        self._block: FloatArray | None = None
        if layer.weight.dtype != layer.dtype:
            row_bytes = max(layer.features, 1) * np.dtype(layer.dtype).itemsize
            height = min(max(BLOCK_BYTES // row_bytes, 1), layer.classes)
            self._block = np.empty((height, layer.features), layer.dtype)

    def of_rows(self, rows: Rows) -> FloatArray:
        some = self._hidden[rows]
        if self._rows is None:
            return some
        np.copyto(self._rows[: len(some)], some)
        return self._rows[: len(some)]

    def weights(self) -> Iterator[tuple[slice, FloatArray]]:
        if self._block is None:
            yield slice(None), self._weight
            return
        for first in range(0, len(self._weight), len(self._block)):
            some = self._weight[first : first + len(self._block)]
            np.copyto(self._block[: len(some)], some)
            yield slice(first, first + len(some)), self._block[: len(some)]


class _Sums:
    """The three gradients on their way."""

    def __init__(self, layer: Layer, outputs: Outputs, inputs: _Inputs, chunk_rows: int) -> None:
        self._inputs = inputs
        self._outputs = outputs
        self._grad_hidden = outputs.hidden.reshape(len(layer.hidden), layer.features)
        self._chunk = np.empty((2, chunk_rows, layer.features), layer.dtype)
        self._is_weight_kept_apart = outputs.weight.dtype.type is not layer.dtype
        self._grad_weight = outputs.weight
        if self._is_weight_kept_apart:
            self._grad_weight = np.empty(layer.weight.shape, layer.dtype)
        self._has_weight = outputs.is_added_to[1] and not self._is_weight_kept_apart
        self._is_weight_plain = self._grad_weight.flags.carray and self._grad_weight.dtype.isnative
        row_bytes = max(layer.features, 1) * np.dtype(layer.dtype).itemsize
        height = min(max(BLOCK_BYTES // row_bytes, 1), layer.classes)
        self._block = np.empty((height, layer.features), layer.dtype)
        self._bias: NDArray[np.float64] | None = None
        if outputs.bias is not None:
            self._bias = np.zeros(layer.classes)
            self._bias_of_piece = np.empty(layer.classes, layer.dtype)
        self._written_rows = np.zeros(len(layer.hidden), bool)

    def add_to_bias(self, grad: FloatArray) -> None:
        if self._bias is not None:
            np.add.reduce(grad, axis=0, out=self._bias_of_piece)
            self._bias += self._bias_of_piece

    def add(self, grad: FloatArray, hidden: FloatArray, rows: Rows) -> None:
        """Add what the gradient of some rows' logits gives."""
        self._add_to_hidden(grad, rows)
        self._add_to_weight(grad, hidden)

    def _add_to_hidden(self, grad: FloatArray, rows: Rows) -> None:
        total, product = self._chunk[:, : len(grad)]
        for classes, weight in self._inputs.weights():
            if classes.start in (None, 0):
                np.matmul(grad[:, classes], weight, out=total)
            else:
                np.matmul(grad[:, classes], weight, out=product)
                np.add(total, product, out=total)
        if self._outputs.is_added_to[0]:
            total += self._grad_hidden[rows]
        self._grad_hidden[rows] = total
        self._written_rows[rows] = True

    def _add_to_weight(self, grad: FloatArray, hidden: FloatArray) -> None:
        """By blocks of classes, of which the library lays out one at a time for the processor."""
        is_first, self._has_weight = not self._has_weight, True
        for first in range(0, len(self._grad_weight), len(self._block)):
            some = self._grad_weight[first : first + len(self._block)]
            is_in_place = is_first and self._is_weight_plain
            product = some if is_in_place else self._block[: len(some)]
            np.matmul(grad[:, first : first + len(some)].T, hidden, out=product)
            if not is_first:
                np.add(some, product, out=some)
            elif not is_in_place:
                some[...] = product

    def finish(self) -> None:
        """Write what has not been written: rows without a loss, sums of another dtype."""
        if not self._outputs.is_added_to[0] and not self._written_rows.all():
            self._grad_hidden[~self._written_rows] = 0
        if not self._has_weight:
            self._grad_weight.fill(0)
        if self._is_weight_kept_apart:
            _place(self._outputs.weight, self._grad_weight, self._outputs.is_added_to[1])
        if self._bias is not None and self._outputs.bias is not None:
            _place(self._outputs.bias, self._bias, self._outputs.is_added_to[2])


def _place(out: FloatArray, total: FloatArray, is_added: bool) -> None:
    """Round a sum into an array, once; the sum is not used again."""
    if is_added:
        np.add(total, out, out=total, casting="unsafe")
    np.copyto(out, total, casting="unsafe")


class _Telling:
    """Calls `progress` until it raises, and raises that at the end."""

    def __init__(self, progress: Progress | None, rows: int) -> None:
        self._progress = progress
        self._rows = rows
        self._told = 0
        self._raised: Exception | None = None

    def tell(self, rows_done: int) -> None:
        if self._progress is None:
            return
        self._told = rows_done
        try:
            self._progress(rows_done, self._rows)
        except Exception as error:
            self._raised, self._progress = error, None

    def end(self) -> None:
        """All rows are done, those that did not count too."""
        if self._told != self._rows:
            self.tell(self._rows)
        if self._raised is not None:
            raise self._raised
