"""How the figures read: tables, the page's and README's blocks.

Knows: words and Markdown. Must not know: how anything is timed, computed or drawn.
"""

from collections.abc import Iterable
from pathlib import Path
from statistics import median

from benchmarks import figures, steps
from benchmarks.figures import fastest, over_baseline, over_fastest_peer, share_of_limit
from benchmarks.implementations import BASELINE, OURS
from benchmarks.implementations.contract import LIBRARY, LIMIT, PEER
from benchmarks.machine import in_words
from benchmarks.options import CLASSES_LAST, FUNCTION_NAMES, OPTION_NAMES, PLAIN, PYTORCH


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


def table(header: Iterable[str], rows: Iterable[Iterable[str]], text_columns: int = 1) -> str:
    header = list(header)
    rule = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *rows])


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


def peer_in_words(cell: dict) -> str:
    peer = fastest(cell, PEER)
    return f"{microseconds(figures.seconds(cell, peer))} {peer}" if peer else "–"


def goals(cells: list[dict]) -> str:
    """This library beside what a user can pick, the limit and the goal that was set."""
    rows = [
        [
            cell["label"],
            microseconds(figures.seconds(cell, "PyTorch")),
            peer_in_words(cell),
            microseconds(figures.seconds(cell, fastest(cell, LIMIT))),
            cell["goal"] or "–",
            f"**{microseconds(figures.seconds(cell, OURS))}**",
            f"**{times(over_fastest_peer(cell))}**",
        ]
        for cell in cells
    ]
    header = ["rows x classes", "PyTorch", "fastest peer", "limit", "goal", "xent_fast"]
    return table([*header, "fastest peer / xent_fast"], rows)


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
                times(over_fastest_peer(cell)),
                fastest(cell, PEER) or "–",
                percent(share_of_limit(cell)),
                "–" if cycles is None else f"{cycles:.1f}",
            ]
        )
    header = [
        "workload",
        "xent_fast, µs",
        "quartiles",
        "NumPy in place / xent_fast",
        "fastest peer / xent_fast",
        "fastest peer",
        "of the limit's speed",
        "cycles per 16, 1 thread",
    ]
    return table(header, rows)


def missed(results: dict) -> str:
    """Every workload that misses a goal, and what bounds it; what is met stands in brackets."""
    rows = []
    for cell in figures.missing_goals(results):
        pairs = figures.judged(cell, results["machine"])
        shown = [times(pair and pair[0]) for pair in pairs[:-1]]
        shown.append(percent(pairs[-1] and pairs[-1][0]))
        values = [
            f"({text})" if pair and pair[0] >= pair[1] else text
            for text, pair in zip(shown, pairs, strict=True)
        ]
        rows.append([cell["label"], figures.bound(cell), *values])
    isas = [f"{isa} ({goal})" for isa, goal in figures.GOAL_OF_ISA.items()]
    header = [
        "workload",
        "bound by",
        f"fastest peer / xent_fast ({figures.GOAL_OVER_PEERS})",
        *isas,
        f"of the limit ({percent(figures.GOAL_OF_LIMIT)})",
    ]
    return table(header, rows, text_columns=2)


def losses(results: dict) -> str:
    """Where it misses what it aims for."""
    parts = [
        "Every workload that misses a goal; the goals stand in the table's head, what meets its "
        "goal in brackets. The share of the limit counts beyond the cache alone. What bounds it "
        "names a paragraph [above](#what-bounds-it).",
        missed(results),
        _list(
            "Slower by default than on one thread:",
            [cell["label"] for cell in figures.slower_than_one_thread(results)],
        ),
    ]
    return "\n\n".join(parts)


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


