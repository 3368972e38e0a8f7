// Linear layers in float32: 16 partial sums a product, column c into sum c mod 16 by fma in order, folded 8, 4, 2, 1, then the bias: the
// same bits as the native CPU backend's.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace intflash {

/** Weights that bfloat16 holds exactly are kept so: half the memory to read, and the same numbers. */
struct FloatWeights {
    const float* weights;      // [rows, columns], or null:
    const uint16_t* bfloat16;  // the same in 16 bits
    const float* bias;         // [rows] or null
    int rows, columns;         // columns: padded_columns() of linear_int8.h, zeros behind
};

/**
 * @param input  [tokens, columns], zeros behind the real columns
 * @param out    [tokens, rows]. `accumulate`: y is added to what is there.
 * @param turned memory of turned_floats() that nobody else uses meanwhile; weights in 32 bits want none
 */
cudaError_t launch_linear_float(const FloatWeights& weights, const float* input, int tokens, float* out, bool accumulate, float* turned, cudaStream_t stream);

/** Of so many tokens of an input, where weights are in bfloat16. */
int64_t turned_floats(int tokens, int columns);

}  // namespace intflash
