/* NEON of 64-bit Arm, where every processor has it. */
#include "isa_tables.h"

#ifdef XENT_AARCH64
#include <arm_neon.h>

static int always(void) { return 1; }

#define SIMD_HEADER "simd/neon.h"
#define ISA_NAME "neon"
#define ISA_TABLE xent_isa_neon
#define ISA_IS_SUPPORTED always
#include "isa_template.h"
#endif
