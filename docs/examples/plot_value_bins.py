"""
A value as a class: two-hot targets
===================================

Numbers can be learned by classification: cut their range into bins, and share each target between
its two nearest bins (two-hot). What is learned is a whole distribution: its mean does as least
squares does, and its median does not follow outliers.
"""

# %%
# The law: a two-hot target has the number that it stands for as its mean.
import matplotlib.pyplot as plt
import numpy as np

from xent_fast import softmax, softmax_cross_entropy_grad

CENTRES = np.linspace(-2, 2, 41)


def two_hot(values: np.ndarray) -> np.ndarray:
    """Each row's mass on the two nearest centres, in inverse proportion to their distances."""
    place = np.clip((values - CENTRES[0]) / (CENTRES[1] - CENTRES[0]), 0, len(CENTRES) - 1)
    low = np.minimum(place.astype(int), len(CENTRES) - 2)
    targets = np.zeros((len(values), len(CENTRES)))
    rows = np.arange(len(values))
    targets[rows, low], targets[rows, low + 1] = 1 - (place - low), place - low
    return targets


values = np.random.default_rng(1).uniform(-2, 2, 1000)
assert np.allclose(two_hot(values) @ CENTRES, values, atol=1e-12)

# %%
# A made world: a wave, with one target in ten far off.
rng = np.random.default_rng(0)
x = rng.uniform(-1, 1, 600)
truth = np.sin(4 * x)
y = truth + 0.05 * rng.standard_normal(600)
y[rng.random(600) < 0.1] = 2
features = np.exp(-20 * (x[:, np.newaxis] - np.linspace(-1, 1, 25)) ** 2)

# %%
# The classifier is a linear layer on 25 bumps, the other one least squares on the same.
weight = np.zeros((25, len(CENTRES)))
targets = two_hot(y)
losses = []
for _ in range(3000):
    logits = features @ weight
    loss, grad = softmax_cross_entropy_grad(logits, targets, out=logits)
    weight -= 2.0 * (features.T @ grad)
    losses.append(loss)

p = softmax(features @ weight)
by_mean = p @ CENTRES
by_median = CENTRES[(p.cumsum(axis=1) >= 0.5).argmax(axis=1)]
by_squares = features @ np.linalg.lstsq(features, y, rcond=None)[0]


def error(predicted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((predicted - truth) ** 2)))


print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f} nats")
print(
    f"error: least squares {error(by_squares):.3f}, mean of the bins {error(by_mean):.3f}, "
    f"their median {error(by_median):.3f}"
)
assert losses[-1] < losses[0] - 1
assert error(by_median) < 0.5 * error(by_squares)

# %%
# The network knows a whole distribution: its median does not see the outliers.
figure, axes = plt.subplots(figsize=(6, 4))
order = np.argsort(x)
axes.plot(x, y, ".", color="0.8", label="targets")
axes.plot(x[order], by_squares[order], label="least squares")
axes.plot(x[order], by_median[order], label="median of the bins")
axes.plot(x[order], truth[order], "k:", label="truth")
axes.legend()
figure.tight_layout()
