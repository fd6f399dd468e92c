"""The sampled softmax against its formula, the full softmax, finite differences and TensorFlow.

Knows the formula, the distributions and what bad input must raise.
Must not know how a gradient is computed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from xent_fast import _sampled, reference, softmax_cross_entropy_grad

SampledLoss = Callable[..., Any]


@pytest.fixture(params=[reference, _sampled], ids=["reference", "xent_fast"])
def sampled_loss(request: pytest.FixtureRequest) -> SampledLoss:
    return request.param.sampled_softmax_loss_grad


@dataclass(frozen=True)
class Layer:
    """An output layer, its input and the targets."""

    hidden: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    targets: np.ndarray

    @property
    def arguments(self) -> tuple[np.ndarray, ...]:
        return self.hidden, self.weight, self.bias, self.targets

    @property
    def logits(self) -> np.ndarray:
        """Those of all classes."""
        return self.hidden @ self.weight.T + self.bias


def make_layer(
    batch: int = 5, features: int = 3, classes: int = 12, dtype: type = np.float64
) -> Layer:
    rng = np.random.default_rng(classes)
    return Layer(
        rng.standard_normal((batch, features)).astype(dtype),
        rng.standard_normal((classes, features)).astype(dtype),
        rng.standard_normal(classes).astype(dtype),
        rng.integers(0, classes, batch),
    )


def sampled_logits(layer: Layer, samples: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Corrected logits of the target and of the samples; -inf for a sample that is the target."""
    corrected = layer.logits - np.log(counts)
    of_target = corrected[np.arange(len(layer.targets)), layer.targets]
    of_samples = np.where(samples == layer.targets[:, np.newaxis], -np.inf, corrected[:, samples])
    return np.concatenate([of_target[:, np.newaxis], of_samples], axis=1)


