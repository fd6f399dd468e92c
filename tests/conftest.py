"""Fixtures: one run per implementation, instruction set, dtype, target kind; Hypothesis settings.

Knows which of each there are; must not know what any test checks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers import TARGET_KINDS
from hypothesis import HealthCheck, settings
from instruction_sets import AVAILABLE, in_force

import xent_fast
from xent_fast import reference

# Modules with the same functions, both held to other people's values.
IMPLEMENTATIONS = {"reference": reference, "xent_fast": xent_fast}

# A function-scoped fixture lasts over all examples of one test: so must the instruction set.
settings.register_profile(
    "local",
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--renew-accuracy",
        action="store_true",
        help="make the errors of the slow accuracy tests their record",
    )


@pytest.fixture(params=AVAILABLE)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set this machine can run, in force for one test."""
    with in_force(request.param):
        yield request.param


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> type[np.floating]:
    """Both dtypes of logits."""
    return request.param


@pytest.fixture(params=TARGET_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Class indices, dense targets of any row sum, one-hot dense targets."""
    return request.param


@pytest.fixture(params=IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS.keys())
def implementation(request: pytest.FixtureRequest) -> ModuleType:
    """Each module that has the public functions: the definition and the library."""
    return request.param


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out, for `-m smoke`, files without such a test: collecting all takes longer than it."""
    if config.getoption("markexpr") != "smoke" or collection_path.suffix != ".py":
        return None
    return None if "mark.smoke" in collection_path.read_text(encoding="utf-8") else True
