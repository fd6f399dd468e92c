"""Train a two-layer network on handwritten digits, forward and backward written by hand in NumPy.

    python docs/examples/train_digits.py [--epochs N] [--seed N] [--output PLOT.png]

The digits are the 1797 images of 8 x 8 pixels that ship inside scikit-learn.  The network is

    hidden = max(images @ W1 + b1, 0)       (rows, 128)
    logits = hidden @ W2 + b2               (rows, 10)

The loss is the mean of -log p_y over the batch, with p = softmax(logits) and y the label; its
gradient with respect to the logits is (p - onehot(y)) / rows.  xent_fast returns the loss and
writes the gradient over the logits.

The script prints the loss curve, the test accuracy and the share of a training step that the loss
takes.  It saves a plot, and the curve as CSV beside it.  It exits with status 1 when it recognises
fewer than 97 % of the test digits.

Knows: NumPy and the public functions of xent_fast.  Must not know: how xent_fast works inside.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")  # draws into a file: needs no display

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import xent_fast
import xent_fast.reference

PIXELS, HIDDEN_UNITS, CLASSES = 64, 128, 10
BATCH_SIZE = 64
LEARNING_RATE, MOMENTUM = 0.2, 0.9  # the learning rate of the first epoch; it falls linearly to 0
PIXEL_NOISE = 0.2  # standard deviation; keeps the network from learning single pixels by heart
SPLIT_SEED = 0
REQUIRED_ACCURACY = 0.97
TIMED_EPOCHS = 20

Batch = tuple[np.ndarray, np.ndarray]  # images and labels
LossAndGradient = Callable[..., tuple[float, np.ndarray]]


# Data ---------------------------------------------------------------------------------------------


class Digits(NamedTuple):
    """Images: float32, (rows, 64), pixels in [0, 1].  Labels: integers, (rows,), in [0, 10)."""

    train_images: np.ndarray
    test_images: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray


def load_split_digits() -> Digits:
    """Keep a quarter of the images, the same ones in every run, for the test."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    return Digits(
        *train_test_split(images, labels, test_size=0.25, stratify=labels, random_state=SPLIT_SEED)
    )


def shuffled_batches(digits: Digits, generator: np.random.Generator) -> Iterator[Batch]:
    """Yield one epoch of whole, noisy batches; the few images left over sit this one out."""
    order = generator.permutation(len(digits.train_labels))
    for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
        rows = order[start : start + BATCH_SIZE]
        noise = generator.standard_normal((BATCH_SIZE, PIXELS), dtype=np.float32)
        yield digits.train_images[rows] + PIXEL_NOISE * noise, digits.train_labels[rows]


# Network ------------------------------------------------------------------------------------------


class Network(NamedTuple):
    """The parameters; also the gradient with respect to each of them, and the velocity of each."""

    weights_1: np.ndarray  # (64, 128)
    bias_1: np.ndarray  # (128,)
    weights_2: np.ndarray  # (128, 10)
    bias_2: np.ndarray  # (10,)


def initial_network(generator: np.random.Generator) -> Network:
    """Draw weights of variance 2 / inputs (He et al., 2015): ReLU then keeps a signal's scale."""

    def weights(inputs: int, outputs: int) -> np.ndarray:
        values = generator.standard_normal((inputs, outputs), dtype=np.float32)
        return values * np.float32(np.sqrt(2 / inputs))

    return Network(
        weights(PIXELS, HIDDEN_UNITS),
        np.zeros(HIDDEN_UNITS, np.float32),
        weights(HIDDEN_UNITS, CLASSES),
        np.zeros(CLASSES, np.float32),
    )


