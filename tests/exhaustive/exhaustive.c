/* The kernels' exponential and logarithm at every float32 of their domains, and at a sample of
 * float64: worst error in ulp and its argument, or a digest of the results.
 *
 * Knows: the kernels' templates by their own headers, the C library's functions in a wider format.
 * Must not know: rows, losses, how large an error may be (check.py compares).
 *
 *     exhaustive FUNCTION PART PARTS STRIDE     one line: function, arguments, worst ulp, its
 *                                               argument, worst as a pair
 *     exhaustive digest STRIDE                  one line a function: its name and a digest of all
 *                                               its results
 *
 *     FUNCTION: exp32 exp32-offset exp64 log32 log64
 *     PART: 0 to PARTS - 1, every PARTSth chunk     STRIDE: every so manyth
 *
 * It is compiled once an instruction set: SIMD_HEADER names the vocabulary, the compiler's flags
 * allow its instructions.
 *
 * An ulp is the spacing of the dtype at the correctly rounded result. float32 is judged by the C
 * library's float64 functions, which are off by less than 2^-28 of such an ulp; float64 by its long
 * double ones: 2^-10 where that has 64 bits.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "coefficients.h"
#include "isa_tables.h"
#if defined(XENT_X86_64)
#include <immintrin.h>
#elif defined(XENT_AARCH64)
#include <arm_neon.h>
#endif

#define REAL_BITS 64
#include "dtype.h"
#include SIMD_HEADER
#include "sums.h"
#include "exp.h"
#include "log.h"

#undef REAL_BITS
#define REAL_BITS 32
#include "dtype.h"
#include SIMD_HEADER
#include "sums.h"
#include "exp.h"
#include "log.h"

enum { LANES_32 = 16, LANES_64 = 8, CHUNK_BITS = 16 };

/* Exponentials are kept times this, and times the unit K of exp.h. */
#define SCALE_32 0x1p32
#define SCALE_64 0x1p64L
#if HAS_FMA
#define UNIT_32 unit_of_eighths_f32
#define UNIT_64 unit_of_eighths_f64
#else
#define UNIT_32 unit_of_halves_f32
#define UNIT_64 unit_of_halves_f64
#endif

/* Every non-positive float32: 0x80000000 is -0, 0xff800000 -inf. */
static const uint64_t first_negative = 0x80000000u, past_negative = 0xff800001u;

/* Every float32 from 0 to 2^120: rows of few classes take the logarithm of 1 plus a quotient of
 * exponentials that are kept between 2^-60 and 2^38. */
static const uint64_t past_largest = 0x7b800001u;

static uint64_t state = 20260101;

