/* Memory between pages that may not be touched, whose every byte outside an array is known.
 *
 * Knows: pages, where arrays lie.   Must not know: what arrays mean.
 */
#ifndef FUZZ_MEMORY_H
#define FUZZ_MEMORY_H

#include <stddef.h>
#include <stdint.h>

enum { PLACE_BYTES = 3 << 19, PLACE_COUNT = 11 };

/* In place of a gap: each row ends where a page begins that may not be touched. */
enum { PAGES = -1 };

/* `rows` rows of `row_bytes` bytes each: `first` is row 0, `stride` leads from row to row, and the
 * bytes from `start` on, `span` in number, hold all of them.  Between rows, `guard` bytes may not be
 * touched. */
typedef struct {
    char *first, *start;
    ptrdiff_t stride;
    size_t span;
    int64_t rows;
    size_t row_bytes, guard;
} strip;

/* Rows in place `k`, `gap` bytes apart, against one end of it or the other (`offset` bytes from
 * there); all bytes 0xff. */
strip lay_out(int k, int64_t rows, size_t row_bytes, ptrdiff_t gap, int is_reversed, int at_end,
              size_t offset);

/* Rows from and to memory without gaps. */
void put_rows(const strip *s, const char *values);
void get_rows(const strip *s, char *values);

/* Whether every byte around and between the rows is still 0xff. */
int has_clean_gaps(const strip *s, int k);

#endif
