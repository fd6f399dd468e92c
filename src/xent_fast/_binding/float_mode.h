/* The calling thread's floating-point mode: rounding direction, subnormal numbers, traps.
 *
 * Knows: where each processor keeps it. Must not know: Python, kernels, who else runs.
 *
 * The mode is a thread's own, and any code of the process may have changed it: a library that was
 * linked with -ffast-math turns subnormal numbers off where it is loaded, and every thread started
 * later inherits that. Under another rounding direction the kernels' additions that round to an
 * integer round another way, and their results are wrong, NaN among them. So every thread that
 * computes does so in the default mode, and gets back the mode it had. Where the mode is the
 * default one already, nothing is written.
 */
#ifndef XENT_FAST_FLOAT_MODE_H
#define XENT_FAST_FLOAT_MODE_H

#include <stdint.h>

#if defined(__x86_64__) || defined(_M_X64)

#include <xmmintrin.h>

/* MXCSR. Bits 0 to 5 say what has happened, all others what shall. */
typedef uint32_t xent_float_mode;

enum { XENT_MODE_BITS = 0xffc0, XENT_DEFAULT_MODE = 0x1f80 };

static inline xent_float_mode xent_use_default_mode(void) {
    const xent_float_mode mode = _mm_getcsr();
    if ((mode & XENT_MODE_BITS) != XENT_DEFAULT_MODE)
        _mm_setcsr(XENT_DEFAULT_MODE);
    return mode;
}

static inline void xent_restore_mode(xent_float_mode mode) {
    if ((mode & XENT_MODE_BITS) != XENT_DEFAULT_MODE)
        _mm_setcsr(mode);
}

#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))

/* FPCR: 0 is the default of every bit. */
typedef uint64_t xent_float_mode;

static inline void xent_restore_mode(xent_float_mode mode) {
    if (mode != 0)
        __asm__ volatile("msr fpcr, %0" : : "r"(mode));
}

static inline xent_float_mode xent_use_default_mode(void) {
    xent_float_mode mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    if (mode != 0)
        __asm__ volatile("msr fpcr, xzr");
    return mode;
}

#else

#include <fenv.h>

typedef fenv_t xent_float_mode;

static inline xent_float_mode xent_use_default_mode(void) {
    xent_float_mode mode;
    fegetenv(&mode);
    fesetenv(FE_DFL_ENV);
    return mode;
}

static inline void xent_restore_mode(xent_float_mode mode) { fesetenv(&mode); }

#endif
#endif
