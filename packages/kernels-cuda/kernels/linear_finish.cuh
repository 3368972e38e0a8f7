// The last step of an INT8 linear layer.
#pragma once
#include "linear_int8.h"

namespace intflash {

/** y of one (token, row): every operation named, so that none is fused. */
__device__ __forceinline__ float finished(const Int8Weights& weights, int row, int sum, float x_scale) {
    const float y = __fmul_rn(__int2float_rn(sum), __fmul_rn(x_scale, weights.scales[row]));
    return weights.bias != nullptr ? __fadd_rn(y, weights.bias[row]) : y;
}

/** `accumulate`: onto what is there. */
__device__ __forceinline__ void finish(const Int8Weights& weights, int row, int sum, float x_scale, float* out, bool accumulate) {
    const float y = finished(weights, row, sum, x_scale);
    *out = accumulate ? __fadd_rn(*out, y) : y;
}

}  // namespace intflash
