#include "simd/avx2.h"

#include "kernel_set.h"

namespace int_flash {
const KernelTable* avx2_kernels() { return &kTable; }
}  // namespace int_flash
