/* Exponentials relative to an integer power of two.  A template over REAL_BITS.
 *
 * Knows: exp(x) = 2^(x L), L = log2(e), its reduction, its polynomial and its error.
 * Must not know: rows, blocks, what the exponentials are summed for.
 *
 *     e = K 2^(x L - c + SCALE_UP)
 *     K: EXPONENTIAL_UNIT, which cancels where two exponentials meet
 *
 * The usual exp(x - m) rounds x - m and so loses up to |x - m| / 2 units in the last place (u =
 * half a unit at 1). Here n is an exact integer and f is taken from the exact product x L:
 *
 *     n = round(S x L)   f = S x L - n   j = n mod S   S = EXP2_STEPS
 *     e = T_j 2^((n - j) / S - c) (1 + f P(f))         T_j = K 2^(j/S) 2^SCALE_UP
 *
 *     with FMA       f = fma(x, S L_low, fma(x, S L, -n)), S = 8; P has 4 terms (float64: 7)
 *         relative error     u (1 [last rounding] + 0.04 [P] + 0.05 [T_j] + 0.1 [f, f T_j])
 *                            <= 1.25 u (float64: 0.08 [T_j])
 *         K makes all eight T_j nearly numbers of the dtype.
 *
 *     without        f = x_high L1 - n + x_low L1 + x_high L2 + x_low L2 + x L3, times S = 2
 *                    halves of a significand: but for the last, exact products
 *                    P has 5 terms (float64: 10)
 *         relative error     u (1 [last rounding] + 0.3 [f] + 0.3 [f T_j, times P] + 0.2 [P]
 *                               + 0.1 [T_j])
 *                            <= 1.9 u
 *         K = (1 + sqrt 2) / 2, for K 2^(1/2) = K + 1/2: the lowest bit of n, put where the
 *         significand has its 1/2, makes T_1 of T_0, and no table is looked up.
 *
 * P is fitted to |f| <= 0.502; f reaches 0.51 where |x L| is near 2^17, and 0.55 there at some
 * temperatures, which adds up to 0.1 u.  u is 2^-24 (float32) or 2^-53.  coefficients.h holds P and
 * T, make_coefficients.py makes them.
 *
 * Domain: |c| below 2^17 (float32), 2^30 (float64), x L - c <= 2.  Where x L - c is below
 * -(EXPONENT_BIAS + SCALE_UP - 1) the result is an exact 0, for -inf too; above that it is a normal
 * number; NaN stays NaN.
 *
 * One exponential is a chain of about ten operations, each waiting for the one before: INTERLEAVED
 * vectors (see the vocabularies) go side by side, step by step, so that processors find enough to
 * do.
 */
#undef EXP2_STEPS
#undef EXP2_CONSTANT
#undef EXP2_TERMS
#undef EXPONENTIAL_UNIT
#if HAS_FMA
#define EXP2_STEPS 8
#define EXP2_CONSTANT(name) REAL_CONSTANT(name##_of_eighths)
#else
#define EXP2_STEPS 2
#define EXP2_CONSTANT(name) REAL_CONSTANT(name##_of_halves)
#endif
#define EXP2_TERMS ((int)(sizeof EXP2_CONSTANT(polynomial) / sizeof(REAL)))
#define EXPONENTIAL_UNIT EXP2_CONSTANT(unit)

/* What a temperature T makes of the constants: x / T has the logarithm to base 2 of its exponential
 * at x L / T. */
typedef struct {
    REAL log2_e, log2_e_low; /* L / T as a sum of two */
    /* the same in halves of a significand, for products without FMA */
    REAL log2_e_first, log2_e_second, log2_e_third;
    REAL ln_2, huge_logit; /* times T */
} exponent_scale;

VECTOR_INLINE exponent_scale unit_scale(void) {
    const exponent_scale scale = {REAL_CONSTANT(log2_e),
                                  REAL_CONSTANT(log2_e_low),
                                  REAL_CONSTANT(log2_e_first),
                                  REAL_CONSTANT(log2_e_second),
                                  REAL_CONSTANT(log2_e_third),
                                  REAL_CONSTANT(ln_2),
                                  HUGE_LOGIT};
    return scale;
}

VECTOR_INLINE REAL first_half(REAL a) {
#if HAS_FMA
    return a; /* not used there */
#else
    return v_first(v_high_half(v_splat(a)));
#endif
}

/* The constants of a temperature. */
VECTOR_INLINE exponent_scale scale_for(double temperature) {
    exponent_scale scale = unit_scale();
    if (temperature == 1)
        return scale;
#if REAL_BITS == 64
    const double high = log2_e_f64 / temperature;
    const double residual =
        v_first(product_residual(v_splat(high), v_splat(temperature), v_splat(log2_e_f64)));
    const double low = (log2_e_low_f64 - residual) / temperature;
#else
    const exponent_scale_f64 wide = scale_for_f64(temperature);
    const double high = wide.log2_e, low = wide.log2_e_low;
#endif
    scale.log2_e = (REAL)high;
    scale.log2_e_low = (REAL)((high - (double)scale.log2_e) + low);
    scale.log2_e_first = first_half((REAL)high);
    const double after_first = high - (double)scale.log2_e_first;
    scale.log2_e_second = first_half((REAL)after_first);
    scale.log2_e_third = (REAL)((after_first - (double)scale.log2_e_second) + low);
    scale.ln_2 = (REAL)(temperature * ln_2_f64);
    scale.huge_logit = (REAL)(temperature * (double)HUGE_LOGIT);
    return scale;
}

