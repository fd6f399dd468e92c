"""What limits the threads of a call, calls on more and more threads, steps beside other libraries'
threads (the tables of docs/threads.md), and calls beside busy programs.

    python -m docs.threads.measure [limits] [scaling] [company] [neighbours] [--write]

Every situation has a process of its own. Needs Linux and threadpoolctl; libraries that are not
installed are left out of the company.

Knows: the situations, and the page. Must not know: how the library finds out what limits it.
"""

import argparse
import os
import subprocess
import sys
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.where import where
from scripts.pages import table, write_block

PAGE = Path(__file__).parent.parent / "threads.md"

THREADS = """
from xent_fast import show_config
print(show_config("dicts")["threads"]["default"])
"""
LIMITED = """
import threadpoolctl
from xent_fast import show_config
with threadpoolctl.threadpool_limits(1):
    print(show_config("dicts")["threads"]["default"])
"""
FORKED = """
import os
from xent_fast import show_config
if os.fork() == 0:
    print(show_config("dicts")["threads"]["default"], flush=True)
    os._exit(0)
os.wait()
"""
PIN = "import os; os.sched_setaffinity(0, {0})"
SITUATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "no limit": (THREADS, {}),
    "affinity to one processor, before the import": (PIN + THREADS, {}),
    "affinity to one processor, after the import": (f"import xent_fast\n{PIN}{THREADS}", {}),
    "`OMP_NUM_THREADS=1`": (THREADS, {"OMP_NUM_THREADS": "1"}),
    "`OMP_NUM_THREADS=8`": (THREADS, {"OMP_NUM_THREADS": "8"}),
    "`threadpoolctl.threadpool_limits(1)`": (LIMITED, {}),
    "a forked child": (FORKED, {}),
}

# Seconds of a call, the median of two seconds of them.
CALLS = """
import sys, time
from statistics import median
import numpy as np
from xent_fast import softmax_cross_entropy_grad
logits = np.random.default_rng(0).standard_normal((256, 1000), np.float32)
labels, seconds = np.arange(256), []
end = time.perf_counter() + 2
while (start := time.perf_counter()) < end:
    softmax_cross_entropy_grad(logits, labels, out=logits, num_threads=int(sys.argv[1]))
    seconds.append(time.perf_counter() - start)
print(median(seconds))
"""
BUSY = "while True: pass"

# Seconds of a call on each number of threads (0: by default), in turns, the medians of the turns.
SCALING = """
import sys, time
from statistics import median
import numpy as np
from xent_fast import softmax_cross_entropy_grad
rows, classes, *threads = map(int, sys.argv[1:])
logits = np.random.default_rng(0).standard_normal((rows, classes), np.float32)
labels = np.random.default_rng(1).integers(0, classes, rows)
def call(num_threads):
    start = time.perf_counter()
    softmax_cross_entropy_grad(logits, labels, out=logits, num_threads=num_threads or None)
    return time.perf_counter() - start
seconds, end = {number: [] for number in threads}, time.perf_counter() + 4
while time.perf_counter() < end:
    for number in threads:
        time.sleep(0.002)  # the threads of the turn before go to sleep
        seconds[number].append(median([call(number) for _ in range(3)]))
print(*(median(seconds[number]) for number in threads))
"""
SCALED_SHAPES = (
    (1024, 10),
    (65_536, 10),
    (256, 1000),
    (1024, 1000),
    (4096, 1000),
    (64, 32_000),
    (512, 32_000),
    (1, 1_000_000),
)

