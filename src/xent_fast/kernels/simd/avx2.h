/* The vocabulary for AVX2 with FMA: one vector is two registers.  A template over REAL_BITS (see
 * ../dtype.h).
 *
 * Knows: intrinsics.  Must not know: what is computed with them.  README.md of the folder above
 * says what each means.
 */
#define low_words NAME(low_words)

#undef REGISTER
#undef INTRINSIC
#if REAL_BITS == 32
#define REGISTER __m256
#define INTRINSIC(operation) _mm256_##operation##_ps
#else
#define REGISTER __m256d
#define INTRINSIC(operation) _mm256_##operation##_pd
#endif

#ifndef XENT_FAST_SIMD_AVX2_H
#define XENT_FAST_SIMD_AVX2_H
#define HAS_FMA 1
#define INTERLEAVED 1
#define EACH_REGISTER(statement) \
    do {                         \
        {                        \
            enum { part = 0 };   \
            statement;           \
        }                        \
        {                        \
            enum { part = 1 };   \
            statement;           \
        }                        \
    } while (0)

/* -1 in the first `count` of 16 or 8 places */
static const int32_t lane_mask_window_f32[32] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                                 -1, -1, -1, -1, -1, -1, -1, -1};
static const int64_t lane_mask_window_f64[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
#endif

typedef struct {
    REGISTER part[2];
} vec;
typedef vec vec_mask;

KERNEL_INLINE vec v_splat(REAL value) {
    vec r;
    EACH_REGISTER(r.part[part] = INTRINSIC(set1)(value));
    return r;
}

KERNEL_INLINE vec v_load(const REAL *source) {
    vec r;
    EACH_REGISTER(r.part[part] = INTRINSIC(loadu)(source + part * (LANES / 2)));
    return r;
}

KERNEL_INLINE vec v_held(vec a) { return a; }

KERNEL_INLINE void v_store(REAL *destination, vec a) {
    EACH_REGISTER(INTRINSIC(storeu)(destination + part * (LANES / 2), a.part[part]));
}

KERNEL_INLINE vec v_add(vec a, vec b) {
    EACH_REGISTER(a.part[part] = INTRINSIC(add)(a.part[part], b.part[part]));
    return a;
}

KERNEL_INLINE vec v_sub(vec a, vec b) {
    EACH_REGISTER(a.part[part] = INTRINSIC(sub)(a.part[part], b.part[part]));
    return a;
}

KERNEL_INLINE vec v_mul(vec a, vec b) {
    EACH_REGISTER(a.part[part] = INTRINSIC(mul)(a.part[part], b.part[part]));
    return a;
}

KERNEL_INLINE vec v_div(vec a, vec b) {
    EACH_REGISTER(a.part[part] = INTRINSIC(div)(a.part[part], b.part[part]));
    return a;
}

KERNEL_INLINE vec v_max(vec a, vec b) {
    EACH_REGISTER(a.part[part] = INTRINSIC(max)(a.part[part], b.part[part]));
    return a;
}

KERNEL_INLINE vec v_min(vec a, vec b) {
    EACH_REGISTER(a.part[part] = INTRINSIC(min)(a.part[part], b.part[part]));
    return a;
}

KERNEL_INLINE vec v_fma(vec a, vec b, vec c) {
    EACH_REGISTER(a.part[part] = INTRINSIC(fmadd)(a.part[part], b.part[part], c.part[part]));
    return a;
}

KERNEL_INLINE vec v_fms(vec a, vec b, vec c) {
    EACH_REGISTER(a.part[part] = INTRINSIC(fmsub)(a.part[part], b.part[part], c.part[part]));
    return a;
}

KERNEL_INLINE vec_mask v_not_less(vec a, vec b) {
    EACH_REGISTER(a.part[part] = INTRINSIC(cmp)(a.part[part], b.part[part], _CMP_NLT_UQ));
    return a;
}

KERNEL_INLINE vec_mask v_greater(vec a, vec b) {
    EACH_REGISTER(a.part[part] = INTRINSIC(cmp)(a.part[part], b.part[part], _CMP_GT_OQ));
    return a;
}

KERNEL_INLINE vec_mask v_equal(vec a, vec b) {
    EACH_REGISTER(a.part[part] = INTRINSIC(cmp)(a.part[part], b.part[part], _CMP_EQ_OQ));
    return a;
}

KERNEL_INLINE vec v_select(vec_mask where, vec a, vec b) {
    EACH_REGISTER(a.part[part] = INTRINSIC(blendv)(b.part[part], a.part[part], where.part[part]));
    return a;
}

KERNEL_INLINE vec v_keep(vec_mask where, vec a) {
    EACH_REGISTER(a.part[part] = INTRINSIC(and)(a.part[part], where.part[part]));
    return a;
}

KERNEL_INLINE vec v_drop(vec_mask where, vec a) {
    EACH_REGISTER(a.part[part] = INTRINSIC(andnot)(where.part[part], a.part[part]));
    return a;
}

KERNEL_INLINE unsigned v_mask_bits(vec_mask a) {
    return (unsigned)INTRINSIC(movemask)(a.part[0]) | (unsigned)INTRINSIC(movemask)(a.part[1])
                                                          << (LANES / 2);
}

#if REAL_BITS == 32
KERNEL_INLINE vec v_lane_numbers(void) {
    vec r;
    r.part[0] = _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7);
    r.part[1] = _mm256_setr_ps(8, 9, 10, 11, 12, 13, 14, 15);
    return r;
}

