/* AVX-512 (F, DQ, BW).  Knows: its compilation target and how to ask the processor for it. */
#include "isa_tables.h"

#ifdef XENT_X86_64
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512dq,avx512bw"))), \
                             apply_to = function)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512dq,avx512bw")
#endif

#define SIMD_HEADER "simd/avx512.h"
#define ISA_NAME "avx512"
#define ISA_TABLE xent_isa_avx512
#define ISA_IS_SUPPORTED xent_processor_has_avx512
#include "isa_template.h"

#if defined(__clang__)
#pragma clang attribute pop
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif
#endif
