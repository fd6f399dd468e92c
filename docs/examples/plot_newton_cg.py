"""
The second order: Newton's method without a Hessian
===================================================

Newton's method needs the Hessian only as products with vectors, and for softmax cross-entropy such
a product is ``softmax_vjp`` of the probabilities: keep them, and every product costs one pass.
"""

# %%
# The digits of scikit-learn, a linear classifier with a penalty on its 640 coefficients.
import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize
from sklearn.datasets import load_digits

from xent_fast import softmax, softmax_cross_entropy_grad, softmax_cross_entropy_hvp, softmax_vjp

x, y = load_digits(return_X_y=True)
x /= 16
PENALTY = 1e-3


def loss_and_grad(w: np.ndarray) -> tuple[float, np.ndarray]:
    loss, grad = softmax_cross_entropy_grad(x @ w.reshape(64, 10), y)
    return loss + PENALTY / 2 * w @ w, (x.T @ grad).ravel() + PENALTY * w


def hessian_times(w: np.ndarray, v: np.ndarray) -> np.ndarray:
    p = softmax(x @ w.reshape(64, 10))
    along = softmax_vjp(p, x @ v.reshape(64, 10)) / len(x)
    return (x.T @ along).ravel() + PENALTY * v


# %%
# The law: the product is the derivative of the gradient along the vector, and
# ``softmax_cross_entropy_hvp`` gives the same, for any option of the loss.
rng = np.random.default_rng(0)
w, v = rng.standard_normal((2, 640))
h = 1e-5
numeric = (loss_and_grad(w + h * v)[1] - loss_and_grad(w - h * v)[1]) / (2 * h)
assert np.allclose(hessian_times(w, v), numeric, atol=1e-8)
logits, direction = x @ w.reshape(64, 10), x @ v.reshape(64, 10)
product = softmax_cross_entropy_hvp(logits, y, direction)
assert np.allclose(product, softmax_vjp(softmax(logits), direction) / len(x), atol=1e-15)


# %%
# Three minimisers from the same start. Each row of ``path`` is a loss and the gradient's length.
def path_of(method: str, **options: object) -> np.ndarray:
    path = []

    def note(w: np.ndarray) -> None:
        loss, grad = loss_and_grad(w)
        path.append((loss, np.linalg.norm(grad)))

    minimize(loss_and_grad, np.zeros(640), jac=True, method=method, callback=note, **options)
    return np.array(path)


paths = {
    "conjugate gradients": path_of("CG", options={"maxiter": 150}),
    "L-BFGS": path_of("L-BFGS-B", options={"maxiter": 150, "ftol": 0, "gtol": 1e-9}),
    "Newton": path_of("Newton-CG", hessp=hessian_times, options={"xtol": 1e-9}),
}
for name, path in paths.items():
    print(f"{name}: {len(path)} steps, loss {path[-1, 0]:.9f}, gradient {path[-1, 1]:.1e}")
newton = paths["Newton"]
assert len(newton) < len(paths["L-BFGS"])
assert newton[-1, 1] < 1e-6

# %%
# Near the minimum each step of Newton's method multiplies the number of right digits.
figure, axes = plt.subplots(figsize=(6, 4))
for name, path in paths.items():
    axes.semilogy(path[:, 1], "o-", markersize=3, label=name)
axes.set(xlabel="step", ylabel="length of the gradient")
axes.legend()
figure.tight_layout()
