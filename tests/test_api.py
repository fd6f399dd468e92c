"""What the public functions promise beyond numbers: names, types, memory, configuration, threads.

Knows the public interface and the reference. Must not know kernels, or how accurate they are.
"""

from __future__ import annotations

import ast
import importlib.resources
import inspect
import json
import math
import os
import pickle
import re
import runpy
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import threadpoolctl
from helpers import LAYOUTS, GuardedArray

import xent_fast
from xent_fast import (
    LossAndGrad,
    reference,
    show_config,
    softmax_cross_entropy,
    softmax_cross_entropy_grad,
    softmax_loss,
)
from xent_fast._binding import instruction_sets
from xent_fast.reference._loss import problem_of_logits

LOSSES = ["softmax_cross_entropy", "softmax_cross_entropy_grad", "softmax_loss"]
FUNCTIONS = [
    *LOSSES,
    "class_statistics",
    "grad_from_statistics",
    "loss_from_statistics",
    "merge_class_statistics",
    "cross_entropy",
    "cross_entropy_grad",
    "distillation_loss_grad",
    "linear_softmax_cross_entropy",
    "linear_softmax_cross_entropy_grad",
    "log_softmax",
    "log_softmax_vjp",
    "logsumexp",
    "sampled_softmax_loss_grad",
    "softmax",
    "softmax_cross_entropy_grad_hessian",
    "softmax_cross_entropy_grad_targets",
    "softmax_entropy",
    "softmax_entropy_grad",
    "softmax_cross_entropy_hessian_diagonal",
    "softmax_cross_entropy_hvp",
    "softmax_vjp",
]
TUPLES = [
    "ChosenStatistics",
    "EntropyAndGrad",
    "LossAndChosenStatistics",
    "LossGradAndChosenStatistics",
    "LinearLossAndGrad",
    "LossAndGrad",
    "LossAndStatistics",
    "LossGradAndHessian",
    "LossGradAndStatistics",
    "RowStatistics",
    "SampledLossAndGrad",
]
OPTIONS = {
    "axis": -1,
    "weight": None,
    "sample_weight": None,
    "ignore_index": None,
    "label_smoothing": 0.0,
    "temperature": 1.0,
    "z_loss": 0.0,
    "reduction": "mean",
    "scale": 1.0,
    "return_statistics": False,
    "num_threads": None,
}

OPENMP = show_config("dicts")["threads"]["openmp"]
# Those this process may run on, where the system tells.
PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

ROWS, CLASSES = 37, 11


@pytest.fixture
def logits(dtype: type) -> np.ndarray:
    return (3 * np.random.default_rng(11).standard_normal((ROWS, CLASSES))).astype(dtype)


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(12).integers(0, CLASSES, ROWS)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


# --- names and signatures ---


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_shows_names_and_defaults(name: str) -> None:
    signature = inspect.signature(getattr(xent_fast, name))
    shown = {parameter.annotation for parameter in signature.parameters.values()}
    assert shown | {signature.return_annotation} == {inspect.Signature.empty}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_types_can_be_asked_for(name: str) -> None:
    """As tools do that read annotations at run time. The compiled functions have none."""
    function = getattr(xent_fast, name)
    types = get_type_hints(function)
    assert not types or set(types) == {*inspect.signature(function).parameters, "return"}


def test_public_names() -> None:
    assert set(xent_fast.__all__) == {
        *FUNCTIONS,
        *TUPLES,
        "ClassStatistics",
        "get_include",
        "show_config",
        "__version__",
    }
    for name in xent_fast.__all__:
        assert getattr(xent_fast, name) is not None


