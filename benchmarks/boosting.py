"""What gradient and Hessian diagonal together cost, beside the gradient alone and plain NumPy.

Knows: the shapes and layouts in which XGBoost (C order, float32) and LightGBM (Fortran order,
float64) hold their scores. Must not know: how anything is computed.

    python -m benchmarks.boosting [--training | --catboost]

With --training: a round of XGBoost and of LightGBM by their own objectives, by these and by NumPy's
formulas instead. With --catboost: CatBoost's own loss beside the recipe of docs/boosting.md.
"""

import re
import runpy
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import xent_fast
from benchmarks.where import where

SHAPES = ((100_000, 3), (100_000, 10), (10_000, 50), (256, 1000))
CASES = [
    *((dtype, order, *shape) for dtype in (np.float32, np.float64) for order in "CF"
      for shape in SHAPES),
    # three arrays beyond any cache: what memory takes
    *((np.float32, order, 400_000, 10) for order in "CF"),
]  # fmt: skip
SECONDS = 0.2  # a case and function
ROUNDS = 10  # of a training
TURNS = 10  # of the objectives: what else the machine does meets them alike


def numpy_objective(
    scores: np.ndarray, labels: np.ndarray, grad: np.ndarray, hessian: np.ndarray
) -> None:
    """As one writes it, with as few new arrays as possible."""
    np.subtract(scores, scores.max(axis=1, keepdims=True), out=grad)
    np.exp(grad, out=grad)
    grad /= grad.sum(axis=1, keepdims=True)
    np.subtract(1, grad, out=hessian)
    hessian *= grad
    hessian *= 2
    np.maximum(hessian, 1e-16, out=hessian)
    grad[np.arange(len(labels)), labels] -= 1


def milliseconds(call: Callable[[], object]) -> float:
    """The shortest of many, in the time of this process: other programs only add."""
    call()
    shortest, end = np.inf, time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        started = time.process_time()
        call()
        shortest = min(shortest, time.process_time() - started)
    return 1e3 * shortest


def line(dtype: type, order: str, rows: int, classes: int) -> str:
    """What one case takes."""
    rng = np.random.default_rng(0)
    scores = np.array(2 * rng.standard_normal((rows, classes)), dtype=dtype, order=order)
    labels = rng.integers(0, classes, rows)
    grad, hessian = np.empty_like(scores), np.empty_like(scores)
    alone = milliseconds(
        lambda: xent_fast.softmax_cross_entropy_grad(
            scores, labels, reduction="sum", out=grad, num_threads=1
        )
    )
    both = milliseconds(
        lambda: xent_fast.softmax_cross_entropy_grad_hessian(
            scores,
            labels,
            factor=2.0,
            min_hessian=1e-16,
            grad_out=grad,
            hessian_out=hessian,
            num_threads=1,
        )
    )
    new = milliseconds(
        lambda: xent_fast.softmax_cross_entropy_grad_hessian(
            scores, labels, factor=2.0, min_hessian=1e-16, num_threads=1
        )
    )
    plain = milliseconds(lambda: numpy_objective(scores, labels, grad, hessian))
    name = f"{np.dtype(dtype).name} {order} {rows} x {classes}"
    ours = f"{alone:7.2f}{both:11.2f}{both / alone:7.2f}{new:13.2f}"
    return f"{name:22}{ours}{plain:8.2f}{plain / both:7.2f}"


def numpy_derivatives(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    grad, hessian = np.empty_like(scores), np.empty_like(scores)
    numpy_objective(scores, labels, grad, hessian)
    return grad, hessian


def made_problem() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100_000, 6)).astype(np.float32)
    scores = x[:, :4] + 0.5 * x[:, 1:5] ** 2 + rng.gumbel(size=(100_000, 4))
    return x, scores.argmax(axis=1)


def time_training() -> None:
    import lightgbm
    import xgboost
    from sklearn.datasets import load_digits, load_iris

    from xent_fast.boosting import lightgbm_objective, xgboost_objective

    def by_numpy(scores: np.ndarray, _: object) -> tuple[np.ndarray, np.ndarray]:
        return numpy_derivatives(scores, labels)

    def train_xgboost(objective: object) -> None:
        options = {"max_depth": 4, "num_class": classes, "nthread": 1}
        if objective is None:
            options["objective"] = "multi:softprob"
        xgboost.train(options, matrix, ROUNDS, obj=objective)

    def train_lightgbm(objective: object) -> None:
        options = {"num_leaves": 15, "num_class": classes, "num_threads": 1, "verbose": -1}
        lightgbm.train({**options, "objective": objective or "multiclass"}, data, ROUNDS)

    print("| ms a round | built-in | xent_fast | NumPy |\n| --- | ---: | ---: | ---: |")
    for name, (x, y) in (
        ("made, 100,000 x 6 → 4", made_problem()),
        ("digits, 1,797 x 64 → 10", load_digits(return_X_y=True)),
        ("iris, 150 x 4 → 3", load_iris(return_X_y=True)),
    ):
        matrix, labels, classes = xgboost.DMatrix(x, y), y.astype(int), int(y.max()) + 1
        for library, train, objective in (
            ("XGBoost", train_xgboost, xgboost_objective()),
            ("LightGBM", train_lightgbm, lightgbm_objective()),
        ):
            times = [np.inf] * 3
            for _ in range(TURNS):
                for i, chosen in enumerate((None, objective, by_numpy)):
                    data = lightgbm.Dataset(x, y).construct()
                    times[i] = min(times[i], milliseconds(partial(train, chosen)) / ROUNDS)
            cells = " | ".join(f"{time:.2f}" for time in times)
            print(f"| {library}, {name} | {cells} |", flush=True)


def catboost_recipe(folder: Path) -> type:
    """The objective of docs/boosting.md, from a file: with Numba CatBoost reads its source."""
    page = (Path(__file__).parents[1] / "docs" / "boosting.md").read_text(encoding="utf-8")
    recipe = re.search(r"```python\n(import numpy as np\n.*?class .*?)```", page, re.DOTALL)
    assert recipe is not None
    file = folder / "recipe.py"
    file.write_text(recipe[1], encoding="utf-8")
    return runpy.run_path(str(file))["MultiClass"]


def time_catboost(folder: Path) -> None:
    import catboost  # in nobody's way who has it not
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    options = {"iterations": 50, "verbose": False, "thread_count": 1, "allow_writing_files": False}
    for name, loss in (("own loss", "MultiClass"), ("recipe", catboost_recipe(folder)())):
        model = catboost.CatBoostClassifier(
            loss_function=loss, eval_metric="MultiClass", classes_count=3, **options
        )
        shortest = milliseconds(partial(model.fit, x, y))
        print(f"CatBoost, 50 rounds on iris, {name}: {shortest:.0f} ms")


def main() -> None:
    print(where("xgboost", "lightgbm", "catboost"), end="\n\n")
    if "--catboost" in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            time_catboost(Path(folder))
        return
    if "--training" in sys.argv[1:]:
        time_training()
        return
    print("ms, one thread          grad  + hessian  ratio  in new ones   NumPy  ratio")
    for case in CASES:
        print(line(*case), flush=True)


if __name__ == "__main__":
    main()
