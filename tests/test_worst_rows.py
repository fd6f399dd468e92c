"""The least accurate rows that a search has found: within the bounds that docs/numerics.md states.

Knows the record of the search. Must not know how the search goes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from docs.numerics import worst_rows
from docs.numerics.worst_rows import (
    Cell,
    Rows,
    bound_of,
    exact_error,
    load,
    path_of,
    quick_judge,
    recorded,
)
from xent_fast._binding import instruction_sets

ROWS = recorded(load())
# Another compiler's portable code may differ in last bits; the other paths may not.
SLACK = {"fma": 0.002, "portable": 0.1}


def test_every_quantity_is_on_record() -> None:
    quantities = {(cell.dtype, cell.kind, cell.quantity) for cell in ROWS}
    wanted = {(d, *pair) for d in ("float32", "float64") for pair in worst_rows.QUANTITIES}
    assert quantities == wanted
    assert {cell.path for cell in ROWS} == {"fma", "portable"}


@pytest.mark.parametrize("cell", ROWS, ids=lambda cell: "-".join(vars(cell).values()))
def test_the_worst_row(cell: Cell, isa: str) -> None:
    """Every row on every instruction set is within the bound, and on its own path no worse.

    The quick judge, which a search goes by, agrees with the exact one.
    """
    row, ulp = ROWS[cell]
    error = exact_error(cell, row)
    _, worst = ROWS[replace(cell, path=path_of(isa))]
    assert error <= bound_of(worst)
    if path_of(isa) == cell.path:
        assert error <= ulp + SLACK[cell.path]
    quick = worst_rows.KINDS[cell.kind].judge(row, quick_judge(np.dtype(cell.dtype)))
    assert quick[cell.quantity][0] == pytest.approx(error, abs=0.02)


def test_the_judge_notices_a_result_that_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """One ulp more is one ulp more."""
    cell = Cell("float32", "fma", "functions", "p")
    row = Rows(
        np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32), np.zeros(1, int), options={}
    )
    assert exact_error(cell, row) == 0.0
    monkeypatch.setattr(
        worst_rows.xent_fast,
        "softmax",
        lambda logits, **_: np.nextafter(np.full(logits.shape, 0.25, np.float32), np.float32(1)),
    )
    assert exact_error(cell, row) == pytest.approx(1.0)
    assert instruction_sets.available_isas()
