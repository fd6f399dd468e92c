"""The blocks of docs/large_vocabularies.md run, and give what the undivided call gives; docstrings.

Knows: how the page marks code, the names that its blocks use. Must not know: how they do it.
"""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xent_fast import mpi, softmax_cross_entropy_grad

for needed in ("mpi4py", "joblib", "dask.array"):
    pytest.importorskip(needed)
import dask  # noqa: E402
import dask.array as da  # noqa: E402

from xent_fast import dask as xent_dask  # noqa: E402

PAGE = Path(__file__).parent.parent.parent / "docs" / "large_vocabularies.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def names_of_the_page() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    classes = 40
    labels = rng.integers(0, classes, 8)
    hidden, weight = rng.standard_normal((8, 3)), rng.standard_normal((classes, 3))
    return {
        "hidden": hidden,
        "weight": weight,
        "bias": np.zeros(classes),
        "targets": labels,
        "labels": labels,
        "classes": classes,
        "first": 0,
        "logits": hidden @ weight.T,
        "grad_hidden": np.zeros_like(hidden),
        "grad_weight": np.zeros_like(weight),
        "exchange": lambda mine: [mine],
        "dask": dask,
    }


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0])
def test_block(block: str) -> None:
    names = names_of_the_page()
    hidden, weight, labels = names["hidden"], names["weight"], names["labels"]
    want = softmax_cross_entropy_grad(hidden @ weight.T, labels)
    if "import dask" in block:
        names["hidden"] = da.from_array(hidden, chunks=(4, 3))
        names["weight"] = da.from_array(weight, chunks=(25, 3))
    if not block.startswith(("from", "import")):  # it goes on where the one before has ended
        exec(BLOCKS[BLOCKS.index(block) - 1], names)
    exec(compile(block, PAGE.name, "exec"), names)
    if "loss" in names:
        assert names["loss"] == pytest.approx(want.loss)
    if block.startswith(("from mpi4py", "import dask")):
        np.testing.assert_allclose(names["grad_weight"], want.grad.T @ hidden, atol=1e-12)
    if block.startswith("from mpi4py"):
        np.testing.assert_allclose(names["grad_hidden"], want.grad @ weight, atol=1e-12)
    if "Parallel" in block:
        np.testing.assert_allclose(names["logits"], want.grad, atol=1e-12)


def test_every_block_is_code() -> None:
    assert len(BLOCKS) == 6


@pytest.mark.parametrize("module", [mpi, xent_dask])
def test_examples(module: Any) -> None:
    assert doctest.testmod(module, raise_on_error=True).failed == 0
