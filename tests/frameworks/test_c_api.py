"""The entry points for compiled code: a Cython extension and a Numba function.

Knows the page's examples, the struct's members. Must not know how a call is computed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import multiprocessing
import re
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import float_mode
import numpy as np
import pytest

import xent_fast
from xent_fast import c_api

PAGE = Path(__file__).parents[2] / "docs" / "c_api.md"
OK, BAD_SIZE, BAD_ARGUMENT, BAD_OPTION, BAD_LAYOUT, BAD_LABEL, NEGATIVE, BAD_SUM = range(8)
MEAN, SUM = 0, 1
DTYPES = (np.float32, np.float64)

# Through the table of the capsule, as C has it.
TABLE = """
from xent_fast.c_api cimport XENT_FAST_API_VERSION, xent_fast_api


cdef extern from "xent_fast.h":
    const xent_fast_api *xent_fast_import() except NULL


def by_table(float[:, ::1] logits, const int64_t[::1] labels):
    cdef const xent_fast_api *api = xent_fast_import()
    cdef xent_fast_call call
    api.init(&call)
    call.rows, call.classes = logits.shape[0], logits.shape[1]
    call.logits = &logits[0, 0]
    call.labels = &labels[0]
    with nogil:
        status = api.loss_and_grad(&call)
    return api.version == XENT_FAST_API_VERSION, api.message(status), call.loss
"""


def block(language: str, word: str) -> str:
    """The page's block in that language with that word."""
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [text for text in blocks if word in text]
    return str(found)


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The page's example, built as the page says but not optimised: that would take longest."""
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    folder = tmp_path_factory.mktemp("example")
    source = folder / "example.pyx"
    source.write_text(block("cython", "loss_in_place") + TABLE)
    module = Extension(
        "example",
        [str(source)],
        include_dirs=[xent_fast.get_include()],
        extra_compile_args=[] if sys.platform == "win32" else ["-O0"],
    )
    modules = cythonize([module], build_dir=str(folder), language_level=3, quiet=True)
    command = build_ext(Distribution({"ext_modules": modules}))
    command.build_lib = command.build_temp = str(folder)
    command.finalize_options()
    command.run()
    built = folder / ("example" + sysconfig.get_config_var("EXT_SUFFIX"))
    spec = importlib.util.spec_from_file_location("example", built)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def problem(rows: int = 40, classes: int = 10, dtype: type = np.float32) -> tuple[Any, Any]:
    rng = np.random.default_rng(rows)
    logits = (3 * rng.standard_normal((rows, classes))).astype(dtype)
    return logits, rng.integers(0, classes, rows)


# --- the examples of the page ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 10), (3, 5000), (0, 4), (300, 1000)])
def test_cython(extension: ModuleType, dtype: type, shape: tuple[int, int]) -> None:
    logits, labels = problem(*shape, dtype)
    want = xent_fast.softmax_cross_entropy_grad(logits, labels)
    loss = extension.loss_in_place(logits, labels)
    np.testing.assert_array_equal(loss, want.loss)
    np.testing.assert_array_equal(logits, want.grad)


def test_cython_reports_a_label(extension: ModuleType) -> None:
    logits, labels = problem()
    before = logits.copy()
    labels[7] = 10
    with pytest.raises(ValueError, match=r"error_row is neither in \[0, classes\).*', 7\)"):
        extension.loss_in_place(logits, labels)
    np.testing.assert_array_equal(logits, before)


def test_table_in_the_capsule(extension: ModuleType) -> None:
    logits, labels = problem()
    is_same, message, loss = extension.by_table(logits, labels)
    assert is_same
    assert message == b"no error"
    assert loss == xent_fast.softmax_cross_entropy(logits, labels)


def test_threads_without_the_gil(extension: ModuleType) -> None:
    logits, labels = problem(200, 1000)
    want = xent_fast.softmax_cross_entropy_grad(logits, labels)
    failures = []

    def work() -> None:
        for _ in range(20):
            own = logits.copy()
            if extension.loss_in_place(own, labels) != want.loss or (own != want.grad).any():
                failures.append(own)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


NUMBA = """
import xent_fast

rng = np.random.default_rng(0)
logits = rng.standard_normal((100, 20)).astype(np.float32)
labels = rng.integers(0, 20, 100)
want = xent_fast.softmax_cross_entropy_grad(logits, labels)
grad = np.full_like(logits, np.nan)
assert loss_and_gradient(logits, labels, grad) == want.loss
assert (grad == want.grad).all()
labels[3] = -1
try:
    loss_and_gradient(logits, labels, grad)
except ValueError as error:
    print(error)
"""


