"""PyTorch: eager, and torch.compile of `cross_entropy` and of a function fused by hand.

Knows: how a careful user calls it. Must not know: shapes, timing, tables.
"""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

from benchmarks.implementations.contract import (
    ALLOCATES,
    PEER,
    THREADS,
    Implementation,
    Runtime,
    Step,
    place_for_gradient,
)
from benchmarks.workloads import IN_PLACE, INTO_OUT, Case


def _forget_compiled_functions() -> None:
    """A function compiled for too many shapes falls back to eager."""
    _torch().compiler.reset()


RUNTIME = Runtime(
    "PyTorch",
    (
        # Huge pages for large tensors, as NumPy asks for them: half the time of large batches.
        ("THP_MEM_ALLOC_ENABLE", "1"),
        ("TORCHINDUCTOR_COMPILE_THREADS", "1"),  # no idle compilers beside the timed process
    ),
    _forget_compiled_functions,
)
TOLERANCE = 2048


@cache
def _torch():
    import torch

    torch.set_num_threads(THREADS)
    return torch


def leaf(buffer: np.ndarray):
    """A tensor over the buffer that gradients are taken for."""
    return tensor(buffer).requires_grad_()


def tensor(buffer: np.ndarray):
    return _torch().from_numpy(buffer)


def _compile(function: Callable) -> Callable:
    return _torch().compile(function, fullgraph=True, dynamic=False)


def cross_entropy(*, compiled: bool) -> Callable[[Case], Step]:
    def make(case: Case) -> Step:
        torch, targets = _torch(), tensor(case.targets)
        function = _compile(_mean_loss()) if compiled else _mean_loss()

        def loss_step(x):
            with torch.no_grad():
                return function(x, targets).item(), None

        return loss_step if case.loss_only else _with_backward_pass(function, targets)

    return make


def eager_loss_and_grad(targets: np.ndarray) -> Step:
    """Of logits with the classes on axis 1, any number of dimensions."""
    return _with_backward_pass(_mean_loss(), tensor(targets))


def _mean_loss() -> Callable:
    return _torch().nn.functional.cross_entropy


def _with_backward_pass(loss_of: Callable, targets) -> Step:
    def step(x):
        loss = loss_of(x, targets)
        (grad,) = _torch().autograd.grad(loss, x)
        return loss.item(), grad.numpy()

    return step


def _by_hand(torch, case: Case) -> Callable:
    """Softmax minus targets, written so that the compiler fuses it."""

    def sums_and_loss(x, targets):
        largest = x.amax(1, keepdim=True)
        exponentials = torch.exp(x - largest)
        sums = exponentials.sum(1, keepdim=True)
        if case.dense:
            target_logits = (targets * x).sum(1, keepdim=True)  # rows of targets sum to 1
        else:
            target_logits = x.gather(1, targets[:, None])
        return exponentials, sums, (torch.log(sums) + largest - target_logits).mean()

    def loss(x, targets):
        return sums_and_loss(x, targets)[2]

    def loss_and_grad(x, targets):
        exponentials, sums, loss = sums_and_loss(x, targets)
        share = 1 / x.shape[0]
        if case.dense:
            return loss, (exponentials * (1 / sums) - targets) * share
        is_target = torch.arange(x.shape[1]) == targets[:, None]
        subtrahend = torch.where(is_target, share, 0.0).to(x.dtype)
        return loss, exponentials * (share / sums) - subtrahend

    return loss if case.loss_only else loss_and_grad


def _dense_by_hand_into_buffer(torch) -> Callable:
    """With the exponentials taken twice: kept over a write to the logits, they fail to compile."""

    def loss_and_grad(x, targets):
        log_sums = torch.logsumexp(x, 1, keepdim=True)
        loss = (log_sums - (targets * x).sum(1, keepdim=True)).mean()
        return loss, (torch.exp(x - log_sums) - targets) * (1 / x.shape[0])

    return loss_and_grad


def compiled_by_hand(case: Case) -> Step:
    torch, targets = _torch(), tensor(case.targets)
    function = _compile(_by_hand(torch, case))

    def loss_step(x):
        return function(x, targets).item(), None

    def step(x):
        loss, grad = function(x, targets)
        return loss.item(), grad.numpy()

    return loss_step if case.loss_only else step


def compiled_by_hand_into_buffer(case: Case) -> Step:
    torch, targets, place = _torch(), tensor(case.targets), place_for_gradient(case)
    loss_and_grad = _dense_by_hand_into_buffer(torch) if case.dense else _by_hand(torch, case)

    def loss_and_grad_into(x, targets, out):
        loss, grad = loss_and_grad(x, targets)
        out.copy_(grad)
        return loss

    def loss_and_grad_in_place(x, targets):
        return loss_and_grad_into(x, targets, x)

    if case.in_place:
        function = _compile(loss_and_grad_in_place)
        return lambda x: (function(x, targets).item(), x.numpy())
    function, out = _compile(loss_and_grad_into), tensor(place(case.logits))
    return lambda x: (function(x, targets, out).item(), out.numpy())


def implementations() -> Iterator[Implementation]:
    common = {"needs": ("torch",), "tolerance": TOLERANCE}
    yield Implementation(
        "PyTorch",
        PEER,
        RUNTIME,
        cross_entropy(compiled=False),
        leaf,
        destinations=ALLOCATES,
        **common,
    )
    yield Implementation(
        "torch.compile",
        PEER,
        RUNTIME,
        cross_entropy(compiled=True),
        leaf,
        destinations=ALLOCATES,
        variants=False,
        **common,
    )
    yield Implementation(
        "torch.compile by hand",
        PEER,
        RUNTIME,
        compiled_by_hand,
        tensor,
        destinations=ALLOCATES,
        **common,
    )
    yield Implementation(
        "torch.compile by hand, in place",
        PEER,
        RUNTIME,
        compiled_by_hand_into_buffer,
        tensor,
        destinations=(IN_PLACE, INTO_OUT),
        **common,
    )
