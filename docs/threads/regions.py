"""What an empty parallel region costs: builds region.c and runs it in processes of their own.

Knows: region.c, libgomp's environment. Must not know: this library.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tables import median_and_slow, table

SOURCE = Path(__file__).parent / "region.c"
PAUSES = (0, 10, 100, 1000, 3000, 10000)  # microseconds
SAMPLES = 200
FIRST_REGIONS = 20
SETTINGS: dict[str, dict[str, str]] = {
    "as it comes": {},
    "`OMP_WAIT_POLICY=active`": {"OMP_WAIT_POLICY": "active"},
    "`OMP_WAIT_POLICY=passive`": {"OMP_WAIT_POLICY": "passive"},
    "`GOMP_SPINCOUNT=10000`": {"GOMP_SPINCOUNT": "10000"},
}
TEAMS = ((2,), (3,), (2, 3), (4,), (2, 4))


@contextmanager
def built() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "region"
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-O2", "-fopenmp", SOURCE, "-o", program], check=True)
        yield program


def microseconds(
    program: Path, samples: int, pause: int, teams: tuple[int, ...], **settings: str
) -> list[float]:
    command = [program, str(samples), str(pause), *map(str, teams)]
    environment = os.environ | settings
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return [int(line) / 1000 for line in done.stdout.split()]


def without_first(times: list[float]) -> list[float]:
    """The first regions start the threads."""
    return times[10:]


def cost_of_a_region() -> str:
    with built() as program:
        by_pause = [
            [
                name,
                *(
                    median_and_slow(
                        without_first(microseconds(program, SAMPLES, pause, (2,), **settings))
                    )
                    for pause in PAUSES
                ),
            ]
            for name, settings in SETTINGS.items()
        ]
        by_teams = [
            [
                " and ".join(map(str, teams)) + (" in turn" if len(teams) > 1 else ""),
                *(
                    median_and_slow(without_first(microseconds(program, SAMPLES, pause, teams)))
                    for pause in (0, 100)
                ),
            ]
            for teams in TEAMS
        ]
        first = [microseconds(program, 1, 0, (2,))[0] for _ in range(FIRST_REGIONS)]
    header = ["2 threads; the caller was busy for", *(f"{pause:,} µs" for pause in PAUSES)]
    return (
        table(header, by_pause)
        + f"\nThe first region of a process: {median_and_slow(first)} µs.\n\n"
        + table(["threads in the team", "0 µs", "100 µs"], by_teams)
    )