def dear_options(cells: list[dict]) -> str:
    return _list(
        f"More than {figures.GOAL_OF_OPTIONS} times the plain call:",
        [
            f"{name}, {cell['label']}: {hundredths(cost)}"
            for cell, name, cost in figures.costly_options(cells, PLAIN)
        ],
    )


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
    goal = f"PyTorch / this ({figures.GOAL_OF_AXIS})"
    header = [cell["label"], "µs", "quartiles", "/ classes last", goal]
    return table(header, rows)


def options_tables(results: dict) -> str:
    parts = []
    if results["options"]:
        parts += [cost_of("option", OPTION_NAMES, results["options"])]
        parts += [dear_options(results["options"])]
    parts += map(cost_of_axis, results["axis"])
    if results.get("functions"):
        parts.append(cost_of("function", FUNCTION_NAMES, results["functions"]))
    return "\n\n".join(parts)


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
    """One line: what a user of the loss gets in training."""
    cell = next(one for one in results["shapes"] if one["label"] == steps.SHAPES[2].label)
    ours, numpy = (cell["timings"][name] for name in (steps.DEFAULT, steps.NUMPY))
    return (
        f"In a training step, {cell['label']} with its three matrix products, the loss takes "
        f"{percent(ours['share of the loss'])} of the time,\nand "
        f"{percent(numpy['share of the loss'])} with NumPy in place; the step takes "
        f"{microseconds(ours['step'])} µs instead of {microseconds(numpy['step'])} "
        f"([more steps](docs/benchmarks.md#in-a-step-of-training))."
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
    if "steps" in results:
        parts.append(steps_table(results["steps"]["shapes"]))
    return "\n\n".join(filter(None, parts))


def page_block(results: dict) -> str:
    machine, main = results["machine"], figures.without_variants(results)
    parts = [
        in_words(machine),
        failures(results),
        "Microseconds, float32, class indices, gradient in place:",
        goals(main),
        "The goals were set for another machine, with two cores and AVX-512.",
        "![Fastest peer's time over that of xent_fast, one bar a workload](images/benchmark.png)",
        "## Where it loses",
        losses(results),
        "## Every workload",
        summary(results["workloads"], machine),
        "![The same bars for float64, dense targets and other destinations]"
        "(images/benchmark_variants.png)",
        "## Memory and arithmetic",
        "![Left: speed over that of the limit, by the bytes that memory must move. Right: cycles "
        "per 16 elements on one thread, beside the arithmetic floor](images/roofline.png)",
        "## Every implementation",
        "In place, float32, class indices; the other workloads are in "
        "[benchmarks.json](benchmarks.json).",
    ]
    for cell in main:
        parts += [f"### {cell['label'][0].upper()}{cell['label'][1:]}", one_workload(cell)]
    return "\n\n".join(filter(None, parts))


def readme_block(results: dict) -> str:
    cells, machine = figures.without_variants(results), results["machine"]
    rows = [
        [
            cell["label"],
            microseconds(figures.seconds(cell, OURS)),
            f"{times(over_baseline(cell))} x",
            f"{times(over_fastest_peer(cell))} x ({fastest(cell, PEER)})",
        ]
        for cell in cells
    ]
    header = ["batch, rows x classes", "µs", "NumPy in place takes", "fastest peer measured takes"]
    missing = machine["missing"]
    closing = (
        f"Mean loss and gradient in place, float32, {machine['threads']} threads (NumPy: 1) on "
        f"{machine['processor']} ({machine['isa']['active']}); all times from one run"
        f"{', without ' + ', '.join(missing) if missing else ''}.\n"
        "[docs/benchmarks.md](docs/benchmarks.md) has the method, every implementation, float64, "
        "dense targets,\nother destinations, and where it loses."
    )
    picture = "![Fastest peer's time over that of xent_fast](docs/images/benchmark.png)"
    return f"{picture}\n\n{table(header, rows)}\n\n{closing}"


def replace_block(path: Path, name: str, text: str) -> None:
    """Put `text` between the file's markers of that name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found_begin, rest = path.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"{path} lacks {begin} or {end}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")
