/* Exponentials relative to an integer power of two.  A template over REAL_BITS.
 *
 * Knows: exp(x) = 2^(x L), L = log2(e), its reduction, its polynomial and its error.
 * Must not know: rows, blocks, what the exponentials are summed for.
 *
 *     2^(x L - c + SCALE_UP) = 2^f 2^(y - c + SCALE_UP)      y = round(x L)      f = x L - y
 *
 * The usual exp(x - m) rounds x - m and so loses up to |x - m| / 2 units in the last place (u = half a unit at 1). Here
 * y is an exact integer and f is taken from the exact product x L:
 *
 *     with FMA       f = fma(x, L_low, fma(x, L, -y))                  two roundings of a number below 1/2
 *     without        f = x_high L1 - y + x_low L1 + x_high L2 + x_low L2 + x L3   halves of a significand: but for the
 *                                                                         last, exact products
 *
 * so that |error of f| <= 2^-25 (float32) and 2^f = 1 + f P(f) is off by at most
 *     u (1 [last rounding] + 0.35 [f] + 0.25 [P, times f] + 0.1 [approximation])  <= 1.7 u,  u = 2^-24 relative,
 * likewise in float64 with u = 2^-53.  coefficients.h holds P, make_coefficients.py makes it.
 *
 * Domain: |c| below 2^17 (float32), 2^30 (float64), x L - c <= 2.  x L - c < -FLUSH_BELOW gives an exact 0, -inf
 * included; NaN gives NaN.
 */

/* What exponentials of one block, or of each lane, are relative to. */
typedef struct {
    vec magic;  /* adding it rounds x L to an integer and leaves y - c + SCALE_UP + EXPONENT_BIAS in the low bits */
    vec lowest; /* smaller x give 0 */
} NAME(exponential_reference);

/* Reference for integer-valued c. */
KERNEL_INLINE NAME(exponential_reference) NAME(reference_for)(vec c) {
    NAME(exponential_reference) r;
    r.magic = v_sub(v_splat(ROUNDING_MAGIC + (EXPONENT_BIAS + SCALE_UP)), c);
    r.lowest = v_mul(v_sub(c, v_splat(FLUSH_BELOW)), v_splat(REAL_CONSTANT(ln_2)));
    return r;
}

/* round(m log2(e)): the reference c that puts exp(m) between 0.7 and 1.42 times 2^SCALE_UP. */
KERNEL_INLINE vec NAME(reference_exponent)(vec m) {
    const vec magic = v_splat(ROUNDING_MAGIC);
    return v_sub(v_add(v_mul(m, v_splat(REAL_CONSTANT(log2_e))), magic), magic);
}

/* 2^f = 1 + q f of the head, and 2^(y - c + SCALE_UP). */
typedef struct {
    vec q, f, scale;
} NAME(reduced_exponential);

KERNEL_INLINE NAME(reduced_exponential) NAME(reduce_exponential)(vec x, NAME(exponential_reference) reference) {
    const REAL *p = REAL_CONSTANT(exp2_polynomial);
    const vec log2_e = v_splat(REAL_CONSTANT(log2_e));
    const vec shifted = v_fma(x, log2_e, reference.magic);
    const vec y = v_sub(shifted, reference.magic);
    NAME(reduced_exponential) r;
#if HAS_FMA
    r.f = v_fma(x, v_splat(REAL_CONSTANT(log2_e_low)), v_fms(x, log2_e, y));
#else
    const vec x_high = v_high_half(x);
    const vec x_low = v_sub(x, x_high);
    const vec first = v_splat(REAL_CONSTANT(log2_e_first)), second = v_splat(REAL_CONSTANT(log2_e_second));
    const vec small = v_add(v_mul(x_low, second), v_mul(x, v_splat(REAL_CONSTANT(log2_e_third))));
    const vec large = v_add(v_sub(v_mul(x_high, first), y), v_mul(x_low, first)), middle = v_mul(x_high, second);
    const vec sum = v_add(large, middle);
    r.f = v_add(sum, v_add(v_sub(middle, v_sub(sum, large)), small));
#endif
    r.q = v_splat(p[EXP2_TERMS - 1]);
    for (int k = EXP2_TERMS - 2; k >= 0; --k)
        r.q = v_fma(r.q, r.f, v_splat(p[k]));
    r.scale = v_bits_to_exponent(shifted);
    return r;
}

KERNEL_INLINE vec NAME(scaled_exponential)(vec x, NAME(exponential_reference) reference) {
    const NAME(reduced_exponential) r = NAME(reduce_exponential)(x, reference);
    const vec power = v_fma(r.q, r.f, v_splat(1));
    return v_keep(v_not_less(x, reference.lowest), v_mul(power, r.scale));
}

/* The same with what the last rounding of 2^f dropped. */
KERNEL_INLINE NAME(pair) NAME(scaled_exponential_pair)(vec x, NAME(exponential_reference) reference) {
    const NAME(reduced_exponential) r = NAME(reduce_exponential)(x, reference);
    const vec power = v_fma(r.q, r.f, v_splat(1));
    const vec dropped = v_fma(r.q, r.f, v_sub(v_splat(1), power));
    const vec_mask counts = v_not_less(x, reference.lowest);
    const NAME(pair) result = {v_keep(counts, v_mul(power, r.scale)), v_keep(counts, v_mul(dropped, r.scale))};
    return result;
}
