/* One instruction set's kernels for both dtypes, and its table.
 *
 * The ISA file that includes this has set its compilation target and defined
 *     SIMD_HEADER        the vocabulary, "simd/<isa>.h"
 *     ISA_NAME           the name users know
 *     ISA_TABLE          the exported symbol
 *     ISA_IS_SUPPORTED   a function that asks processor and operating system
 *
 * float64 comes first: rows of float32 take their last few numbers in double (row_stage.h).
 */
#include "coefficients.h"
#include "contract_asserts.h"
#include "labels.h"
#include "pairwise_sum.h"

#define REAL_BITS 64
#include "dtype.h"
#include SIMD_HEADER
#include "sums.h"
#include "exp.h"
#include "log.h"
#include "far.h"
#include "lse_terms.h"
#include "row_stage.h"
#include "rows.h"
#include "derivatives.h"
#include "softmax_rows.h"
#include "second_order.h"
#include "grad_hessian.h"
#include "distillation.h"
#include "entropy.h"
#include "class_statistics.h"

#undef REAL_BITS
#define REAL_BITS 32
#include "dtype.h"
#include SIMD_HEADER
#include "sums.h"
#include "exp.h"
#include "log.h"
#include "lse_terms.h"
#include "rows.h"
#include "derivatives.h"
#include "softmax_rows.h"
#include "second_order.h"
#include "grad_hessian.h"
#include "distillation.h"
#include "entropy.h"
#include "class_statistics.h"

const xent_isa ISA_TABLE = {
    ISA_NAME,
    ISA_IS_SUPPORTED,
    {{ROW_KERNELS_TABLE(index, _f32), ROW_KERNELS_TABLE(dense, _f32),
      ROW_KERNELS_TABLE(shaped, _f32), ROW_KERNELS_TABLE(smoothed, _f32)},
     {ROW_KERNELS_TABLE(index, _f64), ROW_KERNELS_TABLE(dense, _f64),
      ROW_KERNELS_TABLE(shaped, _f64), ROW_KERNELS_TABLE(smoothed, _f64)}},
    {VJP_KERNELS_TABLE(_f32), VJP_KERNELS_TABLE(_f64)},
    {{SOFTMAX_FUNCTION_TABLE(second_order, _f32), SOFTMAX_FUNCTION_TABLE(distillation, _f32),
      GRAD_HESSIAN_TABLE(_f32), SOFTMAX_FUNCTION_TABLE(entropy, _f32)},
     {SOFTMAX_FUNCTION_TABLE(second_order, _f64), SOFTMAX_FUNCTION_TABLE(distillation, _f64),
      GRAD_HESSIAN_TABLE(_f64), SOFTMAX_FUNCTION_TABLE(entropy, _f64)}},
    {SHARD_KERNELS_TABLE(_f32), SHARD_KERNELS_TABLE(_f64)},
    STORAGE_KERNELS_TABLE,
};
