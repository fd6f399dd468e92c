/* The vocabulary for any processor, without fused multiply-add.  A template over REAL_BITS (see
 * ../dtype.h).
 *
 * Knows: the C language; where the compiler has vector extensions, parts of 16 bytes, else parts of
 * one number.
 * Must not know: what is computed.  README.md of the folder above says what each operation means.
 */
#undef PART_LANES
#undef PARTS
#if defined(__GNUC__) || defined(__clang__)
#define PART_LANES (128 / REAL_BITS)
#else
#define PART_LANES 1
#endif
#define PARTS (LANES / PART_LANES)

#ifndef XENT_FAST_SIMD_PORTABLE_H
#define XENT_FAST_SIMD_PORTABLE_H
#include <string.h>
#define HAS_FMA 0
#define INTERLEAVED 1
#define part_real NAME(part_real)
#define part_bits NAME(part_bits)
#define part_as_bits NAME(part_as_bits)
#define part_as_real NAME(part_as_real)
#if defined(__GNUC__) || defined(__clang__)
#define AT_PART(number, statement) \
    {                              \
        enum { part = number };    \
        statement;                 \
    }
#define EACH_PART(statement)  \
    do {                      \
        AT_PART(0, statement) \
        AT_PART(1, statement) \
        AT_PART(2, statement) \
        AT_PART(3, statement) \
    } while (0)
#else
#define EACH_PART(statement)                       \
    do {                                           \
        for (int part = 0; part < PARTS; ++part) { \
            statement;                             \
        }                                          \
    } while (0)
#endif
/* All bits of a part where the comparison holds. */
#if defined(__GNUC__) || defined(__clang__)
#define PART_WHERE(comparison) ((part_bits)(comparison))
#else
#define PART_WHERE(comparison) ((part_bits)0 - (part_bits)(comparison))
#endif
#endif

#if defined(__GNUC__) || defined(__clang__)
typedef REAL part_real __attribute__((vector_size(16)));
typedef BITS_TYPE part_bits __attribute__((vector_size(16)));
VECTOR_INLINE part_bits part_as_bits(part_real a) { return (part_bits)a; }
VECTOR_INLINE part_real part_as_real(part_bits a) { return (part_real)a; }
#else
typedef REAL part_real;
typedef BITS_TYPE part_bits;
VECTOR_INLINE part_bits part_as_bits(part_real a) {
    part_bits r;
    memcpy(&r, &a, sizeof r);
    return r;
}
VECTOR_INLINE part_real part_as_real(part_bits a) {
    part_real r;
    memcpy(&r, &a, sizeof r);
    return r;
}
#endif

typedef struct {
    part_real part[PARTS];
} vec;
typedef struct {
    part_bits part[PARTS];
} vec_mask;

VECTOR_INLINE vec v_load(const REAL *source) {
    vec r;
    EACH_PART(memcpy(&r.part[part], source + part * PART_LANES, sizeof r.part[part]));
    return r;
}

VECTOR_INLINE vec v_held(vec a) { return a; }

VECTOR_INLINE void v_store(REAL *destination, vec a) {
    EACH_PART(memcpy(destination + part * PART_LANES, &a.part[part], sizeof a.part[part]));
}

VECTOR_INLINE vec v_splat(REAL value) {
    vec r;
    /* x - 0 is x for every x, -0 and NaN too: a number spread over a part */
    EACH_PART(r.part[part] = value - (part_real){0});
    return r;
}

VECTOR_INLINE vec v_add(vec a, vec b) {
    EACH_PART(a.part[part] = a.part[part] + b.part[part]);
    return a;
}

VECTOR_INLINE vec v_sub(vec a, vec b) {
    EACH_PART(a.part[part] = a.part[part] - b.part[part]);
    return a;
}

VECTOR_INLINE vec v_mul(vec a, vec b) {
    EACH_PART(a.part[part] = a.part[part] * b.part[part]);
    return a;
}

