// The sums of a float32 linear layer: column c goes into partial sum c mod 16, of which lane g of four keeps 4g … 4g + 3.
#pragma once
#include <cstdint>

namespace intflash {

/** Columns 4 · chunk … 4 · chunk + 3. */
__device__ __forceinline__ float4 four_at(const float* from, int64_t chunk) { return __ldg(reinterpret_cast<const float4*>(from) + chunk); }
__device__ __forceinline__ float4 four_at(const uint16_t* bfloat16, int64_t chunk) {
    const uint2 bits = __ldg(reinterpret_cast<const uint2*>(bfloat16) + chunk);
    return make_float4(__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xffff0000u), __uint_as_float(bits.y << 16), __uint_as_float(bits.y & 0xffff0000u));
}

/** Four columns, one to each partial sum. */
__device__ __forceinline__ void multiply(float (&sums)[4], const float4& w, const float4& x) {
    sums[0] = __fmaf_rn(w.x, x.x, sums[0]);
    sums[1] = __fmaf_rn(w.y, x.y, sums[1]);
    sums[2] = __fmaf_rn(w.z, x.z, sums[2]);
    sums[3] = __fmaf_rn(w.w, x.w, sums[3]);
}

/** a[l] + a[l + 8], then + 4, 2, 1: of the four lanes' 16 sums. */
__device__ __forceinline__ float fold(float (&sums)[4]) {
#pragma unroll
    for (int step = 2; step >= 1; step /= 2)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[i] = __fadd_rn(sums[i], __shfl_xor_sync(~0u, sums[i], step));
    return __fadd_rn(__fadd_rn(sums[0], sums[2]), __fadd_rn(sums[1], sums[3]));
}

__device__ __forceinline__ void finish_float(const float* bias, int row, float y, float* out, bool accumulate) {
    if (bias != nullptr) y = __fadd_rn(y, bias[row]);
    *out = accumulate ? __fadd_rn(*out, y) : y;
}

}  // namespace intflash
