"""What the figures say: tables, the page's and README's blocks, the picture.

Knows: how results are laid out and shown; roles of implementations by the results' own words.
Must not know: how anything is timed or computed.

Results are what `python -m benchmarks` writes as JSON: `machine`, and `workloads`, a list of
{label, shape, bytes, timings: {implementation: {role, median, quartiles, samples}}}, in seconds.
"""

from collections.abc import Iterable
from pathlib import Path

from benchmarks.implementations import BASELINE, LIBRARY, LIMIT, OURS, PEER
from benchmarks.machine import in_words

CLEARLY_LESS = 0.95  # of the time: nearer to 1 two medians of one run are the same


def fastest(workload: dict, role: str) -> str | None:
    """The fastest implementation of that role, if any was timed."""
    timings = workload["timings"]
    names = [name for name, timing in timings.items() if timing["role"] == role]
    return min(names, key=lambda name: timings[name]["median"], default=None)


def ratio(workload: dict, name: str | None, to: str | None) -> float | None:
    """How many times longer `name` takes than `to`."""
    timings = workload["timings"]
    if name not in timings or to not in timings:
        return None
    return timings[name]["median"] / timings[to]["median"]


def microseconds(seconds: float) -> str:
    value = seconds * 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def times(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def table(header: Iterable[str], rows: Iterable[Iterable[str]], text_columns: int = 1) -> str:
    header = list(header)
    rule = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *rows])


def one_workload(workload: dict) -> str:
    """Every implementation on one workload, fastest first."""
    limit, peer = fastest(workload, LIMIT), fastest(workload, PEER)
    rows = []
    for name, timing in sorted(workload["timings"].items(), key=lambda item: item[1]["median"]):
        low, high = timing["quartiles"]
        rows.append(
            [
                f"**{name}**" if timing["role"] == LIBRARY else name,
                microseconds(timing["median"]),
                f"{microseconds(low)} to {microseconds(high)}",
                times(ratio(workload, name, BASELINE)),
                times(ratio(workload, name, peer)),
                times(ratio(workload, name, limit)),
            ]
        )
    header = ["", "µs", "quartiles", "/ NumPy in place", "/ fastest peer", "/ scaling"]
    return table(header, rows)


def summary(workloads: list[dict]) -> str:
    """This library on every workload, in ratio to peers and limit."""
    rows = []
    for workload in workloads:
        peer, limit = fastest(workload, PEER), fastest(workload, LIMIT)
        ours = workload["timings"].get(OURS)
        rows.append(
            [
                workload["label"],
                microseconds(ours["median"]) if ours else "–",
                times(ratio(workload, BASELINE, OURS)),
                times(ratio(workload, peer, OURS)),
                peer or "–",
                times(ratio(workload, OURS, limit)),
            ]
        )
    return table(
        [
            "batch, rows x classes",
            "xent_fast, µs",
            "NumPy in place / xent_fast",
            "fastest peer / xent_fast",
            "fastest peer",
            "xent_fast / scaling",
        ],
        rows,
    )


def losses(workloads: list[dict]) -> str:
    """Where a peer, or one thread of this library, beats its default; empty if nowhere."""
    found = []
    for workload in workloads:
        for name in (fastest(workload, PEER), f"{OURS}, 1 thread"):
            share = ratio(workload, name, OURS)
            if share is not None and share < CLEARLY_LESS:
                found.append(f"- {workload['label']}: {name} takes {share:.2f} of the time.")
    return "\n".join(found)


def page_block(results: dict) -> str:
    workloads = results["workloads"]
    parts = [
        in_words(results["machine"]),
        "![Fastest peer's time over that of xent_fast, one bar a workload](images/benchmark.png)",
        summary(workloads),
        "## Where it loses",
        losses(workloads)
        or f"Against the peers measured here, nowhere by more than {1 - CLEARLY_LESS:.0%} in this "
        "run; those not installed are named above.",
        "## Every implementation",
    ]
    for workload in workloads:
        parts += [f"### {workload['label'][0].upper()}{workload['label'][1:]}"]
        parts += [one_workload(workload)]
    return "\n\n".join(parts)


def readme_block(results: dict) -> str:
    rows = []
    for workload in results["workloads"]:
        peer = fastest(workload, PEER)
        rows.append(
            [
                workload["label"],
                microseconds(workload["timings"][OURS]["median"]),
                f"{times(ratio(workload, BASELINE, OURS))} x",
                f"{times(ratio(workload, peer, OURS))} x ({peer})",
            ]
        )
    machine = results["machine"]
    header = ["batch, rows x classes", "µs", "NumPy in place takes", "fastest peer measured takes"]
    closing = (
        f"Mean loss and gradient in place, float32, {machine['threads']} threads on "
        f"{machine['processor']} ({machine['isa']['active']}); all times from one run.\n"
        "[docs/benchmarks.md](docs/benchmarks.md) has the method and every implementation."
    )
    return f"{table(header, rows)}\n\n{closing}"


def replace_block(path: Path, name: str, text: str) -> None:
    """Put `text` between the file's markers of that name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found_begin, rest = path.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"{path} lacks {begin} or {end}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def draw_ratios(workloads: list[dict], path: Path) -> None:
    """One bar a workload: the fastest peer's time over this library's, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")  # draws into a file: needs no display
    import matplotlib.pyplot as plt

    peers = [fastest(workload, PEER) for workload in workloads]
    ratios = [ratio(workload, peer, OURS) for workload, peer in zip(workloads, peers, strict=True)]
    figure, axes = plt.subplots(figsize=(9, 0.42 * len(workloads) + 1.3), layout="constrained")
    names = [workload["label"] for workload in workloads]
    bars = axes.barh(names, [r - 1 for r in ratios], left=1, color="#2a6f97")
    labels = [f"{times(r)} x {peer}" for r, peer in zip(ratios, peers, strict=True)]
    axes.bar_label(bars, labels, padding=4, fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    ticks = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.minorticks_off()
    room = 6  # for the labels at the bars' ends
    axes.set_xlim(min(ratios) / room if min(ratios) < 1 else 0.8, max(1, *ratios) * room)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("time of the fastest peer / time of xent_fast")
    axes.set_title("Mean loss and gradient in place, float32, class indices", loc="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
