"""What the figures say: ratios, shares of the limit, cycles, and where this library loses.

Results are what `python -m benchmarks` writes as JSON: `machine`, and `workloads`, a list of
{label, variant, shape, bytes, bytes_moved, timings: {implementation: {role, median, quartiles,
samples, best}}, failures: {implementation: reason}}, in seconds. Either part may be missing: `cost
of options` holds a `machine` of its own, and the lists `options` and `axis` of {label, bytes,
timings, failures}; `goals` one too, `workloads`, and `batches` in the same form.

Knows: the results' form, roles by their own words. Must not know: how anything is timed or shown.
"""

from benchmarks.implementations import BASELINE, OURS
from benchmarks.implementations.contract import LIMIT, PEER

OTHER_ISAS = ("avx2", "portable")  # whose ratios are told beside those of the fastest
ONE_THREAD = f"{OURS}, 1 thread"

FIRST = (
    "MNIST batch",
    "pixels, mask",
    "pixels, Pascal VOC",
    "ImageNet batch",
    "language model, short",
    "language model, GPT-2",
)

# Arithmetic floors, in cycles per 16 float32 elements on one thread, with 16 lanes a register: what
# the operations cost if nothing is waited for. Registers of 8 lanes take twice the instructions.
LANES = {"avx512": 16, "avx2": 8}
ROW_FLOOR = (5.0, 7.5)  # rows longer than a few registers, in cache; newest to older processors
FEW_CLASSES_FLOOR = (10.0, 15.0)  # 2 to 16 classes, logarithm included
FEW_CLASSES = 16

SHARE_OF_CACHE = 2**24  # bytes of the last cache that a core counts for


def fastest(cell: dict, role: str) -> str | None:
    """The fastest implementation of that role, if any was timed."""
    timings = cell["timings"]
    names = [name for name, timing in timings.items() if timing["role"] == role]
    return min(names, key=lambda name: timings[name]["median"], default=None)


def in_first_picture(cells: list[dict]) -> list[dict]:
    """For readers who know nothing yet: few batches, by use, from few classes to many."""
    main = [cell for cell in cells if not cell["variant"] and over_fastest_peer(cell) is not None]
    return [cell for cell in main if cell["name"] in FIRST] or main


def seconds(cell: dict, name: str | None) -> float | None:
    return cell["timings"][name]["median"] if name in cell["timings"] else None


def ratio(cell: dict, name: str | None, to: str | None) -> float | None:
    """How many times longer `name` takes than `to`."""
    longer, shorter = seconds(cell, name), seconds(cell, to)
    return longer / shorter if longer and shorter else None


def over_fastest_peer(cell: dict) -> float | None:
    return ratio(cell, fastest(cell, PEER), OURS)


def over_baseline(cell: dict) -> float | None:
    return ratio(cell, BASELINE, OURS)


def share_of_limit(cell: dict, machine: dict) -> float | None:
    """This library's speed over that of touching the memory and no more, where that is a limit."""
    return ratio(cell, fastest(cell, LIMIT), OURS) if beyond_cache(cell, machine) else None


def beyond_cache(cell: dict, machine: dict) -> bool:
    """Whether memory moves it all: only then is the limit one.

    A virtual machine reports all of its host's last cache, of which others take their share.
    """
    largest = max(machine["caches"].values(), default=2**25)
    return cell["bytes_moved"] > min(largest, machine["cores"] * SHARE_OF_CACHE)


def cycles_per_16(cell: dict, machine: dict) -> float | None:
    """Of one thread, and so free of the question how many threads a call took."""
    hertz, time = machine["clock"]["hertz"], seconds(cell, ONE_THREAD)
    return time * hertz * 16 / (cell["rows"] * cell["classes"]) if hertz and time else None


def floor(cell: dict, machine: dict) -> tuple[float, float] | None:
    """The band of arithmetic floors that this instruction set has for such rows."""
    lanes = LANES.get(machine["isa"]["active"])
    if lanes is None:
        return None
    low, high = FEW_CLASSES_FLOOR if cell["classes"] <= FEW_CLASSES else ROW_FLOOR
    return low * 16 / lanes, high * 16 / lanes


def without_variants(results: dict) -> list[dict]:
    return [cell for cell in results["workloads"] if not cell["variant"]]


def name_of(isa: str, machine: dict) -> str:
    """This library with one instruction set."""
    return OURS if isa == machine["isa"]["active"] else f"{OURS}, {isa}"


def of_isa(cell: dict, isa: str, machine: dict) -> float | None:
    """How many times faster than the fastest peer one instruction set is."""
    return ratio(cell, fastest(cell, PEER), name_of(isa, machine))


def slower_than_one_thread(results: dict) -> list[dict]:
    """Clearly so: the middle halves of the samples lie apart."""
    found = []
    for cell in results["workloads"]:
        one, ours = (cell["timings"].get(name) for name in (ONE_THREAD, OURS))
        if one and ours and one["quartiles"][1] < ours["quartiles"][0]:
            found.append(cell)
    return found


def failures(results: dict) -> dict[str, list[str]]:
    """Of every implementation that could not compute a workload, those workloads."""
    found: dict[str, list[str]] = {}
    for cell in results["workloads"]:
        for name in cell["failures"]:
            found.setdefault(name, []).append(cell["label"])
    return found
