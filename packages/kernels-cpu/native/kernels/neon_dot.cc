#define INT_FLASH_NEON_DOT
#include "simd/neon.h"

#include "kernel_set.h"

namespace int_flash {
const KernelTable* neon_dot_kernels() { return &kTable; }
}  // namespace int_flash
