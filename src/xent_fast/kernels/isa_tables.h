/* What the ISA files export to dispatch.c, and on which processors each exists.
 *
 * Knows: architecture macros of the compilers.
 * Must not know: what the tables hold.
 */
#ifndef XENT_FAST_ISA_TABLES_H
#define XENT_FAST_ISA_TABLES_H

#include "contract.h"

#if defined(__x86_64__) || defined(_M_X64)
#define XENT_X86_64
#elif (defined(__aarch64__) && defined(__ARM_NEON)) || defined(_M_ARM64)
#define XENT_AARCH64
#endif

#ifdef XENT_X86_64
extern const xent_isa xent_isa_avx2, xent_isa_avx512;
int xent_processor_has_avx2(void);
int xent_processor_has_avx512(void);
#endif
#ifdef XENT_AARCH64
extern const xent_isa xent_isa_neon;
#endif
extern const xent_isa xent_isa_portable;

#endif
