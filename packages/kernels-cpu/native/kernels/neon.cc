#include "simd/neon.h"

#include "linear_rows.h"

namespace int_flash {
const KernelTable* neon_kernels() { return &kTable; }
}  // namespace int_flash
