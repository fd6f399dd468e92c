/* log(1 + r) for r >= 0.  A template over REAL_BITS.
 *
 * Knows: the reduction, the polynomial and the error.
 * Must not know: what r is.
 *
 *     1 + r = 2^k (1 + f)      -1/4 <= f < 1/2      f = r 2^-k + (2^-k - 1)      one rounding, since r 2^-k is exact
 *     s = f / (2 + f)          z = s^2 <= 1/25      2 atanh(s) = 2 s + s z Q(z)
 *     log(1 + r) = k ln 2 + f - (f^2/2 - s (f^2/2 + z Q(z)))
 *
 * f stands alone in the sum, so that a small r comes back with its own relative accuracy; k ln 2 is taken in two
 * pieces, the first exact.  The last two sums are kept without their roundings, as a pair: the error is that of f and of the
 * correction, below 0.7 u relative (u: half a unit in the last place at 1).  No fused operation: the same bits on every ISA.  r down to -u (a rounded 0) is allowed; NaN gives NaN.
 */

KERNEL_INLINE NAME(pair) NAME(log_of_1_plus)(vec r) {
    const REAL *c = REAL_CONSTANT(atanh_polynomial);
    const vec one = v_splat(1), half = v_splat((REAL)0.5), magic = v_splat(ROUNDING_MAGIC + EXPONENT_BIAS);
    vec k = v_exponent(v_mul(v_add(r, one), v_splat((REAL)(4.0 / 3.0))));
    vec two_to_minus_k = v_bits_to_exponent(v_sub(magic, k));
    vec f = v_add(v_mul(r, two_to_minus_k), v_sub(two_to_minus_k, one));
    vec s = v_div(f, v_add(f, v_splat(2)));
    vec z = v_mul(s, s);
    vec q = v_splat(c[ATANH_TERMS - 1]);
    for (int j = ATANH_TERMS - 2; j >= 0; --j)
        q = v_add(v_mul(q, z), v_splat(c[j]));
    vec half_square = v_mul(half, v_mul(f, f));
    vec correction = v_add(v_mul(s, v_add(half_square, v_mul(z, q))), v_mul(k, v_splat(REAL_CONSTANT(ln_2_low))));
    NAME(pair) log = {f, v_splat(0)};
    NAME(pair_add)(&log, v_sub(correction, half_square));
    NAME(pair_add)(&log, v_mul(k, v_splat(REAL_CONSTANT(ln_2_high))));
    return log;
}
