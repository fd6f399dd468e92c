"""Time xent_fast beside its peers.

    python -m benchmarks               every workload and implementation (minutes), printed
    python -m benchmarks --write       the same, into docs/benchmarks.md, README.md and the pictures
    python -m benchmarks --quick       small workloads, few rounds, printed
    python -m benchmarks --in-place    only float32, class indices, the gradient in place (minutes),
                                       printed as the page has it of other machines
    python -m benchmarks --options     only what options, another class axis and the other functions
                                       cost (minutes), printed; with --write into docs/benchmarks.md
    python -m benchmarks --steps       only steps of training, matrix products and loss together
                                       (a minute), printed; with --write into docs/benchmarks.md
                                       and README.md
    python -m benchmarks --goals       only what has a goal of its own (minutes), printed; with
                                       --write into benchmarks/goals.md; in --first FOLDER lies the
                                       first version of the package, beside which float64 is judged

Needs the extra `benchmark`; the extra `peers` adds Numba, PyTorch, JAX and TensorFlow, and
torch.compile needs a C++ compiler. Run it on a quiet machine, without OMP_NUM_THREADS. The figures
are also written as JSON.

Knows: the command line. Must not know: how anything is computed, timed or shown.
"""

import argparse
import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from benchmarks import first_version, goals, options, pictures, report, steps
from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.implementations.contract import LIMIT, PEER, Implementation
from benchmarks.machine import describe, in_words, with_faster_clock
from benchmarks.timing import Timing
from benchmarks.workers import time_batch, time_workload, workers_for
from benchmarks.workloads import QUICK_BYTES, WORKLOADS, Workload
from scripts.pages import write_block

ROOT = Path(__file__).resolve().parent.parent
PAGE, README = ROOT / "docs" / "benchmarks.md", ROOT / "README.md"
GOALS = ROOT / "benchmarks" / "goals.md"
INDEX = ROOT / "docs" / "index.md"
PUBLISHED, IMAGES = ROOT / "docs" / "benchmarks.json", ROOT / "docs" / "images"
UNPUBLISHED = ROOT / ".benchmarks" / "latest"
ROUNDS, QUICK_ROUNDS = 6, 3
SHARE_OF_ROUNDS_FOR_VARIANTS = 0.5


def is_part(arguments: argparse.Namespace) -> bool:
    """Whether some of the workloads or implementations are asked for."""
    return bool(arguments.workload or arguments.implementation or arguments.in_place)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="small workloads, few rounds")
    parser.add_argument(
        "--workload",
        action="append",
        metavar="TEXT",
        help="only workloads with TEXT in their label, such as '512 x 32,000' (repeatable)",
    )
    parser.add_argument(
        "--implementation",
        action="append",
        metavar="TEXT",
        help="only implementations with TEXT in their name, such as 'NumPy' (repeatable)",
    )
    parser.add_argument(
        "--in-place",
        action="store_true",
        help="only float32, class indices, the gradient in place, in one table",
    )
    parser.add_argument(
        "--options",
        action="store_true",
        help="only what options, another class axis and the other functions cost",
    )
    parser.add_argument(
        "--steps", action="store_true", help="only steps of training, matrix products and loss"
    )
    parser.add_argument(
        "--goals", action="store_true", help="only what is judged by a goal of its own"
    )
    parser.add_argument(
        "--first", type=Path, metavar="FOLDER", help="of --goals: the first version of the kernels"
    )
    parser.add_argument(
        "--rounds", type=int, help=f"turns of each; half of them for variants (default: {ROUNDS})"
    )
    parser.add_argument("--write", action="store_true", help="renew the page, README and pictures")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="JSON", help="time nothing: show these figures"
    )
    arguments = parser.parse_args()
    if arguments.write and (arguments.quick or is_part(arguments)):
        parser.error("--write publishes whole runs only")
    tables = [arguments.options, arguments.steps, arguments.goals]
    if sum(tables) > 1 or (any(tables) and is_part(arguments)):
        parser.error("--options, --steps and --goals each choose all that they time")
    if arguments.first and not (arguments.goals and (arguments.first / "xent_fast").is_dir()):
        parser.error("--first is the folder of a package xent_fast, and goes with --goals")
    if arguments.rounds is None:
        arguments.rounds = QUICK_ROUNDS if arguments.quick else ROUNDS
    if arguments.rounds < 2:
        parser.error("--rounds must be at least 2")
    return arguments


