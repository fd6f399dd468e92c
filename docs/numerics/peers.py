"""Loss and gradient of index targets the way NumPy, SciPy, PyTorch and JAX users get them today.

Knows: each peer's usual form, in the logits' own dtype.
Must not know: oracles, distributions, xent_fast.

A peer is a function (logits, labels) -> (loss of each row, gradient of their sum).
`installed_peers` leaves out what is not installed and names it.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

import numpy as np
import scipy.special

Peer = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
Functions = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


def numpy_log_softmax(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(labels.size)
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = exponentials.sum(axis=1, keepdims=True)
    gradient = exponentials / sums
    gradient[rows, labels] -= 1
    return np.log(sums[:, 0]) - shifted[rows, labels], gradient


def scipy_special(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(labels.size)
    gradient = scipy.special.softmax(logits, axis=1)
    gradient[rows, labels] -= 1
    return -scipy.special.log_softmax(logits, axis=1)[rows, labels], gradient


def scipy_functions(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, their logarithms and lse."""
    return (
        scipy.special.softmax(logits, axis=1),
        scipy.special.log_softmax(logits, axis=1),
        scipy.special.logsumexp(logits, axis=1),
    )


def _torch_cross_entropy() -> Peer:
    import torch

    def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        leaf = torch.from_numpy(logits.copy()).requires_grad_()
        loss = torch.nn.functional.cross_entropy(leaf, torch.from_numpy(labels), reduction="none")
        loss.sum().backward()
        return loss.detach().numpy(), leaf.grad.numpy()

    return cross_entropy


def _jax_log_softmax() -> Peer:
    import jax

    jax.config.update("jax_enable_x64", True)

    def losses(logits, labels):
        return -jax.nn.log_softmax(logits)[jax.numpy.arange(labels.size), labels]

    def loss_and_gradient(logits, labels):
        loss, pull_back = jax.vjp(lambda x: losses(x, labels), logits)
        return loss, pull_back(jax.numpy.ones_like(loss))[0]

    compiled = jax.jit(loss_and_gradient)
    return lambda logits, labels: tuple(np.asarray(part) for part in compiled(logits, labels))


def installed_peers() -> tuple[dict[str, Peer], list[str]]:
    """Peers by name and version, and the names of those left out."""
    makers = {
        "numpy": ("NumPy", lambda: numpy_log_softmax),
        "scipy": ("SciPy", lambda: scipy_special),
        "torch": ("PyTorch", _torch_cross_entropy),
        "jax": ("JAX", _jax_log_softmax),
    }
    peers, left_out = {}, []
    for package, (name, maker) in makers.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            left_out.append(name)
        else:
            peers[f"{name} {version}"] = maker()
    return peers, left_out
