"""`xent_fast.boosting` beside the objectives that XGBoost and LightGBM bring themselves.

Knows how each library is trained and shows its trees. Must not know how a derivative is computed.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xent_fast
from xent_fast.boosting import lightgbm_objective, xgboost_objective

datasets = pytest.importorskip("sklearn.datasets")
xgboost = pytest.importorskip("xgboost")
lightgbm = pytest.importorskip("lightgbm")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
ROUNDS = 5


def made() -> tuple[np.ndarray, np.ndarray]:
    """100,000 rows of 6 numbers in 4 classes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100_000, 6)).astype(np.float32)
    scores = x[:, :4] + 0.5 * x[:, 1:5] ** 2 + rng.gumbel(size=(100_000, 4))
    return x, scores.argmax(axis=1)


DATA = {
    "iris": lambda: datasets.load_iris(return_X_y=True),
    "digits": lambda: datasets.load_digits(return_X_y=True),
    "made": made,
}


def weights_of(rows: int, weighted: bool) -> np.ndarray | None:
    return np.random.default_rng(1).random(rows).astype(np.float32) + 0.5 if weighted else None


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", DATA)
def test_xgboost_grows_the_same_trees(name: str, weighted: bool) -> None:
    x, y = DATA[name]()
    data = xgboost.DMatrix(x, y, weight=weights_of(len(y), weighted))
    options = {"num_class": int(y.max()) + 1, "nthread": 1, "base_score": 0.5, "max_depth": 4}
    own = xgboost.train({**options, "objective": "multi:softprob"}, data, ROUNDS)
    ours = xgboost.train(options, data, ROUNDS, obj=xgboost_objective())
    want, got = own.predict(data, output_margin=True), ours.predict(data, output_margin=True)
    pairs = list(zip(own.get_dump(), ours.get_dump(), strict=True))
    same = [splits(a) == splits(b) for a, b in pairs]
    # Where two splits gain the same but for rounding, either may be taken.
    assert np.mean(same) >= 0.9
    assert np.mean(np.abs(got - want).max(axis=1) < 1e-5) > 0.99
    for (a, b), is_same in zip(pairs, same, strict=True):
        if is_same:
            np.testing.assert_allclose(leaves(b), leaves(a), rtol=0, atol=1e-5)


def splits(tree: str) -> list[str]:
    """Features and thresholds, every digit of them."""
    return re.findall(r"\[(f\d+<[-\d.e+]+)\]", tree)


def leaves(tree: str) -> list[float]:
    return [float(value) for value in re.findall(r"leaf=([-\d.e+]+)", tree)]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", DATA)
def test_lightgbm_grows_the_same_trees(name: str, weighted: bool) -> None:
    x, y = DATA[name]()
    classes = int(y.max()) + 1
    options: dict[str, Any] = {
        "num_class": classes,
        "num_threads": 1,
        "verbose": -1,
        "deterministic": True,
        "boost_from_average": False,
    }

    def trained(objective: Any) -> Any:
        data = lightgbm.Dataset(x, y, weight=weights_of(len(y), weighted))
        return lightgbm.train({**options, "objective": objective}, data, ROUNDS)

    own, ours = trained("multiclass"), trained(lightgbm_objective())
    want, got = own.predict(x, raw_score=True), ours.predict(x, raw_score=True)
    assert np.mean(np.abs(got - want).max(axis=1) < 1e-6) > 0.99
    trees = [model.trees_to_dataframe() for model in (own, ours)]
    features = [frame["split_feature"].fillna("leaf").to_numpy() for frame in trees]
    numbers = [frame[["threshold", "value"]].fillna(0).to_numpy() for frame in trees]
    close = np.isclose(*numbers, rtol=1e-6, atol=1e-6).all(axis=1)
    assert np.mean((features[0] == features[1]) & close) > 0.95


