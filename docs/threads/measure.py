"""What threads cost and when they pay, on this machine; writes the tables of docs/threads.md.

    python docs/threads/measure.py --write              every section
    python docs/threads/measure.py region callers       some sections, printed

Times mean something only on a machine that does nothing else. Needs Linux, cc with OpenMP, and the
packages threadpoolctl and tqdm; one section needs root (see limits.py).

Knows: the sections, and the page. Must not know: how any of them is measured.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import batches
import limits
import model
import regions
import steps
from tables import replace_block

from xent_fast import show_config

PAGE = Path(__file__).parent.parent / "threads.md"
# Share of the processors; a timed section measured beside more is not written.
MOST_OF_OTHERS = 0.1
UNTIMED = {"limits"}
SECTIONS: dict[str, Callable[[], str]] = {
    "region": regions.cost_of_a_region,
    "crossover": batches.crossover,
    "steps": steps.training_steps,
    "callers": batches.many_callers,
    "limits": limits.what_limits,
    "quota": limits.calls_under_quota,
    "model": model.expected_on_more_processors,
}


def processor_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "?")


class Usage:
    """Processor time since it was made: of this process and its children, and of all others."""

    def __init__(self) -> None:
        self.start = self.now()

    @staticmethod
    def now() -> tuple[float, float, float]:
        """Seconds: own processor time, everybody's, on the clock."""
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        idle = ticks[3] + ticks[4]
        own = sum(os.times()[:4])
        return own, (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK"), time.perf_counter()

    def others_share(self) -> float:
        """Share of the machine that others took."""
        own, everybody, elapsed = (b - a for a, b in zip(self.start, self.now(), strict=True))
        return max(0.0, everybody - own) / (elapsed * os.cpu_count())


def circumstances(others_share: float) -> str:
    """Where and when a section was measured."""
    configuration = show_config("dicts")
    today = datetime.now(UTC).date().isoformat()
    return (
        f"*{processor_name()}, {os.cpu_count()} processors, {configuration['isa']['active']}, "
        f"{configuration['compiler']}, Linux {platform.release().split('-')[0]}; {today}; "
        f"other programs took {others_share:.0%} of the processors meanwhile.*\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", choices=[[], *SECTIONS], help="all if none is named")
    parser.add_argument("--write", action="store_true", help=f"replace the tables of {PAGE.name}")
    arguments = parser.parse_args()
    disturbed = []
    for name in arguments.sections or SECTIONS:
        usage = Usage()
        text = SECTIONS[name]() + "\n"
        others_share = usage.others_share()
        text += circumstances(others_share)
        if arguments.write and name not in UNTIMED and others_share > MOST_OF_OTHERS:
            disturbed.append(f"{name} ({others_share:.0%})")
        elif arguments.write:
            replace_block(PAGE, name, text)
        else:
            print(f"## {name}\n\n{text}")
    if disturbed:
        sys.exit(f"not written, other programs took too much: {', '.join(disturbed)}")


if __name__ == "__main__":
    main()
