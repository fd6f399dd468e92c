/* The vocabulary for AVX-512 F and DQ: one vector is one register.  A template over REAL_BITS (see
 * ../dtype.h).
 *
 * Knows: intrinsics.  Must not know: what is computed with them.  README.md of the folder above
 * says what each means.
 */
#undef REGISTER
#undef MASK
#undef INTRINSIC
#undef MASK_INTRINSIC
#if REAL_BITS == 32
#define REGISTER __m512
#define MASK __mmask16
#define INTRINSIC(operation) _mm512_##operation##_ps
#define MASK_INTRINSIC(operation) _mm512_##operation##_ps_mask
#else
#define REGISTER __m512d
#define MASK __mmask8
#define INTRINSIC(operation) _mm512_##operation##_pd
#define MASK_INTRINSIC(operation) _mm512_##operation##_pd_mask
#endif

#define HAS_FMA 1
#undef INTERLEAVED
#define INTERLEAVED 4

typedef REGISTER vec;
typedef MASK vec_mask;

KERNEL_INLINE vec v_splat(REAL value) { return INTRINSIC(set1)(value); }

KERNEL_INLINE vec v_load(const REAL *source) { return INTRINSIC(loadu)(source); }

/* In a register: compilers may read a number from memory at every use, and one that crosses a
 * line of the cache takes two reads. */
KERNEL_INLINE vec v_held(vec a) {
#if defined(__GNUC__) || defined(__clang__)
    __asm__("" : "+v"(a));
#endif
    return a;
}

KERNEL_INLINE void v_store(REAL *destination, vec a) { INTRINSIC(storeu)(destination, a); }

KERNEL_INLINE vec v_load_first(const REAL *source, int count, REAL fill) {
    return INTRINSIC(mask_loadu)(v_splat(fill), (MASK)((1u << count) - 1), source);
}

KERNEL_INLINE void v_store_first(REAL *destination, int count, vec a) {
    INTRINSIC(mask_storeu)(destination, (MASK)((1u << count) - 1), a);
}

KERNEL_INLINE vec v_add(vec a, vec b) { return INTRINSIC(add)(a, b); }

KERNEL_INLINE vec v_sub(vec a, vec b) { return INTRINSIC(sub)(a, b); }

KERNEL_INLINE vec v_mul(vec a, vec b) { return INTRINSIC(mul)(a, b); }

KERNEL_INLINE vec v_div(vec a, vec b) { return INTRINSIC(div)(a, b); }

KERNEL_INLINE vec v_max(vec a, vec b) { return INTRINSIC(max)(a, b); }

KERNEL_INLINE vec v_min(vec a, vec b) { return INTRINSIC(min)(a, b); }

KERNEL_INLINE vec v_fma(vec a, vec b, vec c) { return INTRINSIC(fmadd)(a, b, c); }

KERNEL_INLINE vec v_fms(vec a, vec b, vec c) { return INTRINSIC(fmsub)(a, b, c); }

KERNEL_INLINE vec_mask v_not_less(vec a, vec b) { return MASK_INTRINSIC(cmp)(a, b, _CMP_NLT_UQ); }

KERNEL_INLINE vec_mask v_greater(vec a, vec b) { return MASK_INTRINSIC(cmp)(a, b, _CMP_GT_OQ); }

KERNEL_INLINE vec_mask v_equal(vec a, vec b) { return MASK_INTRINSIC(cmp)(a, b, _CMP_EQ_OQ); }

KERNEL_INLINE vec v_select(vec_mask where, vec a, vec b) {
    return INTRINSIC(mask_blend)(where, b, a);
}

KERNEL_INLINE vec v_keep(vec_mask where, vec a) { return INTRINSIC(maskz_mov)(where, a); }

KERNEL_INLINE vec v_drop(vec_mask where, vec a) { return INTRINSIC(maskz_mov)((MASK)~where, a); }

KERNEL_INLINE REAL v_largest(vec a) { return INTRINSIC(reduce_max)(a); }

KERNEL_INLINE unsigned v_mask_bits(vec_mask a) { return a; }

KERNEL_INLINE vec v_exponent(vec a) { return INTRINSIC(getexp)(a); }

#if REAL_BITS == 32
KERNEL_INLINE vec v_lane_numbers(void) {
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

KERNEL_INLINE vec_f64 v_low_half_as_f64(vec a) {
    return _mm512_cvtps_pd(_mm512_castps512_ps256(a));
}

KERNEL_INLINE vec_f64 v_high_half_as_f64(vec a) {
    return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
}

KERNEL_INLINE REAL v_first(vec a) { return _mm512_cvtss_f32(a); }

KERNEL_INLINE vec v_from_integers(const int64_t *source) {
    const __m256i low = _mm512_cvtepi64_epi32(_mm512_loadu_si512(source));
    const __m256i high = _mm512_cvtepi64_epi32(_mm512_loadu_si512(source + LANES / 2));
    return _mm512_cvtepi32_ps(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
}

KERNEL_INLINE vec v_power_of_steps(const BITS_TYPE *table, vec a) {
    const __m512i bits = _mm512_castps_si512(a);
    const __m512i twice =
        _mm512_broadcast_i32x8(_mm256_loadu_si256((const __m256i *)(const void *)table));
    const __m512i power = _mm512_permutexvar_epi32(bits, twice);
    return _mm512_castsi512_ps(
        _mm512_add_epi32(power, _mm512_slli_epi32(bits, SIGNIFICAND_SHIFT - 3)));
}

KERNEL_INLINE vec v_load_float16(const uint16_t *source) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)source));
}

