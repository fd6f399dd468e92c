/* log(1 + r) for r >= 0.  A template over REAL_BITS.
 *
 * Knows: the reduction, the polynomial and the error.
 * Must not know: what r is.
 *
 *     1 + r = 2^k (1 + f)      -1/4 <= f < 1/2      f = r 2^-k + (2^-k - 1)
 *     one rounding, since r 2^-k is exact
 *     s = f / (2 + f)          z = s^2 <= 1/25      2 atanh(s) = 2 s + s z Q(z)
 *     log(1 + r) = k ln 2 + f - (f^2/2 - s (f^2/2 + z Q(z)))
 *
 * f stands alone in the sum, so that a small r comes back with its own relative accuracy; k ln 2 is
 * taken in two pieces, the first exact.  The error is that of f and of the correction, below 0.7 u
 * relative (u: half a unit in the last place at 1), and where the last sum is rounded u more.  r
 * down to -u (a rounded 0) is allowed; NaN gives NaN.
 */

/* log(1 + r) = large + (f + rest): large is 0 or larger than f, and the rest is small beside
 * either. */
typedef struct {
    vec f, rest, large;
} log_terms;

VECTOR_INLINE log_terms log_terms_of(vec r) {
    const REAL *c = REAL_CONSTANT(atanh_polynomial);
    const vec one = v_splat(1), half = v_splat((REAL)0.5),
              magic = v_splat(ROUNDING_MAGIC + EXPONENT_BIAS);
    vec k = v_exponent(v_mul(v_add(r, one), v_splat((REAL)(4.0 / 3.0))));
    vec two_to_minus_k = v_bits_to_exponent(v_sub(magic, k));
    vec f = v_fma(r, two_to_minus_k, v_sub(two_to_minus_k, one));
    vec s = v_div(f, v_add(f, v_splat(2)));
    vec z = v_mul(s, s);
    /* even and odd powers of z side by side: a chain half as long */
    vec square = v_mul(z, z), even = v_splat(c[ATANH_TERMS - 2]), odd = v_splat(c[ATANH_TERMS - 1]);
    for (int j = ATANH_TERMS - 4; j >= 0; j -= 2) {
        even = v_fma(even, square, v_splat(c[j]));
        odd = v_fma(odd, square, v_splat(c[j + 1]));
    }
    vec q = v_fma(odd, z, even);
    vec half_square = v_mul(half, v_mul(f, f));
    vec correction = v_fma(s, v_fma(z, q, half_square), v_mul(k, v_splat(REAL_CONSTANT(ln_2_low))));
    const log_terms terms = {f, v_sub(correction, half_square),
                             v_mul(k, v_splat(REAL_CONSTANT(ln_2_high)))};
    return terms;
}

/* Without the roundings of the last two sums. */
VECTOR_INLINE vec_pair log_of_1_plus(vec r) {
    const log_terms terms = log_terms_of(r);
    vec_pair log = {terms.f, v_splat(0)};
    pair_add(&log, terms.rest);
    pair_add(&log, terms.large);
    return log;
}

/* With the rounding of the last. */
VECTOR_INLINE vec log_of_1_plus_rounded(vec r) {
    const log_terms terms = log_terms_of(r);
    const vec sum = v_add(terms.large, terms.f);
    return v_add(sum, v_add(v_sub(terms.f, v_sub(sum, terms.large)), terms.rest));
}
