"""`python -m xent_fast bench`: this machine in half a minute, as a table, a sentence and a chart.

Knows: how the times are shown. Must not know: how they are taken, nor how a library is called.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import xent_fast
from xent_fast._command.peers import BASELINE, BATCHES, CONTESTANTS, LIBRARY, LIBRARY_ALONE

BAR_CELLS = 40
LABELS = [f"{rows:,} x {classes:,}" for rows, classes, _ in BATCHES]

Times = dict[str, list[float]]  # contestant to seconds a batch


def run(plot: Path | None) -> int:
    """Time whatever is installed and print what came of it."""
    if plot is not None:
        require_matplotlib()
    config = xent_fast.show_config("dicts")
    threads = config["threads"]["default"]
    names = [name for name, contestant in CONTESTANTS.items() if contestant.is_installed]
    if threads == 1:
        names.remove(LIBRARY_ALONE)
    times: Times = {}
    for number, name in enumerate(names):
        progress(f"[{number + 1}/{len(names)}] timing {name}")
        seconds = measure(name, CONTESTANTS[name].threads or threads)
        if seconds is not None:
            times[name] = seconds
    progress("")
    if LIBRARY not in times or BASELINE not in times:
        return 1
    print(
        f"Mean loss and gradient, float32, class indices; xent_fast {config['version']} "
        f"({config['isa']['active']}), up to {threads} threads where nothing else is said.\n"
        "Microseconds a call, the median:\n"
    )
    print(table(times), chart(times), verdict(times, threads), sep="\n\n")
    left_out = sorted(name for name, one in CONTESTANTS.items() if not one.is_installed)
    if left_out:
        print(f"Not installed, left out: {', '.join(left_out)}.")
    if plot is not None:
        draw(times, threads, plot)
        print(f"Saved {plot}.")
    return 0


def progress(text: str) -> None:
    """On a terminal, one line that is overwritten."""
    if sys.stderr.isatty():
        print(f"\r{text:<60}" + ("" if text else "\r"), end="", file=sys.stderr, flush=True)


def require_matplotlib() -> None:
    """Fail before anything is timed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SystemExit("--plot needs Matplotlib: pip install matplotlib") from None


def measure(name: str, threads: int) -> list[float] | None:
    """Seconds for each batch, from a process of its own; None, with the reason, if it failed."""
    command = [sys.executable, "-m", "xent_fast._command.peers", name, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{name} failed and is left out: {reason}", file=sys.stderr)
        return None
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def table(times: Times) -> str:
    """One row a batch, one column a contestant."""
    head = ["rows x classes", "", *times]
    rows = [
        [label, what, *(microseconds(seconds[i]) for seconds in times.values())]
        for i, (label, (_, _, what)) in enumerate(zip(LABELS, BATCHES, strict=True))
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def microseconds(seconds: float) -> str:
    """Three digits."""
    value = seconds * 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def chart(times: Times) -> str:
    """Bars: how many times as fast as NumPy."""
    full, half = ("█", "▌") if can_print("█▌") else ("#", "")
    speed = {
        name: [base / own for base, own in zip(times[BASELINE], seconds, strict=True)]
        for name, seconds in times.items()
        if name != BASELINE
    }
    largest = max(max(values) for values in speed.values())
    width = max(map(len, speed))
    lines = [f"Times as fast as {BASELINE}:"]
    for i, label in enumerate(LABELS):
        lines.append(f"\n  {label}")
        for name, values in speed.items():
            cells = values[i] / largest * BAR_CELLS
            bar = full * int(cells) + (half if cells % 1 >= 0.5 else "")
            lines.append(f"    {name:<{width}}  {bar or half or '|'} {values[i]:.1f}")
    return "\n".join(lines)


def can_print(text: str) -> bool:
    """Whether the terminal's encoding has these characters."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def verdict(times: Times, threads: int) -> str:
    """One sentence."""
    alone = times.get(LIBRARY_ALONE, times[LIBRARY])
    text = f"On this machine xent_fast is {span(times[BASELINE], alone)} times as fast as NumPy"
    if threads > 1:
        text += f" on one thread each, {span(times[BASELINE], times[LIBRARY])} times on {threads}"
    others = {name: s for name, s in times.items() if CONTESTANTS[name].module not in OWN}
    if others:
        best = [min(column) for column in zip(*others.values(), strict=True)]
        names = ", ".join(name.removesuffix(", 1 thread") for name in others)
        fastest = f"the fastest of {names}" if len(others) > 1 else names
        text += f", and {span(best, times[LIBRARY])} times as fast as {fastest}"
    return text + "."


OWN = ("numpy", "xent_fast")


def span(slower: list[float], faster: list[float]) -> str:
    """How many times as fast: least and most."""
    ratios = sorted(a / b for a, b in zip(slower, faster, strict=True))
    return f"{ratios[0]:.1f} to {ratios[-1]:.1f}"


def draw(times: Times, threads: int, file: Path) -> None:
    """Save the chart as a picture, of whatever kind the file's name ends in."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in times if name != BASELINE]
    figure = Figure(figsize=(9, 1.2 + 0.25 * len(names) * len(BATCHES)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    height = 0.8 / len(names)
    for number, name in enumerate(names):
        speed = [base / own for base, own in zip(times[BASELINE], times[name], strict=True)]
        places = [i + (number - (len(names) - 1) / 2) * height for i in range(len(BATCHES))]
        bars = axes.barh(places, speed, height, label=name)
        for text in axes.bar_label(bars, fmt="%.1f", padding=3):
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})  # over the line
    axes.set_yticks(range(len(BATCHES)), LABELS)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel(f"times as fast as {BASELINE}")
    axes.set_title(f"Softmax cross-entropy and its gradient, float32, {threads} threads")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=150)
