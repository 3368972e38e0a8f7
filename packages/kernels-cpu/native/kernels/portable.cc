#include "simd/portable.h"

#include "kernel_set.h"

namespace int_flash {
const KernelTable* portable_kernels() { return &kTable; }
}  // namespace int_flash
