"""Make coefficients.h: the polynomials of exp.h and log.h and the bounds of their errors.

Knows: which function each polynomial stands for, on which interval, in which dtype.
Must not know: how the kernels evaluate them.

An exponential is 2^(f/S) times one of S numbers of a table: eighths, S = 8, where there is fused
multiply-add; else halves, S = 2. All exponentials share one unit K, which cancels wherever two of
them meet. It is chosen so that each of the table is nearly a number of the dtype, and so that the
polynomial needs no constant of its own. K = (1 + sqrt 2) / 2 makes the second half K + 1/2.

Each polynomial is the minimax one (Remez exchange in 40 digits, relative error of the whole
function), its coefficients rounded to the dtype and polished there. The bound printed holds for
the rounded coefficients in exact arithmetic.

    python make_coefficients.py > coefficients.h        (needs mpmath)
"""

from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import numpy as np
from mpmath import mp, mpf

mp.dps = 40

SIGNIFICAND_BITS = {"f32": 24, "f64": 53}


def round_to(value: mpf, bits: int) -> mpf:
    """Round to a binary significand of so many bits, ties to even."""
    if value == 0:
        return value
    exponent = int(mpmath.floor(mpmath.log(abs(value), 2))) + 1
    return mpmath.ldexp(mpmath.nint(mpmath.ldexp(value, bits - exponent)), exponent - bits)


def truncate_to(value: mpf, bits: int) -> mpf:
    """Cut to a binary significand of so many bits."""
    exponent = int(mpmath.floor(mpmath.log(abs(value), 2))) + 1
    return mpmath.ldexp(mpmath.floor(mpmath.ldexp(value, bits - exponent)), exponent - bits)


@dataclass
class Fit:
    """Minimise |weight(x) * (target(x) - sum of c_k x^k)| on [low, high]."""

    target: Callable[[mpf], mpf]
    weight: Callable[[mpf], mpf]
    low: mpf
    high: mpf


def minimax(fit: Fit, count: int) -> list[mpf]:
    """Remez exchange for a polynomial of `count` coefficients."""
    centre, half = (fit.high + fit.low) / 2, (fit.high - fit.low) / 2
    # an even number of grid points keeps 0 out, where a weight may vanish
    grid = [centre - half * mpmath.cos(mpmath.pi * k / 399) for k in range(400)]
    targets, weights = [fit.target(x) for x in grid], [fit.weight(x) for x in grid]
    nodes = [round(399 * k / count) for k in range(count + 1)]
    coefficients: list[mpf] = []
    for _ in range(20):
        rows = [
            [grid[node] ** k for k in range(count)] + [mpf(-1) ** index / weights[node]]
            for index, node in enumerate(nodes)
        ]
        solution = mpmath.lu_solve(
            mpmath.matrix(rows), mpmath.matrix([targets[node] for node in nodes])
        )
        coefficients = list(solution)[:count]
        errors = [
            w * (t - mpmath.polyval(coefficients[::-1], x))
            for x, t, w in zip(grid, targets, weights, strict=True)
        ]
        exchanged = alternating_extrema(errors, count + 1)
        if exchanged == nodes or len(exchanged) <= count:
            break
        nodes = exchanged
    return coefficients


def alternating_extrema(errors: list[mpf], wanted: int) -> list[int]:
    """Index of the largest error of each run of one sign, the lesser ends left out."""
    runs: list[int] = []
    for index, error in enumerate(errors):
        if runs and (errors[runs[-1]] > 0) == (error > 0):
            if abs(error) > abs(errors[runs[-1]]):
                runs[-1] = index
        else:
            runs.append(index)
    while len(runs) > wanted:
        runs.pop(0 if abs(errors[runs[0]]) < abs(errors[runs[-1]]) else -1)
    return runs


Samples = list[tuple[mpf, mpf, mpf]]


def sample(fit: Fit, points: int) -> Samples:
    """Place, target and weight on an even grid."""
    grid = [fit.low + (fit.high - fit.low) * k / (points - 1) for k in range(points)]
    return [(x, fit.target(x), fit.weight(x)) for x in grid]


def worst_error(samples: Samples, coefficients: list[mpf]) -> mpf:
    """Largest weighted error of a polynomial on a grid."""
    return max(
        abs(weight * (target - mpmath.polyval(coefficients[::-1], x)))
        for x, target, weight in samples
    )


