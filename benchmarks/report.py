"""How the figures read: tables, the page's and README's blocks.

Knows: words and Markdown. Must not know: how anything is timed, computed or drawn.
"""

import math
from collections.abc import Iterable
from statistics import median

from benchmarks import figures, goals, steps
from benchmarks.figures import fastest, over_baseline, over_fastest_peer, share_of_limit
from benchmarks.implementations import BASELINE, OURS
from benchmarks.implementations.contract import LIBRARY, LIMIT, PEER
from benchmarks.machine import in_words
from benchmarks.options import CLASSES_LAST, FUNCTION_NAMES, OPTION_NAMES, PLAIN, PYTORCH
from scripts.pages import table

SMALL_GAIN = 2  # times as fast as the fastest peer: less is named on the page


def microseconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    value = seconds * 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def times(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}".replace("%", " %")


def one_workload(cell: dict) -> str:
    """Every implementation on one workload, fastest first."""
    limit, peer = fastest(cell, LIMIT), fastest(cell, PEER)
    rows = []
    for name, timing in sorted(cell["timings"].items(), key=lambda item: item[1]["median"]):
        low, high = timing["quartiles"]
        rows.append(
            [
                f"**{name}**" if timing["role"] == LIBRARY else name,
                microseconds(timing["median"]),
                f"{microseconds(low)} to {microseconds(high)}",
                times(figures.ratio(cell, name, BASELINE)),
                times(figures.ratio(cell, name, peer)),
                times(figures.ratio(cell, name, limit)),
            ]
        )
    rows += [[name, f"left out: {reason}"] for name, reason in cell["failures"].items()]
    header = ["", "µs", "quartiles", "/ NumPy in place", "/ fastest peer", "/ limit"]
    return table(header, rows)


def summary(cells: list[dict], machine: dict) -> str:
    """This library on every workload, in ratio to peers, limit and arithmetic."""
    rows = []
    for cell in cells:
        cycles = figures.cycles_per_16(cell, machine)
        quartiles = cell["timings"][OURS]["quartiles"] if OURS in cell["timings"] else None
        rows.append(
            [
                cell["label"],
                microseconds(figures.seconds(cell, OURS)),
                " to ".join(map(microseconds, quartiles)) if quartiles else "–",
                times(over_baseline(cell)),
                times(figures.ratio(cell, BASELINE, figures.ONE_THREAD)),
                times(over_fastest_peer(cell)),
                fastest(cell, PEER) or "–",
                percent(share_of_limit(cell, machine)),
                "–" if cycles is None else f"{cycles:.1f}",
            ]
        )
    header = [
        "workload",
        "xent_fast, µs",
        "quartiles",
        "NumPy in place / xent_fast",
        "/ xent_fast on 1 thread",
        "fastest peer / xent_fast",
        "fastest peer",
        "of the limit's speed",
        "cycles per 16, 1 thread",
    ]
    return table(header, rows)


def in_place(results: dict) -> str:
    """Float32 with class indices, in place: as the page shows other machines."""
    cells = figures.without_variants(results)
    rows = [
        [
            cell["label"],
            microseconds(figures.seconds(cell, OURS)),
            " to ".join(map(microseconds, cell["timings"][OURS]["quartiles"])),
            microseconds(figures.seconds(cell, figures.ONE_THREAD)),
            times(over_baseline(cell)),
            times(over_fastest_peer(cell)),
            fastest(cell, PEER) or "–",
            percent(share_of_limit(cell, results["machine"])),
        ]
        for cell in cells
        if OURS in cell["timings"]
    ]
    header = [
        "batch",
        "µs",
        "quartiles",
        "on one thread, µs",
        "NumPy in place / this",
        "fastest peer / this",
        "fastest peer",
        "of the limit's speed",
    ]
    return f"{table(header, rows)}\n\n{_beside_peers('The', map(over_fastest_peer, cells))}"


def losses(results: dict) -> str:
    """Where it gains least, with every instruction set."""
    cells, machine = results["workloads"], results["machine"]
    least = sorted(
        (over, f"{cell['label']}: {times(over)} x {fastest(cell, PEER)}")
        for cell in cells
        if (over := over_fastest_peer(cell)) is not None and over < SMALL_GAIN
    )
    slower = [cell["label"] for cell in figures.slower_than_one_thread(results)]
    parts = [
        _list(
            f"The fastest peer takes less than {SMALL_GAIN} times as long as xent_fast:",
            [text for _, text in least],
        ),
        *(_of_isa(isa, cells, machine) for isa in figures.OTHER_ISAS),
        _list("Slower by default than on one thread:", slower) if slower else "",
    ]
    return "\n\n".join(filter(None, parts))


