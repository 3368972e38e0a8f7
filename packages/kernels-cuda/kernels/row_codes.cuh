// Floats to INT8 codes: the arithmetic of quant's quantizePerTokenInt8.
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

/** to_code where a Divisor will not do, out of the way of code that runs. */
inline __device__ __noinline__ uint32_t rare_code(float value, float scale) { return static_cast<uint32_t>(to_code(value, scale)); }

/** Codes under one scale, each in the lowest byte. */
struct Encoder {
    float scale;
    bool is_usual;
    Divisor by;

    __device__ __forceinline__ explicit Encoder(float scale_) : scale(scale_), is_usual(scale_ >= kTinyDivisor && scale_ <= kHugeDivisor), by(divisor(is_usual ? scale_ : 1.f)) {}
    __device__ __forceinline__ uint32_t code(float x) const { return is_usual ? rounded_bits(divide(x, by)) : rare_code(x, scale); }
};

/** Codes of four numbers, those from the `count`th on 0: one at a time, in little code, where that is rare. */
__device__ __forceinline__ uint32_t encode_one_by_one(const float* row, int count, float scale) {
    uint32_t codes = 0;
#pragma unroll 1
    for (int i = 0; i < min(count, 4); ++i) codes |= (to_code(row[i], scale) & 255u) << (8 * i);
    return codes;
}

/**
 * Writes columns `first`, `first` + `step`, … (multiples of 4) of `cols` floats in shared or global memory as codes, zeros up to `columns`. One copy of the code,
 * since most rows are short: then it is fetched for longer than it runs.
 */
__device__ __forceinline__ void encode_columns(const float* row, int cols, int columns, float scale, int8_t* codes, int first, int step) {
    uint32_t* const to = reinterpret_cast<uint32_t*>(codes);
    const bool is_usual = scale >= kTinyDivisor && scale <= kHugeDivisor && reinterpret_cast<uintptr_t>(row) % sizeof(float4) == 0;
    const Divisor by = divisor(is_usual ? scale : 1.f);
    const auto code = [&](float x) { return rounded_bits(divide(x, by)); };
#pragma unroll 1
    for (int c = first; c < columns; c += step) {
        uint32_t four;
        if (is_usual && cols - c >= 4) {
            const float4 x = *reinterpret_cast<const float4*>(row + c);
            four = pack_codes(code(x.x), code(x.y), code(x.z), code(x.w));
        } else {
            four = encode_one_by_one(row + c, cols - c, scale);
        }
        to[c / 4] = four;
    }
}

/** A row's scale, and whether its numbers are finite, by one thread. */
__device__ __forceinline__ void note_scale(float largest, float scale, float* scale_at, uint32_t* nonfinite) {
    *scale_at = scale;
    if (!(largest <= FLT_MAX)) atomicOr(nonfinite, 1u);
}

/** The same of a whole row whose largest magnitude is known, and the row's scale. All threads of the block call it. */
__device__ __forceinline__ void encode_row(const float* row, int cols, int columns, float largest, int8_t* codes, float* scale_at, uint32_t* nonfinite) {
    const float scale = symmetric_scale(largest);
    encode_columns(row, cols, columns, scale, codes, threadIdx.x * 4, blockDim.x * 4);
    if (threadIdx.x == 0) note_scale(largest, scale, scale_at, nonfinite);
}

}  // namespace intflash
