#include "simd/portable.h"

#include "linear_rows.h"

namespace int_flash {
const KernelTable* portable_kernels() { return &kTable; }
}  // namespace int_flash
