#include "simd/avx2.h"

#include "linear_int4.h"

namespace int_flash {
const KernelTable* avx2_kernels() { return &kTable; }
}  // namespace int_flash