@pytest.mark.parametrize("order", "CF")
def test_objective_itself(order: str) -> None:
    rng = np.random.default_rng(0)
    scores = np.array(rng.standard_normal((50, 3)), order=order)
    labels = rng.integers(0, 3, 50).astype(np.float32)
    weights = rng.random(50)
    e = np.exp(scores)
    p = e / e.sum(axis=1, keepdims=True)
    onehot = np.eye(3)[labels.astype(int)]
    for objective, factor in ((xgboost_objective(), 2.0), (lightgbm_objective(), 1.5)):
        for weight in (None, weights):
            grad, hessian = objective(labels, scores, weight)
            row = 1.0 if weight is None else weight[:, np.newaxis]
            np.testing.assert_allclose(grad, row * (p - onehot), rtol=1e-12)
            np.testing.assert_allclose(hessian, factor * row * p * (1 - p), rtol=1e-12)
            assert grad.flags.f_contiguous == hessian.flags.f_contiguous == (order == "F")
    again = pickle.loads(pickle.dumps(xgboost_objective(label_smoothing=0.1)))
    np.testing.assert_array_equal(
        again(labels, scores)[0], xgboost_objective(label_smoothing=0.1)(labels, scores)[0]
    )


def test_soft_labels_and_smoothing() -> None:
    """Hard labels as one-hot rows train the same model; smoothed ones are less sure."""
    x, y = datasets.load_iris(return_X_y=True)
    data = xgboost.DMatrix(x, y)
    options = {"num_class": 3, "nthread": 1}
    hard = xgboost.train(options, data, ROUNDS, obj=xgboost_objective())
    soft = xgboost.train(options, data, ROUNDS, obj=xgboost_objective(soft_labels=np.eye(3)[y]))
    smooth = xgboost.train(options, data, 40, obj=xgboost_objective(label_smoothing=0.3))
    np.testing.assert_allclose(
        soft.predict(data, output_margin=True), hard.predict(data, output_margin=True), atol=1e-4
    )
    assert xent_fast.softmax(smooth.predict(data, output_margin=True)).max() < 0.9


@pytest.mark.parametrize("weighted", [False, True])
def test_scikit_learn_classes(weighted: bool) -> None:
    x, y = datasets.load_iris(return_X_y=True)
    weights = weights_of(len(y), weighted)
    model = xgboost.XGBClassifier(objective=xgboost_objective(), n_estimators=5, n_jobs=1)
    model.fit(x, y, sample_weight=weights)
    assert model.get_booster().predict(xgboost.DMatrix(x), output_margin=True).shape == (150, 3)
    light = lightgbm.LGBMClassifier(
        objective=lightgbm_objective(), n_estimators=5, n_jobs=1, verbose=-1
    )
    light.fit(x, y, sample_weight=weights)
    scores = light.predict(x, raw_score=True)
    assert np.mean(scores.argmax(axis=1) == y) > 0.9


def test_errors() -> None:
    objective = xgboost_objective()
    with pytest.raises(ValueError, match=r"labels must be whole numbers .* not 0.5 \(row 1\)"):
        objective(np.array([0, 0.5]), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="not nan"):
        objective(np.array([np.nan, 0.0]), np.zeros((2, 3)))
    with pytest.raises(IndexError, match="index 3 is out of bounds"):
        objective(np.array([0.0, 3.0]), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="set num_class"):
        objective(np.array([0.0, 1.0]), np.zeros(2))
    with pytest.raises(ValueError, match=r"soft_labels must have the scores' shape \(2, 3\)"):
        xgboost_objective(soft_labels=np.eye(3))(np.zeros(2), np.zeros((2, 3)))


def test_catboost_recipe(tmp_path: Path) -> None:
    """The objective of docs/boosting.md does as CatBoost's own."""
    catboost = pytest.importorskip("catboost")
    from benchmarks.boosting import catboost_recipe

    x, y = datasets.load_iris(return_X_y=True)
    options = {"iterations": 10, "verbose": False, "thread_count": 1, "random_seed": 0}
    options["allow_writing_files"] = False
    own = catboost.CatBoostClassifier(loss_function="MultiClass", **options).fit(x, y)
    ours = catboost.CatBoostClassifier(
        loss_function=catboost_recipe(tmp_path)(),
        eval_metric="MultiClass",
        classes_count=3,
        **options,
    ).fit(x, y)
    scores = ours.predict(x, prediction_type="RawFormulaVal")
    assert np.mean(scores.argmax(axis=1) == y) >= own.score(x, y) - 0.02
