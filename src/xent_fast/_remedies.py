"""What people hand over in place of numbers, and what makes numbers of it: the ends of errors.

`given` is the argument, `array` what `numpy.asarray` made of it, `name` what errors call it. A
remedy is the end of a sentence, or nothing.

Knows: other libraries' containers by their attributes (none is imported), the words of remedies.
Must not know: how an argument is checked, memory layouts, mathematics.
"""

import numbers
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The names of types that stand for a missing value in pandas and NumPy.
_MISSING_TYPES = ("NoneType", "NAType", "NaTType")


def described(given: object, array: NDArray[Any]) -> str:
    """What was given, in a word: its dtype, or its type where NumPy found no numbers in it."""
    if given is None:
        return "None"
    if array.dtype.kind != "O" or isinstance(given, np.ndarray):
        return str(array.dtype)
    if isinstance(given, (list, tuple)):
        kinds = sorted({type(entry).__name__ for entry in array.flat})
        return f"{type(given).__name__} of {' and '.join(kinds[:3])}"
    return type(given).__name__


def for_masked(name: str) -> str:
    """What to do with a masked array."""
    if name == "targets":
        return "; targets.filled(-100) with ignore_index=-100 leaves the masked rows out"
    if "logits" in name:
        return f"; {name}.filled(-np.inf) leaves the masked classes out"
    return f"; {name}.filled(0) makes an ordinary array of it"


def for_labels(
    given: object, array: NDArray[Any], name: str = "targets", may_be_ignored: bool = True
) -> str:
    """What makes class indices of an argument that holds no integers.

    `may_be_ignored` says whether an ignore_index can be given, and dense numbers too.
    """
    container = _for_container(given, ".toarray() makes dense targets of it")
    if container:
        return container
    place = _first_missing(array)
    if place is not None:
        missing = f"; {name}[{place}] is missing: "
        if not may_be_ignored:
            return f"{missing}leave such rows out"
        return (
            f"{missing}fill in a number that is no class, such as -100, make integers of them with "
            ".astype(int), and pass ignore_index=-100"
        )
    if _holds_strings(array):
        return f"; np.unique({name}, return_inverse=True)[1] numbers them in sorted order"
    if array.ndim == 0 and array.dtype.kind == "O":
        return _for_object(given, name, "int")
    if _has_no_numbers(array):
        return ""
    fractional = _first_fraction(array)
    if fractional is not None:
        dense = ": dense targets need the logits' shape" if may_be_ignored else ""
        return f"; {name}[{fractional}] is no whole number{dense}"
    return f"; {_array_of(given, name)}.astype(int) makes integers of them"


def for_numbers(given: object, array: NDArray[Any], name: str, dtype: str = "float") -> str:
    """What makes floating-point numbers of an argument: of that dtype, as one writes it."""
    container = _for_container(given, ".toarray() makes an array of it")
    if container:
        return container
    if array.ndim == 0 and array.dtype.kind == "O":
        return _for_object(given, name, dtype)
    place = _first_missing(array) if array.dtype.kind == "O" else None
    if place is not None:
        return f"; {name}[{place}] is missing: fill in a number first"
    if _has_no_numbers(array) or isinstance(given, str):
        return ""
    if hasattr(given, "to_numpy"):
        return f"; {name}.to_numpy(dtype={dtype}) makes an array of it"
    return f"; {_array_of(given, name)}.astype({dtype}) makes such numbers of it"


def for_label_out_of_bounds(label: object, classes: int, may_be_ignored: bool) -> str:
    """What may be behind a class index that is out of bounds.

    `may_be_ignored` says whether an ignore_index could have been given, and was not.
    """
    if not isinstance(label, numbers.Integral):
        return ""
    if classes == 1 and label == 1:
        return "; one logit a row is one class: a binary loss takes two, [0, x]"
    if label == classes:
        return "; class indices count from 0"
    if label < 0 and may_be_ignored:
        return f"; ignore_index={label} leaves such rows out"
    return ""


def too_large_for_a_label(given: object, array: NDArray[Any]) -> int | None:
    """Where integers, flattened, hold the first that no integer dtype holds beside the others.

    NumPy makes objects of them, or floats of a list.
    """
    if array.dtype.kind == "f" and isinstance(given, (list, tuple)):
        array = np.array(given, dtype=object)
    if array.dtype.kind != "O" or array.ndim == 0:
        return None
    if not all(_is_integer(entry) for entry in array.flat):
        return None
    for place, entry in enumerate(array.flat):
        if not -(2**63) <= entry < 2**63:
            return place
    return None


def _is_integer(entry: object) -> bool:
    return isinstance(entry, numbers.Integral) and not isinstance(entry, (bool, np.bool_))


def _array_of(given: object, name: str) -> str:
    return name if hasattr(given, "astype") else f"np.asarray({name})"


def _for_container(given: object, for_sparse: str) -> str:
    """The remedy for what holds numbers that `numpy.asarray` does not find."""
    if isinstance(given, np.ndarray):
        return ""
    if hasattr(given, "toarray") and hasattr(given, "nnz"):
        return f"; {for_sparse}"
    dtype = str(getattr(given, "dtype", ""))
    if dtype == "category" and hasattr(given, "cat"):
        return "; .cat.codes holds its numbers, -1 where a value is missing"
    if dtype == "category" and hasattr(given, "codes"):
        return "; .codes holds its numbers, -1 where a value is missing"
    if dtype.startswith(("Categorical", "Enum")) and hasattr(given, "to_physical"):
        return "; .to_physical() holds its numbers"
    return ""


def _for_object(given: object, name: str, dtype: str) -> str:
    """The remedy for a single object."""
    if hasattr(given, "__dlpack__"):
        return "; np.from_dlpack makes an array of it"
    if hasattr(given, "to_numpy"):
        return f"; .to_numpy(dtype={dtype}) makes an array of it"
    if isinstance(given, Mapping):  # list() of it would be its keys
        return f"; [{name}[k] for k in range({len(given)})] is taken, if its keys count from 0"
    if isinstance(given, Iterable) and not isinstance(given, Set):
        return "; list() of it is taken"
    return ""


def _is_float(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _has_no_numbers(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "cmMV" and not _is_float(array)


def _holds_strings(array: NDArray[Any]) -> bool:
    if array.dtype.kind == "O":
        return any(isinstance(entry, (str, bytes)) for entry in array.flat)
    return array.dtype.kind in "SUT"


def _first_missing(array: NDArray[Any]) -> str | None:
    """Where the first NaN, None or NA is, as an index is written."""
    if array.ndim == 0:
        return None
    if _is_float(array):
        missing = np.isnan(array)
    elif array.dtype.kind == "O":
        flat = [
            type(entry).__name__ in _MISSING_TYPES
            or (isinstance(entry, (float, np.floating)) and np.isnan(entry))
            for entry in array.flat
        ]
        missing = np.array(flat, dtype=bool).reshape(array.shape)
    else:
        return None
    return _first(missing)


def _first_fraction(array: NDArray[Any]) -> str | None:
    """Where the first number is that is not whole."""
    if not _is_float(array):
        return None
    with np.errstate(all="ignore"):
        return _first(array != np.floor(array))


def _first(condition: NDArray[np.bool_]) -> str | None:
    if not condition.any():
        return None
    return ", ".join(str(int(i)) for i in np.argwhere(condition)[0]) or "()"
