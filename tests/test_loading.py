"""What importing the package does to the process, and what a call does where threads cannot start.

Knows the environment's variables of OpenMP libraries, and limits of a process. Must not know how a
call shares out its work.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from xent_fast import _loading, show_config, softmax_cross_entropy

TIME_LIMIT = 120
HAS_OPENMP = show_config("dicts")["threads"]["openmp"] is not None
needs_openmp = pytest.mark.skipif(not HAS_OPENMP, reason="needs a build with OpenMP")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="a test of Linux's limits")

THREADS = "import json, xent_fast; print(json.dumps(xent_fast.show_config('dicts')['threads']))"

# Every layout of work: whole chunks, rows that threads share, and a backward pass.
BITS = """
import hashlib, sys
import numpy as np
from xent_fast import distillation_loss_grad, softmax_cross_entropy_grad
from xent_fast import softmax_cross_entropy_hvp, softmax_vjp
{before}
digest = hashlib.sha256()
for rows, classes in ((20_000, 10), ({rows}, 128), (2, 70_000)):
    rng = np.random.default_rng(3)
    x, v = rng.standard_normal((2, rows, classes), dtype=np.float32)
    y = rng.integers(0, classes, rows)
    threads = int(sys.argv[1])
    digest.update(softmax_cross_entropy_grad(x, y, label_smoothing=0.1, num_threads=threads).grad)
    digest.update(softmax_cross_entropy_grad(x, abs(v), num_threads=threads).grad)
    digest.update(distillation_loss_grad(x, v, abs(v), temperature=2, num_threads=threads).grad)
    digest.update(softmax_cross_entropy_hvp(x, y, v, num_threads=threads))
    digest.update(softmax_vjp(x, v, num_threads=threads))
print(digest.hexdigest())
"""

# Address space for some threads' stacks, not for all 63.
LITTLE_MEMORY = """
import resource
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 160 * 2**20,) * 2)
"""


def run(script: str, *arguments: str, **environment: str) -> str:
    """What a fresh process prints; the variables that say how threads wait are not inherited."""
    clean = {name: value for name, value in os.environ.items() if name not in _loading.CHOICES}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        check=True,
        timeout=TIME_LIMIT,
        stdout=subprocess.PIPE,
        text=True,
        env=clean | environment,
    )
    return done.stdout.strip()


def threads_of(script: str = THREADS, **environment: str) -> dict[str, object]:
    return json.loads(run(script, **environment))


def test_importing_leaves_the_environment_as_it_was() -> None:
    script = "import os; before = dict(os.environ); import xent_fast; print(before == os.environ)"
    assert run(script) == "True"
    assert run(script, GOMP_SPINCOUNT="7", OMP_NUM_THREADS="1") == "True"


@needs_openmp
def test_workers_wait_briefly_unless_the_user_says_otherwise() -> None:
    assert threads_of()["waiting"] == "briefly"
    for name, value in (("OMP_WAIT_POLICY", "passive"), ("GOMP_SPINCOUNT", "infinite")):
        assert threads_of(**{name: value})["waiting"] == "as the environment says"


@needs_openmp
@needs_linux
def test_one_thread_by_default_where_the_library_was_loaded_before() -> None:
    """As by an import of PyTorch, whose OpenMP library then serves this package too."""
    library = run("import xent_fast; print(*xent_fast._loading.openmp_libraries())").split()[0]
    loaded_before = f"import ctypes; ctypes.CDLL({library!r}); {THREADS}"
    assert threads_of(loaded_before)["default"] == 1
    assert threads_of(loaded_before, OMP_WAIT_POLICY="passive")["default"] == min(
        threads_of()["default"], len(os.sched_getaffinity(0))
    )


@needs_openmp
@needs_linux
def test_a_worker_whose_stack_is_too_small_is_not_used() -> None:
    script = BITS.format(before="", rows=2000)
    want = run(script, "1")
    for size in ("16k", "24k", "64k", "128k", "256k", "1M"):
        assert run(script, "3", OMP_STACKSIZE=size) == want


@needs_openmp
@needs_linux
def test_workers_bound_to_processors_that_are_not_there_are_not_used() -> None:
    script = BITS.format(before="", rows=2000)
    want = run(script, "1")
    missing = 1000
    for name, value in (
        ("GOMP_CPU_AFFINITY", f"{missing} {missing + 1}"),
        ("OMP_PLACES", f"{{{missing}}},{{0}}"),
        ("OMP_PLACES", "cores"),
    ):
        assert run(script, "3", **{name: value}) == want


@needs_openmp
@needs_linux
def test_threads_that_cannot_be_started_are_done_without() -> None:
    want = run(BITS.format(before="", rows=9000), "1")
    little = BITS.format(before=LITTLE_MEMORY, rows=9000)
    assert run(little, "64") == want
    assert run(little, "2", OMP_STACKSIZE=" 1 g") == want
    assert run(little, "2", GOMP_STACKSIZE="524288") == want


@pytest.mark.skipif(HAS_OPENMP, reason="needs a build without OpenMP")
def test_a_build_without_openmp_says_once_that_threads_have_no_effect() -> None:
    x, y = np.zeros((2, 3)), np.zeros(2, dtype=int)
    script = "import warnings; import numpy as np; import xent_fast"
    call = "xent_fast.softmax_cross_entropy(np.zeros((2, 3)), [0, 1], num_threads=2)"
    count = (
        f"{script}\nwith warnings.catch_warnings(record=True) as seen:\n"
        f"    warnings.simplefilter('always')\n    {call}; {call}\nprint(len(seen))"
    )
    assert run(count) == "1"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        softmax_cross_entropy(x, y, num_threads=1)
