// Sums and maxima over a warp, or over the four lanes that share a row of a product, the same in every lane.
#pragma once

namespace intflash {

__device__ __forceinline__ double warp_sum(double value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value = __dadd_rn(value, __shfl_xor_sync(~0u, value, step));
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
    return value;
}

__device__ __forceinline__ float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
    return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}

__device__ __forceinline__ float quad_sum(float value) {
    value += __shfl_xor_sync(~0u, value, 1);
    return value + __shfl_xor_sync(~0u, value, 2);
}

}  // namespace intflash
