/* Memory between guard pages: see memory.h. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { GUARD_BYTE = 0xff, MARGIN = 256 };

static char *places[PLACE_COUNT];

static size_t page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static void allow(char *memory, size_t bytes, int access) {
    if (mprotect(memory, bytes, access)) {
        perror("mprotect");
        exit(2);
    }
}

static char *place(int k) {
    if (places[k])
        return places[k];
    const size_t page = page_size();
    char *memory =
        mmap(NULL, PLACE_BYTES + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    allow(memory + page, PLACE_BYTES, PROT_READ | PROT_WRITE);
    memset(memory + page, GUARD_BYTE, PLACE_BYTES);
    return places[k] = memory + page;
}

/* The rows and MARGIN bytes on either side, as far as the place has them. */
static void surroundings(const strip *s, int k, char **low, char **high) {
    char *base = place(k), *end = base + PLACE_BYTES;
    *low = s->start - base < MARGIN ? base : s->start - MARGIN;
    *high = end - (s->start + s->span) < MARGIN ? end : s->start + s->span + MARGIN;
}

/* The row that lies there, from below. */
static char *row_from(const strip *s, int64_t row) {
    return s->start + row * (s->stride < 0 ? -s->stride : s->stride);
}

/* Guards where these rows have them, and no others. */
static void guard_rows(const strip *s, int k) {
    static strip guarded[PLACE_COUNT];
    strip *before = &guarded[k];
    if (before->guard == s->guard &&
        (!s->guard || (before->start == s->start && before->stride == s->stride)))
        return;
    allow(place(k), PLACE_BYTES, PROT_READ | PROT_WRITE);
    for (int64_t row = 0; row + 1 < s->rows && s->guard; ++row)
        allow(row_from(s, row) + s->row_bytes, s->guard, PROT_NONE);
    *before = *s;
}

strip lay_out(int k, int64_t rows, size_t row_bytes, ptrdiff_t gap, int is_reversed, int at_end,
              size_t offset) {
    const size_t page = page_size(), pages = (row_bytes + page - 1) / page + 1,
                 guard = gap == PAGES ? page : 0,
                 step = gap == PAGES ? pages * page : row_bytes + (size_t)gap;
    strip s = {.rows = rows,
               .row_bytes = row_bytes,
               .guard = guard,
               .span = (size_t)(rows - 1) * step + row_bytes};
    if (s.span + offset > PLACE_BYTES) {
        fprintf(stderr, "a place is too small for %zu bytes\n", s.span);
        exit(2);
    }
    s.start = at_end ? place(k) + PLACE_BYTES - s.span - offset : place(k) + offset;
    s.first = is_reversed ? s.start + (size_t)(rows - 1) * step : s.start;
    s.stride = is_reversed ? -(ptrdiff_t)step : (ptrdiff_t)step;
    char *low, *high;
    surroundings(&s, k, &low, &high);
    guard_rows(&s, k);
    for (int64_t row = 0; row < rows; ++row, low += guard) {
        char *end = row_from(&s, row) + row_bytes;
        memset(low, GUARD_BYTE, (size_t)(end - low));
        low = end;
    }
    memset(s.start + s.span, GUARD_BYTE, (size_t)(high - s.start) - s.span);
    return s;
}

void put_rows(const strip *s, const char *values) {
    for (int64_t row = 0; row < s->rows; ++row)
        memcpy(s->first + row * s->stride, values + (size_t)row * s->row_bytes, s->row_bytes);
}

void get_rows(const strip *s, char *values) {
    for (int64_t row = 0; row < s->rows; ++row)
        memcpy(values + (size_t)row * s->row_bytes, s->first + row * s->stride, s->row_bytes);
}

static int is_clean(const char *from, const char *to) {
    for (; from < to; ++from)
        if ((unsigned char)*from != GUARD_BYTE)
            return 0;
    return 1;
}

int has_clean_gaps(const strip *s, int k) {
    char *low, *high;
    surroundings(s, k, &low, &high);
    int clean = is_clean(low, s->start) && is_clean(s->start + s->span, high);
    for (int64_t row = 0; row + 1 < s->rows; ++row) {
        const char *end_of_row = row_from(s, row) + s->row_bytes;
        clean &= is_clean(end_of_row + s->guard, row_from(s, row + 1));
    }
    return clean;
}
