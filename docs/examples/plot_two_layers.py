"""
A network of two layers, by hand
================================

Three spirals, as in Stanford's course CS231n: a straight line does not part them, a small network
does. Forward and backward are NumPy; the loss and its gradient are one call.
"""

# %%
# The data: a point's class is the arm of the spiral that it lies on.
import matplotlib.pyplot as plt
import numpy as np

from xent_fast import softmax_cross_entropy, softmax_cross_entropy_grad

rng = np.random.default_rng(0)
radius = np.tile(np.linspace(0.05, 1, 100), 3)
labels = np.repeat([0, 1, 2], 100)
angle = 4 * radius + labels * 2 * np.pi / 3 + 0.2 * rng.standard_normal(300)
points = radius[:, np.newaxis] * np.stack([np.sin(angle), np.cos(angle)], axis=1)

# %%
# The law: a step in any direction changes the loss as the gradient says, and its rows sum to 0,
# since a constant that is added to a row's logits changes no probability.
logits, along = rng.standard_normal((2, 300, 3))
grad = softmax_cross_entropy_grad(logits, labels).grad
up, down = (softmax_cross_entropy(logits + h * along, labels) for h in (1e-5, -1e-5))
assert abs((up - down) / 2e-5 - np.sum(grad * along)) < 1e-9
assert np.abs(grad.sum(axis=1)).max() < 1e-15

# %%
# The network, and a training step. ``out=logits`` writes the gradient over the logits, so that no
# second array of their size is made.
weights = [rng.standard_normal((2, 100)) * 0.5, rng.standard_normal((100, 3)) * 0.1]
biases = [np.zeros(100), np.zeros(3)]


def step(rate: float) -> float:
    """One step of gradient descent; the loss before it."""
    hidden = np.maximum(points @ weights[0] + biases[0], 0)
    logits = hidden @ weights[1] + biases[1]
    loss, grad = softmax_cross_entropy_grad(logits, labels, out=logits)
    grad_hidden = (grad @ weights[1].T) * (hidden > 0)
    weights[1] -= rate * (hidden.T @ grad)
    biases[1] -= rate * grad.sum(axis=0)
    weights[0] -= rate * (points.T @ grad_hidden)
    biases[0] -= rate * grad_hidden.sum(axis=0)
    return loss


losses = [step(1.0) for _ in range(1500)]


# %%
# A network that knows nothing has a loss of log 3; this one ends far below.
def scores(where: np.ndarray) -> np.ndarray:
    return np.maximum(where @ weights[0] + biases[0], 0) @ weights[1] + biases[1]


accuracy = np.mean(scores(points).argmax(axis=1) == labels)
print(
    f"loss {losses[0]:.3f} (log 3 = {np.log(3):.3f}) -> {losses[-1]:.3f}, accuracy {accuracy:.3f}"
)
assert abs(losses[0] - np.log(3)) < 0.2
assert losses[-1] < 0.1
assert accuracy > 0.97

# %%
# What it has learned: the class of every place.
grid = np.stack(np.meshgrid(np.linspace(-1.2, 1.2, 200), np.linspace(-1.2, 1.2, 200)), axis=-1)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
left.plot(losses)
left.set(xlabel="step", ylabel="loss, nats", yscale="log")
right.contourf(grid[..., 0], grid[..., 1], scores(grid).argmax(axis=-1), alpha=0.4)
right.scatter(*points.T, c=labels, s=12)
right.set_aspect("equal")
figure.tight_layout()
