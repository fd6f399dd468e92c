/* Threads and compiler as the preprocessor knows them: OpenMP's run-time library, or one thread
 * without it; how threads share a loop.
 *
 * Knows: whether this build has OpenMP, atomic counters. Must not know: Python, kernels, when a
 * second thread pays.
 */
#ifndef XENT_FAST_THREADS_H
#define XENT_FAST_THREADS_H

#include <stdint.h>
#if defined(_MSC_VER)
#include <intrin.h>
#endif

#ifdef _OPENMP

#include <omp.h>

/* The date of the OpenMP specification as yyyymm. */
enum { XENT_OPENMP_VERSION = _OPENMP };

/* What OMP_NUM_THREADS, omp_set_num_threads or threadpoolctl ask for, and OMP_THREAD_LIMIT allows.
 */
static inline int xent_max_threads(void) {
    int most = omp_get_max_threads();
#if _OPENMP >= 200805
    if (omp_get_thread_limit() < most)
        most = omp_get_thread_limit();
#endif
    return most;
}

/* Processors this process may run on. */
static inline int xent_processor_count(void) { return omp_get_num_procs(); }

#else

enum { XENT_OPENMP_VERSION = 0 };

static inline int xent_max_threads(void) { return 1; }

static inline int xent_processor_count(void) { return 1; }

#endif

/* One thread's share of a loop, from which others take what it leaves; a cache line each. */
typedef struct {
    int64_t next, end;
    char rest[64 - 2 * sizeof(int64_t)];
} xent_section;

/* The next one of a section that nobody has taken, or -1. */
static inline int64_t xent_take_next(xent_section *section) {
#if defined(__GNUC__) || defined(__clang__)
    const int64_t taken = __atomic_fetch_add(&section->next, 1, __ATOMIC_RELAXED);
#elif defined(_MSC_VER)
    const int64_t taken = _InterlockedExchangeAdd64(&section->next, 1);
#else
    int64_t taken;
#pragma omp atomic capture
    taken = section->next++;
#endif
    return taken < section->end ? taken : -1;
}

#if defined(__clang__)
#define XENT_COMPILER __VERSION__
#elif defined(__GNUC__)
#define XENT_COMPILER "GCC " __VERSION__
#elif defined(_MSC_VER)
#define XENT_AS_TEXT(number) #number
#define XENT_VALUE_AS_TEXT(macro) XENT_AS_TEXT(macro)
#define XENT_COMPILER "MSVC " XENT_VALUE_AS_TEXT(_MSC_VER)
#else
#define XENT_COMPILER "unknown"
#endif

#ifndef XENT_FAST_VERSION
#define XENT_FAST_VERSION "unknown"
#endif

#endif
