"""
Sampled softmax: many classes, few of them at a time
====================================================

With 5,000 classes most of a training step is spent on logits of classes that are wrong anyway.
Sampled softmax takes the targets and some drawn classes, and corrects their logits by how often
each is drawn.
"""

# %%
# A made world: each class is a direction, an example lies near its class's; class k is drawn with
# probability proportional to 1 / (k + 1), as words are.
import time

import matplotlib.pyplot as plt
import numpy as np

from xent_fast import sampled_softmax_loss_grad, softmax_cross_entropy, softmax_cross_entropy_grad

CLASSES, FEATURES, BATCH = 5000, 32, 256
rng = np.random.default_rng(0)
directions = rng.standard_normal((CLASSES, FEATURES)).astype(np.float32)
share = 1 / np.arange(1, CLASSES + 1)


def batch(rows: int) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.choice(CLASSES, rows, p=share / share.sum())
    noise = rng.standard_normal((rows, FEATURES)).astype(np.float32)
    return (directions[labels] + noise) / 2, labels


x_test, y_test = batch(1000)

# %%
# The law: where every class is drawn, no chance remains, and loss and gradient are the full ones.
drawn = sampled_softmax_loss_grad(x_test, directions, None, y_test, num_sampled=CLASSES)
loss, grad = softmax_cross_entropy_grad(x_test @ directions.T, y_test)
assert abs(drawn.loss - loss) < 1e-5
assert np.allclose(drawn.grad_weight, (grad.T @ x_test)[drawn.rows], atol=1e-6)


# %%
# The same steps with all classes and with 200 drawn ones.
def train(num_sampled: int | None, steps: int = 150, rate: float = 20.0) -> tuple[list, float]:
    """Full test losses every 10 steps, and seconds in the steps."""
    weight = np.zeros((CLASSES, FEATURES), np.float32)
    losses, seconds = [], 0.0
    for step in range(steps):
        hidden, labels = batch(BATCH)
        started = time.perf_counter()
        if num_sampled is None:
            logits = hidden @ weight.T
            grad = softmax_cross_entropy_grad(logits, labels, out=logits).grad
            weight -= rate * (grad.T @ hidden)
        else:
            result = sampled_softmax_loss_grad(
                hidden, weight, None, labels, num_sampled=num_sampled, rng=step
            )
            weight[result.rows] -= rate * result.grad_weight
        seconds += time.perf_counter() - started
        if step % 10 == 9:
            losses.append(softmax_cross_entropy(x_test @ weight.T, y_test))
    return losses, seconds


full, full_seconds = train(None)
sampled, sampled_seconds = train(200)
print(f"log {CLASSES} = {np.log(CLASSES):.2f} nats is what nobody who knows nothing goes below")
print(f"all classes: test loss {full[-1]:.2f}; 200 drawn: {sampled[-1]:.2f}")
print(f"time in the steps: all {full_seconds:.2f} s, drawn {sampled_seconds:.2f} s")
assert sampled[-1] < 0.7 * np.log(CLASSES)
assert sampled[-1] < full[-1] + 1.0

# %%
# Each step with drawn classes learns a little less, and takes a fraction of the time.
figure, axes = plt.subplots(figsize=(6, 4))
for name, losses, seconds in (
    ("all classes", full, full_seconds),
    ("200", sampled, sampled_seconds),
):
    axes.plot(np.linspace(0, seconds, len(losses) + 1)[1:], losses, "o-", label=name)
axes.set(xlabel="seconds in training steps", ylabel="full test loss, nats")
axes.legend()
figure.tight_layout()
