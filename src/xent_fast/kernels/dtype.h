/* The dtype axis: what changes between float32 and float64.  A template: include it with REAL_BITS
 * 32 or 64.
 *
 * Knows: the C type, its format's constants, the suffix that keeps the two instances of a name
 * apart.
 * Must not know: instruction sets, kernels.
 */
#undef REAL
#undef REAL_CONSTANT
#undef BITS_TYPE
#undef LANES
#undef SIGNIFICAND_SHIFT
#undef EXPONENT_BIAS
#undef ROUNDING_MAGIC
#undef SCALE_UP
#undef HUGE_LOGIT
#undef LARGEST_REAL
#undef SMALL_FACTOR
#undef RESCALE
#undef SMALL_WEIGHT
#undef DISTANT_TARGET
#undef TINY_LOSS
#undef VISIBLE_FACTOR
#undef LARGEST_FACTOR
#undef LARGEST_TEMPERATURE
#undef SMALLEST_EXACT
#undef LANES_DISTANCE_UNIT
#undef ATANH_TERMS

#if REAL_BITS == 32
#define REAL float
#define REAL_CONSTANT(name) name##_f32
#define BITS_TYPE uint32_t
#define LANES 16
#define SIGNIFICAND_SHIFT 23
#define EXPONENT_BIAS 127
/* 1.5 * 2^23: adding it rounds to an integer, kept in the low bits */
#define ROUNDING_MAGIC 12582912.0f
/* Exponentials are kept as 2^(x log2 e - c + SCALE_UP), so that what is not 0 relative to the
 * maximum stays normal. */
#define SCALE_UP 32
/* From here on logits are taken relative to their block's maximum, exactly: |x log2 e| stays below
 * 2^17. */
#define HUGE_LOGIT 65536.0f
#define LARGEST_REAL FLT_MAX
/* Factors of a gradient below SMALL_FACTOR are kept RESCALE times larger, so that their low parts
 * stay normal numbers. */
#define SMALL_FACTOR 0x1p-90
#define RESCALE 0x1p64
#define SMALL_WEIGHT 0x1p-49 /* SMALL_FACTOR times what up to 128 exponentials add up to */
/* An exponential of a target below this makes the quotient of the others by it too large. */
#define DISTANT_TARGET 0x1p-60f
/* From VISIBLE_FACTOR on a weight brings back probabilities that the exponentials flush to 0.
 * Weights and masses are below LARGEST_FACTOR, temperatures below LARGEST_TEMPERATURE, so that no
 * product of them overflows. */
#define VISIBLE_FACTOR 0x1p8f
#define LARGEST_FACTOR 0x1p60f
#define LARGEST_TEMPERATURE 0x1p100
#define LANES_DISTANCE_UNIT 0x1p-8f /* of the distances that are added up in lanes */
/* A sum of smaller probabilities may lack digits that are seen. */
#define SMALLEST_EXACT 0x1p-100f
#define TINY_LOSS 0x1p-90f /* a loss below this leaves the lanes' type */
#define ATANH_TERMS 4
#elif REAL_BITS == 64
#define REAL double
#define REAL_CONSTANT(name) name##_f64
#define BITS_TYPE uint64_t
#define LANES 8
#define SIGNIFICAND_SHIFT 52
#define EXPONENT_BIAS 1023
#define ROUNDING_MAGIC 6755399441055744.0 /* 1.5 * 2^52 */
#define SCALE_UP 64
#define HUGE_LOGIT 536870912.0
#define LARGEST_REAL DBL_MAX
#define SMALL_FACTOR 0x1p-900
#define RESCALE 0x1p200
#define SMALL_WEIGHT 0x1p-800
#define DISTANT_TARGET 0x1p-500
#define TINY_LOSS 0
#define VISIBLE_FACTOR 0x1p8
#define LARGEST_FACTOR 0x1p400
#define LARGEST_TEMPERATURE 0x1p900
#define LANES_DISTANCE_UNIT DISTANCE_UNIT
#define SMALLEST_EXACT 0x1p-960
#define ATANH_TERMS 8
#else
#error "define REAL_BITS as 32 or 64 before including dtype.h"
#endif

#ifndef XENT_FAST_DTYPE_H
#define XENT_FAST_DTYPE_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PASTE_NAMES_(a, b) a##b
#define PASTE_NAMES(a, b) PASTE_NAMES_(a, b)
#define DTYPE_SUFFIX_32 _f32
#define DTYPE_SUFFIX_64 _f64

/* The instance of a name for the dtype in force: NAME(f) is f_f32 or f_f64.  names.h and
 * type_names.h say it once of every name, so that code has plain ones. */
#define NAME(name) PASTE_NAMES(name, PASTE_NAMES(DTYPE_SUFFIX_, REAL_BITS))