# A step's time by default over its time on one thread, the median of 15 turns of each. `wake` runs
# a library's threads just before the loss; `matmul` may be replaced by that library's product.
STEPS = """
import time
from statistics import median
import numpy as np
matmul, wake = np.matmul, lambda: None
{before}
from xent_fast import show_config, softmax_cross_entropy_grad
{after}
rng = np.random.default_rng(0)
hidden, weight = (rng.standard_normal(shape, np.float32) for shape in ((256, 384), (384, 1000)))
labels, logits = np.arange(256), np.empty((256, 1000), np.float32)
grads = np.empty_like(weight), np.empty_like(hidden)
def step(num_threads):
    start = time.perf_counter()
    matmul(hidden, weight, out=logits)
    wake()
    softmax_cross_entropy_grad(logits, labels, out=logits, num_threads=num_threads)
    matmul(hidden.T, logits, out=grads[0])
    matmul(logits, weight.T, out=grads[1])
    return time.perf_counter() - start
def turn(num_threads):
    return median([step(num_threads) for _ in range(30)][3:])
ratios = [turn(None) / turn(1) for _ in range(15)]
print(show_config("dicts")["threads"]["default"], f"{{median(ratios):.2f}}")
"""
WITH_TORCH = """
import torch
square = torch.ones(256, 256)
wake = lambda: square @ square
"""
WITH_SCIKIT_LEARN = """
from sklearn.cluster import KMeans
points = np.random.default_rng(1).standard_normal((2000, 8)).astype(np.float32)
wake = KMeans(8, n_init=1, max_iter=2, random_state=0, algorithm="lloyd").fit
wake = lambda fit=wake: fit(points)
"""
WITH_MKL = """
import ctypes
from importlib.metadata import files
mkl = ctypes.CDLL(next(str(f.locate()) for f in files("mkl") if "libmkl_rt" in f.name))
def matmul(a, b, out):
    plain, turned = 111, 112  # CblasNoTrans, CblasTrans
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (a, b, out)]
    (rows, inner), columns = a.shape, b.shape[1]
    kinds = [plain if array.flags.c_contiguous else turned for array in (a, b)]
    leading = [max(array.strides) // 4 for array in (a, b, out)]
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    mkl.cblas_sgemm(101, *kinds, rows, columns, inner, one, pointers[0], leading[0],
                    pointers[1], leading[1], zero, pointers[2], leading[2])
"""
COMPANY: dict[str, tuple[str | None, str, str]] = {
    "NumPy's products": (None, "", ""),
    "and PyTorch's, imported before": ("torch", WITH_TORCH, ""),
    "and PyTorch's, imported after": ("torch", "", WITH_TORCH),
    "and scikit-learn's KMeans, imported before": ("scikit-learn", WITH_SCIKIT_LEARN, ""),
    "and scikit-learn's KMeans, imported after": ("scikit-learn", "", WITH_SCIKIT_LEARN),
    "MKL's products instead": ("mkl", WITH_MKL, ""),
}
LONG = {"GOMP_SPINCOUNT": "30000000000"}  # libgomp's own choice where it has a processor a thread


def answer(script: str, *arguments: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.strip()


def limits() -> str:
    rows = [
        [name, answer(script, environment=environment)]
        for name, (script, environment) in SITUATIONS.items()
    ]
    return table(["limit", f"threads of a large call, of {os.cpu_count()} processors"], rows)


def company() -> str:
    rows = []
    for name, (library, before, after) in COMPANY.items():
        try:
            name = f"{name} ({library} {version(library)})" if library else name
        except PackageNotFoundError:
            continue
        script = STEPS.format(before=before, after=after)
        rows.append([name, *answer(script, environment={}).split()])
    header = ["awake in the process", "threads of the loss", "step / step with `num_threads=1`"]
    return table(header, rows)


def scaling() -> str:
    processors = os.cpu_count() or 1
    threads = [2**power for power in range(processors.bit_length()) if 2**power <= processors]
    rows = []
    for shape in SCALED_SHAPES:
        arguments = [str(number) for number in (*shape, *threads, 0)]
        alone, *others = map(float, answer(SCALING, *arguments, environment={}).split())
        label = f"{shape[0]:,} x {shape[1]:,}"
        rows.append([label, f"{1e3 * alone:,.3f}", *[f"{alone / one:.2f}" for one in others]])
    header = ["logits", "ms on one thread", *[f"{number}" for number in threads[1:]], "by default"]
    return table(header, rows)


def neighbours() -> str:
    rows = []
    for busy in (0, 1, os.cpu_count() or 1):
        with ExitStack() as stack:
            for _ in range(busy):
                process = subprocess.Popen([sys.executable, "-c", BUSY])
                stack.callback(process.wait)
                stack.callback(process.kill)
            times = [
                answer(CALLS, threads, environment=environment)
                for threads, environment in (("1", {}), ("2", {}), ("2", LONG))
            ]
        rows.append([str(busy), *[f"{1e6 * float(time):,.0f}" for time in times]])
    header = ["busy programs", "`num_threads=1`", "`num_threads=2`", "2, workers that wait long"]
    return f"Microseconds of a call on 256 x 1,000 logits:\n\n{table(header, rows)}"


TABLES = {"limits": limits, "scaling": scaling, "company": company, "neighbours": neighbours}
ON_THE_PAGE = {"limits", "scaling", "company"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", choices=[[], *TABLES], help="all if none is named")
    parser.add_argument("--write", action="store_true", help=f"replace the table of {PAGE.name}")
    arguments = parser.parse_args()
    for name in arguments.tables or TABLES:
        text = f"{TABLES[name]()}\n\n{where()}"
        if arguments.write and name in ON_THE_PAGE:
            write_block(PAGE, f"measured: {name}", text)
        else:
            print(f"## {name}\n\n{text}\n")


if __name__ == "__main__":
    main()
