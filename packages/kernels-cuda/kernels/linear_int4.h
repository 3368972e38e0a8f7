// Linear layers whose weights are kept in 4 bits, their inputs in float32: a weight is f32(code · scale), and what is done with it is
// linear_float.h's arithmetic, so that a layer has the bits of the float32 layer that it stands for.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace intflash {

/** Columns that a lane's 16 bytes of codes span: rows are padded to a multiple of it. */
constexpr int kInt4Columns = 128;
constexpr int padded_int4_columns(int cols) { return (cols + kInt4Columns - 1) / kInt4Columns * kInt4Columns; }

struct Int4Weights {
    /**
     * [rows, columns / 2] bytes. Of each 128 columns four pieces of 16 bytes, one a lane; piece g holds, two codes a byte, low nibble
     * first, columns 16s + 4g … 16s + 4g + 3 for s = 0 … 7.
     */
    const uint8_t* codes;
    const float* scales;  // [rows, columns / group]
    const float* bias;    // [rows] or null
    int rows, columns;    // columns: padded_int4_columns()
    int group;            // columns of a scale: 32, 64 or 128
};

/** From codes in the order of their columns, `source` [rows, columns / 2], to the order above. */
cudaError_t launch_arrange_int4(const uint8_t* source, int rows, int columns, uint8_t* target, cudaStream_t stream);

/** As launch_linear_float(). */
cudaError_t launch_linear_int4(const Int4Weights& weights, const float* input, int tokens, float* out, bool accumulate, cudaStream_t stream);

}  // namespace intflash
