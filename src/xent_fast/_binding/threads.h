/* Threads and compiler as the preprocessor knows them: OpenMP's run-time library, or one thread
 * without it.
 *
 * Knows: whether this build has OpenMP. Must not know: Python, kernels, when a second thread pays.
 */
#ifndef XENT_FAST_THREADS_H
#define XENT_FAST_THREADS_H

#ifdef _OPENMP

#include <omp.h>

/* The date of the OpenMP specification as yyyymm. */
enum { XENT_OPENMP_VERSION = _OPENMP };

/* What OMP_NUM_THREADS, omp_set_num_threads or threadpoolctl ask for. */
static inline int xent_max_threads(void) { return omp_get_max_threads(); }

/* Processors this process may run on. */
static inline int xent_processor_count(void) { return omp_get_num_procs(); }

#else

enum { XENT_OPENMP_VERSION = 0 };

static inline int xent_max_threads(void) { return 1; }

static inline int xent_processor_count(void) { return 1; }

#endif

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