#if defined(_MSC_VER) && !defined(__clang__)
#define ALWAYS_INLINE __forceinline
#define NEVER_INLINE __declspec(noinline)
#define MAYBE_UNUSED
#define ALIGNED_64 __declspec(align(64))
#else
#ifndef ALWAYS_INLINE /* checks define it as noinline: compiled faster, counted one by one */
#define ALWAYS_INLINE inline __attribute__((always_inline))
#endif
#define NEVER_INLINE __attribute__((noinline))
#define MAYBE_UNUSED __attribute__((unused))
#define ALIGNED_64 __attribute__((aligned(64)))
#endif
/* What a loop does with a few vectors is always inlined.  What few rows need, or what takes long
 * beside its call, is NEVER_INLINE: copies of it would be a quarter of all machine code. */
#define VECTOR_INLINE static ALWAYS_INLINE MAYBE_UNUSED
/* Loops and what calls them: a copy for every combination of constant arguments, unless an
 * instruction set leaves that to the compiler. */
#ifndef KERNEL_INLINE
#define KERNEL_INLINE VECTOR_INLINE
#endif

/* Whether the compiler knows a number once it has inlined what asks. */
#if defined(__GNUC__) || defined(__clang__)
#define IS_CONSTANT(number) __builtin_constant_p(number)
#else
#define IS_CONSTANT(number) 0
#endif

/* Asks for a cache line that will be read soon, or later: then it need come no nearer than the
 * core's second cache.  An address outside the array does no harm. */
#if defined(__GNUC__) || defined(__clang__)
#define PREFETCH(address) __builtin_prefetch((const void *)(address))
#define PREFETCH_LATER(address) __builtin_prefetch((const void *)(address), 0, 2)
#elif defined(_M_X64)
#define PREFETCH(address) _mm_prefetch((const char *)(address), _MM_HINT_T0)
#define PREFETCH_LATER(address) _mm_prefetch((const char *)(address), _MM_HINT_T1)
#else
#define PREFETCH(address) ((void)0)
#define PREFETCH_LATER(address) ((void)0)
#endif

/* Classes of a group and of a block: see forward_sweep.h. */
#define HALF_GROUP (4 * LANES)
#define GROUP (2 * HALF_GROUP)
#define BLOCK (16 * GROUP)

/* Rows of no more classes than these stand side by side, one a lane.  A row of its own takes a few
 * hundred operations besides its exponentials, which longer ones do not notice, and planes of more
 * classes turn into rows; columns of more would not stay in the nearest cache. */
#define MOST_CLASSES_ALONG_ROWS 128

/* Distances of classes with mass from the maximum are kept times this, so that no sum of them
 * overflows. */
#define DISTANCE_UNIT 0x1p-40

/* Each target kind's name, number and storages that the sweeps of long rows know. */
/* clang-format off */
#define EACH_TARGET_KIND(each)                           \
    each(index, XENT_INDEX_TARGETS, EACH_STORAGE)        \
    each(dense, XENT_DENSE_TARGETS, AS_COMPUTED_ALONE)   \
    each(shaped, XENT_SHAPED_TARGETS, AS_COMPUTED_ALONE) \
    each(smoothed, XENT_SMOOTHED_TARGETS, EACH_STORAGE)
/* clang-format on */

/* Whether targets of that kind have mass at every class; the class left out of the sum is then the
 * row's maximum. */
#define HAS_MASS(kind) ((kind) != XENT_INDEX_TARGETS)

/* Whether those masses are numbers of the row's own, not a constant but for the class's weight and
 * the label. */
#define HAS_OWN_MASSES(kind) ((kind) == XENT_DENSE_TARGETS || (kind) == XENT_SHAPED_TARGETS)

/* Whether rows of that kind have a class index. */
#define HAS_LABELS(kind) ((kind) == XENT_INDEX_TARGETS || (kind) == XENT_SMOOTHED_TARGETS)

#include "names.h"
#include "type_names.h"

/* The operations of the vocabularies; README.md says what each means. */
#define v_splat NAME(v_splat)
#define v_load NAME(v_load)
#define v_load_first NAME(v_load_first)
#define v_held NAME(v_held)
#define v_store NAME(v_store)
#define v_store_first NAME(v_store_first)
#define v_add NAME(v_add)
#define v_sub NAME(v_sub)
#define v_mul NAME(v_mul)
#define v_div NAME(v_div)
#define v_max NAME(v_max)
#define v_min NAME(v_min)
#define v_fma NAME(v_fma)
#define v_fms NAME(v_fms)
#define v_not_less NAME(v_not_less)
#define v_greater NAME(v_greater)
#define v_equal NAME(v_equal)
#define v_select NAME(v_select)
#define v_keep NAME(v_keep)
#define v_mask_bits NAME(v_mask_bits)
#define v_lane_numbers NAME(v_lane_numbers)
#define v_bits_to_exponent NAME(v_bits_to_exponent)
#define v_exponent NAME(v_exponent)
#define v_power_of_steps NAME(v_power_of_steps)
#define v_drop NAME(v_drop)
#define v_largest NAME(v_largest)
#define v_first NAME(v_first)
#define v_from_integers NAME(v_from_integers)
#define v_high_half NAME(v_high_half)
#define v_load_transposed NAME(v_load_transposed)
#define v_store_transposed NAME(v_store_transposed)

#endif
