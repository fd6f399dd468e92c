"""
Gradient boosting with soft labels
==================================

XGBoost asks for a gradient and a Hessian diagonal every round. ``xgboost_objective`` gives both in
one pass: the same trees as XGBoost's own objective, and soft labels besides, which that one does
not take.
"""

# %%
# The law: with the probabilities p and the labels y as rows of 0 and 1, the gradient is p - y, and
# the Hessian diagonal that XGBoost uses 2 p (1 - p).
import matplotlib.pyplot as plt
import numpy as np
import xgboost
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from xent_fast import softmax, softmax_cross_entropy
from xent_fast.boosting import xgboost_objective

x, y = load_digits(return_X_y=True)
scores = np.random.default_rng(0).standard_normal((len(y), 10))
grad, hessian = xgboost_objective()(y, scores)
p = softmax(scores)
assert np.allclose(grad, p - np.eye(10)[y], atol=1e-15)
assert np.allclose(hessian, 2 * p * (1 - p), atol=1e-15)

# %%
# The digits of scikit-learn, with XGBoost's own objective and with ours.
x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0, stratify=y)
test = xgboost.DMatrix(x_test)
options = {"num_class": 10, "max_depth": 3, "nthread": 1, "base_score": 0.5}
train = xgboost.DMatrix(x_train, y_train)
own = xgboost.train({**options, "objective": "multi:softprob"}, train, 20)
ours = xgboost.train(options, train, 20, obj=xgboost_objective())

margins = [model.predict(test, output_margin=True) for model in (own, ours)]
difference = np.abs(margins[0] - margins[1]).max()
print(f"largest difference of a margin: {difference:.1e}")
assert difference < 1e-3

# %%
# Now let three sloppy people label every image: each guesses four times in ten. What will the next
# one say? A majority vote throws away how little they agreed; soft labels keep it.
rng = np.random.default_rng(0)
wrong = rng.random((3, len(y_train))) < 0.4
opinions = np.where(wrong, rng.integers(0, 10, wrong.shape), y_train)
votes = np.eye(10)[opinions].mean(axis=0)
next_opinion = (0.6 * np.eye(10)[y_test] + 0.04).astype(np.float32)
majority = xgboost.DMatrix(x_train, votes.argmax(axis=1))


def losses(model: xgboost.Booster) -> list[float]:
    """Loss of the next opinions on test images, after each round."""
    return [
        softmax_cross_entropy(
            model.predict(test, output_margin=True, iteration_range=(0, k)), next_opinion
        )
        for k in range(1, model.num_boosted_rounds() + 1)
    ]


hard = losses(xgboost.train(options, majority, 40, obj=xgboost_objective()))
soft = losses(xgboost.train(options, majority, 40, obj=xgboost_objective(soft_labels=votes)))
print(f"best loss of the next opinion: majority vote {min(hard):.3f}, soft labels {min(soft):.3f}")
assert min(soft) < min(hard) - 0.02

# %%
# The margins are logits: ``softmax`` makes probabilities of them.
assert np.allclose(softmax(margins[1]).sum(axis=1), 1, atol=1e-5)
figure, axes = plt.subplots(figsize=(6, 4))
axes.plot(hard, label="majority vote")
axes.plot(soft, label="soft labels")
axes.set(xlabel="round", ylabel="loss of the next opinion, nats")
axes.legend()
figure.tight_layout()
