"""Build the extension modules.

Knows: their sources, the compilers' flags, and how to find out whether OpenMP works.
Must not know: the package's metadata (pyproject.toml), the compiler options of an instruction set
(each `kernels/isa_*.c` sets its own target).

CC, CFLAGS and LDFLAGS count as everywhere with setuptools, for the OpenMP probe too.
XENT_FAST_OPENMP=0 builds without OpenMP; XENT_FAST_REQUIRE_OPENMP=1 fails where it does not work.
XENT_FAST_CYTHON_CHECKS=1 builds with the index and initialisation checks that Cython can insert,
which are slow and for testing; XENT_FAST_LAST_CFLAGS are flags that come after all others, as
-O1 must to have an effect.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError, PlatformError

PACKAGE = Path("src/xent_fast")
# The kernels belong to one module; everything else reaches them through it.
INSTRUCTION_SETS = [
    "_binding/instruction_sets.pyx",
    "kernels/isa_avx2.c",  # the longest first
    "kernels/isa_avx512.c",
    "kernels/isa_portable.c",
    "kernels/isa_neon.c",
    "kernels/dispatch.c",
    "kernels/labels.c",
]
BINDING = [
    "arguments",
    "arrays",
    "batch",
    "class_calls",
    "engine",
    "loss_calls",
    "options",
    "second_order_calls",
    "softmax_calls",
    "stored",
]
LAST_FLAGS = shlex.split(os.environ.get("XENT_FAST_LAST_CFLAGS", ""))
CYTHON_CHECKS = os.environ.get("XENT_FAST_CYTHON_CHECKS", "0") != "0"
CYTHON_DIRECTIVES = {
    "language_level": 3,
    "autotestdict": False,
    "boundscheck": CYTHON_CHECKS,
    "cdivision": True,
    "freethreading_compatible": True,
    "initializedcheck": CYTHON_CHECKS,
    "nonecheck": CYTHON_CHECKS,
    "wraparound": CYTHON_CHECKS,
}
# The kernels ask for every fused multiply-add themselves; a compiler that contracts or reorders
# others would give each instruction set bits of its own. Debug information, for which Python's own
# flags may ask, takes as long as all the rest, so much is inlined.
FLAGS = {
    "unix": ["-O3", "-ffp-contract=off", "-fvisibility=hidden", "-g0"],
    "msvc": ["/O2", "/fp:precise", "/std:c11"],
}
# After CFLAGS and LDFLAGS, to compile and to link: sums that are reassociated have other bits, and
# a library linked with -ffast-math or -Ofast makes its whole process take subnormal numbers for 0.
EXACT_FLAGS = {
    "unix": ["-O3", "-fno-fast-math", "-fno-unsafe-math-optimizations"],
    "msvc": [],
}
# (to compile, to link), tried in this order; the second is for Apple's clang.
OPENMP_FLAGS = {
    "unix": [(["-fopenmp"], ["-fopenmp"]), (["-Xpreprocessor", "-fopenmp"], ["-lomp"])],
    "msvc": [(["/openmp"], [])],
}
PLAIN_PROBE = "int probe(void) { return 1; }\n"
OPENMP_PROBE = """
#include <omp.h>
int probe(void) {
    int sum = 0, i;
#pragma omp parallel for reduction(+ : sum)
    for (i = 0; i < 100; i++) sum += i;
    return sum == 4950 && omp_get_max_threads() >= 1;
}
"""
RUN_PROBE = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).probe() != 1)"


class BuildExtension(build_ext):
    """Add what can be decided only once the compiler is known."""

    translation = Lock()
    user_options = build_ext.user_options + [  # noqa: RUF005  setuptools asks for a list of its own
        ("kernels-alone=", None, "compile no more than the kernels, into this folder"),
    ]

    def initialize_options(self):
        """Build everything."""
        super().initialize_options()
        self.kernels_alone = None

    def build_extensions(self):
        """Choose flags, build all modules side by side."""
        family = "msvc" if self.compiler.compiler_type == "msvc" else "unix"
        if family == "unix":
            require_compiler(self.compiler.compiler_so[0])
        openmp_compile_flags, openmp_link_flags = self.choose_openmp_flags(OPENMP_FLAGS[family])
        version = self.distribution.get_version()
        self.force = True  # file times do not tell that flags, the compiler or Cython changed
        for extension in self.extensions:
            extension.define_macros.append(("XENT_FAST_VERSION", f'"{version}"'))
            extension.extra_compile_args = (
                FLAGS[family] + openmp_compile_flags + EXACT_FLAGS[family] + LAST_FLAGS
            )
            extension.extra_link_args = openmp_link_flags + EXACT_FLAGS[family]
        self.compiler.compile = in_parallel(self.compiler.compile)
        if self.kernels_alone:
            self.compile_kernels(self.extensions[0])
            return
        self.parallel = os.cpu_count()
        super().build_extensions()

    def compile_kernels(self, extension):
        """Compile the extension's C files: objects that checks link with programs of their own."""
        self.compiler.compile(
            [source for source in extension.sources if source.endswith(".c")],
            output_dir=self.kernels_alone,
            macros=extension.define_macros,
            include_dirs=extension.include_dirs,
            extra_postargs=extension.extra_compile_args,
        )

    def build_extension(self, extension):
        """Translate Cython to C, one module at a time, and compile while others are translated."""
        with self.translation:
            extension.sources = cythonize(
                [extension],
                build_dir=self.build_temp,
                compiler_directives=CYTHON_DIRECTIVES,
                force=True,
            )[0].sources
        super().build_extension(extension)

    def choose_openmp_flags(self, candidates):
        """Return the first flags that work, or none."""
        required = os.environ.get("XENT_FAST_REQUIRE_OPENMP", "0") != "0"
        allowed = os.environ.get("XENT_FAST_OPENMP", "1") != "0"
        for flags in candidates if allowed else []:
            if self.openmp_works(*flags):
                return flags
        reason = "does not work with this compiler and its flags" if allowed else "is turned off"
        if required:
            raise PlatformError(f"XENT_FAST_REQUIRE_OPENMP is set, but OpenMP {reason}")
        self.warn(f"xent_fast is built WITHOUT THREADS: OpenMP {reason}")
        if allowed:  # pip hides the warning and shows the name of the wheel
            self.get_finalized_command("bdist_wheel").build_number = "1without_threads"
        return [], []

    def openmp_works(self, compile_flags, link_flags):
        """Whether an OpenMP library builds and runs; where nothing built here can run, builds."""
        with tempfile.TemporaryDirectory() as directory:
            try:
                library = self.build_probe(directory, OPENMP_PROBE, compile_flags, link_flags)
                return probe_runs(library) or not probe_runs(
                    self.build_probe(directory, PLAIN_PROBE, [], [])
                )
            except (CompileError, LinkError):
                return False

    def build_probe(self, directory, source, compile_flags, link_flags):
        """Build a shared library as the extension is built, and return its path."""
        source_file = Path(tempfile.mkdtemp(dir=directory)) / "probe.c"
        source_file.write_text(source)
        objects = self.compiler.compile(
            [str(source_file)], output_dir=directory, extra_postargs=compile_flags
        )
        library = source_file.with_suffix(".library")
        self.compiler.link_shared_object(
            objects, str(library), export_symbols=["probe"], extra_postargs=link_flags
        )
        return library


