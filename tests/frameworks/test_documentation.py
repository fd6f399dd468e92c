"""The documented examples of the modules for other libraries are true.

Knows the modules' names. Must not know what a module does.
"""

from __future__ import annotations

import doctest
import importlib

import pytest

# The others have their own tests.
MODULES = ("autograd", "boosting", "jax", "mygrad", "sklearn", "torch")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    pytest.importorskip({"boosting": "xgboost"}.get(name, name), exc_type=ModuleNotFoundError)
    module = importlib.import_module(f"xent_fast.{name}")
    result = doctest.testmod(module, raise_on_error=True)
    assert result.failed == 0
    assert result.attempted > 0
