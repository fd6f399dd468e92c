"""
PyTorch with less memory
========================

A language model's last layer makes more numbers than all others: rows times words. PyTorch's loss
keeps three arrays of that size at once; with ``inplace=True`` the gradient takes the logits' place.
"""

# %%
# A made text: words follow each other by a fixed rule three times out of four. The network sees one
# word and guesses the next.
import subprocess
import sys

import matplotlib.pyplot as plt
import torch

import xent_fast.torch

WORDS, FEATURES, ROWS = 5_000, 16, 256


def text(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Words, and what follows them."""
    words = torch.randint(50, (count,))
    by_rule = (words * 7 + 3) % WORDS
    return words, torch.where(torch.rand(count) < 0.75, by_rule, torch.randint(WORDS, (count,)))


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Embedding(WORDS, FEATURES), torch.nn.Linear(FEATURES, WORDS)
    )


LOSSES = {
    "torch": torch.nn.functional.cross_entropy,
    "xent_fast": xent_fast.torch.cross_entropy,
    "xent_fast, in place": lambda x, y: xent_fast.torch.cross_entropy(x, y, inplace=True),
}

# %%
# The law: it is the same loss, so that training takes the same steps. One line changes.


def train(loss_of: object, steps: int = 60) -> list[float]:
    model = network()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    losses = []
    for _ in range(steps):
        words, labels = text(ROWS)
        loss = loss_of(model(words), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


runs = {name: train(loss_of) for name, loss_of in LOSSES.items()}
for name, losses in runs.items():
    print(f"{name:20} loss {losses[0]:.4f} -> {losses[-1]:.4f}")
differences = [abs(a - b) for a, b in zip(runs["torch"], runs["xent_fast, in place"], strict=True)]
assert max(differences) < 0.01
assert runs["torch"][-1] < runs["torch"][0] - 2

# %%
# Peak memory of one forward and backward pass, each in a process of its own, in arrays of the
# logits' size. What the operating system calls the peak counts from the start, so a first small
# pass loads all there is to load.
MEASURE = """
import sys
import torch
import xent_fast.torch

def peak():
    with open("/proc/self/status") as status:
        return 1024 * int(status.read().partition("VmHWM:")[2].split()[0])

def step(rows):
    hidden = torch.randn(rows, 16)
    layer = torch.nn.Linear(16, 20_000)
    labels = torch.randint(20_000, (rows,))
    before = peak()
    if sys.argv[1] == "torch":
        loss = torch.nn.functional.cross_entropy(layer(hidden), labels)
    else:
        loss = xent_fast.torch.cross_entropy(layer(hidden), labels, inplace="place" in sys.argv[1])
    loss.backward()
    return (peak() - before) / (4 * rows * 20_000)

step(16)
print(step(1024))
"""
arrays = {}
for name in LOSSES if sys.platform == "linux" else ():
    command = [sys.executable, "-c", MEASURE, name]
    arrays[name] = float(subprocess.run(command, check=True, capture_output=True).stdout)
    print(f"{name:20} {arrays[name]:.1f} arrays of the logits' size")
if arrays:
    assert arrays["xent_fast, in place"] < arrays["xent_fast"] < arrays["torch"]

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.5))
for name, losses in runs.items():
    left.plot(losses, label=name)
left.set(xlabel="step", ylabel="loss, nats")
left.legend()
right.barh(list(arrays), list(arrays.values()))
right.set(xlabel="peak memory, arrays of the logits' size")
figure.tight_layout()
