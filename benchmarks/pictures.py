"""How the figures look: ratios to the fastest peer, and the roofline.

Knows: matplotlib. Must not know: how anything is timed or computed.
"""

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks import figures
from benchmarks.figures import fastest, over_baseline, over_fastest_peer, ratio, share_of_limit
from benchmarks.implementations import OURS
from benchmarks.implementations.contract import PEER
from benchmarks.report import times

COLOUR, FLOOR_COLOUR = "#2a6f97", "#e9c46a"
NUMPY_COLOUR, PYTORCH_COLOUR = "#a9bcc9", "#e76f51"
PYTORCH = "PyTorch"
DOTS_PER_INCH = 130


def draw_all(results: dict, folder: Path) -> None:
    """Every picture there are figures for."""
    folder.mkdir(parents=True, exist_ok=True)
    if first := figures.in_first_picture(results["workloads"]):
        _save(lambda plt: _beside_others(plt, first), folder / "benchmark.png")
    if any(share_of_limit(cell, results["machine"]) for cell in results["workloads"]):
        _save(lambda plt: _roofline(plt, results), folder / "roofline.png")


def _save(draw: Callable, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")  # draws into a file: needs no display
    import matplotlib.pyplot as plt

    figure = draw(plt)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)


def _beside_others(plt, chosen: list[dict]):
    """How long others take for some batches."""
    height = 0.27
    limit = 1.15 * max(over_baseline(cell) or 1 for cell in chosen)
    figure, axes = plt.subplots(figsize=(9, 0.8 * len(chosen) + 1.2), layout="constrained")
    for place, cell in enumerate(chosen):
        library = re.split(",| by hand", fastest(cell, PEER))[0]
        bars = [
            ("NumPy", over_baseline(cell), NUMPY_COLOUR),
            (PYTORCH, ratio(cell, PYTORCH, OURS), PYTORCH_COLOUR),
            (f"fastest of all others: {library}", over_fastest_peer(cell), COLOUR),
        ]
        for row, (name, value, colour) in enumerate(bars):
            if value is not None:
                (bar,) = axes.barh(place + (row - 1) * height, value, height * 0.9, color=colour)
                goes_on = value > limit  # its end is not in the picture
                axes.annotate(
                    f"{times(value)} x  {name}" + " →" * goes_on,
                    (min(value, limit), bar.get_y() + bar.get_height() / 2),
                    (-3 if goes_on else 5, 0),
                    textcoords="offset points",
                    ha="right" if goes_on else "left",
                    va="center",
                    fontsize=8,
                )
    axes.axvline(1, color="black", linewidth=1)
    axes.annotate("xent_fast", (1, -0.55), (4, 3), textcoords="offset points", fontsize=8)
    labels = [f"{cell['rows']:,} x {cell['classes']:,}\n{cell['name']}" for cell in chosen]
    axes.set_yticks(range(len(chosen)), labels, fontsize=9)
    axes.set_ylim(len(chosen) - 0.4, -0.85)
    axes.set_xlim(0, limit)
    axes.set_xlabel("times as long as with xent_fast")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("How long loss and gradient of a batch take: rows x classes", loc="left")
    return figure


def _roofline(plt, results: dict):
    figure, (memory, arithmetic) = plt.subplots(
        ncols=2, figsize=(13, 5.2), layout="constrained", width_ratios=(1, 1.1)
    )
    _memory(memory, results)
    _arithmetic(arithmetic, results)
    return figure


def _memory(axes, results: dict) -> None:
    """The share of the limit's speed by the bytes that memory must move."""
    groups: dict[str, list[dict]] = {}
    for cell in results["workloads"]:
        if share_of_limit(cell, results["machine"]):
            groups.setdefault(cell["variant"] or "float32, in place", []).append(cell)
    for marker, (name, cells) in zip("osD^v<>ph", groups.items(), strict=False):
        axes.plot(
            [cell["bytes_moved"] for cell in cells],
            [100 * share_of_limit(cell, results["machine"]) for cell in cells],
            marker,
            label=name,
            markersize=5,
        )
    axes.axhline(100, color="black", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("bytes moved, by batches larger than the cache")
    axes.set_ylabel("% of the speed of touching memory alone")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    axes.set_title("Memory", loc="left")


def _arithmetic(axes, results: dict) -> None:
    """Cycles per 16 elements on one thread, and the band of floors behind them."""
    machine = results["machine"]
    cells = [
        cell
        for cell in figures.without_variants(results)
        if figures.cycles_per_16(cell, machine) is not None
    ]
    for position, cell in enumerate(cells):
        cycles, band = figures.cycles_per_16(cell, machine), figures.floor(cell, machine)
        if band:
            axes.barh(position, band[1] - band[0], left=band[0], height=0.6, color=FLOOR_COLOUR)
        axes.plot(cycles, position, "o", color=COLOUR)
        axes.annotate(
            f"{cycles:.1f}", (cycles, position), (6, -3), textcoords="offset points", fontsize=8
        )
    axes.set_xscale("log")
    ticks = (5, 10, 20, 50, 100, 200, 500)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.minorticks_off()
    axes.set_yticks(range(len(cells)), [cell["label"] for cell in cells], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("cycles per 16 elements on one thread (bands: arithmetic floors)")
    isa = machine["isa"]["active"]
    axes.set_title(f"Arithmetic, float32, in place, {isa}", loc="left")
