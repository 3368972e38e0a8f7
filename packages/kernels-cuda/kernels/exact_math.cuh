// The scalar functions of docs/arithmetic.md, every operation named so that none is fused or approximated: the bits of the CPU backends.
#pragma once
#include <cstdint>

namespace intflash {

constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kMinCacheWeight = 7.88860905e-31f;  // 2^-100: 1/w must sum within float32

/** 2^y for y <= 0, relative error 2.9e-6, exact at 0. */
__device__ __forceinline__ float exp2_polynomial(float y) {
    constexpr float kRound = 12582912.f;  // 1.5 · 2^23: adding it rounds to the nearest integer, ties to even
    y = y > -125.f ? y : -125.f;
    const float shifted = __fadd_rn(y, kRound);
    const float f = __fsub_rn(y, __fsub_rn(shifted, kRound));
    float p = __fmaf_rn(__uint_as_float(0x3c1d0166u), f, __uint_as_float(0x3d64fe23u));
    p = __fmaf_rn(p, f, __uint_as_float(0x3e7601bcu));
    p = __fmaf_rn(p, f, __uint_as_float(0x3f317096u));
    p = __fmaf_rn(p, f, 1.f);
    return __uint_as_float(__float_as_uint(p) + (__float_as_uint(shifted) << 23));
}

/** The code of P in [0, 1]: the nearest integer to 255·p, of the exact product. Rounding the product to float32 first flips one in 200,000. */
__device__ __forceinline__ uint32_t weight_bits(float p) { return __float_as_uint(__fmaf_rn(p, 255.f, 12582912.f)); }  // in the lowest byte
__device__ __forceinline__ uint32_t weight_code(float p) { return weight_bits(p) & 255u; }

/** log2 of a normal float32 > 0. */
__device__ inline float log2_weight(float w) {
    const uint32_t bits = __float_as_uint(w);
    const double mantissa = __uint_as_float((bits & 0x007fffffu) | 0x3f800000u);  // [1, 2)
    const bool upper = mantissa >= 1.4142135623730951;
    const double m = upper ? mantissa * 0.5 : mantissa;
    const int exponent = static_cast<int>(bits >> 23) - 127 + (upper ? 1 : 0);
    const double t = __ddiv_rn(__dsub_rn(m, 1.0), __dadd_rn(m, 1.0));
    const double z = __dmul_rn(t, t);
    double sum = 1.0 / 19.0;
#pragma unroll
    for (int n = 17; n >= 1; n -= 2) sum = __dadd_rn(__dmul_rn(sum, z), 1.0 / n);
    return static_cast<float>(__dadd_rn(exponent, __dmul_rn(__dmul_rn(__dmul_rn(2.0, t), sum), 1.0 / 0.693147180559945309417)));
}

/** What a score and its partial products can reach at most; refused above 2^100. */
__device__ __forceinline__ float score_bound(int head_dim, float query_scale, float key_scale, float scale) {
    return head_dim * fmaxf(1.f, 127.f * query_scale) * fmaxf(1.f, 127.f * key_scale) * fmaxf(1.f, scale * kLog2E);
}

/** Running state of a query: what was accumulated is multiplied by `alpha`, the tile by `beta`. */
struct Rescale {
    float alpha, beta;
};

/** Step 6 of docs/arithmetic.md, for maximum and row sum; a part without visible keys (-Infinity) changes nothing. */
__device__ __forceinline__ Rescale absorb(float part_max, float part_sum, float& running_max, float& row_sum) {
    if (part_max == -INFINITY) return {1.f, 0.f};
    const float before = running_max, after = before > part_max ? before : part_max;
    const float alpha = before == -INFINITY ? 0.f : exp2_polynomial(__fsub_rn(before, after));
    const float beta = exp2_polynomial(__fsub_rn(part_max, after));
    row_sum = __fmaf_rn(part_sum, beta, __fmul_rn(row_sum, alpha));
    running_max = after;
    return {alpha, beta};
}

}  // namespace intflash