@pytest.mark.parametrize("name", FUNCTIONS)
def test_reference_takes_the_same_arguments(name: str) -> None:
    """Those that it names; `**options` stand for what it hands on, with the same defaults."""
    ours = inspect.signature(getattr(xent_fast, name)).parameters
    theirs = dict(inspect.signature(getattr(reference, name)).parameters)
    handed_on = set(ours) - set(theirs)
    assert (theirs.pop("options", None) is not None) == bool(handed_on)
    takers = [getattr(reference, f"{name}_grad", None), problem_of_logits]
    for taker in filter(None, takers):
        taken = inspect.signature(taker).parameters
        theirs |= {option: taken[option] for option in handed_on & set(taken) - set(theirs)}
    assert set(theirs) == set(ours)
    for parameter in theirs.values():
        same = ours[parameter.name]
        assert (parameter.kind, parameter.default) == (same.kind, same.default)


def test_signatures() -> None:
    loss = inspect.signature(softmax_cross_entropy).parameters
    grad = inspect.signature(softmax_cross_entropy_grad).parameters
    assert list(loss) == ["logits", "targets", *OPTIONS]
    assert list(grad) == [*loss, "grad_output", "out"]
    for name in [*OPTIONS, "grad_output", "out"]:
        assert grad[name].kind is inspect.Parameter.KEYWORD_ONLY
    defaults = {name: grad[name].default for name in [*OPTIONS, "out"]}
    assert defaults == {**OPTIONS, "out": None}
    assert list(inspect.signature(softmax_loss).parameters) == ["x", "y"]


@pytest.mark.parametrize("name", [*FUNCTIONS, *TUPLES, "show_config"])
def test_docstrings_name_every_parameter(name: str) -> None:
    documented = getattr(xent_fast, name)
    text = inspect.getdoc(documented)
    for parameter in inspect.signature(documented).parameters:
        assert parameter in text
    if name in FUNCTIONS:
        for section in ("Parameters", "Returns", "Raises"):
            assert f"{section}\n{'-' * len(section)}\n" in text


def test_package_is_typed() -> None:
    assert importlib.resources.files(xent_fast).joinpath("py.typed").is_file()


def test_nothing_in_the_package_imports_the_reference() -> None:
    done = run_python("import sys, xent_fast; sys.exit('xent_fast.reference' in sys.modules)")
    assert done.returncode == 0, done.stderr


