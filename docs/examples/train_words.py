"""Train a word model on the text that ships with Python, by any way to its last layer.

    python docs/examples/train_words.py                            every way that is installed
    python docs/examples/train_words.py --ways fused plain         some of them
    mpiexec -n 2 python docs/examples/train_words.py --ways mpi    classes on two ranks
    python docs/examples/train_words.py --quick                    seconds: a few steps, fewer words

The text is the sources of the standard library, docstrings and comments included, cut into words.
The model says which of some 20,000 words comes next, from the four before it:

    hidden = tanh(the four words' vectors, side by side, @ mix)     (rows, FEATURES)
    logits = hidden @ weight.T + bias                               (rows, words)

The ways differ in the last layer alone, and give the same losses:

    plain      the logits in one array, softmax written in NumPy
    fused      linear_softmax_cross_entropy_grad: chunks of rows, the logits never exist at once
    mpi        the words on two MPI ranks, xent_fast.mpi
    dask       rows and words in chunks on a local cluster of Dask, xent_fast.dask
    sampled    sampled_softmax_loss_grad: an estimate, each step in a fraction of the time

The script prints losses, times and peak memory, and saves a plot.

Knows: NumPy and the public functions of xent_fast.  Must not know: how xent_fast works inside.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import xent_fast

CONTEXT, VECTOR, FEATURES = 4, 32, 128  # words before; a word's numbers; numbers before the logits
RATE, FLOOR = 0.1, 1e-6  # of Adagrad
WORDS_DRAWN = 1000  # a step of sampled softmax
TEST_SHARE = 32  # one in so many files is for the test
WAYS = {  # and what the table calls them
    "plain": "plain NumPy",
    "fused": "the layer and loss in one call",
    "mpi": "two MPI ranks",
    "dask": "two Dask workers",
    "sampled": f"{WORDS_DRAWN:,} words drawn a step",
}


class Sizes(NamedTuple):
    words: int
    rows: int
    steps: int
    test_rows: int
    every: int  # steps between two test losses

    @classmethod
    def of(cls, quick: bool, steps: int | None) -> Sizes:
        usual = cls(2000, 128, 6, 256, 3) if quick else cls(20_000, 512, 80, 2048, 8)
        return usual._replace(steps=steps or usual.steps)


# Text ---------------------------------------------------------------------------------------------


class Text(NamedTuple):
    """Words by number, most frequent first; 0 stands for all others."""

    train: np.ndarray
    test: np.ndarray
    words: int


def read_text(most_words: int, quick: bool) -> Text:
    library = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(library.glob("*.py") if quick else library.rglob("*.py"))
    paths = [path for path in paths if not {"site-packages", "test"} & set(path.parts)]
    files = [path.read_text(encoding="utf-8", errors="ignore") for path in paths]
    pieces = [re.findall(r"[A-Za-z_]+|\d+|[^\sA-Za-z_\d]", file) for file in files]
    train = [piece for k, piece in enumerate(pieces) if k % TEST_SHARE]
    counts = collections.Counter(word for piece in train for word in piece)
    common = [word for word, _ in counts.most_common(most_words - 1)]
    number = {word: k for k, word in enumerate(common, start=1)}

    def numbers(some: list[list[str]]) -> np.ndarray:
        return np.array([number.get(word, 0) for piece in some for word in piece])

    return Text(numbers(train), numbers(pieces[::TEST_SHARE]), len(common) + 1)


def load_text(path: Path) -> Text:
    with np.load(path) as arrays:
        return Text(arrays["train"], arrays["test"], int(arrays["words"]))


def batch(text: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Contexts (rows, CONTEXT) and the words after them."""
    return text[places[:, None] + np.arange(CONTEXT)], text[places + CONTEXT]


# Model --------------------------------------------------------------------------------------------


