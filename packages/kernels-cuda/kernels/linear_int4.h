// Linear layers whose weights are kept in 4 bits, a scale for each group of neighbouring columns; inputs come in INT8 with a scale a group:
// y = Σ f32(f32(Σ x·w) · f32(sX · sW)) over the groups in order, the inner sum exact, the outer one in float32 from 0, each addition rounded, plus
// the bias: the bits of the native CPU backend.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace intflash {

/** Columns of a block of codes: rows are padded to a multiple of it. */
constexpr int kInt4Columns = 128;
constexpr int padded_int4_columns(int cols) { return (cols + kInt4Columns - 1) / kInt4Columns * kInt4Columns; }

/**
 * Of a row's 128 columns lane c of four has those whose number is 8c … 8c + 7 mod 32. As the operands of products want them, they lie as
 * [4 lanes][4 parts of 32 columns][8 columns]: of weights two a byte, low nibble first; of the input even columns before odd ones.
 */
struct Int4Weights {
    const uint8_t* codes;  // [rows, columns / 2]
    const float* scales;   // [rows, columns / group]
    const float* bias;     // [rows] or null
    int rows, columns;     // columns: padded_int4_columns()
    int group;             // columns of a scale: 32, 64 or 128
};

/** A layer's input. */
struct GroupRows {
    int8_t* codes;  // [tokens, columns]
    float* scales;  // [tokens, columns / group]
    int group;      // the weights'
};

/** From codes in the order of their columns, `source` [rows, columns / 2], to the order above. */
cudaError_t launch_arrange_int4(const uint8_t* source, int rows, int columns, uint8_t* target, cudaStream_t stream);

/**
 * Each group of a token's numbers as quantizePerTokenInt8 has a token; columns from `cols`, a multiple of the group, on zero.
 *
 * @param input     rows on 16 bytes, `input_stride` elements apart
 * @param nonfinite set to 1 when a number is NaN or infinite; the codes are garbage then
 */
cudaError_t launch_quantize_groups(const float* input, int64_t input_stride, int tokens, int cols, const GroupRows& target, uint32_t* nonfinite, cudaStream_t stream);

/** @param out [tokens, rows]. `accumulate`: y is added to what is there (a residual). */
cudaError_t launch_linear_int4(const Int4Weights& weights, const GroupRows& input, int tokens, float* out, bool accumulate, cudaStream_t stream);
/** Of more than kFewTokens tokens. */
cudaError_t launch_linear_int4_many(const Int4Weights& weights, const GroupRows& input, int tokens, float* out, bool accumulate, cudaStream_t stream);

}  // namespace intflash
