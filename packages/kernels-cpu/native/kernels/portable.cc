#include "simd/portable.h"

#include "linear_int4.h"

namespace int_flash {
const KernelTable* portable_kernels() { return &kTable; }
}  // namespace int_flash
