// Linear layers on INT8 codes (W8A8): y = f32(f32(Σ x·w) · f32(sX·sW)) + bias, the sum exact in int32, each float operation rounded
// once: the same bits as the CPU backends'.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "few_tokens.h"

namespace intflash {

/** Rows of weights and of inputs are padded with zeros to a multiple of this: a GEMM step, and whole 16-byte loads. */
constexpr int kLinearColumns = 64;
constexpr int padded_columns(int cols) { return (cols + kLinearColumns - 1) / kLinearColumns * kLinearColumns; }

struct Int8Weights {
    const int8_t* codes;  // [rows, columns]
    const float* scales;  // [rows]
    const float* bias;    // [rows] or null
    int rows, columns;    // columns: padded
};

struct Int8Rows {
    int8_t* codes;  // [tokens, columns]
    float* scales;  // [tokens]
};

/**
 * Per-token codes of `input` [tokens, cols], columns from `cols` on zero.
 *
 * @param input_stride elements between rows
 * @param nonfinite set to 1 when a number is NaN or infinite; the codes are garbage then
 */
cudaError_t launch_quantize_rows(const float* input, int64_t input_stride, int tokens, int cols, const Int8Rows& target, uint32_t* nonfinite, cudaStream_t stream);

/** The same of rows whose largest magnitudes are known. `largest`: [tokens] bits of floats. */
cudaError_t launch_encode_rows(const float* input, int64_t input_stride, int tokens, int cols, const uint32_t* largest, const Int8Rows& target, uint32_t* nonfinite, cudaStream_t stream);

/** What the next layer reads first: a layer of one token asks L2 for it when it is done, since memory is idle until that layer begins. */
struct WeightsAhead {
    const int8_t *first = nullptr, *second = nullptr;  // second: of a layer that reads two parts at once, or null
    int bytes = 0;                                     // of each
};

/** @param out [tokens, rows]. `accumulate`: y is added to what is there (a residual). */
cudaError_t launch_linear_int8(const Int8Weights& weights, const Int8Rows& input, int tokens, float* out, bool accumulate, const WeightsAhead& ahead, cudaStream_t stream);
/** Of up to kFewTokens tokens. */
cudaError_t launch_linear_int8_few(const Int8Weights& weights, const Int8Rows& input, int tokens, float* out, bool accumulate, const WeightsAhead& ahead, cudaStream_t stream);

/** The same from products that another library has summed up: y of sums [tokens, rows]. */
cudaError_t launch_finish_int8(const Int8Weights& weights, const int32_t* sums, const float* scales, int tokens, float* out, bool accumulate, cudaStream_t stream);

/** Where silu(gate) · up goes. */
struct GatedRows {
    float* floats;      // [tokens, stride]
    int64_t stride;
    uint32_t* largest;  // [tokens]: raised to the bits of each row's largest magnitude (of a NaN, if it has one); zeros before
};
/** Gate rows before up rows, up to kFewTokens tokens: what stands between an MLP's two layers comes with the first. */
cudaError_t launch_swiglu_int8(const Int8Weights& weights, const Int8Rows& input, int tokens, const GatedRows& out, const WeightsAhead& ahead, cudaStream_t stream);

}  // namespace intflash