KERNEL_INLINE REAL v_first(vec a) { return _mm256_cvtss_f32(a.part[0]); }

KERNEL_INLINE REAL v_largest(vec a) {
    const __m256 eight = _mm256_max_ps(a.part[0], a.part[1]);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

KERNEL_INLINE vec v_load_first(const REAL *source, int count, REAL fill) {
    vec r;
    EACH_REGISTER(
        __m256i lanes = _mm256_loadu_si256((
            const __m256i *)(const void *)(lane_mask_window_f32 + 16 - count + part * (LANES / 2)));
        r.part[part] = _mm256_blendv_ps(_mm256_set1_ps(fill),
                                        _mm256_maskload_ps(source + part * (LANES / 2), lanes),
                                        _mm256_castsi256_ps(lanes)));
    return r;
}

KERNEL_INLINE void v_store_first(REAL *destination, int count, vec a) {
    EACH_REGISTER(
        __m256i lanes = _mm256_loadu_si256((
            const __m256i *)(const void *)(lane_mask_window_f32 + 16 - count + part * (LANES / 2)));
        _mm256_maskstore_ps(destination + part * (LANES / 2), lanes, a.part[part]));
}

KERNEL_INLINE vec_f64 v_low_half_as_f64(vec a) {
    vec_f64 r;
    r.part[0] = _mm256_cvtps_pd(_mm256_castps256_ps128(a.part[0]));
    r.part[1] = _mm256_cvtps_pd(_mm256_extractf128_ps(a.part[0], 1));
    return r;
}

KERNEL_INLINE vec_f64 v_high_half_as_f64(vec a) {
    a.part[0] = a.part[1];
    return v_low_half_as_f64(a);
}

KERNEL_INLINE vec v_load_float16(const uint16_t *source) {
    vec r;
    EACH_REGISTER(const uint16_t *half = source + part * (LANES / 2);
                  r.part[part] =
                      _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)half)));
    return r;
}

/* Joined: the instruction that writes to memory by itself takes twice as long. */
KERNEL_INLINE void v_store_float16(uint16_t *destination, vec a) {
    __m128i rounded[2];
    EACH_REGISTER(rounded[part] = _mm256_cvtps_ph(a.part[part], _MM_FROUND_TO_NEAREST_INT));
    _mm256_storeu_si256((__m256i *)(void *)destination,
                        _mm256_inserti128_si256(_mm256_castsi128_si256(rounded[0]), rounded[1], 1));
}

KERNEL_INLINE vec v_load_bfloat16(const uint16_t *source) {
    vec r;
    EACH_REGISTER(const uint16_t *half = source + part * (LANES / 2);
                  const __m256i bits =
                      _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)half));
                  r.part[part] = _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)));
    return r;
}

/* The upper half of each lane.  Half a unit, less one bit where the last place is even, carries
 * where the rest rounds up; all ones are a NaN. */
KERNEL_INLINE __m256i rounded_to_bfloat16(__m256 a) {
    const __m256i bits = _mm256_castps_si256(a);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    return _mm256_or_si256(sum, _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)));
}

KERNEL_INLINE void v_store_bfloat16(uint16_t *destination, vec a) {
    __m256i rounded[2];
    EACH_REGISTER(rounded[part] = _mm256_srli_epi32(rounded_to_bfloat16(a.part[part]), 16));
    const __m256i mixed =
        _mm256_packus_epi32(rounded[0], rounded[1]); /* 0 1 2 3 8 9 10 11 4 5 6 7 12 13 14 15 */
    _mm256_storeu_si256((__m256i *)(void *)destination, _mm256_permute4x64_epi64(mixed, 0xd8));
}