def chosen(table: Iterable, texts: list[str] | None, attribute: str) -> list:
    """The table's entries whose attribute contains one of the texts."""
    if texts is None:
        return list(table)
    found = [one for one in table if any(text in getattr(one, attribute) for text in texts)]
    if not found:
        raise SystemExit(f"nothing is called {', '.join(texts)}")
    return found


def rounds_of(workload: Workload, rounds: int) -> int:
    return max(2, round(rounds * SHARE_OF_ROUNDS_FOR_VARIANTS)) if workload.variant else rounds


def cell(
    workload: Workload,
    implementations: list[Implementation],
    timings: dict[str, Timing],
    failures: dict[str, str],
) -> dict:
    roles = {one.name: one.role for one in implementations}
    return {
        **asdict(workload),
        "label": workload.label,
        "variant": workload.variant,
        "bytes": workload.bytes,
        "bytes_moved": workload.bytes_moved,
        "timings": {
            name: {"role": roles[name], **asdict(timing)} for name, timing in timings.items()
        },
        "failures": failures,
    }


def measure(
    workloads: list[Workload], implementations: list[Implementation], rounds: int
) -> list[dict]:
    able = {
        workload: [one for one in implementations if one.computes(workload)]
        for workload in workloads
    }
    turns = sum(len(able[workload]) * rounds_of(workload, rounds) for workload in workloads)
    measured: list[dict] = []
    with (
        workers_for(implementations if workloads else ()) as workers,
        tqdm(total=turns, unit="turn", smoothing=0) as bar,
    ):
        for workload in workloads:
            bar.set_description(workload.label)
            timings, failures = time_workload(
                workload, able[workload], workers, rounds_of(workload, rounds), bar.update
            )
            bar.update(len(failures) * rounds_of(workload, rounds))
            measured.append(cell(workload, able[workload], timings, failures))
            bar.write(f"\n{workload.label}\n{report.one_workload(measured[-1])}\n")
    return measured


def measure_batches(
    bench: type[options.Bench],
    named: dict[str, tuple[options.Batch, ...]],
    rounds: int,
    most_bytes: float,
) -> dict[str, list[dict]]:
    """Of each name its batches of at most so many bytes."""
    tables = {
        name: [
            (batch, [one for one in batch.implementations if not one.missing])
            for batch in batches
            if batch.bytes <= most_bytes
        ]
        for name, batches in named.items()
    }
    every = [one for batches in tables.values() for _, able in batches for one in able]
    turns = sum(len(able) * rounds for batches in tables.values() for _, able in batches)
    measured: dict[str, list[dict]] = {name: [] for name in tables}
    with (
        workers_for(every, bench) as workers,
        tqdm(total=turns, unit="turn", smoothing=0) as bar,
    ):
        for name, batches in tables.items():
            for batch, able in batches:
                bar.set_description(f"{name}, {batch.label}")
                timings, failures = time_batch(batch, able, workers, rounds, bar.update)
                bar.update(len(failures) * rounds)
                roles = {one.name: one.role for one in able}
                measured[name].append(
                    {
                        "label": batch.label,
                        "bytes": batch.bytes,
                        "timings": {
                            who: {"role": roles[who], **asdict(timing)}
                            for who, timing in timings.items()
                        },
                        "failures": failures,
                    }
                )
    return measured


def measure_options(rounds: int, most_bytes: float) -> dict:
    """What options, the class axis and the functions cost."""
    tables = {
        "options": options.OPTION_BATCHES,
        "axis": options.AXIS_BATCHES,
        "functions": options.FUNCTION_BATCHES,
    }
    return {"machine": describe()} | measure_batches(options.Bench, tables, rounds, most_bytes)


