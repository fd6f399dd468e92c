/* A team of threads that can be started: fewer threads instead of the end of the process.
 *
 * OpenMP's run-time library ends the process where a thread cannot be started (a limit of processes
 * or of memory), and a worker whose stack is too small for the kernels crashes. So before a calling
 * thread's team grows, as many threads, with stacks no smaller, are started and ended by hand, and
 * then the team's own stacks are looked at, once.
 *
 * Knows: POSIX threads, OpenMP's teams. Must not know: Python, kernels' names, how many threads a
 * call would like.
 */
#ifndef XENT_FAST_TEAM_H
#define XENT_FAST_TEAM_H

#include <limits.h>

#if defined(_OPENMP) && !defined(_WIN32)

#include <ctype.h>
#include <omp.h>
#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#endif
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of stack that a worker must have. Distillation of a few classes with targets takes most,
 * some 140 KiB, and what libraries keep for every thread lies there too. */
#define XENT_LEAST_STACK ((size_t)262144)

/* What failed once is not tried again. */
static int xent_most_threads = INT_MAX;

/* Of this thread's last parallel region: libgomp ends the threads that a smaller team leaves
 * over. */
static _Thread_local int xent_team_size = 1;

static void *xent_wait_for_gate(void *gate) {
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
    return NULL;
}

/* A stack as a worker's: the system's size, or what the environment asks for where that is more, in
 * KiB unless a letter says otherwise. Where libgomp reads it otherwise, as less, the fault costs
 * threads, not the process. */
static void xent_set_stack(pthread_attr_t *attributes) {
    static const char *const names[] = {"OMP_STACKSIZE", "GOMP_STACKSIZE"};
    size_t most = 0, asked;
    int i, letter, shift;
    char *rest;
    pthread_attr_getstacksize(attributes, &most);
    for (i = 0; i < 2; i++) {
        const char *text = getenv(names[i]);
        if (text == NULL)
            continue;
        asked = strtoul(text, &rest, 10);
        letter = tolower((unsigned char)rest[strspn(rest, " ")]);
        shift = letter == 'b' ? 0 : letter == 'm' ? 20 : letter == 'g' ? 30 : 10;
        if (asked <= SIZE_MAX >> shift && asked << shift > most)
            most = asked << shift;
    }
    pthread_attr_setstacksize(attributes, most);
}

/* `wanted` if as many threads can live at once; else about half of what could, for the process
 * needs some more. */
static int xent_try_to_start(int wanted) {
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_t *workers = malloc((size_t)wanted * sizeof *workers);
    pthread_attr_t attributes;
    int started = 0, i;
    if (workers == NULL || pthread_attr_init(&attributes) != 0) {
        free(workers);
        return 1;
    }
    xent_set_stack(&attributes);
    pthread_mutex_lock(&gate);
    while (started < wanted - 1 &&
           pthread_create(&workers[started], &attributes, xent_wait_for_gate, &gate) == 0)
        started++;
    pthread_mutex_unlock(&gate);
    for (i = 0; i < started; i++)
        pthread_join(workers[i], NULL);
    pthread_attr_destroy(&attributes);
    free(workers);
    return started == wanted - 1 ? wanted : started / 2 + 1;
}

#if defined(__linux__)

/* Processors to be bound to; afterwards, whether that worked. */
struct xent_binding {
    cpu_set_t *processors;
    size_t bytes;
    int worked;
};

static void *xent_bind(void *given) {
    struct xent_binding *binding = given;
    binding->worked = sched_setaffinity(0, binding->bytes, binding->processors) == 0;
    return NULL;
}

/* Whether a thread can be bound to the processors of one of OpenMP's places; a thread of its own
 * tries it. */
static int xent_place_works(int place) {
    int count = omp_get_place_num_procs(place), most = 0, i;
    int *numbers = malloc((size_t)(count > 0 ? count : 1) * sizeof *numbers);
    struct xent_binding binding = {NULL, 0, 0};
    pthread_t thread;
    if (numbers == NULL || count < 1) {
        free(numbers);
        return 0;
    }
    omp_get_place_proc_ids(place, numbers);
    for (i = 0; i < count; i++)
        if (numbers[i] > most)
            most = numbers[i];
    binding.processors = CPU_ALLOC((size_t)most + 1);
    if (binding.processors != NULL) {
        binding.bytes = CPU_ALLOC_SIZE((size_t)most + 1);
        CPU_ZERO_S(binding.bytes, binding.processors);
        for (i = 0; i < count; i++)
            CPU_SET_S((size_t)numbers[i], binding.bytes, binding.processors);
        if (pthread_create(&thread, NULL, xent_bind, &binding) == 0)
            pthread_join(thread, NULL);
        CPU_FREE(binding.processors);
    }
    free(numbers);
    return binding.worked;
}

#endif

/* Whether workers can be bound as the environment asks: libgomp ends the process where that
 * fails. */
static int xent_places_work(void) {
#if defined(__linux__)
    int place;
    for (place = 0; place < omp_get_num_places(); place++)
        if (!xent_place_works(place))
            return 0;
#endif
    return 1;
}

/* Bytes of the calling thread's stack, or SIZE_MAX where the system does not tell. */
static size_t xent_own_stack(void) {
    size_t bytes = SIZE_MAX;
#if defined(__linux__)
    pthread_attr_t attributes;
    if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
        if (pthread_attr_getstacksize(&attributes, &bytes) != 0)
            bytes = SIZE_MAX;
        pthread_attr_destroy(&attributes);
    }
#elif defined(__APPLE__)
    bytes = pthread_get_stacksize_np(pthread_self());
#endif
    return bytes;
}

/* The smallest stack of the workers in a team of this size; the calling thread's own counts not. */
static size_t xent_least_stack_of_team(int threads) {
    size_t least = SIZE_MAX;
#pragma omp parallel num_threads(threads) reduction(min : least)
    if (omp_get_thread_num() != 0)
        least = xent_own_stack();
    return least;
}

static int xent_grow_team(int threads) {
    int possible = xent_places_work() ? xent_try_to_start(threads) : 1;
    if (possible > 1 && xent_least_stack_of_team(possible) < XENT_LEAST_STACK)
        possible = 1;
    if (possible < threads)
        __atomic_store_n(&xent_most_threads, possible, __ATOMIC_RELAXED);
    return possible;
}

/* How many threads have not failed yet. */
static inline int xent_possible_threads(void) {
    return __atomic_load_n(&xent_most_threads, __ATOMIC_RELAXED);
}

/* How many of `threads` the next region may have; that region must follow. */
static inline int xent_startable_threads(int threads) {
    if (threads > xent_possible_threads())
        threads = xent_possible_threads();
    if (threads <= 1)
        return threads;
    if (omp_get_active_level() >= omp_get_max_active_levels())
        return threads; /* it starts none */
    if (threads > xent_team_size)
        threads = xent_grow_team(threads);
    if (threads > 1)
        xent_team_size = threads;
    return threads;
}

#else

static inline int xent_possible_threads(void) { return INT_MAX; }

static inline int xent_startable_threads(int threads) { return threads; }

#endif

#endif
