// Attention in float32 (precision "fp32") and, for tests and benchmarks, in float64: no quantization anywhere.
#pragma once
#include <cuda_runtime_api.h>

#include "operand.h"

namespace intflash {

struct FloatForwardArgs {
    Operand query, key, value;
    ForwardArgs geometry;  // sequences, windows, mask, scale, softcap, out and lse; the rest is not read
};

cudaError_t launch_float_flash_fwd(const FloatForwardArgs& args, bool in_float64, cudaStream_t stream);

/** Sums over n elements: totals[0] += |a - b|², [1] += |b|², [2] = max |a - b|, [3] += elements where exactly one is finite or NaN differs. */
cudaError_t launch_compare(const float* a, const float* b, int64_t n, double* totals, cudaStream_t stream);

}  // namespace intflash
