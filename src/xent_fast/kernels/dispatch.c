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

const xent_isa *xent_isa_at(int position) {
    XENT_ASSERT(position >= 0 && position < ISA_COUNT);
    return isas[position];
}

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
/* The processor must have the instructions and the operating system must save their registers
 * (XCR0).  Both are asked here: what compilers offer for this reads a variable of their own
 * run-time library, and stays 0 with another's. */
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

enum { EAX, EBX, ECX, EDX };

#if defined(__GNUC__) || defined(__clang__)
#include <cpuid.h>

static void ask_processor(unsigned leaf, unsigned answer[4]) {
    __cpuid_count(leaf, 0, answer[EAX], answer[EBX], answer[ECX], answer[EDX]);
}

static unsigned saved_state(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}
#else
#include <intrin.h>

static void ask_processor(unsigned leaf, unsigned answer[4]) {
    __cpuidex((int *)answer, (int)leaf, 0);
}

static unsigned saved_state(void) { return (unsigned)_xgetbv(0); }
#endif

/* EBX of CPUID leaf 7 if leaf 1 has FMA and F16C and the operating system saves `state`, else 0. */
static unsigned extended_features(unsigned state) {
    unsigned answer[4];
    ask_processor(0, answer);
    if (answer[EAX] < 7)
        return 0;
    ask_processor(1, answer);
    if (!(answer[ECX] >> OSXSAVE_BIT & 1) || !(answer[ECX] >> FMA_BIT & 1) ||
        !(answer[ECX] >> F16C_BIT & 1) || (saved_state() & state) != state)
        return 0;
    ask_processor(7, answer);
    return answer[EBX];
}

int xent_processor_has_avx2(void) { return extended_features(YMM_STATE) >> AVX2_BIT & 1; }

int xent_processor_has_avx512(void) {
    const unsigned features = extended_features(ZMM_STATE);
    return (features >> AVX512F_BIT & 1) && (features >> AVX512DQ_BIT & 1) &&
           (features >> AVX512BW_BIT & 1);
}
#endif
