"""
Policy gradient with an entropy bonus
=====================================

A policy's gradient is that of the cross-entropy with the actions taken as class indices and the
advantages as weights of rows. Weights of both signs want ``reduction="sum"`` and a ``scale`` of
1 / rows: a mean over weights that nearly cancel would divide by nearly 0.
"""

# %%
# A made world: ten slot machines; the best pays little more than the second. The policy is a vector
# of ten logits.
import matplotlib.pyplot as plt
import numpy as np

from xent_fast import softmax, softmax_cross_entropy_grad, softmax_entropy_grad

PAYS = np.array([0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5, 0.6, 0.9, 1.0])
ROWS = 32


# %%
# The law: the average of the gradient over many actions is that of the expected payoff itself.
rng = np.random.default_rng(0)
logits = rng.standard_normal(10)
p = softmax(logits)
actions = rng.choice(10, 200_000, p=p)
estimate = softmax_cross_entropy_grad(
    np.broadcast_to(logits, (200_000, 10)),
    actions,
    sample_weight=PAYS[actions] - p @ PAYS,
    reduction="sum",
    scale=1 / 200_000,
).grad.sum(axis=0)
exact = -p * (PAYS - p @ PAYS)  # of minus the expected payoff
print(f"largest difference from the exact gradient: {np.abs(estimate - exact).max():.1e}")
assert np.abs(estimate - exact).max() < 3e-3


# %%
# Train without and with a bonus on the entropy: minus the coefficient as ``scale`` gives what is
# added to the loss, and its gradient what is added to that of the loss.
def train(bonus: float, seed: int, steps: int = 600, rate: float = 1.0) -> list[float]:
    """Expected payoff before every step."""
    rng, logits, payoffs = np.random.default_rng(seed), np.zeros(10), []
    for _ in range(steps):
        p = softmax(logits)
        payoffs.append(p @ PAYS)
        actions = rng.choice(10, ROWS, p=p)
        rewards = PAYS[actions] + 0.5 * rng.standard_normal(ROWS)
        grad = softmax_cross_entropy_grad(
            np.tile(logits, (ROWS, 1)),
            actions,
            sample_weight=rewards - rewards.mean(),
            reduction="sum",
            scale=1 / ROWS,
        ).grad.sum(axis=0)
        logits -= rate * (grad + softmax_entropy_grad(logits, scale=-bonus).grad)
    return payoffs


runs = {bonus: np.mean([train(bonus, seed) for seed in range(10)], axis=0) for bonus in (0, 0.02)}
for bonus, payoffs in runs.items():
    print(f"bonus {bonus}: expected payoff {payoffs[0]:.2f} -> {payoffs[-1]:.3f}")
assert all(payoffs[-1] > 0.9 for payoffs in runs.values())

# %%
figure, axes = plt.subplots(figsize=(6, 4))
for bonus, payoffs in runs.items():
    axes.plot(payoffs, label=f"entropy bonus {bonus}")
axes.set(xlabel="step", ylabel="expected payoff, mean of ten runs")
axes.legend()
figure.tight_layout()
