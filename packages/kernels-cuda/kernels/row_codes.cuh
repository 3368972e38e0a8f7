// A row of floats to INT8 codes, by one block: the arithmetic of quant's quantizePerTokenInt8.
#pragma once
#include <cfloat>
#include <cstdint>

#include "exact_divide.cuh"

namespace intflash {

constexpr float kMinScale = 1.17549435e-38f;  // 2^-126: keeps an all-zero row from 0 / 0

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

/** The largest magnitude of all threads' values, NaN if there is one; the same in every thread. `scratch`: 32 floats; synchronizes on the way in and out. */
__device__ __forceinline__ float block_largest(float value, float* scratch) {
    uint32_t found = __reduce_max_sync(~0u, __float_as_uint(fabsf(value)));
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = __uint_as_float(found);
    __syncthreads();
    found = threadIdx.x % 32 < blockDim.x / 32 ? __float_as_uint(scratch[threadIdx.x % 32]) : 0;
    return __uint_as_float(__reduce_max_sync(~0u, found));
}

/** Codes of four numbers, those from the `count`th on 0. */
template <class Code> __device__ __forceinline__ uint32_t encode_four(const float* row, int count, bool is_aligned, const Code& code) {
    if (is_aligned && count >= 4) {
        const float4 four = *reinterpret_cast<const float4*>(row);
        return pack_codes(code(four.x), code(four.y), code(four.z), code(four.w));
    }
    uint32_t codes[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) codes[i] = i < count ? code(row[i]) : 0;
    return pack_codes(codes[0], codes[1], codes[2], codes[3]);
}

/** Writes columns `first`, `first` + `step`, … (multiples of 4) of `cols` floats in shared or global memory as codes, zeros up to `columns`. */
__device__ __forceinline__ void encode_columns(const float* row, int cols, int columns, float scale, int8_t* codes, int first, int step) {
    uint32_t* const to = reinterpret_cast<uint32_t*>(codes);
    const bool is_aligned = reinterpret_cast<uintptr_t>(row) % sizeof(float4) == 0;
    if (scale >= kTinyDivisor && scale <= 0x1p120f) {
        const Divisor by = divisor(scale);
        for (int c = first; c < columns; c += step) to[c / 4] = encode_four(row + c, cols - c, is_aligned, [&](float x) { return rounded_bits(divide(x, by)); });
    } else {
        for (int c = first; c < columns; c += step) to[c / 4] = encode_four(row + c, cols - c, is_aligned, [&](float x) { return static_cast<uint32_t>(to_code(x, scale)); });
    }
}

/** The same of a whole row whose largest magnitude is known, and the row's scale. All threads of the block call it. */
__device__ __forceinline__ void encode_row(const float* row, int cols, int columns, float largest, int8_t* codes, float* scale_at, uint32_t* nonfinite) {
    const float scale = symmetric_scale(largest);
    encode_columns(row, cols, columns, scale, codes, threadIdx.x * 4, blockDim.x * 4);
    if (threadIdx.x > 0) return;
    *scale_at = scale;
    if (!(largest <= FLT_MAX)) atomicOr(nonfinite, 1u);
}

}  // namespace intflash
