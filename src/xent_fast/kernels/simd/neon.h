/* The vocabulary for NEON of 64-bit Arm: one vector is four registers.  A template over REAL_BITS
 * (see ../dtype.h).
 *
 * Knows: intrinsics.  Must not know: what is computed with them.  README.md of the folder above
 * says what each means.
 */
#undef REGISTER
#undef BITS_REGISTER
#undef INTRINSIC
#undef BITS_INTRINSIC
#undef AS_BITS
#undef AS_REAL
#undef REAL_FROM_INTEGER
#if REAL_BITS == 32
#define REGISTER float32x4_t
#define BITS_REGISTER uint32x4_t
#define INTRINSIC(operation) operation##_f32
#define BITS_INTRINSIC(operation) operation##_u32
#define AS_BITS vreinterpretq_u32_f32
#define AS_REAL vreinterpretq_f32_u32
#define REAL_FROM_INTEGER vcvtq_f32_u32
#else
#define REGISTER float64x2_t
#define BITS_REGISTER uint64x2_t
#define INTRINSIC(operation) operation##_f64
#define BITS_INTRINSIC(operation) operation##_u64
#define AS_BITS vreinterpretq_u64_f64
#define AS_REAL vreinterpretq_f64_u64
#define REAL_FROM_INTEGER vcvtq_f64_u64
#endif

#ifndef XENT_FAST_SIMD_NEON_H
#define XENT_FAST_SIMD_NEON_H
#define HAS_FMA 1
#define INTERLEAVED 1
#define AT_PART(number, statement) \
    {                              \
        enum { part = number };    \
        statement;                 \
    }
#define EACH_REGISTER(statement) \
    do {                         \
        AT_PART(0, statement)    \
        AT_PART(1, statement)    \
        AT_PART(2, statement)    \
        AT_PART(3, statement)    \
    } while (0)
#endif

typedef struct {
    REGISTER part[4];
} vec;
typedef struct {
    BITS_REGISTER part[4];
} vec_mask;

KERNEL_INLINE vec v_splat(REAL value) {
    vec r;
    EACH_REGISTER(r.part[part] = INTRINSIC(vdupq_n)(value));
    return r;
}

KERNEL_INLINE vec v_load(const REAL *source) {
    vec r;
    EACH_REGISTER(r.part[part] = INTRINSIC(vld1q)(source + part * (LANES / 4)));
    return r;
}

KERNEL_INLINE vec v_held(vec a) { return a; }

KERNEL_INLINE void v_store(REAL *destination, vec a) {
    EACH_REGISTER(INTRINSIC(vst1q)(destination + part * (LANES / 4), a.part[part]));
}

KERNEL_INLINE vec v_add(vec a, vec b) {
    EACH_REGISTER(a.part[part] = INTRINSIC(vaddq)(a.part[part], b.part[part]));
    return a;
}

KERNEL_INLINE vec v_sub(vec a, vec b) {
    EACH_REGISTER(a.part[part] = INTRINSIC(vsubq)(a.part[part], b.part[part]));
    return a;
}

KERNEL_INLINE vec v_mul(vec a, vec b) {
    EACH_REGISTER(a.part[part] = INTRINSIC(vmulq)(a.part[part], b.part[part]));
    return a;
}

KERNEL_INLINE vec v_div(vec a, vec b) {
    EACH_REGISTER(a.part[part] = INTRINSIC(vdivq)(a.part[part], b.part[part]));
    return a;
}

KERNEL_INLINE vec v_max(vec a, vec b) {
    /* a > b ? a : b, so that NaN in either gives b as on x86 */
    EACH_REGISTER(a.part[part] = INTRINSIC(vbslq)(INTRINSIC(vcgtq)(a.part[part], b.part[part]),
                                                  a.part[part], b.part[part]));
    return a;
}

KERNEL_INLINE vec v_min(vec a, vec b) {
    EACH_REGISTER(a.part[part] = INTRINSIC(vbslq)(INTRINSIC(vcltq)(a.part[part], b.part[part]),
                                                  a.part[part], b.part[part]));
    return a;
}

KERNEL_INLINE vec v_fma(vec a, vec b, vec c) {
    EACH_REGISTER(a.part[part] = INTRINSIC(vfmaq)(c.part[part], a.part[part], b.part[part]));
    return a;
}

KERNEL_INLINE vec v_fms(vec a, vec b, vec c) {
    EACH_REGISTER(a.part[part] =
                      INTRINSIC(vfmaq)(INTRINSIC(vnegq)(c.part[part]), a.part[part], b.part[part]));
    return a;
}

KERNEL_INLINE vec_mask v_not_less(vec a, vec b) {
    vec_mask r;
    EACH_REGISTER(BITS_REGISTER less = INTRINSIC(vcltq)(a.part[part], b.part[part]);
                  r.part[part] = BITS_INTRINSIC(vceqq)(less, BITS_INTRINSIC(vdupq_n)(0)));
    return r;
}

KERNEL_INLINE vec_mask v_greater(vec a, vec b) {
    vec_mask r;
    EACH_REGISTER(r.part[part] = INTRINSIC(vcgtq)(a.part[part], b.part[part]));
    return r;
}

KERNEL_INLINE vec_mask v_equal(vec a, vec b) {
    vec_mask r;
    EACH_REGISTER(r.part[part] = INTRINSIC(vceqq)(a.part[part], b.part[part]));
    return r;
}

KERNEL_INLINE vec v_select(vec_mask where, vec a, vec b) {
    EACH_REGISTER(a.part[part] = INTRINSIC(vbslq)(where.part[part], a.part[part], b.part[part]));
    return a;
}

