/* The contract's assumptions as asserts, where XENT_CHECKED is defined: in fuzzers and under
 * sanitizers.  Elsewhere they make no code.
 *
 * Knows: how a program ends that breaks a contract. Must not know: any contract.
 */
#ifndef XENT_FAST_CHECKED_H
#define XENT_FAST_CHECKED_H

#ifdef XENT_CHECKED
#include <stdio.h>
#include <stdlib.h>

static inline void xent_break(const char *condition, const char *file, int line) {
    fprintf(stderr, "%s:%d: broken contract: %s\n", file, line, condition);
    abort();
}

#define XENT_ASSERT(condition) ((condition) ? (void)0 : xent_break(#condition, __FILE__, __LINE__))
#else
#define XENT_ASSERT(condition) ((void)sizeof(condition)) /* compiled, never computed */
#endif

#endif