def require_compiler(name):
    """Stop with the remedy where there is no C compiler."""
    if shutil.which(name) is None:
        raise PlatformError(
            f"xent_fast needs a C compiler, and there is no {name!r} here. Install one "
            "(Debian and Ubuntu: apt install gcc python3-dev; Fedora: dnf install gcc "
            "python3-devel; macOS: xcode-select --install) or name yours: CC=clang pip install ..."
        )


def in_parallel(compile_sources):
    """Give a compiler's method that compiles one source more at once than there are processors.

    So every processor has work until the last source is done.
    """

    def compile_all(sources, **options):
        def compile_one(source):
            return compile_sources([source], **options)

        with ThreadPoolExecutor((os.cpu_count() or 1) + 1) as pool:
            return [name for names in pool.map(compile_one, sources) for name in names]

    return compile_all


def probe_runs(library):
    """Whether a probe does its work, in a process of its own since it may crash."""
    command = [sys.executable, "-c", RUN_PROBE, library]
    return subprocess.run(command, check=False).returncode == 0


def extension(sources):
    """One compiled module, named by its first source."""
    name = Path(sources[0]).with_suffix("").as_posix().replace("/", ".")
    return Extension(
        f"xent_fast.{name}",
        sources=[(PACKAGE / source).as_posix() for source in sources],
        depends=sorted(header.as_posix() for header in PACKAGE.rglob("*.h")),
        include_dirs=[PACKAGE.as_posix(), (PACKAGE / "include").as_posix(), numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
    )


setup(
    cmdclass={"build_ext": BuildExtension},
    ext_modules=[
        extension(INSTRUCTION_SETS),
        *(extension([f"_binding/{name}.pyx"]) for name in BINDING),
        extension(["_loss.pyx"]),
        extension(["c_api.pyx"]),
    ],
)
