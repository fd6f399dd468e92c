"""Who computes it: one table of implementations; one file a runtime says how each is called.

Knows: which files there are. Must not know: shapes, timing, tables.
"""

from benchmarks.implementations import (
    limits,
    with_jax,
    with_numba,
    with_numpy,
    with_tensorflow,
    with_torch,
    with_xent_fast,
)
from benchmarks.implementations.contract import Implementation

IMPLEMENTATIONS: tuple[Implementation, ...] = (
    *with_xent_fast.implementations(),
    *with_numpy.implementations(),
    *with_numba.implementations(),
    *with_torch.implementations(),
    *with_jax.implementations(),
    *with_tensorflow.implementations(),
    *limits.implementations(),
)
BASELINE = with_numpy.BASELINE
OURS = "xent_fast"
