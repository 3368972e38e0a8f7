// float32 to the 16-bit formats, for outputs.
#pragma once
#include <cuda_runtime_api.h>

#include "operand.h"

namespace intflash {

/**
 * to[i] = from[i], rounded half to even. Nothing else changes but numbers beyond the format, which become infinite.
 *
 * @param type kFloat16 or kBfloat16
 * @param overflow set to 1 when a finite number became infinite
 */
cudaError_t launch_cast(const float* from, int64_t elements, ElementType type, void* to, uint32_t* overflow, cudaStream_t stream);

}  // namespace intflash