/* 64 bits by Vigna's SplitMix64. */
static uint64_t random_bits(void) {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double random_unit(void) { return (double)(random_bits() >> 11) * 0x1p-53; }

static float float_of(uint64_t bits) {
    const uint32_t word = (uint32_t)bits;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

/* What has been seen so far. */
typedef struct {
    uint64_t count;
    double worst, worst_of_pair; /* ulp */
    double worst_argument, worst_reference;
} tally;

/* NaN is as wrong as can be. */
static double known(double error) { return isnan(error) ? INFINITY : error; }

static void note(tally *seen, double error, double error_of_pair, double argument,
                 double reference) {
    ++seen->count;
    if (known(error) > seen->worst) {
        seen->worst = known(error);
        seen->worst_argument = argument;
        seen->worst_reference = reference;
    }
    if (known(error_of_pair) > seen->worst_of_pair)
        seen->worst_of_pair = known(error_of_pair);
}

static void print_tally(const char *function, const tally *seen) {
    printf("%s %" PRIu64 " %.17g %.17g %.17g %.17g\n", function, seen->count, seen->worst,
           seen->worst_argument, seen->worst_reference, seen->worst_of_pair);
}

/* 1 over the spacing of float32 at a positive number that float32 rounds to a normal one. */
static double inverse_spacing_32(double exact) {
    const float rounded = (float)exact;
    uint32_t bits;
    memcpy(&bits, &rounded, sizeof bits);
    int exponent = (int)(bits >> 23) - 127;
    exponent = exponent < -126 ? -126 : exponent;
    const uint64_t inverse = (uint64_t)(1023 + 23 - exponent) << 52;
    double result;
    memcpy(&result, &inverse, sizeof result);
    return result;
}

static long double spacing_64(long double exact) {
    const double rounded = (double)exact;
    return (long double)(nextafter(rounded, INFINITY) - rounded);
}

/* Exponentials relative to 2^c.  Those below 2^(c - 158) are an exact 0, and nothing else is but
 * for the border's rounding. */
static void judge_exponentials_32(const float *arguments, double c, tally *seen) {
    ALIGNED_64 float plain[LANES_32], high[LANES_32], low[LANES_32];
    const exponent_scale_f32 scale = unit_scale_f32();
    const exponential_reference_f32 reference = reference_for_f32(v_splat_f32((float)c), &scale);
    v_store_f32(plain, scaled_exponential_f32(v_load_f32(arguments), reference));
    const vec_pair_f32 pair = scaled_exponential_pair_f32(v_load_f32(arguments), reference);
    v_store_f32(high, pair.high);
    v_store_f32(low, pair.low);
    for (int lane = 0; lane < LANES_32; ++lane) {
        const double x = (double)arguments[lane];
        /* x - c ln 2 would cancel: exp in two pieces, |c| < 2^17 */
        const double power =
            c == 0 ? exp(x) * SCALE_32
                   : (double)(expl((long double)x - c * 0.6931471805599453094172321L) * SCALE_32);
        const double exact = power * UNIT_32, border = power / 0x1p-126;
        double error = 0, error_of_pair = 0;
        if (border < 0.99 || (border < 1.01 && plain[lane] == 0)) {
            error = plain[lane] == 0 ? 0 : INFINITY;
        } else {
            const double inverse = inverse_spacing_32(exact);
            error = fabs((double)plain[lane] - exact) * inverse;
            error_of_pair = fabs((double)high[lane] + (double)low[lane] - exact) * inverse;
        }
        note(seen, error, error_of_pair, x, c);
    }
}

static void judge_logarithms_32(const float *arguments, tally *seen) {
    ALIGNED_64 float high[LANES_32], low[LANES_32], total[LANES_32];
    const vec_pair_f32 log = log_of_1_plus_f32(v_load_f32(arguments));
    v_store_f32(high, log.high);
    v_store_f32(low, log.low);
    v_store_f32(total, pair_total_f32(log));
    for (int lane = 0; lane < LANES_32; ++lane) {
        const double exact = log1p((double)arguments[lane]), inverse = inverse_spacing_32(exact);
        note(seen, fabs((double)total[lane] - exact) * inverse,
             fabs((double)high[lane] + (double)low[lane] - exact) * inverse,
             (double)arguments[lane], 0);
    }
}

static void judge_exponentials_64(const double *arguments, tally *seen) {
    ALIGNED_64 double plain[LANES_64], high[LANES_64], low[LANES_64];
    const exponent_scale_f64 scale = unit_scale_f64();
    const exponential_reference_f64 reference = reference_for_f64(v_splat_f64(0), &scale);
    v_store_f64(plain, scaled_exponential_f64(v_load_f64(arguments), reference));
    const vec_pair_f64 pair = scaled_exponential_pair_f64(v_load_f64(arguments), reference);
    v_store_f64(high, pair.high);
    v_store_f64(low, pair.low);
    for (int lane = 0; lane < LANES_64; ++lane) {
        const long double exact = expl((long double)arguments[lane]) * SCALE_64 * UNIT_64,
                          spacing = spacing_64(exact);
        note(seen, (double)(fabsl((long double)plain[lane] - exact) / spacing),
             (double)(fabsl((long double)high[lane] + (long double)low[lane] - exact) / spacing),
             arguments[lane], 0);
    }
}

static void judge_logarithms_64(const double *arguments, tally *seen) {
    ALIGNED_64 double high[LANES_64], low[LANES_64], total[LANES_64];
    const vec_pair_f64 log = log_of_1_plus_f64(v_load_f64(arguments));
    v_store_f64(high, log.high);
    v_store_f64(low, log.low);
    v_store_f64(total, pair_total_f64(log));
    for (int lane = 0; lane < LANES_64; ++lane) {
        const long double exact = log1pl((long double)arguments[lane]), spacing = spacing_64(exact);
        note(seen, (double)(fabsl((long double)total[lane] - exact) / spacing),
             (double)(fabsl((long double)high[lane] + (long double)low[lane] - exact) / spacing),
             arguments[lane], 0);
    }
}

/* The sixteen float32 from a bit pattern on, `stride` apart; the last one again beyond the end. */
static void fill_32(float *arguments, uint64_t bits, uint64_t past, uint64_t stride) {
    for (int lane = 0; lane < LANES_32; ++lane) {
        const uint64_t at = bits + (uint64_t)lane * stride;
        arguments[lane] = float_of(at < past ? at : past - 1);
    }
}

/* float64 arguments: exponentials from -745 to 0, evenly and near 0; logarithms of 2^-1074 to
 * 2^1000. */
static void fill_64(double *arguments, int is_logarithm) {
    for (int lane = 0; lane < LANES_64; ++lane) {
        const double fraction = random_unit();
        const uint64_t number = random_bits();
        if (is_logarithm)
            arguments[lane] = ldexp(1 + fraction, (int)(number % 2075) - 1075);
        else if (number % 2)
            arguments[lane] = -745 * fraction;
        else
            arguments[lane] = -ldexp(1 + fraction, (int)(number / 2 % 60) - 55);
    }
}

typedef struct {
    uint64_t part, parts, stride;
} share;

/* Every argument of one function that falls to this share. */
static void sweep_32(uint64_t first, uint64_t past, share mine, int is_logarithm, double c,
                     tally *seen) {
    ALIGNED_64 float arguments[LANES_32];
    const uint64_t step = LANES_32 * mine.stride;
    uint64_t chunk = 0;
    for (uint64_t at = first; at < past; ++chunk) {
        const uint64_t end = at + (step << CHUNK_BITS) < past ? at + (step << CHUNK_BITS) : past;
        if (chunk % mine.parts == mine.part)
            for (; at < end; at += step) {
                fill_32(arguments, at, past, mine.stride);
                if (is_logarithm)
                    judge_logarithms_32(arguments, seen);
                else
                    judge_exponentials_32(arguments, c, seen);
            }
        at = end;
    }
}

/* Exponentials where x and the reference are both large, up to 2^17: float32 below c ln 2 by up to
 * 109. */
static void sweep_offsets_32(share mine, tally *seen) {
    ALIGNED_64 float arguments[LANES_32];
    for (uint64_t k = mine.part; k < 4096; k += mine.parts) {
        state = k;
        const double c = (double)(int64_t)(random_bits() >> (47 + k % 16)) * (k % 2 ? 1 : -1);
        for (uint64_t vector = 0; vector < 512 / mine.stride + 1; ++vector) {
            for (int lane = 0; lane < LANES_32; ++lane)
                arguments[lane] = (float)(c * 0.69314718055994531 - 109 * random_unit());
            judge_exponentials_32(arguments, c, seen);
        }
    }
}

static void sweep_64(share mine, int is_logarithm, tally *seen) {
    ALIGNED_64 double arguments[LANES_64];
    const uint64_t stride = mine.stride < 16 ? mine.stride : 16;
    state = mine.part;
    for (uint64_t k = 0; k < (UINT64_C(1) << 24) / (LANES_64 * stride * mine.parts); ++k) {
        fill_64(arguments, is_logarithm);
        if (is_logarithm)
            judge_logarithms_64(arguments, seen);
        else
            judge_exponentials_64(arguments, seen);
    }
}

/* Multiplies in one vector's bytes. */
static uint64_t digest_of(uint64_t digest, const void *values) {
    uint64_t words[8];
    memcpy(words, values, sizeof words);
    for (int k = 0; k < 8; ++k)
        digest = (digest ^ words[k] ^ digest >> 29) * 1099511628211u;
    return digest;
}

static uint64_t digest_32(uint64_t first, uint64_t past, uint64_t stride, int is_logarithm) {
    ALIGNED_64 float arguments[LANES_32], results[LANES_32];
    const exponent_scale_f32 scale = unit_scale_f32();
    const exponential_reference_f32 reference = reference_for_f32(v_splat_f32(0), &scale);
    uint64_t digest = 14695981039346656037u;
    for (uint64_t at = first; at < past; at += LANES_32 * stride) {
        fill_32(arguments, at, past, stride);
        const vec_f32 x = v_load_f32(arguments);
        v_store_f32(results, is_logarithm ? pair_total_f32(log_of_1_plus_f32(x))
                                          : scaled_exponential_f32(x, reference));
        digest = digest_of(digest, results);
    }
    return digest;
}

static uint64_t digest_64(uint64_t stride, int is_logarithm) {
    ALIGNED_64 double arguments[LANES_64], results[LANES_64];
    const exponent_scale_f64 scale = unit_scale_f64();
    const exponential_reference_f64 reference = reference_for_f64(v_splat_f64(0), &scale);
    uint64_t digest = 14695981039346656037u;
    state = 0;
    for (uint64_t k = 0; k < (UINT64_C(1) << 24) / (LANES_64 * stride) + 1; ++k) {
        fill_64(arguments, is_logarithm);
        const vec_f64 x = v_load_f64(arguments);
        v_store_f64(results, is_logarithm ? pair_total_f64(log_of_1_plus_f64(x))
                                          : scaled_exponential_f64(x, reference));
        digest = digest_of(digest, results);
    }
    return digest;
}

static void print_digests(uint64_t stride) {
    printf("exp32 %016" PRIx64 "\n", digest_32(first_negative, past_negative, stride, 0));
    printf("log32 %016" PRIx64 "\n", digest_32(0, past_largest, stride, 1));
    printf("exp64 %016" PRIx64 "\n", digest_64(stride, 0));
    printf("log64 %016" PRIx64 "\n", digest_64(stride, 1));
}

static uint64_t positive(const char *word) {
    const unsigned long long number = strtoull(word, NULL, 10);
    if (number == 0) {
        fprintf(stderr, "%s is no positive number\n", word);
        exit(2);
    }
    return number;
}

int main(int argument_count, char **words) {
    if (argument_count == 3 && !strcmp(words[1], "digest")) {
        print_digests(positive(words[2]));
        return 0;
    }
    if (argument_count != 5) {
        fprintf(stderr,
                "usage: exhaustive FUNCTION PART PARTS STRIDE | exhaustive digest STRIDE\n");
        return 2;
    }
    const share mine = {strtoull(words[2], NULL, 10), positive(words[3]), positive(words[4])};
    tally seen = {0, 0, 0, 0, 0};
    if (!strcmp(words[1], "exp32"))
        sweep_32(first_negative, past_negative, mine, 0, 0, &seen);
    else if (!strcmp(words[1], "exp32-offset"))
        sweep_offsets_32(mine, &seen);
    else if (!strcmp(words[1], "log32"))
        sweep_32(0, past_largest, mine, 1, 0, &seen);
    else if (!strcmp(words[1], "exp64"))
        sweep_64(mine, 0, &seen);
    else if (!strcmp(words[1], "log64"))
        sweep_64(mine, 1, &seen);
    else
        return fprintf(stderr, "no such function: %s\n", words[1]), 2;
    print_tally(words[1], &seen);
    return 0;
}
