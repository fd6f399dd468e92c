/* What an empty OpenMP parallel region costs.
 *
 * Knows: OpenMP, clocks. Must not know: this library, what the figures mean.
 *
 *     region SAMPLES PAUSE_MICROSECONDS TEAM_SIZE...
 *
 * One line a sample: nanoseconds of a region. Before each the calling thread is busy for the pause, as a caller who
 * computes something else is. Team sizes take turns. The first line is the process's first region.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static long long nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void be_busy(long long duration) {
    const long long end = nanoseconds() + duration;
    while (nanoseconds() < end)
        ;
}

static volatile int visits[64];

static long long time_region(int team_size) {
    const long long start = nanoseconds();
#pragma omp parallel for schedule(static) num_threads(team_size)
    for (int thread = 0; thread < team_size; ++thread)
        visits[thread] = thread;
    return nanoseconds() - start;
}

int main(int argument_count, char **arguments) {
    if (argument_count < 4)
        return 2;
    const int samples = atoi(arguments[1]);
    const long long pause = 1000LL * atoll(arguments[2]);
    for (int sample = 0; sample < samples; ++sample) {
        const int team_size = atoi(arguments[3 + sample % (argument_count - 3)]);
        be_busy(pause);
        printf("%lld\n", time_region(team_size));
    }
    return 0;
}
