"""How fast each kind of call should be, and what must be timed to judge that.

Cycles are those of sixteen float32 numbers on one thread, in the cache; all else is a ratio of two
times of the same run. Each instruction set has its own goals, or the same.

Knows: the goals, the figures that they are held to. Must not know: how those are taken or shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from benchmarks import figures, options
from benchmarks.first_version import SHAPES as FLOAT64_SHAPES
from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.implementations.contract import LIBRARY, LIMIT, Implementation
from benchmarks.workloads import DENSE, EVERY_SHAPE, LOSS_ONLY, SEED, Workload
from xent_fast._binding import instruction_sets

ISAS = ("avx512", "avx2")  # that have goals
ISAS_HERE = tuple(isa for isa in ISAS if isa in instruction_sets.available_isas())

# Cycles: (rows, classes), or (1, classes, rows) with the classes on axis 1; AVX-512's, AVX2's.
CYCLES: dict[str, tuple[tuple[int, ...], dict[str, float]]] = {
    "64 x 1,000": ((64, 1_000), {"avx512": 15, "avx2": 18}),
    "32 x 2,048": ((32, 2_048), {"avx512": 13.5, "avx2": 17}),
    "2 x 32,000": ((2, 32_000), {"avx512": 13.5, "avx2": 17}),
    "65,536 x 2": ((65_536, 2), {"avx512": 30, "avx2": 60}),
    "65,536 x 2, axis=1": ((1, 2, 65_536), {"avx512": 50, "avx2": 70}),
    "65,536 x 3, axis=1": ((1, 3, 65_536), {"avx512": 40, "avx2": 60}),
    "65,536 x 10, axis=1": ((1, 10, 65_536), {"avx512": 25, "avx2": 40}),
    "65,536 x 21, axis=1": ((1, 21, 65_536), {"avx512": 30, "avx2": 50}),
}
CLASSES_SIDE_BY_SIDE = 128  # of as many rows as fill a register
CALL = (32, 10)  # rows and classes of a batch that is mostly the call's own cost
SECONDS_OF_CALL = 0.5e-6
OVER_PEERS, OVER_PEERS_OF_CALL, OVER_PEERS_OF_LONG_ROWS, OVER_PEERS_WITH_AVX2 = 5.0, 3.5, 4.5, 3.0
MOST_CLASSES_OF_OVER_PEERS = 1_000  # more: long rows
OF_LIMIT, OF_LIMIT_DENSE = 0.9, 0.75  # beyond the cache
OVER_FIRST_VERSION = 1.3  # float64

SMOOTHED, DENSE_TARGETS = "weight, label_smoothing", "dense targets"
OPTIONS = {SMOOTHED: 1.3, DENSE_TARGETS: 1.35}  # of the plain call; dense targets in the cache

# Paragraphs of goals.md.
FEW_CLASSES, LONG_ROWS, THE_CALL, MEMORY = "few classes", "long rows", "the call", "memory"
SECOND_ORDER, DISTILLATION = "second order", "distillation"


@dataclass(frozen=True)
class Function:
    """At most so many plain calls; the workload's variant that moves as much memory; its bound."""

    over_plain: float
    moves: str = ""
    bound: str = ""


FUNCTIONS = {
    "softmax": Function(1.1),
    "log_softmax": Function(1.1),
    "logsumexp": Function(1.1, LOSS_ONLY),
    "softmax_vjp": Function(1.0, DENSE_TARGETS),
    "log_softmax_vjp": Function(1.0, DENSE_TARGETS),
    "softmax_cross_entropy_hvp": Function(1.8, DENSE_TARGETS, SECOND_ORDER),
    "softmax_cross_entropy_hessian_diagonal": Function(1.5, "", SECOND_ORDER),
    "distillation_loss_grad": Function(2.5, DENSE_TARGETS, DISTILLATION),
}

# --- what is timed --------------------------------------------------------------------------------


