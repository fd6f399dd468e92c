"""The signatures that `help` and `inspect` show: names and defaults, as of the compiled functions.

With its annotations a function of many options would open by one line of 700 characters. Types
stay where tools read them, in the source and in `__annotations__`.

Knows: how `inspect` makes a signature. Must not know: any function's name.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from types import FunctionType


def hide_annotations(objects: Iterable[object]) -> None:
    """Of those that are functions in Python; `__signature__` is what `inspect` looks for first."""
    for given in objects:
        if isinstance(given, FunctionType):
            bare = FunctionType(given.__code__, {}, None, given.__defaults__)
            bare.__kwdefaults__ = given.__kwdefaults__
            vars(given)["__signature__"] = inspect.signature(bare)
