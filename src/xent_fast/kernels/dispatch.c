/* Choosing an instruction set: see dispatch.h. */
#include "dispatch.h"

#include <string.h>

#include "isa_tables.h"

static const xent_isa *const isas[] = {
#ifdef XENT_X86_64
    &xent_isa_avx512,
    &xent_isa_avx2,
#endif
#ifdef XENT_AARCH64
    &xent_isa_neon,
#endif
    &xent_isa_portable,
};

enum { ISA_COUNT = sizeof isas / sizeof isas[0] };

int xent_isa_count(void) { return ISA_COUNT; }

const xent_isa *xent_isa_at(int position) { return isas[position]; }

const xent_isa *xent_best_isa(void) {
    for (int k = 0; k < ISA_COUNT - 1; ++k)
        if (isas[k]->is_supported())
            return isas[k];
    return isas[ISA_COUNT - 1];
}

const xent_isa *xent_isa_named(const char *name) {
    for (int k = 0; k < ISA_COUNT; ++k)
        if (strcmp(isas[k]->name, name) == 0)
            return isas[k];
    return NULL;
}

const char *xent_known_isa_names(void) { return "avx512, avx2, neon, portable"; }

#ifdef XENT_X86_64
/* The processor must have the instructions and the operating system must save their registers (XCR0). */
#if defined(__GNUC__) || defined(__clang__)
#include <cpuid.h>

/* Clang's __builtin_cpu_supports does not know F16C by name. */
static int has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}

int xent_processor_has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

int xent_processor_has_avx512(void) {
    return xent_processor_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw");
}
#else
#include <intrin.h>

enum {
    OSXSAVE_BIT = 27,
    FMA_BIT = 12,
    F16C_BIT = 29,
    AVX2_BIT = 5,
    AVX512F_BIT = 16,
    AVX512DQ_BIT = 17,
    AVX512BW_BIT = 30,
    YMM_STATE = 0x06,
    ZMM_STATE = 0xe6
};

/* EBX of CPUID leaf 7 if leaf 1 has FMA and F16C and the operating system saves `state`, else 0. */
static unsigned extended_features(unsigned state) {
    int leaf[4];
    __cpuid(leaf, 1);
    if (!(leaf[2] >> OSXSAVE_BIT & 1) || !(leaf[2] >> FMA_BIT & 1) || !(leaf[2] >> F16C_BIT & 1) ||
        (_xgetbv(0) & state) != state)
        return 0;
    __cpuidex(leaf, 7, 0);
    return (unsigned)leaf[1];
}

int xent_processor_has_avx2(void) { return extended_features(YMM_STATE) >> AVX2_BIT & 1; }

int xent_processor_has_avx512(void) {
    const unsigned features = extended_features(ZMM_STATE);
    return (features >> AVX512F_BIT & 1) && (features >> AVX512DQ_BIT & 1) && (features >> AVX512BW_BIT & 1);
}
#endif
#endif
