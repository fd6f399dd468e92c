"""By default a step of training takes no longer than with `num_threads=1`.

Three matrix products and the loss, at three shapes, default and one thread in turns in the same
process. The median of the runs' ratios must be at most 1.1; a step whose idle threads hold the
processors is at twice the time, so that other programs on the machine do not decide.

Needs the package installed with the extra `benchmark`.

Knows the limit. Must not know how a step is timed.
"""

from __future__ import annotations

from statistics import median

from checking import Outcome

from benchmarks.steps import CONTESTANTS, DEFAULT, ONE_THREAD, SHAPES, measure

GUARDED = SHAPES[1:4]
RUNS, MOST = 9, 1.1


def check(_: object) -> Outcome:
    ours = tuple(one for one in CONTESTANTS if one.name in (DEFAULT, ONE_THREAD))
    figures, failed = {}, 0
    for cell in measure(GUARDED, ours, RUNS):
        ratios = cell["ratios of rounds"]
        figures[cell["label"]] = median(ratios)
        failed += median(ratios) > MOST
        print(
            f"{cell['label']}: default / one thread {median(ratios):.3f}, "
            f"from {min(ratios):.3f} to {max(ratios):.3f}; others took {cell['others']:.0%}"
        )
    return Outcome(figures, len(GUARDED) - failed, failed)