KERNEL_INLINE vec v_keep(vec_mask where, vec a) {
    EACH_REGISTER(a.part[part] =
                      AS_REAL(BITS_INTRINSIC(vandq)(AS_BITS(a.part[part]), where.part[part])));
    return a;
}

KERNEL_INLINE vec v_drop(vec_mask where, vec a) {
    EACH_REGISTER(a.part[part] =
                      AS_REAL(BITS_INTRINSIC(vbicq)(AS_BITS(a.part[part]), where.part[part])));
    return a;
}

KERNEL_INLINE unsigned v_mask_bits(vec_mask a) {
    BITS_TYPE lanes[LANES];
    EACH_REGISTER(BITS_INTRINSIC(vst1q)(lanes + part * (LANES / 4), a.part[part]));
    unsigned bits = 0;
    for (int lane = 0; lane < LANES; ++lane)
        bits |= (unsigned)(lanes[lane] & 1) << lane;
    return bits;
}

KERNEL_INLINE vec v_bits_to_exponent(vec a) {
    EACH_REGISTER(a.part[part] =
                      AS_REAL(BITS_INTRINSIC(vshlq_n)(AS_BITS(a.part[part]), SIGNIFICAND_SHIFT)));
    return a;
}

KERNEL_INLINE vec v_exponent(vec a) {
    EACH_REGISTER(
        BITS_REGISTER biased = BITS_INTRINSIC(vshrq_n)(AS_BITS(a.part[part]), SIGNIFICAND_SHIFT);
        a.part[part] =
            INTRINSIC(vsubq)(REAL_FROM_INTEGER(biased), INTRINSIC(vdupq_n)(EXPONENT_BIAS)));
    return a;
}

/* The bytes of entry j lie at j times the size of a number. */
KERNEL_INLINE vec v_power_of_steps(const BITS_TYPE *table, vec a) {
    const uint8_t *bytes = (const uint8_t *)(const void *)table;
#if REAL_BITS == 32
    const uint8x16x2_t powers = {{vld1q_u8(bytes), vld1q_u8(bytes + 16)}};
    const uint32x4_t copies = vdupq_n_u32(0x04040404), each = vdupq_n_u32(0x03020100),
                     seven = vdupq_n_u32(7);
    EACH_REGISTER(
        const uint32x4_t bits = AS_BITS(a.part[part]);
        const uint32x4_t at = vmlaq_u32(each, vandq_u32(bits, seven), copies);
        const uint32x4_t power = vreinterpretq_u32_u8(vqtbl2q_u8(powers, vreinterpretq_u8_u32(at)));
        a.part[part] = AS_REAL(vaddq_u32(power, vshlq_n_u32(bits, SIGNIFICAND_SHIFT - 3))));
#else
    const uint8x16x4_t powers = {
        {vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32), vld1q_u8(bytes + 48)}};
    const uint8x16_t copies = {0, 0, 0, 0, 0, 0, 0, 0, 8, 8, 8, 8, 8, 8, 8, 8};
    const uint8x16_t each = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7};
    EACH_REGISTER(
        const uint64x2_t bits = AS_BITS(a.part[part]);
        const uint8x16_t eighth =
            vshlq_n_u8(vandq_u8(vqtbl1q_u8(vreinterpretq_u8_u64(bits), copies), vdupq_n_u8(7)), 3);
        const uint64x2_t power = vreinterpretq_u64_u8(vqtbl4q_u8(powers, vaddq_u8(eighth, each)));
        a.part[part] = AS_REAL(vaddq_u64(power, vshlq_n_u64(bits, SIGNIFICAND_SHIFT - 3))));
#endif
    return a;
}

#if REAL_BITS == 32
KERNEL_INLINE vec v_load_float16(const uint16_t *source) {
    vec r;
    EACH_REGISTER(r.part[part] =
                      vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(source + part * (LANES / 4)))));
    return r;
}

KERNEL_INLINE void v_store_float16(uint16_t *destination, vec a) {
    EACH_REGISTER(vst1_u16(destination + part * (LANES / 4),
                           vreinterpret_u16_f16(vcvt_f16_f32(a.part[part]))));
}

KERNEL_INLINE vec v_load_bfloat16(const uint16_t *source) {
    vec r;
    EACH_REGISTER(r.part[part] = vreinterpretq_f32_u32(
                      vshll_n_u16(vld1_u16(source + part * (LANES / 4)), 16)));
    return r;
}

/* Half a unit, less one bit where the last place is even, carries where the rest rounds up; all
 * ones are a NaN. */
KERNEL_INLINE void v_store_bfloat16(uint16_t *destination, vec a) {
    EACH_REGISTER(const uint32x4_t bits = vreinterpretq_u32_f32(a.part[part]);
                  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
                  const uint32x4_t sum = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
                  const uint32x4_t number = vceqq_f32(a.part[part], a.part[part]); vst1_u16(
                      destination + part * (LANES / 4), vshrn_n_u32(vornq_u32(sum, number), 16)));
}

KERNEL_INLINE void v_store_two_bfloat16(uint16_t *destination, vec a, vec b) {
    v_store_bfloat16(destination, a);
    v_store_bfloat16(destination + LANES, b);
}

KERNEL_INLINE vec_f64 v_low_half_as_f64(vec a) {
    vec_f64 r;
    r.part[0] = vcvt_f64_f32(vget_low_f32(a.part[0]));
    r.part[1] = vcvt_high_f64_f32(a.part[0]);
    r.part[2] = vcvt_f64_f32(vget_low_f32(a.part[1]));
    r.part[3] = vcvt_high_f64_f32(a.part[1]);
    return r;
}

KERNEL_INLINE vec_f64 v_high_half_as_f64(vec a) {
    a.part[0] = a.part[2];
    a.part[1] = a.part[3];
    return v_low_half_as_f64(a);
}
#endif

#include "plain.h"
