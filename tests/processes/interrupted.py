"""Ctrl-C during a call: the call finishes whole, then KeyboardInterrupt; every later call is right.

    python interrupted.py ROUNDS     a child computes; this process sends it SIGINT at random times

It fails too if no signal came during a call.

Knows signals and the work's shape. Must not know how a call waits for its threads.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np

from xent_fast import softmax_cross_entropy_grad
from xent_fast._binding import instruction_sets

ROWS, CLASSES = 30_000, 300


def interrupted_once(logits: np.ndarray, labels: np.ndarray, want: np.ndarray) -> str:
    """Tell the parent that a call begins; the signal comes in it, or in the wait after it."""
    out = np.full((ROWS, CLASSES), np.nan, np.float32)
    returned = False
    try:
        sys.stdout.buffer.write(b"begin\n")
        sys.stdout.buffer.flush()
        softmax_cross_entropy_grad(logits, labels, out=out, num_threads=2)
        returned = True
        time.sleep(60)
    except KeyboardInterrupt:
        if np.array_equal(out, want):
            return "after the call" if returned else "during the call"
        if not returned and np.isnan(out).all():
            return "before the call"
    return "wrong"


def child(rounds: int) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    instruction_sets.use_isa("portable")
    row = np.random.default_rng(0).standard_normal((1, CLASSES)).astype(np.float32)
    labels = np.zeros(ROWS, np.int64)
    logits = np.broadcast_to(row, (ROWS, CLASSES))
    want = softmax_cross_entropy_grad(logits, labels, num_threads=1).grad
    when = Counter(interrupted_once(logits, labels, want) for _ in range(rounds))
    print(json.dumps({"interrupts": rounds, **when}))
    return int(when["wrong"] > 0 or when["during the call"] == 0)


def main() -> int:
    rounds = int(sys.argv[1])
    if sys.argv[2:] == ["child"]:
        return child(rounds)
    with subprocess.Popen(
        [sys.executable, __file__, str(rounds), "child"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == b"begin\n":
                time.sleep(random.uniform(0.001, 0.015))
                process.send_signal(signal.SIGINT)
            else:
                print(line.decode(), end="")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
