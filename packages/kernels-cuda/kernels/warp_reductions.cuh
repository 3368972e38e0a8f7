// Sums, maxima and votes over a warp, or over the four lanes that share a row of a product, the same in every lane.
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

/**
 * Whether, in any lane of the warp, the maximum of either of two rows has outgrown its reference by more than the slack: by the difference, which is exact.
 * From 2^27 on reference + slack may round up to the maximum itself.
 */
__device__ __forceinline__ bool outgrown(const float (&top)[2], const float (&reference)[2], float slack) {
    return __any_sync(~0u, top[0] - reference[0] > slack || top[1] - reference[1] > slack);
}

}  // namespace intflash
