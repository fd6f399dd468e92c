"""What a module for another library says where that library is missing.

Knows: the names of the extras. Must not know: what the modules do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def needed_by(module: str, extra: str) -> Iterator[None]:
    """Imports inside this say which extra of this package brings what is missing."""
    try:
        yield
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            f"{module} needs {missing.name}, which is not installed: "
            f"pip install 'xent_fast[{extra}]'",
            name=missing.name,
        ) from missing


def refuse_outputs(options: dict[str, Any], function: str) -> None:
    """The loss alone is returned, and the framework owns the gradient.

    TypeError if an option would change what is returned.
    """
    for name in ("out", "return_statistics"):
        if name in options:
            raise TypeError(f"{function} does not take {name!r}: call the function of xent_fast")