def _of_isa(isa: str, cells: list[dict], machine: dict) -> str:
    ratios = (figures.of_isa(cell, isa, machine) for cell in cells)
    return _beside_peers(f"With {isa} forced, the", ratios)


def _beside_peers(beginning: str, ratios: Iterable[float | None]) -> str:
    found = [over for over in ratios if over is not None]
    if not found:
        return ""
    return (
        f"{beginning} fastest peer takes {times(min(found))} to {times(max(found))} times as long, "
        f"{times(median(found))} in the middle."
    )


def _list(heading: str, items: list[str]) -> str:
    return f"{heading}\n\n" + "\n".join(f"- {item}" for item in items or ["nowhere in this run"])


def failures(results: dict) -> str:
    """Implementations that gave no right result somewhere; empty if none."""
    lines = [
        f"{name} failed or gave a wrong result on: {'; '.join(labels)}."
        for name, labels in figures.failures(results).items()
    ]
    return "\n".join(lines)


def cost_of(what: str, names: Iterable[str], cells: list[dict]) -> str:
    """One row a name; of every batch the time, and its ratio to that of the plain call."""
    rows = [
        [
            name,
            *(
                text
                for cell in cells
                for text in (
                    microseconds(figures.seconds(cell, name)),
                    hundredths(figures.ratio(cell, name, PLAIN)),
                )
            ),
        ]
        for name in names
    ]
    labels = [cell["label"].removeprefix("functions, ") for cell in cells]
    columns = [text for label in labels for text in (f"{label}, µs", "/ plain")]
    return table([what, *columns], rows)