def test_import_brings_numpy_alone_and_not_its_random_numbers() -> None:
    code = """
import sys, numpy
before = set(sys.modules)
import xent_fast
own = ("xent_fast", "numpy.typing", "numpy._typing", "cython_runtime", "_cython_")
new = {name for name in set(sys.modules) - before if not name.startswith(own)}
foreign = {name for name in new if name.partition(".")[0] not in sys.stdlib_module_names}
sys.exit(str(foreign) if foreign else 0)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


# --- results ---


def test_result_is_a_named_tuple(logits: np.ndarray, labels: np.ndarray) -> None:
    result = softmax_cross_entropy_grad(logits, labels)
    assert type(result) is LossAndGrad
    assert isinstance(result, tuple)
    loss, grad = result
    assert result.loss is loss
    assert result.grad is grad
    assert result[0] is loss
    assert result._asdict() == {"loss": loss, "grad": grad}
    assert repr(result) == f"LossAndGrad(loss={loss!r}, grad={grad!r})"
    copied = pickle.loads(pickle.dumps(result))
    assert type(copied) is LossAndGrad
    np.testing.assert_array_equal(copied.grad, grad)
    with pytest.raises(TypeError, match="unhashable"):
        hash(result)


def test_result_is_freed() -> None:
    logits, labels = np.zeros((4, 3)), np.zeros(4, int)
    grad = softmax_cross_entropy_grad(logits, labels).grad
    assert sys.getrefcount(grad) == 2
    before = sys.getrefcount(logits)
    results = [softmax_cross_entropy_grad(logits, labels, out=logits) for _ in range(10)]
    assert sys.getrefcount(logits) == before + 10
    del results
    assert sys.getrefcount(logits) == before


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_is_a_float(logits: np.ndarray, labels: np.ndarray, reduction: str) -> None:
    assert type(softmax_cross_entropy(logits, labels, reduction=reduction)) is float
    assert type(softmax_cross_entropy_grad(logits, labels, reduction=reduction).loss) is float


def test_losses_are_an_array_of_the_logits_dtype(logits: np.ndarray, labels: np.ndarray) -> None:
    for losses in (
        softmax_cross_entropy(logits, labels, reduction="none"),
        softmax_cross_entropy_grad(logits, labels, reduction="none").loss,
    ):
        assert type(losses) is np.ndarray
        assert losses.shape == (ROWS,)
        assert losses.dtype == logits.dtype


@pytest.mark.parametrize("weighted", [False, True])
def test_sum_adds_row_losses_before_they_are_rounded(
    logits: np.ndarray, labels: np.ndarray, weighted: bool
) -> None:
    weight = np.linspace(0.1, 2, ROWS) if weighted else np.ones(ROWS)
    losses = softmax_cross_entropy(logits, labels, sample_weight=weight, reduction="none")
    total = softmax_cross_entropy(logits, labels, sample_weight=weight, reduction="sum")
    each = [
        softmax_cross_entropy(
            logits[k : k + 1], labels[k : k + 1], sample_weight=weight[k : k + 1], reduction="sum"
        )
        for k in range(ROWS)
    ]
    np.testing.assert_array_equal(np.array(each, logits.dtype), losses)
    assert total == pytest.approx(math.fsum(each), rel=1e-15)


def test_softmax_loss(logits: np.ndarray, labels: np.ndarray) -> None:
    before = logits.copy()
    result = softmax_loss(logits, labels)
    assert type(result) is LossAndGrad
    loss, dx = result
    want = softmax_cross_entropy_grad(logits, labels)
    assert loss == want.loss
    np.testing.assert_array_equal(dx, want.grad)
    assert not np.shares_memory(dx, logits)
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize(
    "scale",
    [2, np.float32(2), np.int8(2), np.array(2.0), np.array(2)],
    ids=lambda scale: repr(type(scale)),
)
def test_scale_of_any_real_type(logits: np.ndarray, labels: np.ndarray, scale: object) -> None:
    got = softmax_cross_entropy_grad(logits, labels, scale=scale)
    want = softmax_cross_entropy_grad(logits, labels, scale=2.0)
    assert got.loss == want.loss
    np.testing.assert_array_equal(got.grad, want.grad)
    assert got.loss == pytest.approx(2 * softmax_cross_entropy(logits, labels), rel=1e-6)


@pytest.mark.parametrize("weight_dtype", ["f2", "f4", "g", "i1", "u8", ">f8", list])
def test_sample_weight_of_any_type(
    logits: np.ndarray, labels: np.ndarray, weight_dtype: object
) -> None:
    weight = np.arange(1.0, ROWS + 1)
    given = weight.tolist() if weight_dtype is list else weight.astype(weight_dtype)
    got = softmax_cross_entropy_grad(logits, labels, sample_weight=given)
    want = softmax_cross_entropy_grad(logits, labels, sample_weight=weight)
    assert got.loss == want.loss
    np.testing.assert_array_equal(got.grad, want.grad)


# --- out ---


def test_no_out_gives_a_new_array_in_the_order_of_the_logits(
    logits: np.ndarray, labels: np.ndarray
) -> None:
    before = logits.copy()
    for given in (
        logits,
        np.asfortranarray(logits),
        logits[::-1],
        logits.astype(logits.dtype.newbyteorder()),
    ):
        grad = softmax_cross_entropy_grad(given, labels).grad
        assert type(grad) is np.ndarray
        assert grad.flags.f_contiguous == given.flags.f_contiguous
        assert grad.flags.forc
        assert grad.flags.writeable
        assert grad.dtype == logits.dtype
        assert grad.dtype.isnative
        assert not np.shares_memory(grad, given)
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("first", [0, 1, 4])
def test_images_whose_planes_are_whole_pages(first: int) -> None:
    """Pixels by classes, whatever their first one's place in a cache line: as with classes last."""
    shape = (2, 10, 32, 32)
    rng = np.random.default_rng(0)
    buffer = rng.standard_normal(np.prod(shape) + first).astype(np.float32)
    images = buffer[first:].reshape(shape)
    labels = rng.integers(0, 10, (2, 32, 32))
    want = softmax_cross_entropy_grad(np.moveaxis(images, 1, -1).copy(), labels, reduction="none")
    got = softmax_cross_entropy_grad(images, labels, axis=1, reduction="none", out=images)
    np.testing.assert_array_equal(got.loss, want.loss)
    np.testing.assert_array_equal(np.moveaxis(images, 1, -1), want.grad)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [((7,), 0), ((4, 7), -1), ((3, 7, 5), 1), ((0, 7), 1)])
