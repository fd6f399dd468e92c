/* Numbers that a double's exponent cannot hold, with twice its digits.  Include it once, while
 * REAL_BITS is 64.
 *
 * Knows: scalar arithmetic on (high + low) 2^exponent; exponential and logarithm of such numbers;
 * what the lanes' exponential and exact products give for one double.
 * Must not know: rows, blocks, lanes of different contents.
 *
 * 1/2 <= |high| < 1, |low| at most half a unit of high's last place; 0, infinities and NaN have
 * exponent 0 and no low part. Sums, products and quotients are off by a few units of 2^-104,
 * exponentials by one of 2^-53.  It is slow, and meant for the few rows that double_rows.h takes.
 * Powers of two by frexp and ldexp are exact; no other function of the C library is used, since
 * their last bits differ between machines.
 */
static const double double_unit = EXPONENTIAL_UNIT;

/* K 2^(x log2(e) / T - reference + SCALE_UP), all of float64 */
KERNEL_INLINE double scaled_exponential_of(double x, double reference,
                                           const exponent_scale_f64 *scale) {
    return v_first(scaled_exponential(v_splat(x), reference_for(v_splat(reference), scale)));
}

/* a b - c, the product exact. */
KERNEL_INLINE double scalar_product_residual(double a, double b, double c) {
    return v_first(product_residual(v_splat(a), v_splat(b), v_splat(c)));
}

typedef struct {
    double high, low;
    int64_t exponent;
} far;

/* (high + low) 2^exponent */
static NEVER_INLINE far far_from(double high, double low, int64_t exponent) {
    const double sum = high + low;
    far result = {sum, 0, 0};
    int shift;
    if (sum - sum != 0 || sum == 0)
        return result;
    result.high = frexp(sum, &shift);
    result.low = ldexp((high - sum) + low, -shift);
    result.exponent = exponent + shift;
    return result;
}

KERNEL_INLINE far far_of(double value) { return far_from(value, 0, 0); }

KERNEL_INLINE int far_is_finite(far a) { return a.high - a.high == 0; }

/* |exponent| as an argument of ldexp, beyond which it makes no difference. */
KERNEL_INLINE int far_shift(int64_t exponent) {
    return (int)(exponent > 4000 ? 4000 : exponent < -4000 ? -4000 : exponent);
}

KERNEL_INLINE double far_value(far a) { return ldexp(a.high + a.low, far_shift(a.exponent)); }

KERNEL_INLINE far far_minus(far a) {
    const far result = {-a.high, -a.low, a.exponent};
    return result;
}

static NEVER_INLINE far far_sum(far a, far b) {
    if (!far_is_finite(a) || !far_is_finite(b))
        return far_from(a.high + b.high, 0, 0);
    if (a.high == 0)
        return b;
    if (b.high == 0)
        return a;
    const far large = a.exponent >= b.exponent ? a : b, small = a.exponent >= b.exponent ? b : a;
    const int shift = far_shift(small.exponent - large.exponent);
    double high = large.high, low = large.low;
    compensated_add(&high, &low, ldexp(small.high, shift));
    low += ldexp(small.low, shift);
    return far_from(high, low, large.exponent);
}

static NEVER_INLINE far far_product(far a, far b) {
    const double product = a.high * b.high;
    if (product - product != 0 || product == 0)
        return far_from(product, 0, 0);
    const double error =
        scalar_product_residual(a.high, b.high, product) + (a.high * b.low + a.low * b.high);
    return far_from(product, error, a.exponent + b.exponent);
}

static NEVER_INLINE far far_quotient(far a, far b) {
    const double quotient = a.high / b.high;
    if (quotient - quotient != 0 || quotient == 0)
        return far_from(quotient, 0, 0);
    const double rest =
        (a.low - quotient * b.low) - scalar_product_residual(quotient, b.high, a.high);
    return far_from(quotient, rest / b.high, a.exponent - b.exponent);
}

/* exp(a) for a <= 0; 0 from about -10^6 down, which nothing that a double holds brings back. */
static NEVER_INLINE far far_exponential(far a) {
    XENT_ASSERT(!(a.high > 0));
    if (a.high == 0)
        return far_of(1);
    if (!far_is_finite(a) || a.exponent > 20)
        return far_of(a.high == a.high ? 0 : a.high);
    const exponent_scale_f64 scale = unit_scale_f64();
    const double x = ldexp(a.high, (int)a.exponent),
                 error = ldexp(a.low, (int)far_shift(a.exponent));
    const double reference = (x * log2_e_f64 + ROUNDING_MAGIC) - ROUNDING_MAGIC;
    const double power = scaled_exponential_of(x, reference, &scale) / double_unit;
    return far_from(power, power * error, (int64_t)reference - SCALE_UP);
}

/* log(1 + a) for a >= 0 */
static NEVER_INLINE far far_log_of_1_plus(far a) {
    XENT_ASSERT(!(a.high < 0));
    if (a.exponent < -120 || a.high == 0)
        return a;
    const double r = ldexp(a.high, far_shift(a.exponent)),
                 error = ldexp(a.low, far_shift(a.exponent));
    const vec_pair log = log_of_1_plus(v_splat(r));
    return far_from(v_first(log.high), v_first(log.low) + error / (1 + r), 0);
}