VECTOR_INLINE vec v_div(vec a, vec b) {
    EACH_PART(a.part[part] = a.part[part] / b.part[part]);
    return a;
}

/* Two roundings here. */
VECTOR_INLINE vec v_fma(vec a, vec b, vec c) {
    EACH_PART(a.part[part] = a.part[part] * b.part[part] + c.part[part]);
    return a;
}

VECTOR_INLINE vec v_fms(vec a, vec b, vec c) {
    EACH_PART(a.part[part] = a.part[part] * b.part[part] - c.part[part]);
    return a;
}

VECTOR_INLINE vec_mask v_not_less(vec a, vec b) {
    vec_mask r;
    EACH_PART(r.part[part] = ~PART_WHERE(a.part[part] < b.part[part]));
    return r;
}

VECTOR_INLINE vec_mask v_greater(vec a, vec b) {
    vec_mask r;
    EACH_PART(r.part[part] = PART_WHERE(a.part[part] > b.part[part]));
    return r;
}

VECTOR_INLINE vec_mask v_equal(vec a, vec b) {
    vec_mask r;
    EACH_PART(r.part[part] = PART_WHERE(a.part[part] == b.part[part]));
    return r;
}

VECTOR_INLINE vec v_select(vec_mask where, vec a, vec b) {
    EACH_PART(a.part[part] = part_as_real((part_as_bits(a.part[part]) & where.part[part]) |
                                          (part_as_bits(b.part[part]) & ~where.part[part])));
    return a;
}

VECTOR_INLINE vec v_keep(vec_mask where, vec a) {
    EACH_PART(a.part[part] = part_as_real(part_as_bits(a.part[part]) & where.part[part]));
    return a;
}

VECTOR_INLINE vec v_drop(vec_mask where, vec a) {
    EACH_PART(a.part[part] = part_as_real(part_as_bits(a.part[part]) & ~where.part[part]));
    return a;
}

VECTOR_INLINE vec v_max(vec a, vec b) { return v_select(v_greater(a, b), a, b); }

VECTOR_INLINE vec v_min(vec a, vec b) { return v_select(v_greater(b, a), a, b); }

VECTOR_INLINE unsigned v_mask_bits(vec_mask a) {
    BITS_TYPE lanes[LANES];
    memcpy(lanes, &a, sizeof lanes);
    unsigned bits = 0;
    for (int lane = 0; lane < LANES; ++lane)
        bits |= (unsigned)(lanes[lane] & 1) << lane;
    return bits;
}

VECTOR_INLINE vec v_bits_to_exponent(vec a) {
    EACH_PART(a.part[part] = part_as_real(part_as_bits(a.part[part]) << SIGNIFICAND_SHIFT));
    return a;
}

VECTOR_INLINE vec v_power_of_steps(const BITS_TYPE *table, vec a) {
    EACH_PART(a.part[part] =
                  part_as_real((part_as_bits(a.part[part]) << (SIGNIFICAND_SHIFT - 1)) + table[0]));
    return a;
}

VECTOR_INLINE vec v_exponent(vec a) {
    /* the biased exponent in the low bits of 2^SIGNIFICAND_SHIFT is that number plus the exponent
     * and its bias */
    const vec offset = v_splat((REAL)((BITS_TYPE)1 << SIGNIFICAND_SHIFT));
    EACH_PART(part_bits biased = part_as_bits(a.part[part]) >> SIGNIFICAND_SHIFT;
              a.part[part] = part_as_real(biased | part_as_bits(offset.part[part])) -
                             (offset.part[part] + (REAL)EXPONENT_BIAS));
    return a;
}

/* The upper half of the significand, rounded towards zero; the rest is exact in the lower half. */
VECTOR_INLINE vec v_high_half(vec a) {
    const BITS_TYPE keep = ~(((BITS_TYPE)1 << (SIGNIFICAND_SHIFT + 2) / 2) - 1);
    EACH_PART(a.part[part] = part_as_real(part_as_bits(a.part[part]) & keep));
    return a;
}