class Adagrad:
    """A parameter and what its steps are divided by."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = value
        self.squares = np.full_like(value, FLOOR)

    def move(self, grad: np.ndarray, rows: Any = slice(None)) -> None:
        self.squares[rows] += grad * grad
        self.value[rows] -= np.float32(RATE) * grad / np.sqrt(self.squares[rows])


class Model:
    """All but the last layer, whose parameters `first` to `end` are this process's."""

    def __init__(self, words: int, first: int, end: int) -> None:
        rng = np.random.default_rng(0)
        self.vectors = Adagrad(rng.standard_normal((words, VECTOR), np.float32))
        wide = CONTEXT * VECTOR
        mix = rng.standard_normal((wide, FEATURES), np.float32) / np.float32(wide**0.5)
        self.mix = Adagrad(mix)
        self.weight = Adagrad(np.zeros((end - first, FEATURES), np.float32))
        self.bias = Adagrad(np.zeros(end - first, np.float32))

    def forward(self, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs = self.vectors.value[contexts].reshape(len(contexts), -1)
        return inputs, np.tanh(inputs @ self.mix.value)

    def backward(
        self, contexts: np.ndarray, inputs: np.ndarray, hidden: np.ndarray, grad_hidden: np.ndarray
    ) -> None:
        before = grad_hidden * (1 - hidden * hidden)
        of_inputs = (before @ self.mix.value.T).reshape(-1, VECTOR)
        self.mix.move(inputs.T @ before)
        words, places = np.unique(contexts, return_inverse=True)
        of_words = np.zeros((len(words), VECTOR), np.float32)
        np.add.at(of_words, places.reshape(-1), of_inputs)
        self.vectors.move(of_words, words)


# The last layer -----------------------------------------------------------------------------------
# Each way takes a batch's hidden numbers and labels, moves weight and bias, and returns the loss
# and its gradient with respect to the hidden numbers.

LastLayer = Callable[[Model, np.ndarray, np.ndarray], tuple[float, np.ndarray]]


def plain(model: Model, hidden: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    weight, bias = model.weight.value, model.bias.value
    logits = hidden @ weight.T + bias
    logits -= logits.max(axis=1, keepdims=True)
    rows, grad = np.arange(len(labels)), np.exp(logits)
    sums = grad.sum(axis=1, keepdims=True)
    loss = float(np.mean(np.log(sums[:, 0]) - logits[rows, labels]))
    grad /= sums
    grad[rows, labels] -= 1
    grad /= len(labels)
    grad_hidden = grad @ weight
    model.weight.move(grad.T @ hidden)
    model.bias.move(grad.sum(axis=0))
    return loss, grad_hidden


def fused(model: Model, hidden: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    result = xent_fast.linear_softmax_cross_entropy_grad(
        hidden, model.weight.value, model.bias.value, labels
    )
    model.weight.move(result.grad_weight)
    model.bias.move(result.grad_bias)
    return result.loss, result.grad_hidden


def sampled(model: Model, hidden: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    result = xent_fast.sampled_softmax_loss_grad(
        hidden,
        model.weight.value,
        model.bias.value,
        labels,
        num_sampled=min(WORDS_DRAWN, len(model.bias.value) - 1),
        rng=int(labels.sum()),
    )
    model.weight.move(result.grad_weight, result.rows)
    model.bias.move(result.grad_bias, result.rows)
    return result.loss, result.grad_hidden


def with_mpi(comm: Any, words: int, first: int, end: int) -> LastLayer:
    from xent_fast.mpi import softmax_cross_entropy_grad

    def layer(model: Model, hidden: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
        weight = model.weight.value
        logits = hidden @ weight.T + model.bias.value
        loss, grad = softmax_cross_entropy_grad(
            logits, labels, comm, first_class=first, num_classes=words, out=logits
        )
        grad_hidden = comm.allreduce(grad @ weight)
        model.weight.move(grad.T @ hidden)
        model.bias.move(grad.sum(axis=0))
        return loss, grad_hidden

    return layer


def with_dask(rows_of_chunk: int, words_of_chunk: int) -> LastLayer:
    import dask
    import dask.array as da

    from xent_fast.dask import softmax_cross_entropy_grad

    def layer(model: Model, hidden: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
        h = da.from_array(hidden, chunks=(rows_of_chunk, -1))
        w = da.from_array(model.weight.value, chunks=(words_of_chunk, -1))
        b = da.from_array(model.bias.value, chunks=words_of_chunk)
        loss, grad = softmax_cross_entropy_grad(h @ w.T + b, labels)
        results = dask.compute(loss, grad @ w, grad.T @ h, grad.sum(axis=0))
        model.weight.move(results[2])
        model.bias.move(results[3])
        return float(results[0]), results[1]

    return layer


# Training -----------------------------------------------------------------------------------------


def test_loss(model: Model, text: Text, sizes: Sizes, gather: Callable[[Any], Any]) -> float:
    """Over the full vocabulary, of the same places for every way."""
    places = np.random.default_rng(1).integers(0, len(text.test) - CONTEXT, sizes.test_rows)
    contexts, labels = batch(text.test, places)
    weight, bias = gather(model.weight.value), gather(model.bias.value)
    _, hidden = model.forward(contexts)
    return float(xent_fast.linear_softmax_cross_entropy(hidden, weight, bias, labels))


def train(
    layer: LastLayer,
    text: Text,
    sizes: Sizes,
    name: str,
    part: tuple[int, int] | None = None,
    gather: Callable[[Any], Any] = lambda own: own,
    is_quiet: bool = False,
) -> dict[str, Any]:
    """Losses of every step and of the test; seconds in all steps but the first, its memory."""
    model = Model(text.words, *(part or (0, text.words)))
    rng = np.random.default_rng(0)
    losses, tests, seconds = [], [], 0.0
    peak = 0
    for step in (progress := tqdm(range(sizes.steps), desc=name, disable=is_quiet)):
        contexts, labels = batch(text.train, rng.integers(0, len(text.train) - CONTEXT, sizes.rows))
        if step == 0:
            tracemalloc.start()
        started = time.perf_counter()
        inputs, hidden = model.forward(contexts)
        loss, grad_hidden = layer(model, hidden, labels)
        model.backward(contexts, inputs, hidden, grad_hidden)
        if step == 0:  # which is slower for it
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        else:
            seconds += time.perf_counter() - started
        losses.append(loss)
        if (step + 1) % sizes.every == 0:
            tests.append((step + 1, seconds, test_loss(model, text, sizes, gather)))
            progress.set_postfix(loss=f"{loss:.3f}", test=f"{tests[-1][2]:.3f}", refresh=False)
    return {
        "way": name,
        "losses": losses,
        "tests": tests,
        "seconds": seconds,
        "megabytes": peak / 1e6,
    }


def train_one(way: str, sizes: Sizes, text: Text) -> dict[str, Any] | None:
    """In this process; None on an MPI rank that is not the first."""
    if way == "mpi":
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
        first, end = (text.words * k // comm.size for k in (comm.rank, comm.rank + 1))
        layer = with_mpi(comm, text.words, first, end)

        def gather(own: np.ndarray) -> np.ndarray:
            return np.concatenate(comm.allgather(own))

        found = train(layer, text, sizes, "mpi", (first, end), gather, is_quiet=comm.rank > 0)
        return found if comm.rank == 0 else None
    if way == "dask":
        import distributed

        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, dashboard_address=None
            ) as cluster,
            distributed.Client(cluster),
        ):
            layer = with_dask(-(-sizes.rows // 2), -(-text.words // 2))
            return train(layer, text, sizes, "dask")
    return train({"plain": plain, "fused": fused, "sampled": sampled}[way], text, sizes, way)


def mpiexec() -> str | None:
    return shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")


def installed_ways() -> list[str]:
    missing = set()
    if find_spec("mpi4py") is None or mpiexec() is None:
        missing.add("mpi")
    if find_spec("distributed") is None:
        missing.add("dask")
    return [way for way in WAYS if way not in missing]


def in_a_process(way: str, text: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """As `train_one`, for memory's sake in a process of its own; ranks of MPI by mpiexec."""
    launcher: list[str] = []
    environment = dict(os.environ)
    if way == "mpi":
        launcher = [mpiexec() or "mpiexec", "-n", "2"]
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    path = text.with_name("found.json")
    command = [*launcher, sys.executable, __file__, "--ways", way, "--json", str(path)]
    command += ["--text", str(text), *(["--quick"] if arguments.quick else [])]
    command += ["--steps", str(arguments.steps)] if arguments.steps else []
    subprocess.run(command, check=True, env=environment)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


# Report -------------------------------------------------------------------------------------------


def time_to(loss: float, found: dict[str, Any]) -> float | None:
    """Seconds of steps until the test loss is below."""
    return next((seconds for _, seconds, test in found["tests"] if test <= loss), None)


def print_table(results: list[dict[str, Any]], goal: float) -> None:
    """In Markdown, as docs/large_vocabularies.md has it."""
    steps = len(results[0]["losses"]) - 1
    print(f"\n| way | last test loss | seconds in {steps} steps", end="")
    print(f" | MB of a step, in one process | seconds to {goal:.2f} |")
    print(f"| --- |{' ---: |' * 4}")
    for found in results:
        reached = time_to(goal, found)
        print(
            f"| {WAYS[found['way']]} | {found['tests'][-1][2]:.4f} | {found['seconds']:.1f} | "
            f"{found['megabytes']:.0f} | {'-' if reached is None else f'{reached:.1f}'} |"
        )


def save_plot(results: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 4))
    for found in results:
        steps, seconds, tests = zip(*found["tests"], strict=True)
        axes[0].plot(steps, tests, "o-", label=found["way"], alpha=0.7)
        axes[1].plot(seconds, tests, "o-", label=found["way"], alpha=0.7)
    axes[0].set(xlabel="steps", ylabel="test loss over all words, nats")
    axes[1].set(xlabel="seconds in the steps")
    axes[0].legend()
    axes[2].bar([found["way"] for found in results], [found["megabytes"] for found in results])
    axes[2].set(ylabel="peak memory of a step in one process, MB")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="default: all")
    parser.add_argument("--steps", type=int, help="of training")
    parser.add_argument("--quick", action="store_true", help="few steps, few words")
    parser.add_argument("--output", type=Path, default=Path("train_words.png"), help="the plot")
    parser.add_argument("--json", type=Path, help="one way, in this process, its figures to a file")
    parser.add_argument("--text", type=Path, help="the words as numbers, from a run before")
    arguments = parser.parse_args()
    arguments.ways = arguments.ways or installed_ways()
    sizes = Sizes.of(arguments.quick, arguments.steps)
    text = load_text(arguments.text) if arguments.text else read_text(sizes.words, arguments.quick)
    is_rank = {"PMI_SIZE", "OMPI_COMM_WORLD_SIZE"} & os.environ.keys()
    if arguments.json or is_rank:
        found = train_one(arguments.ways[0], sizes, text)
        if found is not None and arguments.json:
            arguments.json.write_text(json.dumps(found))
        return
    print(f"{len(text.train):,} words to train on, {text.words:,} different ones")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "text.npz"
        np.savez(path, **text._asdict())
        results = [in_a_process(way, path, arguments) for way in arguments.ways]
    exact = [found for found in results if found["way"] != "sampled"]
    for found in exact[1:]:
        difference = np.abs(np.subtract(found["losses"], exact[0]["losses"])).max()
        print(f"{found['way']} and {exact[0]['way']}: losses of every step within {difference:.1e}")
        assert difference < 1e-3, "the ways give different losses"
    goal = (exact or results)[0]["tests"][-1][2] + 0.2
    print_table(results, goal)
    save_plot(results, arguments.output)


if __name__ == "__main__":
    main()
