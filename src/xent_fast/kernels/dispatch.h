/* The instruction sets in order of preference: detect, force, name.
 *
 * Knows: which ISA tables were compiled in.
 * Must not know: what the kernels do.
 */
#ifndef XENT_FAST_DISPATCH_H
#define XENT_FAST_DISPATCH_H

#include "contract.h"

/* ISAs compiled into this build, best first; `portable` is last and always there. */
int xent_isa_count(void);
const xent_isa *xent_isa_at(int position);

/* The first supported ISA of that list. */
const xent_isa *xent_best_isa(void);

/* The ISA of that name, or NULL when this build has none. */
const xent_isa *xent_isa_named(const char *name);

/* Every name that XENT_FAST_ISA accepts on some machine, comma-separated. */
const char *xent_known_isa_names(void);

#endif
