#include "simd/avx512.h"

#include "kernel_set.h"

namespace int_flash {
const KernelTable* avx512_vnni_kernels() { return &kTable; }
}  // namespace int_flash