def hundredths(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def cost_of_axis(cell: dict) -> str:
    """The same numbers in two layouts, and PyTorch."""
    rows = [
        [
            f"**{name}**" if timing["role"] == LIBRARY else name,
            microseconds(timing["median"]),
            " to ".join(map(microseconds, timing["quartiles"])),
            hundredths(figures.ratio(cell, name, CLASSES_LAST)),
            times(figures.ratio(cell, PYTORCH, name)),
        ]
        for name, timing in cell["timings"].items()
    ]
    rows += [[name, f"left out: {reason}"] for name, reason in cell["failures"].items()]
    header = [cell["label"], "µs", "quartiles", "/ classes last", "PyTorch / this"]
    return table(header, rows)


def options_tables(results: dict) -> str:
    parts = []
    if results["options"]:
        parts += [cost_of("option", OPTION_NAMES, results["options"])]
    parts += map(cost_of_axis, results["axis"])
    if results.get("functions"):
        parts.append(cost_of("function", FUNCTION_NAMES, results["functions"]))
    return "\n\n".join(parts)


def goals_table(results: dict) -> str:
    """Every goal with its figure, with each instruction set that has goals."""
    isas, rows = _isas_with_goals(results), []
    for cell in zip(*(goals.judged(results, isa) for isa in isas), strict=True):
        row = [cell[0].what, cell[0].batch]
        for goal in cell:
            verdict = {True: "met", False: "missed", None: ""}[goal.is_met]
            row += [_asked(goal), _amount(goal, goal.shown), verdict]
        is_missed = any(goal.is_met is False for goal in cell)
        rows.append([*row, cell[0].bound if is_missed else ""])
    columns = [text for isa in isas for text in (f"goal, {isa}", "measured", "")]
    return table(["what", "batch", *columns, "bound by"], rows, text_columns=2)


def _isas_with_goals(results: dict) -> list[str]:
    return [isa for isa in goals.ISAS if isa in results["machine"]["isa"]["supported"]]


def _asked(goal: goals.Goal) -> str:
    return f"{'≥' if goal.is_least else '≤'} {_amount(goal, goal.asked)}"


def _amount(goal: goals.Goal, value: float | None) -> str:
    if goal.digits == 2:  # a share
        return percent(value)
    return "–" if value is None else f"{value:g}"


def goals_tables(results: dict) -> str:
    isas = _isas_with_goals(results)
    parts = [failures(results)]
    for isa in isas:
        verdicts = [goal.is_met for goal in goals.judged(results, isa)]
        parts.append(
            f"With {isa}, {verdicts.count(True)} goals are met and {verdicts.count(False)} missed."
        )
    parts += [f"This processor has no {isa}." for isa in goals.ISAS if isa not in isas]
    return "\n\n".join(filter(None, [*parts, goals_table(results)]))


def goals_block(results: dict) -> str:
    return f"{in_words(results['machine'])}\n\n{goals_tables(results)}"


def steps_table(shapes: list[dict]) -> str:
    """Steps of training: microseconds, the loss's share, and the default beside one thread."""
    rows = []
    for cell in shapes:
        timings = cell["timings"]
        row = [cell["label"]]
        for name in steps.NAMES:
            timing = timings.get(name)
            share = timing and timing["share of the loss"]
            text = microseconds(timing and timing["step"])
            row.append(text if share is None else f"{text} ({percent(share)})")
        ratios = cell["ratios of rounds"]
        row += [f"{median(ratios):.2f}", f"{max(ratios):.2f}", percent(cell["others"])]
        rows.append(row)
    header = [
        "rows x inputs → classes",
        *steps.NAMES,
        "default / 1 thread",
        "worst round",
        "others",
    ]
    return table(header, rows)


def steps_block(results: dict) -> str:
    machine = results["machine"]
    return (
        f"{steps_table(results['shapes'])}\n\n{machine['threads']} threads on "
        f"{machine['processor']} ({machine['isa']['active']}), NumPy "
        f"{machine['versions']['numpy']}; {machine['date']}."
    )


def readme_step(results: dict) -> str:
    """What a user of the loss gets in training: few classes, and many."""
    found = {one["label"]: one["timings"] for one in results["shapes"]}
    few, many = (found[steps.SHAPES[place].label] for place in (1, 2))

    def gain(timings: dict) -> str:
        ours, numpy = timings[steps.DEFAULT]["step"], timings[steps.NUMPY]["step"]
        return f"takes {microseconds(ours)} µs instead of {microseconds(numpy)}"

    return (
        "A whole step of training gains less, since its matrix products take as long as before. "
        "Of a last layer\n"
        f"alone, {steps.SHAPES[1].label} (rows x inputs → classes) {gain(few)} with NumPy's loss.\n"
        f"{steps.SHAPES[2].label} {gain(many)}. Where the loss is a small part of a step you "
        "hardly notice\nthe gain ([more steps](docs/benchmarks.md#in-a-step-of-training))."
    )


def options_block(results: dict) -> str:
    return f"{in_words(results['machine'])}\n\n{options_tables(results)}"


def printed(results: dict) -> str:
    parts = []
    if "workloads" in results:
        parts += [
            summary(results["workloads"], results["machine"]),
            losses(results),
            failures(results),
        ]
    if "cost of options" in results:
        parts.append(options_tables(results["cost of options"]))
    if "goals" in results:
        parts.append(goals_tables(results["goals"]))
    if "steps" in results:
        parts.append(steps_table(results["steps"]["shapes"]))
    return "\n\n".join(filter(None, parts))


def page_block(results: dict) -> str:
    machine = results["machine"]
    parts = [
        in_words(machine),
        failures(results),
        "![How many times as long NumPy, PyTorch and the fastest other library take]"
        "(images/benchmark.png)",
        "### Where it gains least",
        losses(results),
        "### Every batch",
        summary(results["workloads"], machine),
        "Each library and its quartiles: [benchmarks.json](benchmarks.json).",
        "### Memory and arithmetic",
        "![Left: speed over that of the limit, by the bytes that memory must move. Right: cycles "
        "per 16 elements on one thread, beside the arithmetic floor](images/roofline.png)",
    ]
    return "\n\n".join(filter(None, parts))


def least_gain(results: dict) -> str:
    """How many times as fast as NumPy, at the least, for the batches of the README's picture."""
    gains = [over_baseline(cell) for cell in figures.in_first_picture(results["workloads"])]
    return str(math.floor(min(filter(None, gains))))


def readme_block(results: dict) -> str:
    machine, missing = results["machine"], results["machine"]["missing"]
    return (
        "![How many times as long NumPy, PyTorch and the fastest other library take, for six "
        "batches](docs/images/benchmark.png)\n\n"
        f"Measured in one run on an {machine['processor']} with {machine['isa']['active']}: "
        "float32; the gradient\noverwrites the logits; xent_fast on up to "
        f"{machine['threads']} threads, NumPy on 1"
        f"{', without ' + ', '.join(missing) if missing else ''}. "
        "[Benchmarks](docs/benchmarks.md) has every batch and library, xent_fast\non 1 thread, and "
        "where it gains least."
    )
