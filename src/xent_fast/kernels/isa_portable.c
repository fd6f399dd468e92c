/* Any processor, any C compiler, no fused multiply-add. */
/* The copies would be half of the whole package's compile time. */
#define KERNEL_INLINE static inline MAYBE_UNUSED
#include "isa_tables.h"

static int always(void) { return 1; }

#define SIMD_HEADER "simd/portable.h"
#define ISA_NAME "portable"
#define ISA_TABLE xent_isa_portable
#define ISA_IS_SUPPORTED always
#include "isa_template.h"