def test_logsumexp_into_out(shape: tuple[int, ...], axis: int, keepdims: bool) -> None:
    """One number a row, where the class axis was, in any layout."""
    logits = np.random.default_rng(0).standard_normal(shape)
    want = xent_fast.logsumexp(logits, axis=axis, keepdims=keepdims)
    assert want.shape == np.sum(logits, axis=axis, keepdims=keepdims).shape
    for place in (
        np.full(want.shape, 9.0),
        np.full(want.shape, 9.0, order="F"),
        np.full((*want.shape, 2), 9.0)[..., 1],
        np.full(want.shape, 9.0, dtype=">f8"),
    ):
        out = np.asarray(place)
        got = xent_fast.logsumexp(logits, axis=axis, keepdims=keepdims, out=out)
        assert got is out
        np.testing.assert_array_equal(out, want)
    if logits.size > 0:
        inside = logits.reshape(-1)[: want.size].reshape(want.shape)
        with pytest.raises(ValueError, match="out shares memory with logits"):
            xent_fast.logsumexp(logits, axis=axis, keepdims=keepdims, out=inside)


def test_another_view_of_the_same_memory_is_in_place(
    logits: np.ndarray, labels: np.ndarray
) -> None:
    logits = logits.copy()
    want = softmax_cross_entropy_grad(logits, labels)
    view = logits[:]
    got = softmax_cross_entropy_grad(logits, labels, out=view)
    assert got.grad is view
    assert got.loss == want.loss
    np.testing.assert_array_equal(logits, want.grad)


class Subclass(np.ndarray):
    """Stands for any subclass whose memory means what an ndarray's does."""


@pytest.mark.parametrize("subclass", [Subclass, np.matrix])
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_subclasses_are_read_and_written_as_arrays(
    logits: np.ndarray, labels: np.ndarray, subclass: type
) -> None:
    want = softmax_cross_entropy_grad(logits, labels)
    out = np.empty_like(logits).view(subclass)
    got = softmax_cross_entropy_grad(logits.view(subclass), labels.view(Subclass), out=out)
    assert got.grad is out
    np.testing.assert_array_equal(np.asarray(out), want.grad)
    assert type(softmax_cross_entropy_grad(logits.view(subclass), labels).grad) is np.ndarray


def test_memory_mapped_logits(tmp_path, logits: np.ndarray, labels: np.ndarray) -> None:
    want = softmax_cross_entropy_grad(logits, labels)
    path = tmp_path / "logits"
    logits.tofile(path)
    read_only = np.memmap(path, logits.dtype, "r", shape=logits.shape)
    assert softmax_cross_entropy(read_only, labels) == want.loss
    writable = np.memmap(path, logits.dtype, "r+", shape=logits.shape)
    assert softmax_cross_entropy_grad(writable, labels, out=writable).grad is writable
    writable.flush()
    np.testing.assert_array_equal(np.fromfile(path, logits.dtype).reshape(logits.shape), want.grad)


# --- targets ---


def test_one_label_for_all_rows(logits: np.ndarray) -> None:
    got = softmax_cross_entropy(logits, np.broadcast_to(np.int16(3), ROWS))
    assert got == softmax_cross_entropy(logits, np.full(ROWS, 3))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("target_dtype", [np.float32, np.float64])
def test_dense_targets_of_any_layout(logits: np.ndarray, layout: str, target_dtype: type) -> None:
    values = np.random.default_rng(4).random((ROWS, CLASSES)).astype(np.float16)
    targets = GuardedArray(values.astype(target_dtype), layout)
    got = softmax_cross_entropy_grad(logits, targets.array)
    want = softmax_cross_entropy_grad(logits, values.astype(logits.dtype))
    assert got.loss == want.loss
    np.testing.assert_array_equal(got.grad, want.grad)
    targets.assert_untouched()


