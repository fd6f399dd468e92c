"""
A forest, distilled into a small network
========================================

A forest of 300 trees knows how digits resemble each other. A network with 32 hidden units learns
from its probabilities what the labels alone do not tell.
"""

# %%
# The teacher learns from all training rows; the student gets few labels, and the teacher's opinion.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from xent_fast import distillation_loss_grad, softmax_cross_entropy_grad

x, y = load_digits(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(x / 16, y, random_state=0, stratify=y)
teacher = RandomForestClassifier(300, random_state=0).fit(x_train, y_train)
teacher_logits = np.log(np.maximum(teacher.predict_proba(x_train), 1e-3))
labelled = 60  # rows whose labels the student may see

# %%
# The law: at temperature 1 and alpha 1 the gradient is that of the cross-entropy with the teacher's
# probabilities as dense targets.
student_logits = np.random.default_rng(1).standard_normal(teacher_logits.shape)
teacher_p = np.exp(teacher_logits)
teacher_p /= teacher_p.sum(axis=1, keepdims=True)
distilled = distillation_loss_grad(student_logits, teacher_logits, temperature=1.0, alpha=1.0)
dense = softmax_cross_entropy_grad(student_logits, teacher_p)
assert np.allclose(distilled.grad, dense.grad, atol=1e-12)


# %%
# The student, trained by labels alone and by the teacher at temperature 3.
def train(by_teacher: bool, steps: int = 800, rate: float = 0.5) -> list[float]:
    """Test accuracy, every 20 steps."""
    rng = np.random.default_rng(0)
    w1, w2 = 0.2 * rng.standard_normal((64, 32)), 0.2 * rng.standard_normal((32, 10))
    rows = slice(None) if by_teacher else slice(labelled)
    accuracy = []
    for step in range(steps):
        hidden = np.maximum(x_train[rows] @ w1, 0)
        logits = hidden @ w2
        if by_teacher:
            grad = distillation_loss_grad(
                logits, teacher_logits, temperature=3.0, alpha=1.0, out=logits
            ).grad
        else:
            grad = softmax_cross_entropy_grad(logits, y_train[rows], out=logits).grad
        grad_hidden = (grad @ w2.T) * (hidden > 0)
        w2 -= rate * (hidden.T @ grad)
        w1 -= rate * (x_train[rows].T @ grad_hidden)
        if step % 20 == 19:
            accuracy.append(np.mean((np.maximum(x_test @ w1, 0) @ w2).argmax(axis=1) == y_test))
    return accuracy


alone, taught = train(False), train(True)
forest = teacher.score(x_test, y_test)
print(f"accuracy: {labelled} labels {alone[-1]:.3f}, taught {taught[-1]:.3f}, forest {forest:.3f}")
assert taught[-1] > alone[-1] + 0.03
assert taught[-1] > forest - 0.05

# %%
figure, axes = plt.subplots(figsize=(6, 4))
steps = np.arange(20, 801, 20)
axes.plot(steps, alone, label=f"{labelled} labels")
axes.plot(steps, taught, label="the forest's opinion")
axes.axhline(forest, linestyle=":", label="the forest")
axes.set(xlabel="step", ylabel="test accuracy", ylim=(0.5, 1))
axes.legend()
figure.tight_layout()