/* Through a register: the instruction that writes to memory by itself takes twice as long. */
KERNEL_INLINE void v_store_float16(uint16_t *destination, vec a) {
    __m256i rounded = _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT);
#if defined(__GNUC__) || defined(__clang__)
    __asm__("" : "+x"(rounded));
#endif
    _mm256_storeu_si256((__m256i *)(void *)destination, rounded);
}

/* Where the upper halves of sixteen lanes come from, and where the upper and the lower halves of
 * two vectors are gathered from. */
static const ALIGNED_64 uint16_t upper_places[32] = {0, 0,  0, 1,  0, 2,  0, 3,  0, 4, 0,
                                                     5, 0,  6, 0,  7, 0,  8, 0,  9, 0, 10,
                                                     0, 11, 0, 12, 0, 13, 0, 14, 0, 15};
static const ALIGNED_64 uint16_t upper_halves[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21,
                                                     23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                                     45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
static const ALIGNED_64 uint16_t lower_halves[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20,
                                                     22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 42,
                                                     44, 46, 48, 50, 52, 54, 56, 58, 60, 62};

KERNEL_INLINE vec v_load_bfloat16(const uint16_t *source) {
    const __m512i bits =
        _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)source));
    return _mm512_castsi512_ps(
        _mm512_maskz_permutexvar_epi16(0xaaaaaaaa, _mm512_load_si512(upper_places), bits));
}

/* The upper half of each lane.  Half a unit, less one bit where the last place is even, carries
 * where the rest rounds up; all ones are a NaN. */
KERNEL_INLINE __m512i rounded_to_bfloat16(__m512 a) {
    const __m512i bits = _mm512_castps_si512(a);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i half = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
    const __mmask16 is_number = _mm512_cmp_ps_mask(a, a, _CMP_ORD_Q);
    return _mm512_mask_add_epi32(_mm512_set1_epi32(-1), is_number, half, odd);
}

KERNEL_INLINE void v_store_bfloat16(uint16_t *destination, vec a) {
    const __m512i upper =
        _mm512_permutexvar_epi16(_mm512_load_si512(upper_halves), rounded_to_bfloat16(a));
    _mm256_storeu_si256((__m256i *)(void *)destination, _mm512_castsi512_si256(upper));
}

/* The upper half takes 1 more where the lower one, and 1 where the upper one is odd, exceed half a
 * unit: that is the first bit of (lower + 0x7fff + odd) / 2. */
enum { AND_OR = 0xea }; /* the table of (a & b) | c */
KERNEL_INLINE void v_store_two_bfloat16(uint16_t *destination, vec a, vec b) {
    const __m512i low = _mm512_castps_si512(a), high = _mm512_castps_si512(b);
    const __m512i upper = _mm512_permutex2var_epi16(low, _mm512_load_si512(upper_halves), high);
    const __m512i lower = _mm512_permutex2var_epi16(low, _mm512_load_si512(lower_halves), high);
    const __m512i half =
        _mm512_ternarylogic_epi32(upper, _mm512_set1_epi16(1), _mm512_set1_epi16(0x7ffe), AND_OR);
    const __m512i carry = _mm512_srli_epi16(_mm512_avg_epu16(lower, half), 15);
    _mm512_storeu_si512(destination, _mm512_add_epi16(upper, carry));
}

KERNEL_INLINE void v_split_float16(vec pairs, vec *first, vec *second) {
    const __m512i bits = _mm512_castps_si512(pairs);
    *first = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(bits));
    *second = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
}

KERNEL_INLINE vec v_join_float16(vec first, vec second) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm512_cvtps_ph(first, _MM_FROUND_TO_NEAREST_INT));
    const __m512i high = _mm512_cvtepu16_epi32(_mm512_cvtps_ph(second, _MM_FROUND_TO_NEAREST_INT));
    return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

KERNEL_INLINE void v_split_bfloat16(vec pairs, vec *first, vec *second) {
    const __m512i bits = _mm512_castps_si512(pairs);
    *first = _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
    *second = _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(-65536)));
}

KERNEL_INLINE vec v_join_bfloat16(vec first, vec second) {
    const __m512i low = _mm512_srli_epi32(rounded_to_bfloat16(first), 16);
    return _mm512_castsi512_ps(
        _mm512_mask_blend_epi16(0xaaaaaaaa, low, rounded_to_bfloat16(second)));
}

KERNEL_INLINE vec v_bits_to_exponent(vec a) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), SIGNIFICAND_SHIFT));
}
#else
KERNEL_INLINE vec v_lane_numbers(void) { return _mm512_setr_pd(0, 1, 2, 3, 4, 5, 6, 7); }

KERNEL_INLINE REAL v_first(vec a) { return _mm512_cvtsd_f64(a); }

KERNEL_INLINE vec v_from_integers(const int64_t *source) {
    return _mm512_cvtepi32_pd(_mm512_cvtepi64_epi32(_mm512_loadu_si512(source)));
}

KERNEL_INLINE vec v_power_of_steps(const BITS_TYPE *table, vec a) {
    const __m512i bits = _mm512_castpd_si512(a);
    const __m512i power = _mm512_permutexvar_epi64(bits, _mm512_loadu_si512(table));
    return _mm512_castsi512_pd(
        _mm512_add_epi64(power, _mm512_slli_epi64(bits, SIGNIFICAND_SHIFT - 3)));
}

KERNEL_INLINE vec v_bits_to_exponent(vec a) {
    return _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(a), SIGNIFICAND_SHIFT));
}
#endif

/* Columns of 16 (8) rows whole: two squares of AVX registers side by side. */
#define HAS_WIDE_SQUARES 1
#include "x86_transpose.h"