/* What exponentials of one block, or of each lane, are relative to. */
typedef struct {
    vec magic; /* adding it rounds S x L to an integer and leaves that, less S c, in the low bits */
    vec lowest; /* smaller x give 0 */
    exponent_scale scale;
} exponential_reference;

/* Sets the reference for integer-valued c. */
VECTOR_INLINE void set_reference(exponential_reference *reference, vec c,
                                 const exponent_scale *scale) {
    reference->magic = v_fma(c, v_splat(-EXP2_STEPS), v_splat(ROUNDING_MAGIC));
    /* -inf is below it at any temperature */
    reference->lowest =
        v_max(v_mul(v_sub(c, v_splat(EXPONENT_BIAS + SCALE_UP - 1)), v_splat(scale->ln_2)),
              v_splat(-LARGEST_REAL));
    reference->scale = *scale;
}

VECTOR_INLINE exponential_reference reference_for(vec c, const exponent_scale *scale) {
    exponential_reference reference;
    set_reference(&reference, c, scale);
    return reference;
}

/* round(m log2(e)): the reference c that puts exp(m) between 0.7 and 1.42 times 2^SCALE_UP. */
VECTOR_INLINE vec reference_exponent(vec m, const exponent_scale *scale) {
    const vec magic = v_splat(ROUNDING_MAGIC);
    return v_sub(v_add(v_mul(m, v_splat(scale->log2_e)), magic), magic);
}

#if !HAS_FMA
/* f of the head; `n` is round(S x L). */
VECTOR_INLINE vec reduced_argument(vec x, vec n, const exponent_scale *scale) {
    const vec x_high = v_high_half(x);
    const vec x_low = v_sub(x, x_high);
    const vec first = v_splat(EXP2_STEPS * scale->log2_e_first),
              second = v_splat(EXP2_STEPS * scale->log2_e_second),
              third = v_splat(EXP2_STEPS * scale->log2_e_third);
    const vec small = v_add(v_mul(x_low, second), v_mul(x, third));
    const vec large = v_add(v_sub(v_mul(x_high, first), n), v_mul(x_low, first));
    const vec middle = v_mul(x_high, second);
    const vec sum = v_add(large, middle);
    return v_add(sum, v_add(v_sub(middle, v_sub(sum, large)), small));
}
#endif

/* A statement for j = 0 ... count - 1, count a constant 1, 2 or 4. */
#ifndef EACH_OF
#define EACH_OF(count, ...)     \
    do {                        \
        {                       \
            enum { j = 0 };     \
            __VA_ARGS__;        \
        }                       \
        if ((count) > 1) {      \
            enum { j = 1 };     \
            __VA_ARGS__;        \
        }                       \
        if ((count) > 2) {      \
            {                   \
                enum { j = 2 }; \
                __VA_ARGS__;    \
            }                   \
            {                   \
                enum { j = 3 }; \
                __VA_ARGS__;    \
            }                   \
        }                       \
    } while (0)
#endif

/* Of `count` vectors (1, 2 or 4); `dropped`, unless NULL, takes what the last rounding dropped.
 * `flushes`, a constant, is 0 where no x is below reference.lowest and `dropped` is NULL. */
VECTOR_INLINE void exponentials_in_reach(const vec *x, int count, exponential_reference reference,
                                         vec *exponentials, vec *dropped, int flushes) {
    const REAL *p = EXP2_CONSTANT(polynomial);
    const vec steps = v_splat(EXP2_STEPS * reference.scale.log2_e);
    vec f[4], q[4], power[4];
    vec_mask is_counted[4];
    if (flushes)
        EACH_OF(count, is_counted[j] = v_not_less(x[j], reference.lowest));
    EACH_OF(count, power[j] = v_fma(x[j], steps, reference.magic));
#if HAS_FMA
    const vec steps_low = v_splat(EXP2_STEPS * reference.scale.log2_e_low);
    EACH_OF(count, f[j] = v_fms(x[j], steps, v_sub(power[j], reference.magic)));
    EACH_OF(count, f[j] = v_fma(x[j], steps_low, f[j]));
#else
    EACH_OF(count,
            f[j] = reduced_argument(x[j], v_sub(power[j], reference.magic), &reference.scale));
#endif
    EACH_OF(count, power[j] = v_power_of_steps(EXP2_CONSTANT(table), power[j]));
    EACH_OF(count, q[j] = v_splat(p[EXP2_TERMS - 1]));
    for (int k = EXP2_TERMS - 2; k >= 0; --k)
        EACH_OF(count, q[j] = v_fma(q[j], f[j], v_splat(p[k])));
    EACH_OF(count, f[j] = v_mul(power[j], f[j]));
    EACH_OF(count, exponentials[j] = v_fma(f[j], q[j], power[j]));
    if (dropped)
        EACH_OF(count, dropped[j] = v_keep(is_counted[j],
                                           v_fma(f[j], q[j], v_sub(power[j], exponentials[j]))));
    if (flushes)
        EACH_OF(count, exponentials[j] = v_keep(is_counted[j], exponentials[j]));
}

/* Of any x. */
VECTOR_INLINE void scaled_exponentials(const vec *x, int count, exponential_reference reference,
                                       vec *exponentials, vec *dropped) {
    exponentials_in_reach(x, count, reference, exponentials, dropped, 1);
}

VECTOR_INLINE vec scaled_exponential(vec x, exponential_reference reference) {
    vec result;
    scaled_exponentials(&x, 1, reference, &result, NULL);
    return result;
}

VECTOR_INLINE vec_pair scaled_exponential_pair(vec x, exponential_reference reference) {
    vec_pair result;
    scaled_exponentials(&x, 1, reference, &result.high, &result.low);
    return result;
}
