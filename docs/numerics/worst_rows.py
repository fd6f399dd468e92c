"""The rows on which the library was found to be least accurate: their record, and how they count.

Knows: which results of which calls are judged, in which ulps; the file that keeps the rows.
Must not know: how such rows are looked for (search.py).

A quantity is a result of a kind of call:

    index         loss; target, the gradient of the target's class; others, that of the other
                  classes where p is a normal number
    temperature   the same call with a temperature: loss; gradient, every class but the target's
    smoothing     label_smoothing: loss; gradient, every entry, in ulps of max(|Q p|, |q|)
    dense         targets of any sum, none negative: loss; gradient, as for smoothing
    functions     p where it is a normal number; log p; lse in ulps of max(|lse|, |m|, lse - m)
    softmax_vjp   p (v - p.v) where v - p.v has not cancelled to less than a sixteenth of its terms
    log_softmax_vjp   what is left of the error beyond 1.5 ulp of the result, in ulps of e^l sum dl
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mpmath
import numpy as np

import xent_fast
from docs.numerics.oracle import (
    EXTENDED,
    FLOAT64,
    Arithmetic,
    Exact,
    effective_mass,
    evaluate,
    evaluate_by_definition,
    lse_scale,
    ulp_errors,
)

RECORD = Path(__file__).with_name("worst_rows.json")


@dataclass(frozen=True)
class Rows:
    """Rows of one width: what a call is made of, and its options."""

    logits: np.ndarray
    other: np.ndarray  # dense targets, or slopes; not read by every kind
    labels: np.ndarray
    options: dict[str, float]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, which: Any) -> Rows:
        return Rows(self.logits[which], self.other[which], self.labels[which], self.options)

    def joined(self, more: Rows) -> Rows:
        """These rows and those."""
        pairs = ((self.logits, more.logits), (self.other, more.other), (self.labels, more.labels))
        return Rows(*(np.concatenate(pair) for pair in pairs), self.options)


# An error for every row: the largest of the row's entries.
Errors = dict[str, np.ndarray]
Evaluate = Callable[..., Exact]


@dataclass(frozen=True)
class Kind:
    """A kind of call: its quantities, and how a batch of it is judged."""

    quantities: tuple[str, ...]
    judge: Callable[[Rows, Judge], Errors]


@dataclass(frozen=True)
class Judge:
    """Where exact values come from: `number` makes one of a float, the masses of which are q."""

    number: Callable[[np.ndarray], np.ndarray]
    evaluate: Evaluate


def _by(arithmetic: Arithmetic) -> Judge:
    wide = np.float64 if arithmetic is FLOAT64 else np.longdouble

    def exact(logits: np.ndarray, mass: np.ndarray, temperature: float = 1.0) -> Exact:
        return evaluate(logits, mass, arithmetic, temperature)

    return Judge(lambda values: values.astype(wide), exact)


BY_DEFINITION = Judge(
    np.frompyfunc(lambda x: mpmath.mp.mpf(float(x)), 1, 1), evaluate_by_definition
)


def quick_judge(dtype: np.dtype) -> Judge:
    """A judge of many rows: double for float32, long double for float64."""
    return _by(FLOAT64 if dtype == np.float32 else EXTENDED)


# --- what is judged -------------------------------------------------------------------------------


def _largest(errors: np.ndarray, counts: np.ndarray | bool = True) -> np.ndarray:
    return np.where(counts, errors, 0.0).max(axis=1)


def _loss_and_grad(rows: Rows, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    result = xent_fast.softmax_cross_entropy_grad(
        rows.logits, targets, reduction="none", num_threads=1, **rows.options
    )
    return result.loss, result.grad


def _index_mass(rows: Rows, judge: Judge) -> np.ndarray:
    classes = rows.logits.shape[1]
    return judge.number(effective_mass(rows.labels, classes, np.ones(len(rows))))


def _judge_index(rows: Rows, judge: Judge) -> Errors:
    loss, grad = _loss_and_grad(rows, rows.labels)
    exact = judge.evaluate(
        rows.logits, _index_mass(rows, judge), temperature=rows.options.get("temperature", 1.0)
    )
    errors = ulp_errors(grad, exact.gradient)
    is_target = np.arange(grad.shape[1]) == rows.labels[:, None]
    tiny = np.finfo(grad.dtype).tiny
    is_other = ~is_target & (exact.probabilities >= tiny) & (np.abs(exact.gradient) >= tiny)
    others = _largest(errors, is_other)
    return {
        "loss": ulp_errors(loss, exact.loss),
        "target": _largest(errors, is_target),
        "others": others,
        "gradient": others,
    }


def _judge_mass(rows: Rows, targets: np.ndarray, mass: np.ndarray, judge: Judge) -> Errors:
    loss, grad = _loss_and_grad(rows, targets)
    exact = judge.evaluate(rows.logits, mass)
    scale = np.maximum(exact.scaled_probabilities, np.abs(mass))
    return {
        "loss": ulp_errors(loss, exact.loss),
        "gradient": _largest(ulp_errors(grad, exact.gradient, scale)),
    }


def _judge_smoothing(rows: Rows, judge: Judge) -> Errors:
    smoothing = judge.number(np.array([rows.options["label_smoothing"]]))[0]
    mass = (1 - smoothing) * _index_mass(rows, judge) + smoothing / rows.logits.shape[1]
    return _judge_mass(rows, rows.labels, mass, judge)


def _judge_dense(rows: Rows, judge: Judge) -> Errors:
    return _judge_mass(rows, rows.other, judge.number(rows.other), judge)


def _judge_functions(rows: Rows, judge: Judge) -> Errors:
    exact = judge.evaluate(rows.logits, _index_mass(rows, judge))
    one_thread = {"num_threads": 1}
    p = xent_fast.softmax(rows.logits, **one_thread)
    log_p = xent_fast.log_softmax(rows.logits, **one_thread)
    lse = xent_fast.logsumexp(rows.logits, **one_thread)
    is_normal = exact.probabilities >= np.finfo(p.dtype).tiny
    return {
        "p": _largest(ulp_errors(p, exact.probabilities), is_normal),
        "log p": _largest(ulp_errors(log_p, exact.log_probabilities)),
        "lse": ulp_errors(lse, exact.lse, lse_scale(rows.logits, exact)),
    }


def _judge_softmax_vjp(rows: Rows, judge: Judge) -> Errors:
    got = xent_fast.softmax_vjp(rows.logits, rows.other, num_threads=1)
    p, v = judge.number(rows.logits), judge.number(rows.other)
    mean = (p * v).sum(axis=1, keepdims=True)
    size = np.abs(p * v).sum(axis=1, keepdims=True) + np.abs(v)
    counts = np.abs(v - mean) * 16 >= size
    want = p * (v - mean)
    counts &= np.abs(want) >= np.finfo(got.dtype).tiny
    return {"result": _largest(ulp_errors(got, want), counts)}


def _judge_log_softmax_vjp(rows: Rows, judge: Judge) -> Errors:
    got = xent_fast.log_softmax_vjp(rows.logits, rows.other, num_threads=1)
    log_p, v = judge.number(rows.logits), judge.number(rows.other)
    total = v.sum(axis=1, keepdims=True)
    exp = np.frompyfunc(mpmath.mp.exp, 1, 1) if judge is BY_DEFINITION else np.exp
    product = exp(log_p) * total
    want = v - product
    spacing = np.spacing(np.abs(want).astype(got.dtype)).astype(np.float64)
    unit = np.spacing(np.abs(product).astype(got.dtype)).astype(np.float64)
    # two roundings, the first of which may be of a number just above the next power of two
    beyond = (np.abs(ulp_errors(got, want)) - 1.5) * spacing / unit
    counts = np.abs(total) * 16 >= np.abs(v).sum(axis=1, keepdims=True)
    return {"result": _largest(beyond, counts)}


KINDS = {
    "index": Kind(("loss", "target", "others"), _judge_index),
    "temperature": Kind(("loss", "gradient"), _judge_index),
    "smoothing": Kind(("loss", "gradient"), _judge_smoothing),
    "dense": Kind(("loss", "gradient"), _judge_dense),
    "functions": Kind(("p", "log p", "lse"), _judge_functions),
    "softmax_vjp": Kind(("result",), _judge_softmax_vjp),
    "log_softmax_vjp": Kind(("result",), _judge_log_softmax_vjp),
}
OF_TWO = ("dense", "softmax_vjp", "log_softmax_vjp")  # that read `Rows.other`
QUANTITIES = tuple(
    (kind, quantity) for kind, members in KINDS.items() for quantity in members.quantities
)


# --- the record -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """What one row is the worst of; `path` is "fma" or "portable"."""

    dtype: str
    path: str
    kind: str
    quantity: str


def path_of(isa: str) -> str:
    """Instruction sets with FMA give the same bits."""
    return "portable" if isa == "portable" else "fma"


def bound_of(error: float) -> float:
    """What is promised: the next half ulp above the worst row."""
    return math.ceil(2 * error + 1e-3) / 2


def load() -> dict[str, Any]:
    """The record: "runs" of the search and "rows"."""
    record: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return record


def save(record: dict[str, Any]) -> None:
    """Write the record, a line a row."""
    parts = []
    for key, value in record.items():
        if isinstance(value, list):
            lines = ",\n".join(json.dumps(entry) for entry in value)
            parts.append(f"{json.dumps(key)}: [\n{lines}\n]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value)}")
    RECORD.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def recorded(record: dict[str, Any]) -> dict[Cell, tuple[Rows, float]]:
    """Each cell's row, and its error as it was recorded."""
    found = {}
    for entry in record["rows"]:
        cell = Cell(*entry["cell"])
        dtype = np.dtype(cell.dtype)
        rows = Rows(
            np.array([entry["logits"]], dtype),
            np.array([entry["other"] or [0.0] * len(entry["logits"])], dtype),
            np.array([entry["label"]]),
            entry["options"],
        )
        found[cell] = rows, entry["ulp"]
    return found


def as_entry(cell: Cell, row: Rows, error: float) -> dict[str, Any]:
    """One row of the record."""
    return {
        "cell": [cell.dtype, cell.path, cell.kind, cell.quantity],
        "ulp": round(error, 3),
        "label": int(row.labels[0]),
        "options": row.options,
        "logits": [float(str(number)) for number in row.logits[0]],  # as short as its dtype allows
        "other": [float(str(number)) for number in row.other[0]] if cell.kind in OF_TWO else [],
    }


def exact_error(cell: Cell, row: Rows) -> float:
    """A single row's error by the definition in arithmetic of many digits, with the active ISA."""
    with mpmath.workprec(600):
        return float(KINDS[cell.kind].judge(row, BY_DEFINITION)[cell.quantity][0])
