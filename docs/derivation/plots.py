"""Draws the figures of docs/derivation.md into docs/images.

    python docs/derivation/plots.py

Knows: the formulas as a textbook writes them, in NumPy, and the public functions of xent_fast.
Must not know: how xent_fast works inside.
"""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draws into a file: needs no display

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xent_fast import softmax_cross_entropy_grad

IMAGES = Path(__file__).parent.parent / "images"
CLIP = 1e-7

# Positions of a palette that colour-blind readers can tell apart (Okabe and Ito).
BLUE, ORANGE, GREEN, RED = "#0072b2", "#e69f00", "#009e73", "#d55e00"


# The numbers --------------------------------------------------------------------------------------


def two_classes(lead: np.ndarray, dtype: type) -> np.ndarray:
    """Logits (rows, 2): the target's, class 0, leads by `lead`, and the smaller one is 0."""
    return np.column_stack([np.maximum(lead, 0), np.maximum(-lead, 0)]).astype(dtype)


def exact_loss(lead: np.ndarray) -> np.ndarray:
    """log(1 + exp(-lead)), accurate to a few units of float64 on both sides of 0."""
    return np.logaddexp(0.0, -lead)


def textbook(logits: np.ndarray, *, shift: bool, clip: float = 0.0) -> tuple[np.ndarray, ...]:
    """Loss and target's gradient of class 0 by exp, divide, log, and -1 / p times the Jacobian."""
    with np.errstate(all="ignore"):
        x = logits - logits.max(axis=1, keepdims=True) if shift else logits
        exponentials = np.exp(x)
        p = exponentials / exponentials.sum(axis=1, keepdims=True)
        held = np.clip(p, clip, 1 - clip) if clip else p
        grad_p = np.where(held == p, -1 / held, 0.0)[:, 0]
        loss = -np.log(held[:, 0])
        return loss, p[:, 0] * (grad_p - p[:, 0] * grad_p)


