"""Where it is timed: processor, threads and versions.

Knows: how to ask the machine. Must not know: workloads, timings.
"""

import importlib.metadata
import os
import platform
from datetime import UTC, datetime

import cpuinfo

from benchmarks.implementations import CONFIGURATION, IMPLEMENTATIONS, THREADS


def describe() -> dict:
    processor = cpuinfo.get_cpu_info()
    needed = {name for one in IMPLEMENTATIONS if not one.missing for name in one.needs}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor.get("brand_raw", platform.processor()),
        "family_model_stepping": [processor.get(key) for key in ("family", "model", "stepping")],
        "cores": os.cpu_count(),
        "threads": THREADS,
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


def in_words(machine: dict) -> str:
    family, model, _ = machine["family_model_stepping"]
    family_model = f" (family {family}, model {model})" if family is not None else ""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{machine['processor']}{family_model}, {machine['cores']} cores, {machine['threads']} "
        f"threads, {machine['isa']['active']}, xent_fast compiled by "
        f"{machine['xent_fast_compiler']}. {versions}. Measured on {machine['date']}."
    ]
    if machine["missing"]:
        lines.append("Not installed, left out: " + ", ".join(machine["missing"]) + ".")
    return "\n".join(lines)
