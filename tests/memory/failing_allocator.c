/* The C library's allocator, with one allocation that fails: to be put before it by LD_PRELOAD.
 *
 * Knows: the names under which glibc exports its own allocator.
 * Must not know: who allocates, or why.
 *
 * The program that wants failures writes to `failing_allocator` as it lies in memory: whoever
 * switches failures off must not need memory for it.
 */
#include <errno.h>
#include <stddef.h>

/* The allocation that fails, counted by `seen` from 1 on; 0: none, and no counting. */
struct {
    long fail_at, seen;
} failing_allocator;

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

static int fails(void) {
    if (failing_allocator.fail_at == 0)
        return 0;
    if (++failing_allocator.seen != failing_allocator.fail_at)
        return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size) { return fails() ? NULL : __libc_malloc(size); }

void *calloc(size_t count, size_t size) { return fails() ? NULL : __libc_calloc(count, size); }

void *realloc(void *memory, size_t size) { return fails() ? NULL : __libc_realloc(memory, size); }

void *memalign(size_t alignment, size_t size) {
    return fails() ? NULL : __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **memory, size_t alignment, size_t size) {
    void *const allocated = memalign(alignment, size);
    if (allocated == NULL)
        return ENOMEM;
    *memory = allocated;
    return 0;
}
