"""`python -m xent_fast info`: the configuration in words, with what limits it.

Knows: `show_config`, and where a system tells of its processors.
Must not know: how the library chooses.
"""

from __future__ import annotations

import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np

import xent_fast
from xent_fast._loading import openmp_libraries

# The month of a specification, as compilers tell it, to its number.
OPENMP_VERSIONS = {201107: "3.1", 201307: "4.0", 201511: "4.5", 201811: "5.0", 202011: "5.1"}
FASTER_SETS = {"x86_64": ("avx512", "avx2"), "AMD64": ("avx512", "avx2")}
CPU_INFO = Path("/proc/cpuinfo")
LARGE = (1024, 2048)  # logits that all threads share


def show(as_json: bool) -> int:
    """Print it; the exit status."""
    xent_fast.logsumexp(np.zeros(LARGE, np.float32))  # tells how many threads can be had
    config = xent_fast.show_config("dicts")
    if as_json:
        print(json.dumps(config, indent=2))
        return 0
    lines = {
        "xent_fast": f"{config['version']}, in {Path(xent_fast.__file__).parent}",
        "instructions": instructions(config["isa"]),
        "threads": threads(config["threads"]),
        "OpenMP": openmp(config["threads"]["openmp"]),
        "processor": f"{processor_name()}, {config['threads']['processors']} processors",
        "compiler": config["compiler"],
        "Python": f"{config['python']}, NumPy {config['numpy']}",
        "system": config["platform"],
    }
    for name, text in lines.items():
        print(f"{name:<14}{text}")
    return 0


def instructions(isa: dict[str, Any]) -> str:
    """The set in use, and why no faster one."""
    active, supported = isa["active"], isa["supported"]
    forced = os.environ.get("XENT_FAST_ISA")
    text = f"{active} (this machine can run {', '.join(supported)})"
    if forced:
        return f"{text}; XENT_FAST_ISA={forced} asked for it"
    lacking = [name for name in FASTER_SETS.get(platform.machine(), ()) if name not in supported]
    if lacking:
        return f"{text}; the processor has no {' and no '.join(lacking)}"
    return text


def threads(given: dict[str, Any]) -> str:
    """How many a large batch takes, and what keeps that number down."""
    count, processors = given["default"], given["processors"] or 1
    text = f"{count} for a large batch, 1 for a small one"
    if given["openmp"] is None:
        return "1, whatever num_threads says: this build has no OpenMP"
    reasons = []
    if count < processors:
        reasons += [f"{name}={os.environ[name]}" for name in LIMITS if os.environ.get(name)]
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else processors
        if allowed < processors:
            reasons.append(f"this process may run on {allowed} of {processors} processors")
    if given["waiting"].startswith("as the OpenMP library"):
        reasons.append("an OpenMP library was loaded before xent_fast; import xent_fast first")
    return f"{text}; limited: {', '.join(reasons)}" if reasons else text


LIMITS = (
    "OMP_NUM_THREADS",
    "OMP_THREAD_LIMIT",
    "OMP_STACKSIZE",
    "GOMP_STACKSIZE",
    "GOMP_CPU_AFFINITY",
    "OMP_PLACES",
)


def openmp(version: int | None) -> str:
    """The specification that the build follows, and the libraries in this process."""
    if version is None:
        return (
            "none: built with XENT_FAST_OPENMP=0 or by a compiler without it. "
            "To have threads, install GCC and build again with XENT_FAST_REQUIRE_OPENMP=1"
        )
    text = OPENMP_VERSIONS.get(version, str(version))
    libraries = sorted(openmp_libraries())
    if libraries:
        text += f", by {', '.join(libraries)}"
    if len(libraries) > 1:
        text += " (several in one process: each has its own threads)"
    return text


def processor_name() -> str:
    """As the system knows it."""
    name = platform.processor() or platform.machine()
    try:
        match = re.search(r"^model name\s*: (.*)$", CPU_INFO.read_text(encoding="utf-8"), re.M)
        name = match[1].strip() if match else name
    except OSError:
        pass
    return name