def measure_goals(rounds: int, most_bytes: float, first: Path | None) -> dict:
    """What goals are held to; of the first version, what takes float64, if it is there."""
    machine = describe()
    timed = []
    for workloads, role in zip(goals.workloads(machine), (PEER, LIMIT), strict=True):
        some = [workload for workload in workloads if workload.bytes <= most_bytes]
        timed += measure(some, goals.implementations(role), max(2, rounds // 2))
    tables = {"batches": goals.BATCHES}
    machine = with_faster_clock(machine)
    batches = measure_batches(goals.Bench, tables, rounds, most_bytes)
    machine = with_faster_clock(machine)
    float64 = {
        isa: first_version.measure(first, isa, max(2, rounds // 2))
        for isa in (goals.ISAS_HERE if first else ())
    }
    return {"machine": machine, "workloads": timed, **batches, "first": float64}


def save(results: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_rows(results) + "\n", encoding="utf-8")


def as_rows(value: object, indent: str = "") -> str:
    """JSON with a line a timing: what holds no other object stands on one line."""
    parts = list(value.values() if isinstance(value, dict) else value or ())
    if not any(isinstance(part, (dict, list)) and part for part in parts) or (
        isinstance(value, dict) and "samples" in value
    ):
        return json.dumps(value, ensure_ascii=False)
    inner = indent + " "
    texts = [
        as_rows(part, inner)
        if isinstance(part, (dict, list))
        else json.dumps(part, ensure_ascii=False)
        for part in parts
    ]
    if isinstance(value, dict):
        keys = [json.dumps(key, ensure_ascii=False) for key in value]
        texts = [f"{key}: {text}" for key, text in zip(keys, texts, strict=True)]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    lines = f",\n{inner}".join(texts)
    return f"{opening}\n{inner}{lines}\n{indent}{closing}"


def publish(results: dict) -> None:
    """Renew what these results are of, and keep the rest as it is."""
    save(json.loads(PUBLISHED.read_text()) | results, PUBLISHED)
    if "workloads" in results:
        pictures.draw_all(results, IMAGES)
        write_block(PAGE, "measured", report.page_block(results))
        write_block(README, "benchmark table", report.readme_block(results))
        for page in (README, INDEX):
            write_block(page, "times", report.least_gain(results))
    if "cost of options" in results:
        block = report.options_block(results["cost of options"])
        write_block(PAGE, "options measured", block)
    if "goals" in results:
        write_block(GOALS, "goals measured", report.goals_block(results["goals"]))
    if "steps" in results:
        write_block(PAGE, "steps measured", report.steps_block(results["steps"]))
        write_block(README, "step", report.readme_step(results["steps"]))


def main() -> None:
    arguments = parse_arguments()
    if arguments.source:
        results = json.loads(arguments.source.read_text())
    else:
        results = measured(arguments)
        save(results, UNPUBLISHED / "benchmarks.json")
    print(report.in_place(results) if arguments.in_place else report.printed(results))
    machine = results.get("machine") or next(iter(results.values()))["machine"]
    print(f"\n{in_words(machine)}")
    if arguments.write:
        publish(results)
    else:
        if "workloads" in results:
            pictures.draw_all(results, UNPUBLISHED)
        print(f"\nFigures and pictures are in {UNPUBLISHED}.")


def measured(arguments: argparse.Namespace) -> dict:
    if arguments.steps:
        contestants = tuple(one for one in steps.CONTESTANTS if not one.missing)
        shapes = steps.measure(steps.SHAPES, contestants, arguments.rounds)
        return {"steps": {"machine": describe(), "shapes": shapes}}
    most_bytes = QUICK_BYTES if arguments.quick else math.inf
    if arguments.goals:
        return {"goals": measure_goals(arguments.rounds, most_bytes, arguments.first)}
    results: dict = {}
    if not arguments.options:
        results["machine"] = describe()
        results["workloads"] = measure(
            [
                workload
                for workload in chosen(WORKLOADS, arguments.workload, "label")
                if workload.bytes <= most_bytes and not (arguments.in_place and workload.variant)
            ],
            chosen(
                [one for one in IMPLEMENTATIONS if not one.missing],
                arguments.implementation,
                "name",
            ),
            arguments.rounds,
        )
    if arguments.options or not is_part(arguments):
        results["cost of options"] = measure_options(2 * arguments.rounds, most_bytes)
    return results


if __name__ == "__main__":
    main()