@pytest.mark.parametrize(
    "make", [lambda t: t.astype(np.float16), lambda t: t.astype(np.longdouble), np.ndarray.tolist]
)
def test_dense_targets_are_converted(logits: np.ndarray, make: object) -> None:
    values = np.random.default_rng(4).integers(0, 8, (ROWS, CLASSES)) / 8
    got = softmax_cross_entropy(logits, make(values))
    assert got == softmax_cross_entropy(logits, values.astype(logits.dtype))


def test_dense_targets_may_be_the_logits_where_nothing_is_written(logits: np.ndarray) -> None:
    got = softmax_cross_entropy_grad(logits, logits)
    want = softmax_cross_entropy_grad(logits, logits.copy())
    np.testing.assert_array_equal(got.grad, want.grad)


# --- configuration ---


def test_show_config_returns_a_dict() -> None:
    config = show_config("dicts")
    assert config["version"] == xent_fast.__version__
    assert config["isa"]["active"] in config["isa"]["supported"]
    assert tuple(config["isa"]["supported"]) == instruction_sets.available_isas()
    assert config["isa"]["supported"][-1] == "portable"
    assert config["threads"]["default"] >= 1
    assert config["numpy"] == np.__version__
    assert {"compiler", "python", "platform"} <= config.keys()


def test_show_config_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_config() is None
    assert json.loads(capsys.readouterr().out) == show_config(mode="dicts")


def test_show_config_refuses_another_mode() -> None:
    with pytest.raises(ValueError, match="mode must be 'stdout' or 'dicts', not 'json'"):
        show_config("json")


PRINT_ISA = "import xent_fast; print(xent_fast.show_config('dicts')['isa']['active'])"


@pytest.mark.parametrize("name", instruction_sets.available_isas())
def test_environment_forces_an_isa(name: str) -> None:
    assert run_python(PRINT_ISA, XENT_FAST_ISA=name).stdout.strip() == name


def test_best_isa_is_the_default() -> None:
    assert (
        run_python(PRINT_ISA, XENT_FAST_ISA="").stdout.strip()
        == instruction_sets.available_isas()[0]
    )


@pytest.mark.parametrize(
    "name",
    [
        "foo",
        "AVX2",
        " ",
        "neon,avx2",
        "\udcff",
        *sorted({"avx2", "neon"} - {*instruction_sets.available_isas()}),
    ],
)
def test_environment_with_an_unusable_isa(name: str) -> None:
    done = run_python(PRINT_ISA, XENT_FAST_ISA=name)
    assert done.returncode != 0
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith(f"ValueError: XENT_FAST_ISA: {name!r} cannot be used")
    assert "valid names are avx512, avx2, neon, portable" in message
    assert message.endswith(f"support {', '.join(instruction_sets.available_isas())}")


@pytest.mark.thread_unsafe(reason="sets what the whole process uses")
def test_use_isa_returns_the_one_before() -> None:
    before = show_config("dicts")["isa"]["active"]
    assert instruction_sets.use_isa("portable") == before
    assert show_config("dicts")["isa"]["active"] == "portable"
    assert instruction_sets.use_isa(before) == "portable"
    with pytest.raises(ValueError, match="valid names are"):
        instruction_sets.use_isa("sse9")


# --- threads ---


def test_other_threads_run_during_a_call() -> None:
    """With an endless switch interval, another thread runs only where the lock is given up."""
    logits = np.zeros((2000, 1000), np.float32)
    labels = np.zeros(2000, int)
    go, has_run = threading.Event(), []

    def take_a_turn() -> None:
        go.wait()
        has_run.append(True)

    switch_interval = sys.getswitchinterval()
    thread = threading.Thread(target=take_a_turn)
    thread.start()
    sys.setswitchinterval(3600)
    try:
        go.set()
        deadline = time.monotonic() + 10
        while not has_run and time.monotonic() < deadline:
            softmax_cross_entropy_grad(logits, labels, num_threads=1)
        assert has_run
    finally:
        sys.setswitchinterval(switch_interval)
        thread.join()