#if REAL_BITS == 32
/* The bits as those of a float32, 112 binary orders too small: exact, subnormal numbers too. */
VECTOR_INLINE vec v_load_float16(const uint16_t *source) {
    ALIGNED_64 float lanes[LANES];
    for (int lane = 0; lane < LANES; ++lane) {
        const uint32_t sign = (uint32_t)(source[lane] & 0x8000) << 16, size = source[lane] & 0x7fff;
        const uint32_t small_bits = size << 13;
        uint32_t bits;
        float number;
        memcpy(&number, &small_bits, sizeof number);
        number *= 0x1p112f;
        memcpy(&bits, &number, sizeof bits);
        bits = sign | (size < 0x7c00 ? bits : small_bits | 0x7f800000);
        memcpy(lanes + lane, &bits, sizeof bits);
    }
    return v_load(lanes);
}

/* Below 2^-14 the unit is that of 1/2, to which the addition rounds; from there on half a unit
 * carries. */
VECTOR_INLINE void v_store_float16(uint16_t *destination, vec a) {
    ALIGNED_64 float lanes[LANES];
    v_store(lanes, a);
    for (int lane = 0; lane < LANES; ++lane) {
        uint32_t bits, size, subnormal;
        float number;
        memcpy(&bits, lanes + lane, sizeof bits);
        size = bits & 0x7fffffff;
        memcpy(&number, &size, sizeof number);
        number += 0.5f;
        memcpy(&subnormal, &number, sizeof subnormal);
        const uint32_t normal = (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13;
        const uint32_t finite = size < 0x38800000 ? subnormal - 0x3f000000 : normal;
        const uint32_t not_finite = size > 0x7f800000 ? 0x7e00 : 0x7c00;
        destination[lane] =
            (uint16_t)((bits >> 16 & 0x8000) | (size < 0x47800000 ? finite : not_finite));
    }
}

VECTOR_INLINE vec v_load_bfloat16(const uint16_t *source) {
    ALIGNED_64 float lanes[LANES];
    for (int lane = 0; lane < LANES; ++lane) {
        const uint32_t bits = (uint32_t)source[lane] << 16;
        memcpy(lanes + lane, &bits, sizeof bits);
    }
    return v_load(lanes);
}

/* Half a unit, less one bit where the last place is even, carries where the rest rounds up; all
 * ones are a NaN. */
VECTOR_INLINE void v_store_bfloat16(uint16_t *destination, vec a) {
    ALIGNED_64 float lanes[LANES];
    v_store(lanes, a);
    for (int lane = 0; lane < LANES; ++lane) {
        uint32_t bits;
        memcpy(&bits, lanes + lane, sizeof bits);
        bits += 0x7fff + (bits >> 16 & 1);
        bits |= (uint32_t)0 - (uint32_t)(lanes[lane] != lanes[lane]);
        destination[lane] = (uint16_t)(bits >> 16);
    }
}

VECTOR_INLINE void v_store_two_bfloat16(uint16_t *destination, vec a, vec b) {
    v_store_bfloat16(destination, a);
    v_store_bfloat16(destination + LANES, b);
}

VECTOR_INLINE vec_f64 v_low_half_as_f64(vec a) {
    ALIGNED_64 float lanes[16];
    ALIGNED_64 double wide[8];
    v_store(lanes, a);
    for (int lane = 0; lane < 8; ++lane)
        wide[lane] = lanes[lane];
    return v_load_f64(wide);
}

VECTOR_INLINE vec_f64 v_high_half_as_f64(vec a) {
    for (int part = 0; part < PARTS / 2; ++part)
        a.part[part] = a.part[part + PARTS / 2];
    return v_low_half_as_f64(a);
}
#endif

#include "plain.h"