def rounded_fit(fit: Fit, count: int, bits: int) -> tuple[list[mpf], mpf]:
    """Coefficients in the dtype, moved by units in the last place while that helps; their error."""
    best = [round_to(c, bits) for c in minimax(fit, count)]
    samples = sample(fit, 200)
    error = worst_error(samples, best)
    improved = True
    while improved:
        improved = False
        for index, sign in [(index, sign) for index in range(min(count, 4)) for sign in (1, -1)]:
            step = mpmath.ldexp(sign, int(mpmath.floor(mpmath.log(abs(best[index]), 2))) + 1 - bits)
            moved = [c + step if k == index else c for k, c in enumerate(best)]
            moved_error = worst_error(samples, moved)
            if moved_error < error:
                best, error, improved = moved, moved_error, True
    return best, worst_error(sample(fit, 4002), best)


def exp2_fit(steps: int) -> Fit:
    """2^(f/steps) = a_0 + a_1 f + ..., relative error; |f| <= 1/2 but for roundings."""
    return Fit(
        lambda f: mpf(2) ** (f / steps),
        lambda f: 1 / mpf(2) ** (f / steps),
        mpf("-0.502"),
        mpf("0.502"),
    )


def halves(dtype: str) -> tuple[mpf, list[mpf], mpf]:
    """K, the table [U, U + 1/2] and its worst relative error, where U is K rounded.

    K 2^(1/2) = K + 1/2 for K = (1 + sqrt 2) / 2; K here is midway between what either number of the
    table stands for.
    """
    unit = round_to((1 + mpmath.sqrt(2)) / 2, SIGNIFICAND_BITS[dtype])
    table = [unit, unit + mpf("0.5")]
    stood_for = [unit, table[1] / mpmath.sqrt(2)]
    middle = sum(stood_for) / 2
    return middle, table, max(abs(value / middle - 1) for value in stood_for)


def eighths(dtype: str) -> tuple[mpf, list[mpf], mpf]:
    """A number K of the dtype, the table round(K 2^(j/8)) and its worst relative error.

    K is a multiple of 2^-23, so that float32 holds it. Candidates are judged in the widest floats
    of the machine, the best one in 40 digits.
    """
    real = {"f32": np.float32, "f64": np.float64}[dtype]
    wide = np.longdouble
    powers = np.exp2(np.arange(8, dtype=wide) / 8)
    worst, unit = wide(1), wide(1)
    for first in range(0, 2**23, 2**18):
        units = 1 + np.arange(first, first + 2**18).astype(wide) / 2**23
        exact = units[:, None] * powers
        errors = np.abs(exact.astype(real).astype(wide) / exact - 1).max(axis=1)
        if errors.min() < worst:
            worst, unit = errors.min(), units[errors.argmin()]
    exact_table = [mpf(float(unit)) * mpf(2) ** (mpf(j) / 8) for j in range(8)]
    table = [round_to(value, SIGNIFICAND_BITS[dtype]) for value in exact_table]
    error = max(abs(a / b - 1) for a, b in zip(table, exact_table, strict=True))
    return mpf(float(unit)), table, error


