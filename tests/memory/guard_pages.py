"""Run every public function over arrays whose neighbouring pages may not be touched.

    python tests/memory/guard_pages.py [--quick [--widths N...]] [--one-isa]

An access outside an array ends the process that makes it; this one then says which call it was.
Results must have the bits that the same call gives in ordinary memory, and the bytes next to each
array must stay. For every instruction set that runs here, or the best.

Knows: the widths at which kernels change their path.
Must not know: how a kernel works, what a call computes.
"""

from __future__ import annotations

import argparse
import functools
import json
import mmap
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import calls  # noqa: E402
import pages  # noqa: E402

from xent_fast._binding import instruction_sets  # noqa: E402
from xent_fast._bits.functions import DTYPES, FUNCTIONS, is_half  # noqa: E402

# One to four vectors of 16 float32 or 8 float64 lanes, each +- 1; then the blocks of 1024 and 2048.
WIDTHS = {max(lanes * n + k, 1) for lanes in (8, 16) for n in (1, 2, 3, 4) for k in (-1, 0, 1)}
MORE_WIDTHS = {1, 2, 3, 5, 10, 21, 100, 127, 128, 129, 1023, 1024, 1025, 2047, 2048, 2049}
QUICK_WIDTHS = (1, 3, 16, 17, 33, 65, 129)
WIDTHS_OF_ALL_LAYOUTS = (3, 17, 129)
ROW_COUNTS = (17, 16, 2, 1)
LABEL_DTYPES = [np.dtype(kind + width) for kind in "iu" for width in "1248"]


def shapes(few: Sequence[int], dtype: type) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """Rows, classes and layouts; every layout at a few widths alone."""
    for classes in few or sorted({*WIDTHS, *MORE_WIDTHS}):
        for rows in ROW_COUNTS[:1] if few or classes > 1000 else ROW_COUNTS:
            yield rows, classes, ("rows",)
        few_layouts = few and dtype != np.float32
        if classes in WIDTHS_OF_ALL_LAYOUTS[: 1 if few_layouts else None]:
            yield 18, classes, calls.LAYOUTS[1:]


def cases(few: Sequence[int], isa: str, dtype: type) -> Iterator[tuple[str, calls.Call, str]]:
    """Name, call and side; labels of each integer type in turn.

    At few widths each side in turn, and results in new arrays only where none can be given.
    """
    number = 0
    for rows, classes, layouts in shapes(few, dtype):
        for call in calls.every_call(rows, classes, layouts, dtype):
            ways_out = FUNCTIONS[call.function.__name__].ways_out(call.variant)
            if few and ways_out[1:] and not call.outputs:
                continue
            labels = LABEL_DTYPES[number % len(LABEL_DTYPES)]
            side = pages.SIDES[number % len(pages.SIDES)]
            for chosen in (side,) if few else pages.SIDES:
                name = f"{isa} {dtype.__name__} {rows} x {classes} {labels} {chosen}: {call.name}"
                yield name, with_labels_of(call, labels), chosen
            number += 1


def with_labels_of(call: calls.Call, dtype: np.dtype) -> calls.Call:
    """The call with its class indices in another type, where that holds them."""

    def converted(value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.dtype.kind == "i":
            narrow = value.astype(dtype)
            return narrow if np.array_equal(narrow, value) else value
        return value

    return replace(call, arguments=tuple(map(converted, call.arguments)))


def guarded(call: calls.Call, arena: pages.Arena, side: str) -> calls.Call:
    """The same call over guarded copies; what was one array twice is one again."""
    copies = {id(array): arena.placed(array, side) for array in call.arrays}

    def placed(value: Any) -> Any:
        return copies.get(id(value), value)

    return replace(
        call,
        arguments=tuple(map(placed, call.arguments)),
        options={name: placed(value) for name, value in call.options.items()},
    )


def copied(result: Any) -> list[np.ndarray]:
    return [np.array(array) for array in calls.arrays_of(result)]


def agree(call: calls.Call, got: list[np.ndarray], want: list[np.ndarray]) -> bool:
    """The same bits, but for layers: their matrix products are those of NumPy's BLAS, which may
    depend on where arrays lie.
    """
    if call.name.startswith(("sampled_softmax", "linear_softmax")):
        dtype = call.arguments[0].dtype
        tolerance = 0.1 if is_half(dtype) else 100 * np.finfo(dtype).eps
        close = functools.partial(np.allclose, rtol=tolerance, atol=tolerance, equal_nan=True)
        return all(close(a.astype(float), b.astype(float)) for a, b in zip(got, want, strict=True))
    return all(a.tobytes() == b.tobytes() for a, b in zip(got, want, strict=True))


def run(few: Sequence[int], isa: str, dtype: type, progress: Path) -> int:
    """The number of calls made; the name of the one under way stands in `progress`."""
    instruction_sets.use_isa(isa)
    arena, count = pages.Arena(), 0
    with progress.open("r+b") as file, mmap.mmap(file.fileno(), 0) as name_of_case:
        for name, call, side in cases(few, isa, dtype):
            count += 1
            name_of_case[:] = name.encode().ljust(len(name_of_case))
            arena.reset()
            result = copied(guarded(call, arena, side)())
            arena.assert_nothing_else_written()
            assert agree(call, result, calls.arrays_of(call())), (
                "other bits than in ordinary memory"
            )
    return count


def run_in_a_process(few: Sequence[int], isa: str, dtype: str) -> int:
    """As `run`; exits with the name of the case where that fails or crashes."""
    with tempfile.TemporaryDirectory() as directory:
        progress = Path(directory) / "case"
        progress.write_bytes(b" " * 256)
        command = [sys.executable, "-X", "faulthandler", __file__, "--worker"]
        command += [isa, dtype, str(progress)]
        command += ["--quick", "--widths", *map(str, few)] if few else []
        finished = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if finished.returncode:
            case = progress.read_text().strip()
            print(f"FAULT (exit status {finished.returncode}) in {case}", flush=True)
            return 0
        return int(finished.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few widths, one side a call")
    parser.add_argument("--widths", nargs="+", type=int, default=QUICK_WIDTHS, help="which few")
    parser.add_argument("--one-isa", action="store_true", help="the best instruction set alone")
    parser.add_argument("--worker", nargs=3, metavar=("ISA", "DTYPE", "FILE"))
    arguments = parser.parse_args()
    few = arguments.widths if arguments.quick else ()
    if arguments.worker:
        isa, dtype, progress = arguments.worker
        print(run(few, isa, np.dtype(dtype).type, Path(progress)))
        return
    dtypes = [np.dtype(dtype).name for dtype in DTYPES]
    isas = instruction_sets.available_isas()[: 1 if arguments.one_isa else None]
    runs = [(isa, dtype) for isa in isas for dtype in dtypes]
    counts = [run_in_a_process(few, *each) for each in runs]
    faults = counts.count(0)
    print(json.dumps({"guarded_calls": sum(counts), "faults": faults}))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