def forward(network: Network, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hidden layer, (rows, 128), and the logits, (rows, 10)."""
    hidden = images @ network.weights_1 + network.bias_1
    np.maximum(hidden, 0, out=hidden)
    logits = hidden @ network.weights_2 + network.bias_2
    return hidden, logits


def backward(
    network: Network, images: np.ndarray, hidden: np.ndarray, logits_gradient: np.ndarray
) -> Network:
    """Apply the chain rule, from the gradient of the logits back to that of every parameter."""
    hidden_gradient = logits_gradient @ network.weights_2.T
    hidden_gradient[hidden == 0] = 0  # ReLU passes nothing where it cut
    return Network(
        images.T @ hidden_gradient,
        hidden_gradient.sum(axis=0),
        hidden.T @ logits_gradient,
        logits_gradient.sum(axis=0),
    )


class Trainer:
    """A network, the velocity of its parameters, and the loss function that trains it."""

    def __init__(self, seed: int, loss_and_gradient: LossAndGradient) -> None:
        self.network = initial_network(np.random.default_rng(seed))
        self.velocity = Network(*(np.zeros_like(parameter) for parameter in self.network))
        self.loss_and_gradient = loss_and_gradient

    def step(self, images: np.ndarray, labels: np.ndarray, learning_rate: float) -> float:
        """Take one step of gradient descent with momentum; return the loss before it."""
        hidden, logits = forward(self.network, images)
        loss, logits_gradient = self.loss_and_gradient(logits, labels, out=logits)
        self.update(backward(self.network, images, hidden, logits_gradient), learning_rate)
        return loss

    def update(self, gradient: Network, learning_rate: float) -> None:
        """Set velocity = momentum * velocity - learning_rate * gradient, and move by it."""
        for parameter, velocity, slope in zip(self.network, self.velocity, gradient, strict=True):
            np.multiply(velocity, MOMENTUM, out=velocity)
            np.subtract(velocity, learning_rate * slope, out=velocity)
            np.add(parameter, velocity, out=parameter)


# Training -----------------------------------------------------------------------------------------


class Epoch(NamedTuple):
    """Mean losses in nats; the training loss is that of the noisy batches, as they came."""

    train_loss: float
    test_loss: float
    test_accuracy: float


def evaluate(network: Network, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the mean loss, and the share of images whose largest logit is their label's."""
    _, logits = forward(network, images)
    accuracy = np.mean(logits.argmax(axis=1) == labels)
    return xent_fast.softmax_cross_entropy(logits, labels), float(accuracy)


def train_epoch(
    trainer: Trainer, digits: Digits, generator: np.random.Generator, learning_rate: float
) -> Epoch:
    losses = [
        trainer.step(images, labels, learning_rate)
        for images, labels in shuffled_batches(digits, generator)
    ]
    test_loss, test_accuracy = evaluate(trainer.network, digits.test_images, digits.test_labels)
    return Epoch(float(np.mean(losses)), test_loss, test_accuracy)


def train(digits: Digits, epochs: int, seed: int) -> tuple[Network, list[Epoch]]:
    """Train under a progress bar; return the network and one record an epoch."""
    trainer = Trainer(seed, xent_fast.softmax_cross_entropy_grad)
    generator = np.random.default_rng(seed)
    history: list[Epoch] = []
    progress = tqdm(range(epochs), desc="training", unit="epoch")
    for number in progress:
        learning_rate = LEARNING_RATE * (1 - number / epochs)
        epoch = train_epoch(trainer, digits, generator, learning_rate)
        history.append(epoch)
        progress.set_postfix(
            loss=f"{epoch.train_loss:.4f}", accuracy=f"{epoch.test_accuracy:.2%}", refresh=False
        )
    return trainer.network, history


# Time ---------------------------------------------------------------------------------------------


class Timed:
    """Calls a function and keeps the seconds that each call took."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.seconds: list[float] = []

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = self.function(*arguments, **options)
        self.seconds.append(time.perf_counter() - start)
        return result

    def median_microseconds(self) -> float:
        return 1e6 * float(np.median(self.seconds))


def plain_numpy_loss_and_gradient(
    logits: np.ndarray, labels: np.ndarray, out: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return what xent_fast does, as one writes it by hand: in place, in the logits' dtype."""
    rows = np.arange(len(labels))
    np.subtract(logits, logits.max(axis=1, keepdims=True), out=out)
    target_logits = out[rows, labels]
    np.exp(out, out=out)
    sums = out.sum(axis=1, keepdims=True)
    loss = np.mean(np.log(sums[:, 0]) - target_logits)
    out /= sums
    out[rows, labels] -= 1
    out /= len(labels)
    return float(loss), out


class StepTime(NamedTuple):
    """Medians in microseconds; a step is forward, loss with gradient, backward and update."""

    whole_step: float
    loss: float


def time_steps(digits: Digits, seed: int) -> dict[str, StepTime]:
    """Time steps that differ in their loss function alone.

    Each trains a network of its own, from the same start and on the same batches.  They take turns,
    and turns at going first, so that whatever else the machine does meanwhile falls on both alike.
    """
    losses = {
        "xent_fast": Timed(xent_fast.softmax_cross_entropy_grad),
        "plain NumPy": Timed(plain_numpy_loss_and_gradient),
        "NumPy reference": Timed(xent_fast.reference.softmax_cross_entropy_grad),
    }
    steps = {name: Timed(Trainer(seed, loss).step) for name, loss in losses.items()}
    generator = np.random.default_rng(seed)
    turns = list(steps.values())
    for _ in range(TIMED_EPOCHS):
        for images, labels in shuffled_batches(digits, generator):
            for step in turns:
                step(images, labels, LEARNING_RATE)
            turns.append(turns.pop(0))
    return {
        name: StepTime(steps[name].median_microseconds(), losses[name].median_microseconds())
        for name in losses
    }


# Report -------------------------------------------------------------------------------------------


def print_loss_curve(history: list[Epoch]) -> None:
    """Print about ten epochs, evenly spread, the first and the last among them."""
    print("\nepoch  train loss  test loss  test accuracy")
    for index in np.unique(np.linspace(0, len(history) - 1, 10).round().astype(int)):
        train_loss, test_loss, accuracy = history[index]
        print(f"{index + 1:5}  {train_loss:10.4f}  {test_loss:9.4f}  {accuracy:13.2%}")


def print_step_times(times: dict[str, StepTime]) -> None:
    """Print the table of medians, and how far its figures carry."""
    print(f"\nOne training step, logits {BATCH_SIZE} x {CLASSES}, medians of alternate steps:")
    print("loss from          whole step         loss   share of the step")
    for name, (whole_step, loss) in times.items():
        print(f"{name:16} {whole_step:9.1f} µs {loss:9.1f} µs {loss / whole_step:19.1%}")
    print(
        "Plain NumPy is what one writes by hand, in float32.  The reference is written for\n"
        "accuracy, in float64.  Batches this small are bound by overhead, the fixed cost of every\n"
        "call, more than by arithmetic: they say nothing about large ones."
    )


def save_loss_curve(history: list[Epoch], path: Path) -> None:
    """Write one line an epoch."""
    rows = [(number, *epoch) for number, epoch in enumerate(history, start=1)]
    header = ",".join(("epoch", *Epoch._fields))
    np.savetxt(path, rows, fmt=["%d", *["%.6g"] * 3], delimiter=",", header=header, comments="")


# Plot ---------------------------------------------------------------------------------------------


def doubtful_digit(network: Network, digits: Digits) -> int:
    """Find the test image whose loss is nearest to log 2: even odds for its label."""
    _, logits = forward(network, digits.test_images)
    losses = xent_fast.softmax_cross_entropy(logits, digits.test_labels, reduction="none")
    return int(np.argmin(np.abs(losses - np.log(2))))


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Return log p of every class of one row: minus the loss with each class as the label."""
    rows = np.repeat(logits[np.newaxis], CLASSES, axis=0)
    return -xent_fast.softmax_cross_entropy(rows, np.arange(CLASSES), reduction="none")


def plot_curves(axes: Axes, history: list[Epoch]) -> None:
    numbers = np.arange(1, len(history) + 1)
    train_losses, test_losses, _ = zip(*history, strict=True)
    axes.plot(numbers, train_losses, marker=".", label="train, noisy images")
    axes.plot(numbers, test_losses, marker=".", label="test")
    axes.set_yscale("log", subs=[])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("epoch")
    axes.set_ylabel("mean loss (nats)")
    axes.set_title(f"Loss curve (test accuracy at the end: {history[-1].test_accuracy:.1%})")
    axes.grid(alpha=0.3)
    axes.legend()


def plot_bars(axes: Axes, values: np.ndarray, label: int, title: str, unit: str) -> None:
    """Draw one bar a class; the label's stands out."""
    bars = axes.bar(np.arange(CLASSES), values, color="tab:gray")
    bars[label].set_color("tab:red")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(np.arange(CLASSES))
    axes.set_xlabel("class")
    axes.set_ylabel(unit)
    axes.set_title(title)


def plot_digit(axes: dict[str, Axes], network: Network, image: np.ndarray, label: int) -> None:
    """Show the image, its scores, what softmax makes of them, and the gradient of each score."""
    _, logits = forward(network, image[np.newaxis])
    _, gradient = xent_fast.softmax_cross_entropy_grad(logits, np.array([label]))
    axes["image"].imshow(image.reshape(8, 8), cmap="gray_r")
    axes["image"].set_axis_off()
    axes["image"].set_title(f"A doubtful digit:\nlabel {label} (red), read as {logits.argmax()}")
    plot_bars(axes["scores"], logits[0], label, "scores", "logit x")
    plot_bars(axes["log p"], log_probabilities(logits[0]), label, "log-probabilities", "nats")
    plot_bars(axes["gradient"], gradient[0], label, "gradient p - y", "nats per unit of logit")


def save_plot(network: Network, history: list[Epoch], digits: Digits, path: Path) -> None:
    figure, axes = plt.subplot_mosaic(
        [["curves"] * 4, ["image", "scores", "log p", "gradient"]],
        figsize=(11, 6.5),
        layout="constrained",
    )
    plot_curves(axes["curves"], history)
    chosen = doubtful_digit(network, digits)
    plot_digit(axes, network, digits.test_images[chosen], int(digits.test_labels[chosen]))
    figure.savefig(path, dpi=90)
    plt.close(figure)


# Command line -------------------------------------------------------------------------------------


def positive_integer(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)  # argparse words the message
    return number


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a two-layer network on handwritten digits.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--epochs", type=positive_integer, default=40, help="passes over the data")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, batches and noise")
    parser.add_argument(
        "--output", type=Path, default=Path("train_digits.png"), help="the plot; CSV goes beside it"
    )
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    digits = load_split_digits()
    # Matrices this small gain nothing from threads, and wait long for them on a busy machine.
    with threadpool_limits(limits=1, user_api="blas"):
        network, history = train(digits, arguments.epochs, arguments.seed)
        print_loss_curve(history)
        print_step_times(time_steps(digits, arguments.seed))

    curve_path = arguments.output.with_suffix(".csv")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    save_plot(network, history, digits, arguments.output)
    save_loss_curve(history, curve_path)
    print(f"\nSaved {arguments.output} and {curve_path}")

    accuracy = history[-1].test_accuracy
    print(f"Test accuracy {accuracy:.2%} (required: {REQUIRED_ACCURACY:.0%})")
    return 0 if accuracy >= REQUIRED_ACCURACY else 1


if __name__ == "__main__":
    sys.exit(main())
