"""Look for the rows on which the library is least accurate: a bound that is stated withstands it.

    python -m docs.numerics.search --minutes 60 --seed 1 --write

Rows are crossed and mutated, and those with the largest errors live on; every quantity, dtype and
path has its own rows, which begin with the worst that are on record. The judge is double or long
double; what is found is judged again by mpmath, on every instruction set of this machine. Prints a
table, and exits with 1 if a stated bound is broken. `--write` renews the record
(worst_rows.json) and the table of docs/numerics.md, with the bounds that are left standing.

Knows: how rows are varied. Must not know: how they are judged (worst_rows.py).
"""

from __future__ import annotations

import argparse
import datetime
import math
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from docs.numerics.tables import PAGE
from docs.numerics.worst_rows import (
    KINDS,
    QUANTITIES,
    RECORD,
    Cell,
    Rows,
    as_entry,
    bound_of,
    exact_error,
    load,
    path_of,
    quick_judge,
    recorded,
    save,
)
from scripts.pages import table, write_block
from xent_fast._binding import instruction_sets
from xent_fast._command.info import processor_name

DTYPES = ("float32", "float64")
PATHS = {"fma": "", "portable": ", no FMA"}
# Rows side by side up to 128 classes, classes side by side beyond.
WIDTHS = (2, 3, 5, 10, 12, 17, 33, 40, 64, 128, 129, 150)
WIDTHS_A_CELL = 3  # of a run, beside that of the row on record: other seeds take others
ENTRIES = 1 << 15  # of a generation
SURVIVORS = 8  # a row of so many lives on
GENERATIONS_OF_QUICK = 6
PATIENCE = 60  # generations without a larger error, before new blood


# --- rows -----------------------------------------------------------------------------------------


def fresh(rng: np.random.Generator, cell: Cell, rows: int, classes: int, options: dict) -> Rows:
    """Rows of every sort: normal, uniform, all but equal, one class ahead of equal ones."""
    shape, dtype = (rows, classes), np.dtype(cell.dtype)
    spread = 10 ** rng.uniform(-3, 1.2, (rows, 1))
    sorts = rng.integers(0, 4, (rows, 1))
    ahead = np.where(np.arange(classes) == rng.integers(0, classes, (rows, 1)), 1.0, 0.0)
    values = np.choose(
        sorts,
        [
            spread * rng.standard_normal(shape),
            spread * rng.uniform(-1, 1, shape),
            rng.uniform(-20, 20, (rows, 1)) + 1e-4 * spread * rng.standard_normal(shape),
            ahead * rng.uniform(0, 20, (rows, 1)) + 0.1 * spread * rng.standard_normal(shape),
        ],
    )
    other = spread * rng.standard_normal(shape)
    labels = rng.integers(0, classes, rows)
    return tamed(cell, Rows(values.astype(dtype), other.astype(dtype), labels, options))


def tamed(cell: Cell, rows: Rows) -> Rows:
    """Rows that the call takes, and whose results are neither subnormal nor beyond the judge."""
    furthest = 80.0 if cell.dtype == "float32" else 600.0
    logits, other = rows.logits, rows.other
    if cell.kind == "softmax_vjp":
        logits = np.clip(np.abs(logits), 1e-6, 1)
    elif cell.kind == "log_softmax_vjp":
        logits = np.clip(logits, -20, 5)
    else:
        logits = np.maximum(logits, logits.max(axis=1, keepdims=True) - logits.dtype.type(furthest))
        logits = np.clip(logits, -4 * furthest, 4 * furthest)
    if cell.kind == "dense":
        other = np.clip(np.abs(other), 0, 4)
    small = np.abs(other) < 1e-6
    return replace(rows, logits=logits, other=np.where(small, 0, other).astype(other.dtype))


def children(rng: np.random.Generator, cell: Cell, parents: Rows, count: int) -> Rows:
    """Rows crossed and mutated."""
    first, second = (rng.integers(0, len(parents), count) for _ in range(2))
    classes = parents.logits.shape[1]
    takes = (rng.random((count, classes)) < 0.5) & (rng.random((count, 1)) < 0.5)
    labels = parents.labels[first].copy()
    moved = rng.random(count) < 0.05
    labels[moved] = rng.integers(0, classes, moved.sum())
    logits = np.where(takes, parents.logits[second], parents.logits[first])
    other = np.where(takes, parents.other[second], parents.other[first])
    child = Rows(mutated(rng, logits), mutated(rng, other), labels, parents.options)
    return tamed(cell, child)