def emit_exp2(name: str, dtype: str, count: int, scale_up: int) -> None:
    """Print the table as bits, made for adding n times 1/S of an exponent; K; polynomial."""
    scalar, word, size = ("float", "uint32_t", 32) if dtype == "f32" else ("double", "uint64_t", 64)
    bits = SIGNIFICAND_BITS[dtype]
    unit, table, table_error = {"eighths": eighths, "halves": halves}[name](dtype)
    steps = len(table)
    fit = exp2_fit(steps)
    coefficients = minimax(fit, count + 1)
    rounded = [round_to(c / coefficients[0], bits) for c in coefficients[1:]]
    scaled = [coefficients[0]] + [c * coefficients[0] for c in rounded]
    error = worst_error(sample(fit, 4002), scaled)
    real = np.float32 if dtype == "f32" else np.float64
    entries = []
    for j, value in enumerate(table):
        pattern = int(real(float(value * mpf(2) ** scale_up)).view(f"u{size // 8}"))
        entry = (pattern - (j << (bits - 1)) // steps) % 2**size
        entries.append(f"{entry:#x}u" + ("ll" if size == 64 else ""))
    if name == "halves":  # the same number for both
        assert entries[0] == entries[1]
        entries = entries[:1]
    print(
        f"/* K 2^(j/{steps}) 2^{scale_up} as bits, less j {name} of an exponent; off by at most"
        f" 2^{mpmath.nstr(mpmath.log(table_error, 2), 4)} but for a constant in K. */"
    )
    body = ", ".join(entries)
    print(f"static const {word} table_of_{name}_{dtype}[{len(entries)}] = {{{body}}};")
    unit = round_to(unit / coefficients[0], SIGNIFICAND_BITS["f64"])
    print(f"static const double unit_of_{name}_{dtype} = {hexadecimal(unit, 'f64')}; /* K */")
    print(
        f"/* 2^(f/{steps}) - 1 over f; relative error of 2^(f/{steps}) at most"
        f" 2^{mpmath.nstr(mpmath.log(error, 2), 4)} in exact arithmetic. */"
    )
    body = ", ".join(hexadecimal(c, dtype) for c in rounded)
    print(f"static const {scalar} polynomial_of_{name}_{dtype}[{count}] = {{{body}}};")


def atanh_fit() -> Fit:
    """2 atanh(s) = 2 s + s z Q(z), z = s^2, |s| <= 1/5; error relative to 2 s."""

    def series(z: mpf) -> mpf:
        s = mpmath.sqrt(z)
        return (2 * mpmath.atanh(s) / s - 2) / z

    return Fit(series, lambda z: z / 2, mpf("1e-9"), mpf("0.0401"))


def hexadecimal(value: mpf, dtype: str) -> str:
    """A C literal with exactly that value."""
    text = float(value).hex()
    assert mpf(float(value)) == value
    return text + ("f" if dtype == "f32" else "")


def emit_polynomial(name: str, dtype: str, fit: Fit, count: int) -> None:
    """Print one array and its bound."""
    coefficients, error = rounded_fit(fit, count, SIGNIFICAND_BITS[dtype])
    print(
        "/* Relative error at most"
        f" 2^{mpmath.nstr(mpmath.log(error, 2), 4)} in exact arithmetic. */"
    )
    body = ", ".join(hexadecimal(c, dtype) for c in coefficients)
    scalar = "float" if dtype == "f32" else "double"
    print(f"static const {scalar} {name}_{dtype}[{count}] = {{{body}}};")


def emit_constants(dtype: str) -> None:
    """Print log2(e) and ln(2), whole and in pieces."""
    bits = SIGNIFICAND_BITS[dtype]
    log2_e, ln_2 = 1 / mpmath.log(2), mpmath.log(2)
    high = round_to(log2_e, bits)
    first = truncate_to(log2_e, bits // 2)
    second = truncate_to(log2_e - first, bits // 2)
    ln_2_high = truncate_to(ln_2, bits - 12)
    ln_2_rounded = round_to(ln_2, bits)
    constants = {
        "log2_e": high,
        "log2_e_low": round_to(log2_e - high, bits),
        "log2_e_first": first,
        "log2_e_second": second,
        "log2_e_third": round_to(log2_e - first - second, bits),
        "ln_2": ln_2_rounded,
        "ln_2_tail": round_to(ln_2 - ln_2_rounded, bits),
        "ln_2_high": ln_2_high,
        "ln_2_low": round_to(ln_2 - ln_2_high, bits),
    }
    scalar = "float" if dtype == "f32" else "double"
    for name, value in constants.items():
        print(f"static const {scalar} {name}_{dtype} = {hexadecimal(value, dtype)};")


def main() -> None:
    """Print the header."""
    print("/* Made by make_coefficients.py; do not edit.  Knows: numbers alone. */")
    print("/* clang-format off */")
    print("#ifndef XENT_FAST_COEFFICIENTS_H\n#define XENT_FAST_COEFFICIENTS_H")
    print("\n#include <stdint.h>")
    for dtype, eighths_count, halves_count, scale_up, atanh_count in (
        ("f32", 4, 5, 32, 4),
        ("f64", 7, 10, 64, 8),
    ):
        print()
        emit_constants(dtype)
        emit_exp2("eighths", dtype, eighths_count, scale_up)
        emit_exp2("halves", dtype, halves_count, scale_up)
        emit_polynomial("atanh_polynomial", dtype, atanh_fit(), atanh_count)
    print("\n#endif")


if __name__ == "__main__":
    main()
