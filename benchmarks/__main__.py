"""Time xent_fast beside its peers.

    python -m benchmarks               every workload and implementation (minutes), printed
    python -m benchmarks --write       the same, into docs/benchmarks.md, README.md and the picture
    python -m benchmarks --quick       small workloads, few rounds (seconds), printed

Needs the extra `benchmark`; Numba, PyTorch and JAX join where they are installed. Run it on a quiet
machine. The figures are also written as JSON.

Knows: the command line. Must not know: how anything is computed, timed or shown.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from benchmarks import report
from benchmarks.implementations import IMPLEMENTATIONS, Implementation
from benchmarks.machine import describe, in_words
from benchmarks.timing import Timing, contestants, interleave
from benchmarks.workloads import QUICK_BYTES, WORKLOADS, Workload, draw

ROOT = Path(__file__).resolve().parent.parent
PAGE, README = ROOT / "docs" / "benchmarks.md", ROOT / "README.md"
PUBLISHED = ROOT / "docs" / "benchmarks.json"
PICTURE = ROOT / "docs" / "images" / "benchmark.png"
UNPUBLISHED = ROOT / ".benchmarks" / "latest.json"
ROUNDS, QUICK_ROUNDS = 11, 3


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
    parser.add_argument("--rounds", type=int, help=f"turns of each (default: {ROUNDS})")
    parser.add_argument("--json", type=Path, default=UNPUBLISHED, help="default: %(default)s")
    parser.add_argument("--write", action="store_true", help="renew the page, README and picture")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="JSON", help="time nothing: show these figures"
    )
    arguments = parser.parse_args()
    if arguments.write and (arguments.quick or arguments.workload or arguments.implementation):
        parser.error("--write publishes whole runs only")
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


def timings_as_json(
    timings: dict[str, Timing], implementations: list[Implementation]
) -> dict[str, dict]:
    roles = {one.name: one.role for one in implementations}
    return {name: {"role": roles[name], **asdict(timing)} for name, timing in timings.items()}


def measure(workloads: list[Workload], implementations: list[Implementation], rounds: int) -> dict:
    measured = []
    turns = len(workloads) * len(implementations) * rounds
    with tqdm(total=turns, unit="turn", smoothing=0) as bar:
        for workload in workloads:
            bar.set_description(workload.label)
            ready = contestants(implementations, draw(workload))
            timings = interleave(ready, rounds, bar.update)
            measured.append(
                {
                    **asdict(workload),
                    "label": workload.label,
                    "bytes": workload.bytes,
                    "timings": timings_as_json(timings, implementations),
                }
            )
            bar.write(f"\n{workload.label}\n{report.one_workload(measured[-1])}\n")
    return {"machine": describe(), "workloads": measured}


def publish(results: dict) -> None:
    save(results, PUBLISHED)
    report.draw_ratios(results["workloads"], PICTURE)
    report.replace_block(PAGE, "measured", report.page_block(results))
    report.replace_block(README, "benchmark table", report.readme_block(results))


def save(results: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    arguments = parse_arguments()
    if arguments.source:
        results = json.loads(arguments.source.read_text())
    else:
        results = measure(
            [
                workload
                for workload in chosen(WORKLOADS, arguments.workload, "label")
                if not arguments.quick or workload.bytes <= QUICK_BYTES
            ],
            chosen(
                [one for one in IMPLEMENTATIONS if not one.missing],
                arguments.implementation,
                "name",
            ),
            arguments.rounds,
        )
        save(results, arguments.json)
    print(report.summary(results["workloads"]))
    print(f"\n{in_words(results['machine'])}")
    if arguments.write:
        publish(results)


if __name__ == "__main__":
    main()