def log_sum_exp(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss as (m + log S) - x_y, the target's gradient as p_y - 1: the usual stable form."""
    m = logits.max(axis=1, keepdims=True)
    exponentials = np.exp(logits - m)
    total = exponentials.sum(axis=1)
    return (m[:, 0] + np.log(total)) - logits[:, 0], exponentials[:, 0] / total - 1


def fused(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss and the target's gradient as this library computes them."""
    loss, grad = softmax_cross_entropy_grad(
        logits, np.zeros(len(logits), dtype=int), reduction="none"
    )
    return loss, grad[:, 0]


WAYS = {
    "xent_fast": (fused, BLUE, "-"),
    "exp, divide, log": (lambda logits: textbook(logits, shift=False), ORANGE, "-"),
    "the same, shifted by the maximum": (lambda logits: textbook(logits, shift=True), RED, "--"),
    f"the same, p clipped to {CLIP:g}": (
        lambda logits: textbook(logits, shift=True, clip=CLIP),
        GREEN,
        ":",
    ),
    "(m + log S) - x, and p - 1": (log_sum_exp, "#555555", "-."),
}


# The figures --------------------------------------------------------------------------------------


def draw_gradient() -> Figure:
    """One row of five classes, and the loss and its slope over the target's lead."""
    figure, (bars, curve) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    draw_row(bars, np.array([1.0, 2.5, 0.5, 3.0, -1.0]), label=1)
    lead = np.linspace(-6, 6, 241)
    loss, slope = fused(two_classes(lead, np.float64))
    curve.plot(lead, loss, color=BLUE, label="loss, log(1 + exp(-d))")
    curve.plot(lead, -slope, color=RED, label="pull on the target, 1 - p_y")
    curve.set(
        title="Two classes: the pull fades as the target leads",
        xlabel="lead d of the target's logit",
        ylim=(0, 4),
    )
    curve.legend()
    return figure


def draw_row(axes: Axes, logits: np.ndarray, label: int) -> None:
    """Probabilities, target and gradient of one row, side by side."""
    _, grad = softmax_cross_entropy_grad(logits[np.newaxis], np.array([label]))
    classes = np.arange(len(logits))
    target = (classes == label).astype(float)
    for offset, (name, values, colour) in enumerate(
        (
            ("p", grad[0] + target, BLUE),
            ("y", target, GREEN),
            ("gradient p - y", grad[0], RED),
        )
    ):
        axes.bar(classes + 0.27 * (offset - 1), values, 0.27, color=colour, label=name)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(
        title="One row: a descent step lifts only the target",
        xlabel="class, with its logit",
        xticks=classes,
        xticklabels=[f"{c}\n{x:g}" for c, x in zip(classes, logits, strict=True)],
    )
    axes.legend()


def draw_breaking_points() -> Figure:
    """Loss and gradient in float32 by every way of writing them."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    behind, ahead = np.linspace(-125, -1, 497), np.linspace(0.5, 125, 499)
    for name, (way, colour, style) in WAYS.items():
        shown = {"color": colour, "linestyle": style, "label": name, "linewidth": 1.8}
        loss, grad = way(two_classes(behind, np.float32))
        draw_until_it_breaks(axes[0, 0], behind, loss, shown)
        draw_until_it_breaks(axes[1, 0], behind, -grad, shown)
        loss, grad = way(two_classes(ahead, np.float32))
        exact = exact_loss(ahead)
        axes[0, 1].plot(ahead, relative_error(loss, exact), **shown)
        axes[1, 1].plot(ahead, relative_error(-grad, -np.expm1(-exact)), **shown)
    axes[0, 0].set(title="Target behind: loss", ylabel="loss")
    axes[1, 0].set(title="Target behind: pull on the target", ylabel="-gradient", ylim=(-0.1, 1.2))
    axes[0, 1].set(title="Target ahead: error of the loss", ylabel="relative error")
    axes[1, 1].set(title="Target ahead: error of the pull", ylabel="relative error")
    for axis in axes.flat:
        axis.set_xlabel("lead d of the target's logit")
    for axis in axes[:, 1]:
        axis.set_yscale("log")
        axis.set_ylim(1e-9, 10)
    axes[0, 0].legend(fontsize=8)
    return figure


def draw_until_it_breaks(
    axes: Axes, lead: np.ndarray, values: np.ndarray, shown: dict[str, Any]
) -> None:
    """A curve, with a cross where it ends: beyond, the values are infinite or NaN."""
    is_finite = np.isfinite(values)
    if is_finite.all():
        axes.plot(lead, values, **shown | {"linewidth": 4 if shown["color"] == BLUE else 1.8})
        return
    axes.plot(lead[is_finite], values[is_finite], **shown)
    end = np.argmax(is_finite)
    axes.plot(lead[end], values[end], "X", color=shown["color"], markersize=11)


def relative_error(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """1 for a result of 0; not below what a logarithmic axis can show.

    Results below the smallest normal float32, whose spacing no longer shrinks, are left out.
    """
    error = np.abs(got.astype(np.float64) / exact - 1)
    return np.where(exact > np.finfo(np.float32).tiny, np.maximum(error, 1e-9), np.nan)


def draw_options() -> Figure:
    """Smoothing gives the loss a minimum; temperature stretches it."""
    figure, (smoothing_axes, temperature_axes) = plt.subplots(
        1, 2, figsize=(10, 3.6), layout="constrained"
    )
    lead = np.linspace(-4, 12, 321)
    logits = two_classes(lead, np.float64)
    for smoothing, colour in ((0.0, BLUE), (0.02, GREEN), (0.1, ORANGE), (0.3, RED)):
        mass = np.broadcast_to([1 - smoothing / 2, smoothing / 2], logits.shape)
        loss, _ = softmax_cross_entropy_grad(logits, mass, reduction="none")
        smoothing_axes.plot(lead, loss, color=colour, label=f"ε = {smoothing:g}")
        if smoothing:
            best = np.log((2 - smoothing) / smoothing)
            smoothing_axes.plot(best, np.interp(best, lead, loss), "o", color=colour)
    smoothing_axes.set(
        title="Label smoothing: a best lead, log((2 - ε) / ε)",
        xlabel="lead d of the target's logit",
        ylabel="loss",
        ylim=(0, 3),
    )
    smoothing_axes.legend()
    for temperature, colour in ((0.5, RED), (1.0, BLUE), (4.0, GREEN)):
        _, grad = fused(logits / temperature)
        temperature_axes.plot(lead, -grad / temperature, color=colour, label=f"T = {temperature:g}")
    temperature_axes.set(
        title="Temperature: a weaker pull that reaches farther",
        xlabel="lead d of the target's logit",
        ylabel="pull on the target, (1 - p_y) / T",
    )
    temperature_axes.legend()
    return figure


FIGURES = {
    "derivation_gradient.png": draw_gradient,
    "derivation_breaking_points.png": draw_breaking_points,
    "derivation_options.png": draw_options,
}


def main() -> None:
    for name, draw in FIGURES.items():
        figure = draw()
        figure.savefig(IMAGES / name, dpi=90)
        plt.close(figure)
        print(IMAGES / name)


if __name__ == "__main__":
    main()