KERNEL_INLINE void v_store_two_bfloat16(uint16_t *destination, vec a, vec b) {
    v_store_bfloat16(destination, a);
    v_store_bfloat16(destination + LANES, b);
}

KERNEL_INLINE void v_split_float16(vec pairs, vec *first, vec *second) {
    const __m256i apart = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0,
                                           1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    EACH_REGISTER(const __m256i quarters =
                      _mm256_shuffle_epi8(_mm256_castps_si256(pairs.part[part]), apart);
                  const __m256i halves = _mm256_permute4x64_epi64(quarters, 0xd8);
                  first->part[part] = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
                  second->part[part] = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)));
}

KERNEL_INLINE vec v_join_float16(vec first, vec second) {
    EACH_REGISTER(
        const __m128i low = _mm256_cvtps_ph(first.part[part], _MM_FROUND_TO_NEAREST_INT);
        const __m128i high = _mm256_cvtps_ph(second.part[part], _MM_FROUND_TO_NEAREST_INT);
        const __m256i four = _mm256_castsi128_si256(_mm_unpacklo_epi16(low, high));
        first.part[part] =
            _mm256_castsi256_ps(_mm256_inserti128_si256(four, _mm_unpackhi_epi16(low, high), 1)));
    return first;
}

KERNEL_INLINE void v_split_bfloat16(vec pairs, vec *first, vec *second) {
    const __m256i upper = _mm256_set1_epi32(-65536);
    EACH_REGISTER(const __m256i bits = _mm256_castps_si256(pairs.part[part]);
                  first->part[part] = _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
                  second->part[part] = _mm256_castsi256_ps(_mm256_and_si256(bits, upper)));
}

KERNEL_INLINE vec v_join_bfloat16(vec first, vec second) {
    EACH_REGISTER(const __m256i low = _mm256_srli_epi32(rounded_to_bfloat16(first.part[part]), 16);
                  const __m256i high = rounded_to_bfloat16(second.part[part]);
                  first.part[part] = _mm256_castsi256_ps(_mm256_blend_epi16(low, high, 0xaa)));
    return first;
}

KERNEL_INLINE vec v_bits_to_exponent(vec a) {
    EACH_REGISTER(a.part[part] = _mm256_castsi256_ps(
                      _mm256_slli_epi32(_mm256_castps_si256(a.part[part]), SIGNIFICAND_SHIFT)));
    return a;
}

KERNEL_INLINE vec v_exponent(vec a) {
    /* the biased exponent in the low bits of 2^23 is the number 2^23 + exponent + bias */
    const __m256i two_to_23 = _mm256_castps_si256(_mm256_set1_ps(8388608.0f));
    EACH_REGISTER(
        __m256i biased = _mm256_srli_epi32(_mm256_castps_si256(a.part[part]), SIGNIFICAND_SHIFT);
        a.part[part] = _mm256_sub_ps(_mm256_castsi256_ps(_mm256_or_si256(biased, two_to_23)),
                                     _mm256_set1_ps(8388608.0f + EXPONENT_BIAS)));
    return a;
}

/* The low words of eight integers. */
KERNEL_INLINE __m256i low_words(const int64_t *source) {
    const __m256 first = _mm256_loadu_ps((const float *)(const void *)source);
    const __m256 last = _mm256_loadu_ps((const float *)(const void *)(source + 4));
    const __m256d mixed = _mm256_castps_pd(_mm256_shuffle_ps(first, last, 0x88));
    return _mm256_castpd_si256(_mm256_permute4x64_pd(mixed, 0xd8));
}

KERNEL_INLINE vec v_from_integers(const int64_t *source) {
    vec r;
    EACH_REGISTER(r.part[part] = _mm256_cvtepi32_ps(low_words(source + part * (LANES / 2))));
    return r;
}