def mutated(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    """One mutation a row, of some of its entries or of all."""
    rows, classes = values.shape
    share = rng.choice([1.0, 2.0, classes / 2], (rows, 1)) / classes
    chosen = rng.random(values.shape) < share
    step = 10 ** rng.uniform(-7, 1, (rows, 1)) * rng.standard_normal(values.shape)
    units = rng.integers(-16, 17, values.shape) * np.spacing(np.abs(values)).astype(float)
    copied = values[np.arange(rows)[:, None], rng.integers(0, classes, values.shape)]
    shift = 10 ** rng.uniform(-6, 1, (rows, 1)) * rng.standard_normal((rows, 1))
    ways = np.choose(
        rng.integers(0, 6, (rows, 1)),
        [
            np.where(chosen, values + step, values),
            np.where(chosen, values + units, values),
            np.where(chosen, copied, values),
            np.where(chosen, rng.uniform(-20, 3, values.shape), values),
            values + shift,
            values.astype(float),
        ],
    )
    return ways.astype(values.dtype)


# --- the search -----------------------------------------------------------------------------------


@dataclass
class Found:
    """The worst row of a cell so far, and how many were judged."""

    row: Rows | None = None
    error: float = 0.0
    judged: int = 0


def options_of(rng: np.random.Generator, kind: str) -> dict[str, float]:
    if kind == "temperature":
        return {"temperature": round(float(rng.uniform(0.3, 3)), 6)}
    if kind == "smoothing":
        return {"label_smoothing": round(float(rng.choice([0.1, rng.uniform(0.01, 0.9)])), 6)}
    return {}


def search(
    cell: Cell,
    classes: int,
    rng: np.random.Generator,
    found: Found,
    seconds: float,
    generations: int,
    known: Rows | None,
) -> None:
    """Raise rows of one width until the time or the generations are spent."""
    size = max(ENTRIES // classes, 64)
    kind, judge = KINDS[cell.kind], quick_judge(np.dtype(cell.dtype))
    options = options_of(rng, cell.kind) if known is None else known.options
    deadline = time.monotonic() + seconds
    rows = fresh(rng, cell, size, classes, options)
    if known is not None:
        rows = rows.joined(known)
    kept, kept_errors, waited = None, np.zeros(0), 0
    for _ in range(generations):
        errors = kind.judge(rows, judge)[cell.quantity]
        found.judged += len(rows)
        best = kept_errors.max(initial=0.0)
        if kept is not None:
            rows, errors = rows.joined(kept), np.concatenate([errors, kept_errors])
        # One row an error: else copies of the worst one crowd out all others.
        distinct, places = np.unique(errors, return_index=True)
        last = places[np.isfinite(distinct)][-max(size // SURVIVORS, 8) :]
        kept, kept_errors = rows[last], errors[last]
        waited = 0 if kept_errors[-1] > best else waited + 1
        if not np.isfinite(errors).all():
            bad = int(np.argmin(np.isfinite(errors)))
            found.row, found.error = rows[bad : bad + 1], math.inf
        if kept_errors[-1] > found.error:
            found.row, found.error = kept[-1:], float(kept_errors[-1])
        if time.monotonic() > deadline:
            return
        rows = children(rng, cell, kept, size)
        if waited >= PATIENCE:
            kept, kept_errors, waited = None, np.zeros(0), 0
            rows = fresh(rng, cell, size, classes, options)


def cells_of(isas: dict[str, str]) -> list[Cell]:
    return [
        Cell(dtype, path, kind, quantity)
        for kind, quantity in QUANTITIES
        for dtype in DTYPES
        for path in isas
    ]


def worst_of(cell: Cell, row: Rows) -> float:
    """The error by mpmath: on each instruction set of the cell's path, the largest."""
    errors = []
    for isa in instruction_sets.available_isas():
        if path_of(isa) == cell.path:
            before = instruction_sets.use_isa(isa)
            errors.append(exact_error(cell, row))
            instruction_sets.use_isa(before)
    return max(errors)


def find(
    minutes: float, seed: int, is_quick: bool, known: dict[Cell, tuple[Rows, float]]
) -> tuple[dict[Cell, tuple[Rows, float]], int]:
    """Each cell's worst row, judged by mpmath, and how many rows were judged."""
    isas = {path_of(isa): isa for isa in reversed(instruction_sets.available_isas())}
    cells = cells_of(isas)
    seconds = math.inf if is_quick else minutes * 60 / len(cells)
    results, judged = {}, 0
    for number, cell in enumerate(cells):
        rng = np.random.default_rng((seed, number))
        before = instruction_sets.use_isa(isas[cell.path])
        began, found = time.monotonic(), Found()
        old = known[cell][0] if cell in known else None
        widths = list(rng.permutation(WIDTHS)[:WIDTHS_A_CELL])
        if old is not None:
            widths.insert(0, old.logits.shape[1])
        for k, classes in enumerate(widths):
            left = seconds - (time.monotonic() - began)
            share = left / (len(widths) - k)
            generations = GENERATIONS_OF_QUICK if is_quick else sys.maxsize
            begin = old if k == 0 else None
            search(cell, int(classes), rng, found, share, generations, begin)
        instruction_sets.use_isa(before)
        candidates = [row for row in (found.row, old) if row is not None]
        judged += found.judged
        results[cell] = max(
            ((row, worst_of(cell, row)) for row in candidates), key=lambda pair: pair[1]
        )
        print(f"{cell}: {results[cell][1]:.3f}, {found.judged} rows", file=sys.stderr, flush=True)
    return of_all_paths(results), judged


def of_all_paths(results: dict[Cell, tuple[Rows, float]]) -> dict[Cell, tuple[Rows, float]]:
    """Each cell's worst row of those that any path's search has found."""
    worst = {}
    for cell, pair in results.items():
        others = [replace(cell, path=path) for path in PATHS if path != cell.path]
        rows = [results[other][0] for other in others if other in results]
        pairs = [pair, *((row, worst_of(cell, row)) for row in rows)]
        worst[cell] = max(pairs, key=lambda pair: pair[1])
    return worst


# --- what is said of it ---------------------------------------------------------------------------


def bounds(record: dict[str, Any]) -> str:
    """Bounds, and the worst rows on record."""
    worst = {tuple(entry["cell"]): entry["ulp"] for entry in record["rows"]}
    heads = [f"{dtype}{what}" for dtype in DTYPES for what in PATHS.values()]
    lines = []
    for kind, quantity in QUANTITIES:
        columns = [f"{kind}: {quantity}" if quantity != "result" else f"`{kind}`"]
        for dtype in DTYPES:
            errors = [worst[dtype, path, kind, quantity] for path in PATHS]
            columns += [f"**{bound_of(error):g}** ({error:.2f})" for error in errors]
        lines.append(columns)
    runs = record["runs"]
    minutes, rows = sum(run["minutes"] for run in runs), sum(run["rows"] for run in runs)
    return (
        f"{table(['result', *heads], lines)}\n\n"
        f"Searched for {minutes:g} minutes in all, until {runs[-1]['date']}: {rows:.1e} rows "
        f"judged, {runs[-1]['isas']} on {runs[-1]['machine']}."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="the same few generations each time")
    parser.add_argument("--write", action="store_true", help=f"renew {RECORD.name} and {PAGE.name}")
    parser.add_argument("--afresh", action="store_true", help="forget earlier runs, not their rows")
    arguments = parser.parse_args()
    if arguments.quick and arguments.write:
        parser.error("--quick is too short a search for the record")
    record = load() if RECORD.exists() else {"runs": [], "rows": []}
    known = recorded(record)
    results, judged = find(arguments.minutes, arguments.seed, arguments.quick, known)
    print(f"{judged} rows judged")
    broken = 0
    for cell, (row, error) in results.items():
        bound = bound_of(known[cell][1]) if cell in known else math.inf
        if error > bound:
            broken += 1
            print(f"{error:.3f} ulp, {bound:g} stated: {as_entry(cell, row, error)}")
    if arguments.write:
        run = {
            "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
            "minutes": arguments.minutes,
            "seed": arguments.seed,
            "rows": judged,
            "isas": ", ".join(instruction_sets.available_isas()),
            "machine": processor_name(),
        }
        runs = [] if arguments.afresh else record["runs"]
        rows = [as_entry(cell, *pair) for cell, pair in results.items()]
        rows += [entry for entry in record["rows"] if Cell(*entry["cell"]) not in results]
        record = {"runs": [*runs, run], "rows": rows}
        save(record)
        write_block(PAGE, "search", bounds(record))
    if record["rows"]:
        print(bounds(record))
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
