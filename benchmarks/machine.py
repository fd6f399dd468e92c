"""Where it is timed: processor, caches, clock, memory, threads and versions.

Knows: how to ask the machine. Must not know: workloads, timings.
"""

import importlib.metadata
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import cpuinfo
import numpy as np

from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.implementations.contract import CONFIGURATION, THREADS
from benchmarks.implementations.limits import in_pieces

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")  # Linux: one folder a cache
BANDWIDTH_BYTES = 2**28  # far beyond any cache
CHAIN_STEPS, CHAINS = 2**19, 100  # each so short that some meet no other program
CYCLES_A_STEP = 4  # on x86-64: 3 of an integer multiplication, 1 of an exclusive or
REPETITIONS = 7


def describe() -> dict:
    processor = cpuinfo.get_cpu_info()
    needed = {name for one in IMPLEMENTATIONS if not one.missing for name in one.needs}
    hertz, source = clock(processor)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor.get("brand_raw", platform.processor()),
        "family_model_stepping": [processor.get(key) for key in ("family", "model", "stepping")],
        "cores": os.cpu_count(),
        "threads": THREADS,
        "caches": cache_bytes(),
        "clock": {"hertz": hertz, "source": source},
        "memory_bandwidth": memory_bandwidth(),
        "isa": CONFIGURATION["isa"],
        "xent_fast_compiler": CONFIGURATION["compiler"],
        "platform": platform.platform(),
        "versions": {
            "Python": platform.python_version(),
            "xent_fast": CONFIGURATION["version"],
            **{name: importlib.metadata.version(name) for name in sorted({"numpy", *needed})},
        },
        "missing": sorted({name for one in IMPLEMENTATIONS for name in one.missing}),
    }


def cache_bytes() -> dict[str, int]:
    """Sizes of the first core's data caches; empty where the system does not tell."""
    sizes = {}
    for cache in sorted(CACHES.glob("index*")):
        level, kind, size = (
            (cache / name).read_text().strip() for name in ("level", "type", "size")
        )
        if kind != "Instruction":
            sizes[f"L{level}"] = int(size.removesuffix("K")) * 1024
    return sizes


def memory_bandwidth() -> float:
    """Bytes a second, read and written, of scaling an array in place on all threads: the best."""
    numbers = np.ones(BANDWIDTH_BYTES // 4, dtype=np.float32)
    scale = in_pieces(lambda part: np.multiply(part, np.float32(1), out=part), THREADS)
    return round(2 * numbers.nbytes / best_seconds(lambda: scale(numbers)), -8)


def clock(processor: dict) -> tuple[float | None, str]:
    """Hertz under load and where they come from: a chain of dependent operations, or the system."""
    try:
        import numba
    except ImportError:
        numba = None
    if numba is None or platform.machine() not in ("x86_64", "AMD64"):
        return (processor.get("hz_actual") or (None,))[0], "as the system reports"

    @numba.njit
    def chain(x, factor, mask, steps):
        for _ in range(steps):
            x = (x * factor) ^ mask
        return x

    arguments = np.uint64(1), np.uint64(6364136223846793005), np.uint64(1442695040888963407)
    seconds = best_seconds(lambda: chain(*arguments, CHAIN_STEPS), CHAINS)
    return round(CHAIN_STEPS * CYCLES_A_STEP / seconds, -7), "measured"


def with_faster_clock(machine: dict) -> dict:
    """The same with its clock measured again, if it is faster now; the best times are of that."""
    hertz, source = clock({})
    if hertz and hertz > machine["clock"]["hertz"]:
        return machine | {"clock": {"hertz": hertz, "source": source}}
    return machine


def best_seconds(work, repetitions: int = REPETITIONS) -> float:
    """The shortest of several repetitions, after one that does not count."""
    seconds = []
    for _ in range(1 + repetitions):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def in_words(machine: dict) -> str:
    family, model, _ = machine["family_model_stepping"]
    family_model = f" (family {family}, model {model})" if family is not None else ""
    caches = ", ".join(f"{name} {size // 1024:,} KiB" for name, size in machine["caches"].items())
    hertz = machine["clock"]["hertz"]
    frequency = (
        f"{hertz / 1e9:.2f} GHz ({machine['clock']['source']})" if hertz else "unknown clock"
    )
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{machine['processor']}{family_model}, {frequency}, {machine['cores']} cores, "
        f"{machine['threads']} threads; {caches or 'unknown caches'}; memory reads and writes "
        f"{machine['memory_bandwidth'] / 1e9:.0f} GB/s together. xent_fast computes with "
        f"{machine['isa']['active']}, compiled by {machine['xent_fast_compiler']}. {versions}. "
        f"Measured on {machine['date']}."
    ]
    if machine["missing"]:
        lines.append("Not installed, left out: " + ", ".join(machine["missing"]) + ".")
    return "\n".join(lines)
