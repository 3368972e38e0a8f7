#define INT_FLASH_AVX_VNNI
#include "simd/avx2.h"

#include "kernel_set.h"

namespace int_flash {
const KernelTable* avx_vnni_kernels() { return &kTable; }
}  // namespace int_flash
