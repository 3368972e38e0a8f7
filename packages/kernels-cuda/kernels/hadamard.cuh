// The orthonormal Hadamard rotation of quant's hadamardRotate, by one warp: float64 inside, rounded once.
#pragma once
#include <cstdint>

namespace intflash {

constexpr int kMaxHeadDim = 256;

/** Rotates `dim` floats in blocks of the largest power of two that divides it. `row` and `work` (dim doubles): shared memory of the warp. */
__device__ __forceinline__ void rotate_row(float* row, double* work, int dim) {
    const int lane = threadIdx.x % 32, block = dim & -dim;
    for (int d = lane; d < dim; d += 32) work[d] = row[d];
    __syncwarp();
    for (int half = 1; half < block; half *= 2) {
        for (int pair = lane; pair < dim / 2; pair += 32) {
            const int i = pair / half * 2 * half + pair % half;
            const double a = work[i], b = work[i + half];
            work[i] = __dadd_rn(a, b);
            work[i + half] = __dsub_rn(a, b);
        }
        __syncwarp();
    }
    const double norm = 1 / sqrt(static_cast<double>(block));
    for (int d = lane; d < dim; d += 32) row[d] = static_cast<float>(__dmul_rn(work[d], norm));
    __syncwarp();
}

}  // namespace intflash