def test_numba() -> None:
    """In a process of its own: Numba would take the tests' folder `coverage` for a library."""
    if importlib.util.find_spec("numba") is None:
        pytest.skip("numba is not installed")
    program = block("python", "numba.njit") + NUMBA
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (finished.stdout, finished.returncode) == ("xent_fast refuses the call\n", 0), (
        finished.stderr
    )


# --- every member, by ctypes ----------------------------------------------------------------------


def entry_point(name: str, result: Any, argument: Any = ctypes.c_void_p) -> Any:
    capsule = c_api.__pyx_capi__[name]
    python = ctypes.pythonapi
    python.PyCapsule_GetName.restype = ctypes.c_char_p
    python.PyCapsule_GetName.argtypes = [ctypes.py_object]
    python.PyCapsule_GetPointer.restype = ctypes.c_void_p
    python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    address = python.PyCapsule_GetPointer(capsule, python.PyCapsule_GetName(capsule))
    return ctypes.CFUNCTYPE(result, argument)(address)


INIT = entry_point("init", None)
LOSS_AND_GRAD = entry_point("loss_and_grad", ctypes.c_int)
MESSAGE = entry_point("message", ctypes.c_char_p, ctypes.c_int)


def called(**members: Any) -> tuple[int, Any]:
    """Status and record of a call; arrays become addresses."""
    calls = np.zeros(1, c_api.CALL_DTYPE)
    INIT(calls.ctypes.data)
    for name, value in members.items():
        calls[name] = value.ctypes.data if isinstance(value, np.ndarray) else value
    return LOSS_AND_GRAD(calls.ctypes.data), calls[0]


def members_of(logits: np.ndarray, labels: np.ndarray, **others: Any) -> dict[str, Any]:
    return {
        "rows": logits.shape[0],
        "classes": logits.shape[1],
        "dtype": int(logits.dtype == np.float64),
        "label_type": int(labels.dtype == np.int64),
        "logits": logits,
        "logits_row_stride": logits.strides[0],
        "labels": labels,
        "label_stride": labels.strides[0],
        **others,
    }


OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"label_smoothing": 0.1, "temperature": 2.0, "z_loss": 1e-3, "scale": 3.0},
    {"weight": np.linspace(0.5, 2, 10), "z_loss": 1e-3},
    {"sample_weight": np.linspace(-1, 2, 40), "reduction": "sum", "weight": np.linspace(-1, 1, 10)},
    {"ignore_index": 3, "sample_weight": np.linspace(0, 2, 40), "weight": np.linspace(0, 1, 10)},
)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("label_dtype", [np.int32, np.int64])
@pytest.mark.usefixtures("isa")
def test_options(options: dict[str, Any], dtype: type, label_dtype: type) -> None:
    logits, labels = problem(dtype=dtype)
    labels = labels.astype(label_dtype)
    want = xent_fast.softmax_cross_entropy_grad(logits, labels, **options)
    alone = xent_fast.softmax_cross_entropy_grad(logits, labels, **options | {"reduction": "none"})
    given = dict(options)
    members: dict[str, Any] = {"reduction": SUM if given.pop("reduction", "") == "sum" else MEAN}
    if "weight" in given:
        members["class_weight"] = given.pop("weight").astype(dtype)
    if "ignore_index" in given:
        members["has_ignore_index"] = 1
    grad, row_loss = np.full_like(logits, np.nan), np.full(40, np.nan, dtype)
    members.update(given, grad=grad, row_loss=row_loss)
    status, call = called(**members_of(logits, labels, **members))
    assert (status, call["error_row"]) == (OK, -1)
    assert call["loss"] == want.loss
    np.testing.assert_array_equal(grad, want.grad)
    if members["reduction"] == SUM:
        np.testing.assert_array_equal(row_loss, alone.loss)
    np.testing.assert_allclose(row_loss.sum(dtype=float), want.loss, rtol=1e-5)


DENSE_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"label_smoothing": 0.1, "z_loss": 1e-3, "scale": 3.0, "temperature": 2.0},
    {"weight": np.linspace(-1, 2, 10), "reduction": "sum"},
    {"sample_weight": np.linspace(0, 2, 40), "weight": np.linspace(0, 1, 10)},
)


