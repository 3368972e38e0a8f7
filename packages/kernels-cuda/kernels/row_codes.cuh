// A row of floats to INT8 codes, by one block: the arithmetic of quant's quantizePerTokenInt8.
#pragma once
#include <cfloat>
#include <cstdint>

namespace intflash {

constexpr float kMinScale = 1.17549435e-38f;  // 2^-126: keeps an all-zero row from 0 / 0

/** Maximum of magnitudes over the block, the same in every thread. `scratch`: 32 floats; synchronizes on the way in and out. */
__device__ __forceinline__ float block_max(float value, float* scratch) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
    __syncthreads();
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    value = threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : 0.f;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
    return value;
}

/** Largest magnitude of `value`; raises `bad` for NaN and infinities, which fmaxf would not show. */
__device__ __forceinline__ float magnitude(float value, bool& bad) {
    const float size = fabsf(value);
    bad |= !(size <= FLT_MAX);
    return size;
}

/** The larger magnitude; a NaN is larger than all. */
__device__ __forceinline__ float larger(float a, float b) { return __uint_as_float(max(__float_as_uint(a) & 0x7fffffffu, __float_as_uint(b) & 0x7fffffffu)); }

__device__ __forceinline__ float symmetric_scale(float largest) { return fmaxf(__fdiv_rn(largest, 127.f), kMinScale); }

/** A code in [-127, 127] where `value` is finite, and a byte in any case. */
__device__ __forceinline__ int to_code(float value, float scale) { return __float2int_rn(__fdiv_rn(value, scale)); }

__device__ __forceinline__ uint32_t pack_codes(int a, int b, int c, int d) {
    return (a & 255u) | (b & 255u) << 8 | (c & 255u) << 16 | static_cast<uint32_t>(d) << 24;
}

/**
 * Writes `cols` floats in shared or global memory as codes, zeros up to `columns` (a multiple of 4), and the row's scale.
 * All threads of the block call it.
 */
__device__ __forceinline__ void write_row_codes(const float* row, int cols, int columns, int8_t* codes, float* scale_at, uint32_t* nonfinite, float* scratch) {
    float largest = 0.f;
    bool bad = false;
    for (int c = threadIdx.x; c < cols; c += blockDim.x) largest = fmaxf(largest, magnitude(row[c], bad));
    if (bad) atomicOr(nonfinite, 1u);
    const float scale = symmetric_scale(block_max(largest, scratch));
    for (int c = threadIdx.x * 4; c < columns; c += blockDim.x * 4) {
        int four[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) four[i] = c + i < cols ? to_code(row[c + i], scale) : 0;
        *reinterpret_cast<uint32_t*>(codes + c) = pack_codes(four[0], four[1], four[2], four[3]);
    }
    if (threadIdx.x == 0) *scale_at = scale;
}

}  // namespace intflash