KERNEL_INLINE vec v_power_of_steps(const BITS_TYPE *table, vec a) {
    const __m256i powers = _mm256_loadu_si256((const __m256i *)(const void *)table);
    EACH_REGISTER(const __m256i bits = _mm256_castps_si256(a.part[part]);
                  const __m256i power = _mm256_permutevar8x32_epi32(powers, bits);
                  a.part[part] = _mm256_castsi256_ps(
                      _mm256_add_epi32(power, _mm256_slli_epi32(bits, SIGNIFICAND_SHIFT - 3))));
    return a;
}
#else
KERNEL_INLINE vec v_lane_numbers(void) {
    vec r;
    r.part[0] = _mm256_setr_pd(0, 1, 2, 3);
    r.part[1] = _mm256_setr_pd(4, 5, 6, 7);
    return r;
}

KERNEL_INLINE REAL v_first(vec a) { return _mm256_cvtsd_f64(a.part[0]); }

KERNEL_INLINE REAL v_largest(vec a) {
    const __m256d four = _mm256_max_pd(a.part[0], a.part[1]);
    const __m128d two = _mm_max_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_max_sd(two, _mm_unpackhi_pd(two, two)));
}

KERNEL_INLINE vec v_load_first(const REAL *source, int count, REAL fill) {
    vec r;
    EACH_REGISTER(
        __m256i lanes = _mm256_loadu_si256(
            (const __m256i *)(const void *)(lane_mask_window_f64 + 8 - count + part * (LANES / 2)));
        r.part[part] = _mm256_blendv_pd(_mm256_set1_pd(fill),
                                        _mm256_maskload_pd(source + part * (LANES / 2), lanes),
                                        _mm256_castsi256_pd(lanes)));
    return r;
}

KERNEL_INLINE void v_store_first(REAL *destination, int count, vec a) {
    EACH_REGISTER(
        __m256i lanes = _mm256_loadu_si256(
            (const __m256i *)(const void *)(lane_mask_window_f64 + 8 - count + part * (LANES / 2)));
        _mm256_maskstore_pd(destination + part * (LANES / 2), lanes, a.part[part]));
}

KERNEL_INLINE vec v_bits_to_exponent(vec a) {
    EACH_REGISTER(a.part[part] = _mm256_castsi256_pd(
                      _mm256_slli_epi64(_mm256_castpd_si256(a.part[part]), SIGNIFICAND_SHIFT)));
    return a;
}

KERNEL_INLINE vec v_exponent(vec a) {
    const __m256i two_to_52 = _mm256_castpd_si256(_mm256_set1_pd(4503599627370496.0));
    EACH_REGISTER(
        __m256i biased = _mm256_srli_epi64(_mm256_castpd_si256(a.part[part]), SIGNIFICAND_SHIFT);
        a.part[part] = _mm256_sub_pd(_mm256_castsi256_pd(_mm256_or_si256(biased, two_to_52)),
                                     _mm256_set1_pd(4503599627370496.0 + EXPONENT_BIAS)));
    return a;
}

KERNEL_INLINE vec v_from_integers(const int64_t *source) {
    vec r;
    EACH_REGISTER(const int64_t *four = source + part * (LANES / 2);
                  r.part[part] = _mm256_cvtepi32_pd(_mm_setr_epi32(
                      (int32_t)four[0], (int32_t)four[1], (int32_t)four[2], (int32_t)four[3])));
    return r;
}

/* Two permutations of four numbers each, whose halves are taken by the index 2 j and 2 j + 1; bit 2
 * of j chooses. */
KERNEL_INLINE vec v_power_of_steps(const BITS_TYPE *table, vec a) {
    const __m256i first = _mm256_loadu_si256((const __m256i *)(const void *)table);
    const __m256i last = _mm256_loadu_si256((const __m256i *)(const void *)(table + 4));
    const __m256i odd = _mm256_set1_epi64x(0x100000000);
    EACH_REGISTER(const __m256i bits = _mm256_castpd_si256(a.part[part]);
                  const __m256i low = _mm256_shuffle_epi32(bits, 0xa0);
                  const __m256i halves = _mm256_or_si256(_mm256_add_epi32(low, low), odd);
                  const __m256d power = _mm256_blendv_pd(
                      _mm256_castsi256_pd(_mm256_permutevar8x32_epi32(first, halves)),
                      _mm256_castsi256_pd(_mm256_permutevar8x32_epi32(last, halves)),
                      _mm256_castsi256_pd(_mm256_slli_epi64(bits, 61)));
                  a.part[part] = _mm256_castsi256_pd(_mm256_add_epi64(
                      _mm256_castpd_si256(power), _mm256_slli_epi64(bits, SIGNIFICAND_SHIFT - 3))));
    return a;
}
#endif

#define HAS_WIDE_SQUARES 0
#include "x86_transpose.h"
