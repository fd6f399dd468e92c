"""A pytest plugin that writes down which test runs, so that a crash can be laid at its door.

Knows: pytest's hooks; the file named by TEST_LOG gets a line "ran NODE", or "failed NODE".
Must not know: what is tested, or why.
"""

from __future__ import annotations

import os

import pytest


def write(line: str) -> None:
    with open(os.environ["TEST_LOG"], "a", encoding="utf-8") as log:  # noqa: PTH123
        log.write(line + "\n")


def pytest_runtest_logstart(nodeid: str) -> None:
    write(f"ran {nodeid}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        write(f"failed {report.nodeid}")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        write(f"not collected {report.nodeid}")
