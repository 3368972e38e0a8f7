// The orthonormal Hadamard rotation of quant's hadamardRotate, by one warp: float64 inside, rounded once.
#pragma once
#include <cstdint>

namespace intflash {

constexpr int kMaxHeadDim = 256;

/** Lane l holds numbers l, l + 32, …, zeros past the end. */
template <int kParts> __device__ __forceinline__ void rotate_parts(const float* from, float* to, int dim) {
    constexpr double kInverseRoot2 = 1 / 1.4142135623730951;
    const int lane = threadIdx.x % 32, stages = __ffs(dim) - 1;  // of the largest power of two that divides dim
    double x[kParts];
#pragma unroll
    for (int i = 0; i < kParts; ++i) x[i] = lane + 32 * i < dim ? from[lane + 32 * i] : 0.f;
#pragma unroll
    for (int stage = 0; stage < 5; ++stage) {  // of two lanes
        if (stage >= stages) break;
#pragma unroll
        for (int i = 0; i < kParts; ++i) x[i] = __dadd_rn(__shfl_xor_sync(~0u, x[i], 1 << stage), (lane >> stage & 1) != 0 ? -x[i] : x[i]);
    }
#pragma unroll
    for (int apart = 1; apart < kParts; apart *= 2) {  // of one lane
        if (32 * apart >= 1 << stages) break;
#pragma unroll
        for (int i = 0; i < kParts; ++i) {
            if ((i & apart) != 0) continue;
            const double a = x[i], b = x[i + apart];
            x[i] = __dadd_rn(a, b);
            x[i + apart] = __dsub_rn(a, b);
        }
    }
    const double norm = __hiloint2double((1023 - stages / 2) << 20, 0) * (stages % 2 == 0 ? 1 : kInverseRoot2);  // 1 / sqrt(2^stages)
#pragma unroll
    for (int i = 0; i < kParts; ++i)
        if (lane + 32 * i < dim) to[lane + 32 * i] = static_cast<float>(__dmul_rn(x[i], norm));
    __syncwarp();
}

/** Rotates `dim` floats, a multiple of 8, in blocks of the largest power of two that divides it; `to` may be `from`. A lane reads and writes every 32nd. */
__device__ __forceinline__ void rotate_row(const float* from, float* to, int dim) {
    if (dim <= 64) rotate_parts<2>(from, to, dim);
    else if (dim <= 128) rotate_parts<4>(from, to, dim);
    else rotate_parts<8>(from, to, dim);
}

}  // namespace intflash
