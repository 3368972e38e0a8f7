#include "simd/neon.h"

#include "linear_int4.h"

namespace int_flash {
const KernelTable* neon_kernels() { return &kTable; }
}  // namespace int_flash