@pytest.mark.parametrize("options", DENSE_OPTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_targets(options: dict[str, Any], dtype: type) -> None:
    logits, _ = problem(dtype=dtype)
    whole = np.random.default_rng(1).random((80, 10)).astype(dtype)
    targets = whole[::-2]
    want = xent_fast.softmax_cross_entropy_grad(logits, targets, **options)
    members: dict[str, Any] = dict(options)
    members["reduction"] = SUM if members.pop("reduction", "") == "sum" else MEAN
    if "weight" in members:
        members["class_weight"] = members.pop("weight").astype(dtype)
    members |= {"targets": targets, "target_row_stride": targets.strides[0]}
    grad = np.full_like(logits, np.nan)
    given = members_of(logits, np.zeros(40, np.int64), grad=grad, **members) | {"labels": 0}
    status, call = called(**given)
    assert (status, call["loss"]) == (OK, want.loss)
    np.testing.assert_array_equal(grad, want.grad)
    onto_targets = {"grad": targets, "grad_row_stride": targets.strides[0]}
    assert called(**given | onto_targets)[0] == BAD_LAYOUT
    np.testing.assert_array_equal(targets, whole[::-2])


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("shape", [(40, 3), (40, 10), (40, 100), (3, 40_000)])
@pytest.mark.parametrize("kind", ["index", "smoothed", "dense"])
def test_16_bits(kind: str, shape: tuple[int, int], number: int) -> None:
    """Matrices of float16 and bfloat16, in place and apart; the losses are float."""
    half = np.float16 if number == 2 else pytest.importorskip("ml_dtypes").bfloat16
    logits, labels = problem(*shape, half)
    options = {"label_smoothing": 0.1 if kind == "smoothed" else 0.0}
    members: dict[str, Any] = {"dtype": number, **options}
    targets: Any = labels
    if kind == "dense":
        targets = np.abs(logits)[::-1].copy()
        members |= {"labels": 0, "targets": targets}
    weight = np.linspace(0, 2, shape[1])
    want = xent_fast.softmax_cross_entropy_grad(logits, targets, weight=weight, **options)
    row_loss = np.full(len(logits), np.nan, np.float32)
    members |= {"row_loss": row_loss, "class_weight": weight.astype(np.float32)}
    for grad in (np.zeros_like(logits), logits):
        given = members_of(logits, labels) | members | {"grad": grad}
        status, call = called(**given)
        assert (status, call["loss"]) == (OK, want.loss)
        np.testing.assert_array_equal(grad.view(np.uint16), want.grad.view(np.uint16))
        np.testing.assert_allclose(row_loss.sum(dtype=float), want.loss, rtol=1e-5)
    misaligned = np.zeros(2 * logits.size + 1, np.uint8)[1:]
    assert called(**given | {"logits": misaligned})[0] == BAD_LAYOUT


def test_dense_targets_beside_labels() -> None:
    logits, labels = problem()
    dense = {"targets": np.ones_like(logits)}
    assert called(**members_of(logits, labels), **dense)[0] == BAD_ARGUMENT
    alone = members_of(logits, labels, has_ignore_index=1) | {"labels": 0}
    assert called(**alone, **dense)[0] == BAD_ARGUMENT
    alone["has_ignore_index"] = 0
    assert called(**alone, **dense)[0] == OK
    assert called(**alone)[0] == BAD_ARGUMENT


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_strided_rows(threads: int) -> None:
    whole = np.random.default_rng(0).standard_normal((64, 30)).astype(np.float32)
    logits, grad = whole[::-2, :10], whole[::-2, 10:20]  # side by side in one matrix
    labels = np.repeat(problem(32, 10)[1], 3)[::3]
    want = xent_fast.softmax_cross_entropy_grad(logits, labels)
    before = whole.copy()
    strides = {"grad": grad, "grad_row_stride": grad.strides[0], "num_threads": threads}
    status, call = called(**members_of(logits, labels, **strides))
    assert status == OK
    assert call["loss"] == want.loss
    np.testing.assert_array_equal(grad, want.grad)
    before[::-2, 10:20] = grad
    np.testing.assert_array_equal(whole, before)


def test_loss_alone_and_mean_over_nothing() -> None:
    logits, labels = problem()
    status, call = called(**members_of(logits, labels))
    assert (status, call["loss"]) == (OK, xent_fast.softmax_cross_entropy(logits, labels))
    labels[:] = -100
    ignored = {"has_ignore_index": 1, "ignore_index": -100}
    grad, row_loss = np.full_like(logits, np.nan), np.zeros(40, np.float32)
    status, call = called(**members_of(logits, labels, grad=grad, row_loss=row_loss, **ignored))
    assert status == OK
    assert np.isnan(call["loss"])
    assert (grad == 0).all()
    assert np.isnan(row_loss).all()
    status, call = called(**members_of(logits, labels, reduction=SUM, **ignored))
    assert (status, call["loss"]) == (OK, 0)


BAD: tuple[tuple[int, dict[str, Any]], ...] = (
    (BAD_SIZE, {"size": 8}),
    (BAD_ARGUMENT, {"rows": -1}),
    (BAD_ARGUMENT, {"classes": 0}),
    (BAD_ARGUMENT, {"dtype": 4}),
    (BAD_ARGUMENT, {"dtype": -1}),
    (BAD_ARGUMENT, {"label_type": 2}),
    (BAD_ARGUMENT, {"reduction": 2}),
    (BAD_ARGUMENT, {"logits": 0}),
    (BAD_ARGUMENT, {"labels": 0}),
    (BAD_OPTION, {"label_smoothing": 1.5}),
    (BAD_OPTION, {"label_smoothing": np.nan}),
    (BAD_OPTION, {"temperature": 0.0}),
    (BAD_OPTION, {"temperature": np.inf}),
    (BAD_OPTION, {"z_loss": np.nan}),
    (BAD_OPTION, {"num_threads": -1}),
    (BAD_LAYOUT, {"logits_row_stride": 41}),
    (BAD_LAYOUT, {"grad_row_stride": 20}),
    (BAD_LABEL, {"labels": np.where(np.arange(40) == 39, 10, 0)}),
    (BAD_LABEL, {"labels": np.where(np.arange(40) == 39, -1, 0)}),
    (BAD_LABEL, {"labels": np.where(np.arange(40) == 39, 2**32, 0)}),
    (NEGATIVE, {"sample_weight": np.where(np.arange(40) == 39, -1.0, 1.0)}),
    (NEGATIVE, {"class_weight": np.linspace(-1, 1, 10, dtype=np.float32)}),
    (BAD_SUM, {"sample_weight": np.full(40, 1e-300)}),
    (BAD_SUM, {"sample_weight": np.full(40, 1e300)}),
)


@pytest.mark.parametrize(("want", "members"), BAD)
def test_what_is_refused(want: int, members: dict[str, Any]) -> None:
    logits, labels = problem()
    out = np.zeros(500, np.float32)
    given = members_of(logits, labels, grad=out[:400].reshape(40, 10), row_loss=out[400:440])
    before = logits.copy()
    status, call = called(**given | members)
    assert status == want
    assert b"unknown status" not in MESSAGE(status)
    if status == BAD_LABEL or (status == NEGATIVE and "sample_weight" in members):
        assert call["error_row"] == 39
    assert not out.any()
    np.testing.assert_array_equal(logits, before)


def test_outputs_that_overlap_are_refused() -> None:
    whole = np.zeros(1000, np.float32)
    logits = whole[:400].reshape(40, 10)
    labels = np.zeros(40, np.int64)
    beside = np.zeros(40, np.float32)
    own_labels = whole[:80].view(np.int64)
    weights = whole[500:580].view(np.float64)
    for outputs in (
        {"grad": whole[1:401]},
        {"grad": whole[390:790]},
        {"grad": whole[10:410]},
        {"row_loss": whole[399:439]},
        {"grad": whole[400:800], "row_loss": whole[799:839]},
        {"grad": whole[400:800], "sample_weight": weights},
        {"row_loss": whole[579:619], "sample_weight": weights},
        {"grad": whole[400:800], "class_weight": whole[795:805]},
        {"grad": logits, "labels": own_labels},
        {"grad": beside, "row_loss": beside},
        {"grad": whole[400:800].view(np.uint8)[2:]},
    ):
        given = members_of(logits, labels) | outputs
        assert called(**given)[0] == BAD_LAYOUT, outputs
    assert not whole.any()
    # in place, beside each other, and an input inside another input
    assert called(**members_of(logits, labels, grad=logits, row_loss=whole[400:440]))[0] == OK
    assert called(**members_of(logits, labels, class_weight=logits))[0] in (OK, NEGATIVE)


@pytest.mark.skipif(not float_mode.IS_KNOWN, reason="fenv_t of this platform unknown")
@pytest.mark.parametrize("threads", [1, 2])
def test_float_mode(threads: int) -> None:
    logits, labels = problem(200, 1000)
    logits *= 10  # subnormal probabilities
    want = np.empty_like(logits)
    calls = np.zeros(1, c_api.CALL_DTYPE)
    assert called(**members_of(logits, labels, grad=want))[0] == OK
    for mode in float_mode.MODES.values():
        grad = np.empty_like(logits)
        INIT(calls.ctypes.data)
        for name, value in members_of(logits, labels, grad=grad, num_threads=threads).items():
            calls[name] = value.ctypes.data if isinstance(value, np.ndarray) else value
        place = calls.ctypes.data
        with float_mode.in_mode(mode):
            status = LOSS_AND_GRAD(place)
            after = float_mode.current()
        assert (status, after) == (OK, mode & float_mode.MODE_BITS)
        np.testing.assert_array_equal(grad, want)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # JAX's, where its tests ran before
def test_after_a_fork() -> None:
    logits, labels = problem(200, 1000)
    given = members_of(logits, labels, num_threads=2)
    want = called(**given)[1]["loss"]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(loss_of, (logits, labels)) == want


def loss_of(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(called(**members_of(logits, labels, num_threads=2))[1]["loss"])