def workloads(machine: dict) -> tuple[list[Workload], list[Workload]]:
    """Those of the cache, which are timed beside peers, and those beyond it, beside the limit."""
    large = next(one for one in EVERY_SHAPE if (one.rows, one.classes) == (512, 32_000))
    every = [*EVERY_SHAPE, replace(large, targets=DENSE), replace(large, destination=LOSS_ONLY)]
    beyond = [
        one for one in every if figures.beyond_cache({"bytes_moved": one.bytes_moved}, machine)
    ]
    return [one for one in EVERY_SHAPE if one not in beyond], beyond


def implementations(role: str) -> list[Implementation]:
    """This library on its default threads, and others of that role."""
    return [
        one
        for one in IMPLEMENTATIONS
        if not one.missing
        and (
            one.role == role
            or (one.role == LIBRARY and one.isa in ISAS_HERE and "1 thread" not in one.name)
        )
    ]


def _cycles_questions() -> dict[str, options.Question]:
    rng, questions = np.random.default_rng(SEED), {}
    for name, (shape, _) in CYCLES.items():
        labels = rng.integers(0, shape[1], shape[:1] + shape[2:])
        axis = {"axis": 1} if len(shape) > 2 else {}
        questions[name] = options.Question(options.normal(rng, *shape), labels, axis)
    return questions


def _on(isa: str, batch: options.Batch) -> options.Batch:
    """The batch with one instruction set, under a label of its own."""
    chosen = tuple(replace(one, isa=isa) for one in batch.implementations)
    return replace(batch, label=f"{isa}: {batch.label}", implementations=chosen)


def _batches() -> Iterator[options.Batch]:
    one_thread = tuple(options.ours(name, options.on_one_thread) for name in CYCLES)
    yield options.Batch("cycles", 0, one_thread, _cycles_questions)  # in a quick run, too
    for batch in options.OPTION_BATCHES:
        wanted = (options.PLAIN, *OPTIONS)
        chosen = tuple(one for one in batch.implementations if one.name in wanted)
        yield replace(batch, implementations=chosen)
    yield from options.FUNCTION_BATCHES


BATCHES = tuple(_on(isa, batch) for isa in ISAS_HERE for batch in _batches())


class Bench(options.Bench):
    """The same of these batches."""

    batches = BATCHES


# --- what came of it ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """One figure beside what is asked of it; `bound` is a paragraph of goals.md."""

    what: str
    batch: str
    asked: float
    measured: float | None
    bound: str
    is_least: bool = False  # what is asked: no less, or no more
    digits: int = 3

    @property
    def shown(self) -> float | None:
        """Rounded as it is printed, and judged so."""
        return None if self.measured is None else float(f"{self.measured:.{self.digits}g}")

    @property
    def is_met(self) -> bool | None:
        if self.shown is None:
            return None
        return self.shown >= self.asked if self.is_least else self.shown <= self.asked


def judged(results: dict, isa: str) -> list[Goal]:
    """Every goal that one instruction set has, with its figure where there is one."""
    return [
        goal
        for goals in (
            _of_cycles,
            _of_call,
            _beside_peers,
            _beside_limit,
            _beside_plain,
            _of_float64,
        )
        for goal in goals(results, isa)
    ]


def _cell(results: dict, label: str) -> dict | None:
    return next((cell for cell in results["batches"] if cell["label"] == label), None)


def _bound_by_classes(classes: int) -> str:
    return FEW_CLASSES if classes <= CLASSES_SIDE_BY_SIDE else LONG_ROWS


def _of_cycles(results: dict, isa: str) -> Iterator[Goal]:
    cell, hertz = _cell(results, f"{isa}: cycles"), results["machine"]["clock"]["hertz"]
    for name, (shape, asked) in CYCLES.items() if cell else ():
        timing = cell["timings"].get(name)
        cycles = timing["best"] * hertz * 16 / int(np.prod(shape)) if timing and hertz else None
        yield Goal("cycles for 16", name, asked[isa], cycles, _bound_by_classes(shape[1]))


def _is_call(cell: dict) -> bool:
    return (cell["rows"], cell["classes"]) == CALL


