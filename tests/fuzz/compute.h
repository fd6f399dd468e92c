/* A batch through the kernels, in one layout.
 *
 * Knows: the contract, guarded memory.   Must not know: what the right result is.
 */
#ifndef FUZZ_COMPUTE_H
#define FUZZ_COMPUTE_H

#include "problem.h"

/* Fills what the layout asks for.  Returns NULL, or what was written that must not be. */
const char *compute(const problem *p, const layout *l, results *r);

#endif
