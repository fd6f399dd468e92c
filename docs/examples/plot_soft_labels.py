"""
Soft labels: learn what is not certain
======================================

When people disagree about a row, their shares of votes are the target. The loss of such a target
is smallest where the model's probabilities are the shares themselves; with one vote a row it is
smallest there on average only.
"""

# %%
# A world that we know: the true probabilities are a softmax of linear scores.
import matplotlib.pyplot as plt
import numpy as np

from xent_fast import softmax, softmax_cross_entropy, softmax_cross_entropy_grad
from xent_fast.sklearn import SoftmaxClassifier

rng = np.random.default_rng(0)
truth = 1.5 * rng.standard_normal((3, 4))


def world(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, and the true probabilities of three classes."""
    x = rng.standard_normal((rows, 4))
    return x, softmax(x @ truth.T)


x, p = world(200)
x_test, p_test = world(5000)

# %%
# The law: the gradient with respect to the logits is p - t, so it vanishes where p = t, and the
# loss there is the entropy of t: no model can go below that.
loss, grad = softmax_cross_entropy_grad(x @ truth.T, p)
entropy = -(p * np.log(p)).sum(axis=1).mean()
print(f"loss at the truth {loss:.6f}, entropy of the targets {entropy:.6f}")
assert np.abs(grad).max() < 1e-12
assert abs(loss - entropy) < 1e-12

# %%
# Train on the shares of 1, 2, ... 32 votes a row, and see how far the test loss stays above that
# bound: the Kullback-Leibler divergence from the truth.
voters = [1, 2, 4, 8, 16, 32]
bound = -(p_test * np.log(p_test)).sum(axis=1).mean()
excess = []
for count in voters:
    shares = rng.multinomial(count, p) / count
    model = SoftmaxClassifier(C=10.0).fit(x, shares)
    logits = x_test @ model.coef_.T + model.intercept_
    excess.append(softmax_cross_entropy(logits, p_test) - bound)
    print(f"{count:3} votes a row: {excess[-1]:.5f} nats above the bound")
assert excess[-1] < excess[0] / 4

# %%
# Twice the votes, half the excess.
figure, axes = plt.subplots(figsize=(6, 4))
axes.loglog(voters, excess, "o-", label="measured")
axes.loglog(voters, excess[0] / np.array(voters), ":", label="1 / votes")
axes.set(xlabel="votes a row", ylabel="test loss above the entropy, nats")
axes.legend()
figure.tight_layout()