@pytest.mark.skipif(not OPENMP, reason="this build has no threads to limit")
def test_default_follows_the_limits() -> None:
    code = "import xent_fast; print(xent_fast.show_config('dicts')['threads']['default'])"
    assert run_python(code, OMP_NUM_THREADS="1").stdout.strip() == "1"
    assert int(run_python(code, OMP_NUM_THREADS="1000").stdout) == PROCESSORS
    with threadpoolctl.threadpool_limits(1, user_api="openmp"):
        assert show_config("dicts")["threads"]["default"] == 1


COUNT_THREADS = """
import os
import numpy as np
from xent_fast import softmax_cross_entropy

def compute(rows, classes, num_threads=None):
    logits = np.broadcast_to(np.float32(0), (rows, classes)).copy()
    softmax_cross_entropy(logits, np.zeros(rows, int), num_threads=num_threads)

before = len(os.listdir("/proc/self/task"))
compute({arguments})
print(len(os.listdir("/proc/self/task")) - before + 1)
"""


@pytest.mark.skipif(
    not OPENMP or sys.platform != "linux", reason="needs OpenMP, and /proc to count threads"
)
@pytest.mark.parametrize(
    ("arguments", "omp_num_threads", "threads"),
    [
        ("32, 10", "8", 1),
        ("2000, 10", "8", 1),
        ("2000, 10, 3", "8", 3),
        ("2000, 10, 1", "8", 1),
        ("600, 10, 8", "8", 3),
        ("2000, 1000", "1", 1),
        ("2000, 1000", "1000", min(PROCESSORS, 125)),
        ("1000, 10000, 10**9", "1", min(max(64, PROCESSORS), 1000)),
    ],
)
def test_number_of_threads(arguments: str, omp_num_threads: str, threads: int) -> None:
    """OpenMP's threads wait for more work after the call, where they can be counted."""
    done = run_python(
        COUNT_THREADS.format(arguments=arguments),
        OMP_NUM_THREADS=omp_num_threads,
        OPENBLAS_NUM_THREADS="1",
    )
    assert int(done.stdout) == threads, done.stderr


def test_guards_around_a_threaded_call() -> None:
    logits = GuardedArray(np.zeros((1000, 100), np.float32), "padded_rows")
    softmax_cross_entropy_grad(logits.array, np.zeros(1000, int), out=logits.array, num_threads=4)
    logits.assert_guards_intact()
    np.testing.assert_allclose(logits.array[:, 1:], 1e-5, rtol=1e-6)


PACKAGE = Path(xent_fast.__file__).parent
OPTION_TYPES = runpy.run_path(str(PACKAGE / "_options.pyi"))  # for type checkers: no module

FILES_OF_OVERLOADS = sorted(
    file.name
    for file in PACKAGE.glob("_*.py*")
    if file.suffix in (".py", ".pyi") and "**options: Unpack[" in file.read_text(encoding="utf-8")
)


@pytest.mark.thread_unsafe(reason="Python 3.11's ast.parse fails beside itself in another thread")
@pytest.mark.parametrize("file", FILES_OF_OVERLOADS)
def test_overloads_take_every_argument(file: str) -> None:
    """Their `**options` stand for the keywords that they do not name."""
    found = 0
    for node in ast.parse((PACKAGE / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.args.kwarg is not None:
            arguments = node.args
            named = {each.arg for each in [*arguments.args, *arguments.kwonlyargs]}
            options = re.fullmatch(r"Unpack\[(\w+)\]", ast.unparse(arguments.kwarg.annotation))
            taken = OPTION_TYPES[options[1]]
            shared = taken.__required_keys__ | taken.__optional_keys__
            assert not named & shared
            assert named | shared == set(
                inspect.signature(getattr(xent_fast, node.name)).parameters
            )
            found += 1
    assert found >= 2
