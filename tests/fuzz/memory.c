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

static char *place(int k) {
    if (places[k])
        return places[k];
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *memory =
        mmap(NULL, PLACE_BYTES + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + page, PLACE_BYTES, PROT_READ | PROT_WRITE)) {
        perror("mmap");
        exit(2);
    }
    memset(memory + page, GUARD_BYTE, PLACE_BYTES);
    return places[k] = memory + page;
}

/* The rows and MARGIN bytes on either side, as far as the place has them. */
static void surroundings(const strip *s, int k, char **low, char **high) {
    char *base = place(k), *end = base + PLACE_BYTES;
    *low = s->start - base < MARGIN ? base : s->start - MARGIN;
    *high = end - (s->start + s->span) < MARGIN ? end : s->start + s->span + MARGIN;
}

strip lay_out(int k, int64_t rows, size_t row_bytes, size_t gap, int is_reversed, int at_end,
              size_t offset) {
    const size_t step = row_bytes + gap;
    strip s = {.rows = rows, .row_bytes = row_bytes, .span = (size_t)(rows - 1) * step + row_bytes};
    s.start = at_end ? place(k) + PLACE_BYTES - s.span - offset : place(k) + offset;
    s.first = is_reversed ? s.start + (size_t)(rows - 1) * step : s.start;
    s.stride = is_reversed ? -(ptrdiff_t)step : (ptrdiff_t)step;
    char *low, *high;
    surroundings(&s, k, &low, &high);
    memset(low, GUARD_BYTE, (size_t)(high - low));
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
    const ptrdiff_t step = s->stride < 0 ? -s->stride : s->stride;
    int clean = is_clean(low, s->start) && is_clean(s->start + s->span, high);
    for (int64_t row = 0; row + 1 < s->rows; ++row) {
        const char *end_of_row = s->start + row * step + s->row_bytes;
        clean &= is_clean(end_of_row, s->start + (row + 1) * step);
    }
    return clean;
}
