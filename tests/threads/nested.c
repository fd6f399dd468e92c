/* A caller's own parallel region, from whose threads a function is called.
 *
 * Knows: OpenMP. Must not know: Python, what the function does.
 */
#include <omp.h>

/* Calls work(k) on each of `threads` threads at once; regions inside get threads of their own if
 * `levels` is 2. */
int call_in_parallel(int threads, int levels, void (*work)(int)) {
    int started = 0;
    omp_set_max_active_levels(levels);
#pragma omp parallel num_threads(threads) reduction(+ : started)
    {
        work(omp_get_thread_num());
        started += 1;
    }
    return started;
}
