#include "simd/neon.h"

#include "kernel_set.h"

namespace int_flash {
const KernelTable* neon_kernels() { return &kTable; }
}  // namespace int_flash