def _of_call(results: dict, isa: str) -> Iterator[Goal]:
    name = figures.name_of(isa, results["machine"])
    for cell in filter(_is_call, results["workloads"]):
        seconds = figures.seconds(cell, name)
        measured = None if seconds is None else 1e6 * seconds
        yield Goal("µs", "32 x 10", 1e6 * SECONDS_OF_CALL, measured, THE_CALL)


def _shape(cell: dict) -> str:
    return f"{cell['rows']:,} x {cell['classes']:,}"


def _beside_peers(results: dict, isa: str) -> Iterator[Goal]:
    machine = results["machine"]
    for cell in results["workloads"]:
        if figures.beyond_cache(cell, machine):
            continue
        bound = THE_CALL if _is_call(cell) else _bound_by_classes(cell["classes"])
        yield Goal(
            "fastest peer / this",
            _shape(cell),
            _least_over_peers(cell, isa),
            figures.of_isa(cell, isa, machine),
            bound,
            is_least=True,
        )


def _least_over_peers(cell: dict, isa: str) -> float:
    if isa == "avx2":
        return OVER_PEERS_WITH_AVX2
    if _is_call(cell):
        return OVER_PEERS_OF_CALL
    is_long = cell["classes"] > MOST_CLASSES_OF_OVER_PEERS
    return OVER_PEERS_OF_LONG_ROWS if is_long else OVER_PEERS


def _beside_limit(results: dict, isa: str) -> Iterator[Goal]:
    machine = results["machine"]
    limits = {}
    of_limit = partial(Goal, "of the limit's speed", bound=MEMORY, is_least=True, digits=2)
    for cell in results["workloads"]:
        if not figures.beyond_cache(cell, machine):
            continue
        limit = figures.fastest(cell, LIMIT)
        limits[_shape(cell), cell["variant"]] = figures.seconds(cell, limit)
        share = figures.ratio(cell, limit, figures.name_of(isa, machine))
        asked = OF_LIMIT_DENSE if cell["targets"] == DENSE else OF_LIMIT
        batch = ", ".join(filter(None, [_shape(cell), cell["variant"]]))
        yield of_limit(batch=batch, asked=asked, measured=share)
    for batch in options.FUNCTION_BATCHES:
        shape = batch.label.removeprefix("functions, ")
        for name, function in FUNCTIONS.items():
            limit = limits.get((shape, function.moves))
            cell = _cell(results, f"{isa}: {batch.label}")
            if limit and cell:
                share = limit / cell["timings"][name]["median"]
                yield of_limit(batch=f"{shape}, {name}", asked=OF_LIMIT, measured=share)


def _beside_plain(results: dict, isa: str) -> Iterator[Goal]:
    of_options = {name: (asked, name) for name, asked in OPTIONS.items()}
    of_functions = {name: (one.over_plain, one.bound) for name, one in FUNCTIONS.items()}
    for batches, goals in (
        (options.OPTION_BATCHES, of_options),
        (options.FUNCTION_BATCHES, of_functions),
    ):
        for name, (asked, bound) in goals.items():
            for batch in batches:
                cell = _cell(results, f"{isa}: {batch.label}")
                if cell is None:
                    continue
                is_large = figures.beyond_cache({"bytes_moved": cell["bytes"]}, results["machine"])
                if is_large and name == DENSE_TARGETS:
                    continue
                shape = batch.label.removeprefix("functions, ")
                classes = int(shape.split(" x ")[1].replace(",", ""))
                by_size = MEMORY if is_large else _bound_by_classes(classes)
                measured = figures.ratio(cell, name, options.PLAIN)
                yield Goal(f"{name} / plain", shape, asked, measured, bound or by_size)


def _of_float64(results: dict, isa: str) -> Iterator[Goal]:
    times = results.get("first", {}).get(isa, {})
    for rows, classes in FLOAT64_SHAPES:
        batch = f"{rows:,} x {classes:,}"
        first, now = times.get(batch, (None, None))
        measured = first / now if first and now else None
        yield Goal(
            "first version / this, float64",
            batch,
            OVER_FIRST_VERSION,
            measured,
            "float64",
            is_least=True,
        )