def dense_gradients(result: Any, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias gradients with a row for every class."""
    grad_weight, grad_bias = np.zeros_like(layer.weight), np.zeros_like(layer.bias)
    grad_weight[result.rows], grad_bias[result.rows] = result.grad_weight, result.grad_bias
    return grad_weight, grad_bias


def given_sample(classes: int, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Samples that may repeat, and made-up expected counts."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, classes, count), rng.random(classes) + 0.1


def test_formula(sampled_loss: SampledLoss) -> None:
    layer = make_layer()
    samples, counts = given_sample(12, 7)
    logits = sampled_logits(layer, samples, counts)
    exponentials = np.exp(logits)
    p = exponentials / exponentials.sum(axis=1, keepdims=True)
    a = np.array([0.5, 1.0, 0.0, 2.0, 1.5])
    factor = 3.0 * a / a.sum()
    grad_logits = p.copy()
    grad_logits[:, 0] -= 1
    grad_logits *= factor[:, np.newaxis]
    classes = np.column_stack([layer.targets, np.broadcast_to(samples, (5, 7))])
    want_hidden = np.einsum("nk,nkd->nd", grad_logits, layer.weight[classes])
    want_weight, want_bias = np.zeros_like(layer.weight), np.zeros_like(layer.bias)
    np.add.at(want_weight, classes, grad_logits[:, :, np.newaxis] * layer.hidden[:, np.newaxis, :])
    np.add.at(want_bias, classes, grad_logits)

    result = sampled_loss(
        *layer.arguments,
        num_sampled=7,
        sampler=(samples, counts),
        sample_weight=a,
        scale=3.0,
    )

    assert result.loss == pytest.approx((factor * -np.log(p[:, 0])).sum(), rel=1e-13)
    np.testing.assert_allclose(result.grad_hidden, want_hidden, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(result.rows, np.union1d(layer.targets, samples))
    grad_weight, grad_bias = dense_gradients(result, layer)
    np.testing.assert_allclose(grad_weight, want_weight, rtol=0, atol=1e-14)
    np.testing.assert_allclose(grad_bias, want_bias, rtol=0, atol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("sampler", ["log_uniform", "uniform", "given"])
def test_all_classes_drawn_is_the_full_softmax(
    sampled_loss: SampledLoss, sampler: str, reduction: str
) -> None:
    layer = make_layer()
    everything = (np.random.default_rng(1).permutation(12), np.ones(12))
    full_loss, full_grad = softmax_cross_entropy_grad(
        layer.logits, layer.targets, reduction=reduction
    )
    result = sampled_loss(
        *layer.arguments,
        num_sampled=12,
        sampler=everything if sampler == "given" else sampler,
        reduction=reduction,
    )
    np.testing.assert_allclose(result.loss, full_loss, rtol=1e-13)
    np.testing.assert_allclose(result.grad_hidden, full_grad @ layer.weight, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(result.rows, np.arange(12))
    np.testing.assert_allclose(result.grad_weight, full_grad.T @ layer.hidden, rtol=0, atol=1e-14)
    np.testing.assert_allclose(result.grad_bias, full_grad.sum(axis=0), rtol=0, atol=1e-14)


@pytest.mark.parametrize("sampler", ["log_uniform", "uniform", "given"])
@pytest.mark.parametrize("remove_accidental_hits", [True, False])
@pytest.mark.parametrize(("reduction", "scale"), [("mean", 1.0), ("sum", -2.5), ("none", 0.5)])
def test_finite_differences(
    sampled_loss: SampledLoss,
    sampler: str,
    remove_accidental_hits: bool,
    reduction: str,
    scale: float,
) -> None:
    """The same seed draws the same classes in every call."""
    layer = make_layer(batch=4, features=2, classes=5)
    options = {
        "num_sampled": 4,
        "sampler": given_sample(5, 4) if sampler == "given" else sampler,
        "rng": 3,
        "remove_accidental_hits": remove_accidental_hits,
        "sample_weight": np.array([1.0, 2.0, 0.5, 0.0]),
        "reduction": reduction,
        "scale": scale,
    }
    result = sampled_loss(*layer.arguments, **options)
    grad_weight, grad_bias = dense_gradients(result, layer)
    for name, grad in (
        ("hidden", result.grad_hidden),
        ("weight", grad_weight),
        ("bias", grad_bias),
    ):
        for position in np.ndindex(grad.shape):
            losses = []
            for step in (1e-5, -1e-5):
                moved = getattr(layer, name).copy()
                moved[position] += step
                result = sampled_loss(*replace(layer, **{name: moved}).arguments, **options)
                losses.append(np.sum(result.loss))
            slope = (losses[0] - losses[1]) / 2e-5
            assert grad[position] == pytest.approx(slope, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("sampler", ["log_uniform", "uniform"])
def test_the_library_equals_its_definition(sampler: str, dtype: type) -> None:
    """The same generator gives the same sample; float32 rounds logits of order 10."""
    layer = make_layer(batch=20, features=16, classes=300, dtype=dtype)
    options = {"num_sampled": 40, "sampler": sampler}
    generators = [np.random.default_rng(5) for _ in range(2)]
    got, want = (
        module.sampled_softmax_loss_grad(*layer.arguments, rng=rng, **options)
        for module, rng in zip((_sampled, reference), generators, strict=True)
    )
    assert generators[0].random() == generators[1].random()
    np.testing.assert_array_equal(got.rows, want.rows)
    tolerance = 100 * float(np.finfo(dtype).eps)
    assert got.loss == pytest.approx(want.loss, rel=tolerance)
    for name in ("grad_hidden", "grad_weight", "grad_bias"):
        assert getattr(got, name).dtype == dtype
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=0, atol=tolerance)


# --- the sample -----------------------------------------------------------------------------------


def probabilities(sampler: str, classes: int) -> np.ndarray:
    k = np.arange(classes)
    if sampler == "uniform":
        return np.full(classes, 1 / classes)
    return np.log((k + 2) / (k + 1)) / np.log(classes + 1)


def sampled_classes(sampled_loss: SampledLoss, seed: int, **options: Any) -> np.ndarray:
    """The sample alone: the rows of a batch of no example."""
    layer = make_layer(batch=0, features=1, classes=options.pop("classes"))
    return sampled_loss(*layer.arguments, rng=seed, **options).rows


@pytest.mark.parametrize("sampler", ["log_uniform", "uniform"])
def test_samples_are_distinct_and_follow_the_distribution(
    sampled_loss: SampledLoss, sampler: str
) -> None:
    """A single draw has probability P(k); of 1,000, each count is within 5 standard deviations."""
    for classes, count in ((10, 9), (1000, 64), (3, 2)):
        rows = sampled_classes(sampled_loss, 0, classes=classes, num_sampled=count, sampler=sampler)
        assert len(np.unique(rows)) == count
        assert rows.min() >= 0
        assert rows.max() < classes
    draws = 1000
    counts = np.zeros(6)
    for seed in range(draws):
        counts[sampled_classes(sampled_loss, seed, classes=6, num_sampled=1, sampler=sampler)] += 1
    p = probabilities(sampler, 6)
    assert counts.sum() == draws
    assert (np.abs(counts - draws * p) < 5 * np.sqrt(draws * p * (1 - p))).all()


@pytest.mark.parametrize("sampler", ["log_uniform", "uniform"])
def test_expected_counts(sampled_loss: SampledLoss, sampler: str) -> None:
    """The correction is log(1 - (1 - P)^n) for some whole n, the same for all classes."""
    layer = make_layer(batch=1, features=1, classes=8)
    p = probabilities(sampler, 8)
    for seed in range(8):
        options = {"num_sampled": 5, "sampler": sampler, "rng": seed}
        result = sampled_loss(*layer.arguments, **options)
        samples = sampled_classes(sampled_loss, seed, classes=8, num_sampled=5, sampler=sampler)
        losses = [
            sampled_loss(
                *layer.arguments,
                num_sampled=5,
                sampler=(samples, -np.expm1(draws * np.log1p(-p))),
            ).loss
            for draws in range(5, 80)
        ]
        if sampler == "log_uniform":
            assert np.isclose(losses, result.loss, rtol=1e-12, atol=0).sum() == 1
        else:  # the same correction for all cancels
            np.testing.assert_allclose(losses, result.loss, rtol=1e-12)


def test_the_correction_keeps_the_optimum(sampled_loss: SampledLoss) -> None:
    """Where targets follow the full softmax, its gradient is 0, and so is the sampled one's mean.

    Class k is sampled with probability Q_k, independently of the others; the mean is over every
    sample and target. A sample of no class has the gradient 0. By Bayes' rule the target's
    probability, given target and samples, is proportional to exp(logit) / Q.
    """
    layer = make_layer(batch=1, classes=4)
    inclusion = np.array([0.9, 0.3, 0.5, 0.2])
    p = np.exp(layer.logits[0])
    p /= p.sum()
    mean, size = np.zeros_like(layer.hidden), 0.0
    for is_sampled in itertools.product((False, True), repeat=4):
        samples = np.flatnonzero(is_sampled)
        if len(samples) == 0:
            continue
        probability = np.where(is_sampled, inclusion, 1 - inclusion).prod()
        for target in range(4):
            gradient = sampled_loss(
                *replace(layer, targets=np.array([target])).arguments,
                num_sampled=len(samples),
                sampler=(samples, inclusion),
            ).grad_hidden
            mean += p[target] * probability * gradient
            size += p[target] * probability * np.abs(gradient).sum()
    assert size > 0.1
    np.testing.assert_allclose(mean, 0, atol=1e-15)


def test_the_generator_decides_the_sample(sampled_loss: SampledLoss) -> None:
    layer = make_layer(classes=500)
    options = {"num_sampled": 20}
    first = sampled_loss(*layer.arguments, rng=np.random.default_rng(7), **options)
    again = sampled_loss(*layer.arguments, rng=7, **options)
    np.testing.assert_array_equal(first.rows, again.rows)
    assert first.loss == again.loss
    rng = np.random.default_rng(7)
    np.testing.assert_array_equal(
        sampled_loss(*layer.arguments, rng=rng, **options).rows, first.rows
    )
    assert not np.array_equal(sampled_loss(*layer.arguments, rng=rng, **options).rows, first.rows)
    by_chance = [sampled_loss(*layer.arguments, **options).loss for _ in range(2)]
    assert by_chance[0] != by_chance[1]


def test_accidental_hits(sampled_loss: SampledLoss) -> None:
    """A target that is also sampled is alone without its double, and halves with it."""
    layer = make_layer(batch=1)
    options = {"num_sampled": 1, "sampler": (layer.targets, np.full(12, 0.3))}
    alone = sampled_loss(*layer.arguments, **options)
    assert alone.loss == 0
    assert not alone.grad_hidden.any()
    np.testing.assert_array_equal(alone.rows, layer.targets)
    with_double = sampled_loss(*layer.arguments, remove_accidental_hits=False, **options)
    assert with_double.loss == pytest.approx(np.log(2), rel=1e-14)
    # Both gradients fall on the same row and cancel.
    np.testing.assert_allclose(with_double.grad_weight, 0, atol=1e-15)


def test_no_bias_and_no_example(sampled_loss: SampledLoss) -> None:
    layer = make_layer()
    options = {"num_sampled": 4, "rng": 0}
    without = sampled_loss(layer.hidden, layer.weight, None, layer.targets, **options)
    zeros = replace(layer, bias=np.zeros(12))
    assert without.loss == sampled_loss(*zeros.arguments, **options).loss
    empty = replace(layer, hidden=layer.hidden[:0], targets=layer.targets[:0])
    result = sampled_loss(*empty.arguments, **options)
    assert np.isnan(result.loss)
    assert result.grad_hidden.shape == (0, 3)
    assert not result.grad_weight.any()
    assert sampled_loss(*empty.arguments, reduction="sum", **options).loss == 0


def test_no_features(sampled_loss: SampledLoss) -> None:
    """Only the biases are left, call after call: sums over nothing are 0, whatever memory holds."""
    hidden, weight = np.ones((2, 3))[:, :0], np.ones((5, 3))[:, :0]
    bias = np.array([0.125, -0.25, 0.5, 0.0, -0.5])
    options = {"num_sampled": 5, "remove_accidental_hits": False, "reduction": "none"}
    lse = np.log(np.exp(bias).sum() + np.exp(bias[[4, 3]]))
    for _ in range(50):
        result = sampled_loss(hidden, weight, bias, [4, 3], **options)
        np.testing.assert_allclose(result.loss, lse - bias[[4, 3]], rtol=1e-12)
        assert result.grad_weight.shape == (5, 0)


def test_any_layout_and_nothing_is_written() -> None:
    layer = make_layer()
    options = {"num_sampled": 6, "rng": 2}
    want = _sampled.sampled_softmax_loss_grad(*layer.arguments, **options)
    for change in (
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=0)[::2],
        lambda a: a[::-1].copy()[::-1],
        lambda a: a.astype(a.dtype.newbyteorder()),
        lambda a: a.tolist(),
        lambda a: a.astype(np.uint8) if a.dtype.kind == "i" else a,
    ):
        given = [change(array) for array in layer.arguments]
        for array in given:
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
        got = _sampled.sampled_softmax_loss_grad(*given, **options)
        assert got.loss == pytest.approx(want.loss, rel=1e-14)
        for ours, theirs in zip(got[1:], want[1:], strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-15)


# --- TensorFlow -----------------------------------------------------------------------------------


@pytest.mark.slow  # TensorFlow takes ten seconds to import
@pytest.mark.parametrize("remove_accidental_hits", [True, False])
def test_tensorflow(remove_accidental_hits: bool) -> None:
    """Loss and gradients of `tf.nn.sampled_softmax_loss` on TensorFlow's own samples and counts."""
    tf = pytest.importorskip("tensorflow", exc_type=ModuleNotFoundError)
    layer = make_layer(batch=30, features=6, classes=50)
    labels = tf.constant(layer.targets[:, np.newaxis])
    drawn = tf.random.log_uniform_candidate_sampler(labels, 1, 20, True, 50, seed=1)
    samples = drawn.sampled_candidates.numpy()
    # Its expected counts in float32 are those of P for some number of draws.
    p = probabilities("log_uniform", 50)
    logs = np.log1p(-p[samples])
    draws = np.median(np.log1p(-drawn.sampled_expected_count.numpy()) / logs)
    counts = -np.expm1(np.round(draws) * np.log1p(-p))
    np.testing.assert_allclose(drawn.sampled_expected_count, counts[samples], rtol=1e-5)
    np.testing.assert_allclose(drawn.true_expected_count[:, 0], counts[layer.targets], rtol=1e-5)

    hidden, weight, bias = (tf.Variable(array) for array in layer.arguments[:3])
    with tf.GradientTape() as tape:
        loss = tf.nn.sampled_softmax_loss(
            weight,
            bias,
            labels,
            hidden,
            num_sampled=20,
            num_classes=50,
            sampled_values=(
                samples,
                tf.constant(counts[layer.targets][:, np.newaxis]),
                tf.constant(counts[samples]),
            ),
            remove_accidental_hits=remove_accidental_hits,
        )
        mean = tf.reduce_mean(loss)
    grads = [tf.convert_to_tensor(grad) for grad in tape.gradient(mean, [hidden, weight, bias])]
    result = _sampled.sampled_softmax_loss_grad(
        *layer.arguments,
        num_sampled=20,
        sampler=(samples, counts),
        remove_accidental_hits=remove_accidental_hits,
    )
    assert result.loss == pytest.approx(float(mean), rel=1e-12)
    got = (result.grad_hidden, *dense_gradients(result, layer))
    for ours, theirs in zip(got, grads, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)


# --- bad input ------------------------------------------------------------------------------------

LAYER = make_layer()
BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "weight of another dtype": (
        {"weight": LAYER.weight.astype(np.float32)},
        TypeError,
        "weight is float32, but hidden float64",
    ),
    "weight transposed": (
        {"weight": LAYER.weight.T},
        ValueError,
        r"weight must have shape \(classes, 3\), not \(3, 12\)",
    ),
    "bias of another shape": (
        {"bias": np.zeros(11)},
        ValueError,
        r"bias must have shape \(12,\), not \(11,\)",
    ),
    "last target too large": (
        {"targets": np.array([0, 1, 2, 3, 12])},
        IndexError,
        r"index 12 is out of bounds for axis 0 with size 12 \(targets\[4\]\)",
    ),
    "target beyond int64": (
        {"targets": np.array([0, 1, 2, 3, 2**63 + 1], np.uint64)},
        IndexError,
        "9223372036854775809",
    ),
    "no samples": ({"num_sampled": 0}, ValueError, "num_sampled must be at least 1, not 0"),
    "more samples than classes": (
        {"num_sampled": 13},
        ValueError,
        "num_sampled must be at most the number of classes 12, not 13",
    ),
    "sampler unknown": ({"sampler": "zipf"}, ValueError, "sampler must be 'log_uniform', 'uni"),
    "sample too large": (
        {"sampler": ([0, 1, 2, 12], np.ones(12))},
        IndexError,
        r"index 12 .* \(samples\[3\]\)",
    ),
    "samples of another number": (
        {"sampler": ([0, 1], np.ones(12))},
        ValueError,
        r"samples must have shape \(4,\) as num_sampled, not \(2,\)",
    ),
    "counts of another length": (
        {"sampler": ([0, 1, 2, 3], np.ones(4))},
        ValueError,
        r"expected_counts must have shape \(12,\), not \(4,\)",
    ),
    "count of NaN": (
        {"sampler": ([0, 1, 2, 3], np.r_[1.0, np.nan, np.ones(10)])},
        ValueError,
        r"expected_counts\[1\] must be positive and finite, not nan",
    ),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_input(case: str) -> None:
    changed, error, message = BAD_ARGUMENTS[case]
    arguments = {**vars(LAYER), "num_sampled": 4, **changed}
    with pytest.raises(error, match=message):
        _sampled.sampled_softmax_loss_grad(**arguments)
