// INT4 codes of a row on the grid that fits it best, by one warp: llm's quantizeFittedInt4.
#pragma once
#include <cstdint>

#include "row_codes.cuh"

namespace intflash {

constexpr int kMaxInt4 = 7;

/**
 * Nearest code to a magnitude that is `size`, ties to even, cut off at 7: exactly, and without a division. `inverse`: 1 / scale to some bits.
 * `below` is the code under the quotient, or one further when the two are near; either way the nearest is `below` or the next. `rest` is exact up
 * to `scale`: it is a multiple of half of the scale's last place.
 */
__device__ __forceinline__ int nearest_int4(float size, float scale, float inverse) {
    constexpr float kRound = 12582912.f;  // 1.5 · 2^23: adding it rounds to the nearest integer
    const float shifted = __fadd_rn(fminf(__fmaf_rn(size, inverse, -0.5f), kMaxInt4 - 1.f), kRound);
    const int below = __float_as_int(shifted) - __float_as_int(kRound);
    const float rest = __fmaf_rn(-__fsub_rn(shifted, kRound), scale, size), twice = __fadd_rn(rest, rest);
    return twice > scale || (twice == scale && (below & 1) != 0) ? below + 1 : below;
}

/** How a row's numbers become codes, cut off at ±7: from quotients rounded to float32, or from quotients as they are (`exact`, of a grid narrower than the row). */
struct Int4Grid {
    float scale;
    bool exact;

    /** Rows before this one may ask for a scale between that of the narrower grid and what the row's largest number needs. */
    __device__ __forceinline__ int quotient_code(float value) const { return min(max(to_code(value, scale), -kMaxInt4), kMaxInt4); }
    __device__ __forceinline__ int exact_code(float value) const {
        const int size = nearest_int4(fabsf(value), scale, __frcp_rn(scale));
        return value < 0.f ? -size : size;
    }
};

/** Sums of eight numbers over a warp, each in warp_sum's order: a lane gets the one of number lane / 4. */
__device__ __forceinline__ double warp_sum_of_eight(double (&numbers)[8]) {
#pragma unroll
    for (int half = 4; half > 0; half /= 2) {
        const bool upper = (threadIdx.x & (half * 4)) != 0;
#pragma unroll
        for (int i = 0; i < half; ++i) {
            const double given = upper ? numbers[i] : numbers[i + half], kept = upper ? numbers[i + half] : numbers[i];
            numbers[i] = __dadd_rn(kept, __shfl_xor_sync(~0u, given, half * 4));
        }
    }
    const double sum = __dadd_rn(numbers[0], __shfl_xor_sync(~0u, numbers[0], 2));
    return __dadd_rn(sum, __shfl_xor_sync(~0u, sum, 1));
}

/** The grid of least squared error, the widest of several. `largest`: the row's largest magnitude. */
__device__ __forceinline__ Int4Grid fit_int4(const float* row, int dim, float largest) {
    constexpr int kGrids = 7;
    constexpr double kRanges[kGrids] = {1, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7};  // parts of the row's maximum that they end at
    const float widest = fmaxf(__fdiv_rn(largest, 7.f), kMinScale), inverse = __frcp_rn(widest);
    float scales[kGrids];
#pragma unroll
    for (int i = 0; i < kGrids; ++i) scales[i] = static_cast<float>(__dmul_rn(widest, kRanges[i]));
    double errors[8] = {};  // squared; in float64, and without the rounding of quotients to float32
#pragma unroll 1
    for (int d = threadIdx.x % 32; d < dim; d += 32) {
        const float size = fabsf(row[d]);
#pragma unroll
        for (int i = 0; i < kGrids; ++i) {
            const double code = nearest_int4(size, scales[i], inverse * static_cast<float>(1 / kRanges[i])), error = __fma_rn(-code, scales[i], size);  // exact
            errors[i] = __dadd_rn(errors[i], __dmul_rn(error, error));
        }
    }
    errors[kGrids] = errors[0];  // of no grid; the first of equals is taken
    double least = warp_sum_of_eight(errors);
    int which = threadIdx.x % 32 / 4;
#pragma unroll
    for (int step = 16; step >= 4; step /= 2) {
        const double other = __shfl_xor_sync(~0u, least, step);
        const int other_which = __shfl_xor_sync(~0u, which, step);
        if (other < least || (other == least && other_which < which)) least = other, which = other_which;
    }
    which = __shfl_sync(~0u, which, 0);  // with a NaN lanes may differ
    float scale = widest;
#pragma unroll
    for (int i = 1; i < kGrids; ++i)
        if (which == i) scale = scales[i];
    return {scale, scale != widest};
}

}  // namespace intflash
