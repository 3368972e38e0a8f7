// Quantizers on the device, the same bits as @int-flash/quant (docs/arithmetic.md, Quantizing). This directory's quantize.cu is
// compiled without fused multiply-add; divisions are IEEE.
#pragma once
#include <cuda_runtime_api.h>

#include "operand.h"

namespace intflash {

/** What the quantizers notice about the data, for the host to judge once they are done. Reset before a run. */
struct Findings {
    uint32_t bad_query, bad_key, bad_value;        // 1 if NaN or infinity was seen
    uint32_t value_beyond_float16;                 // half-int8: 1 if |v| > 65504
    uint32_t max_query_scale, max_key_scale;       // bits of the largest scale (positive floats order as their bits)
    uint32_t bad_scale, bad_mask;                  // see check_operands.h
};

/** Where Q's codes go: row-major [row][padded dim], rows as Sequence::q_row_base counts them. */
struct RowTarget {
    int8_t* codes;
    float* scales;
};

/** Scales the caller brings for codes of its own. */
struct ScaleOperand {
    const float* data;
    RowStrides strides;
};

enum class ValueMode : int32_t { kTokenLevel, kPerTensor, kHalf };

/** means[(sequence·heads + h)·padded + d] = the mean that smooth-K subtracts; sums in order, in float64. */
cudaError_t launch_key_means(const Operand& key, const SequenceTable& table, int padded, float* means, cudaStream_t stream);

/** Per-token codes in [-levels, levels] (127 or 7) into `target`. */
cudaError_t launch_quantize_query(const Operand& query, const SequenceTable& table, int padded, float levels, const RowTarget& target, Findings* findings, cudaStream_t stream);

/** The same for K, into tiles; `means` is null without smooth-K. Writes the tiles' key scales and zero-fills keys past the end. */
cudaError_t launch_quantize_key(const Operand& key, const SequenceTable& table, int padded, float levels, const float* means, bool half_values, uint8_t* tiles,
                                Findings* findings, cudaStream_t stream);

/** maxima[(sequence·heads + h)·padded + d] = max |v|; the memory must be zero before. */
cudaError_t launch_value_maxima(const Operand& value, const SequenceTable& table, int padded, float* maxima, Findings* findings, cudaStream_t stream);

/** V into tiles, with tau and inverse weights; channel_scale[...] for the forward's epilogue. */
cudaError_t launch_quantize_value(const Operand& value, const SequenceTable& table, ValueMode mode, int padded, const float* maxima, uint8_t* tiles,
                                  float* channel_scale, cudaStream_t stream);

/** Codes that the caller made, into the same places. `value_scale` per token, or per head when its token stride is 0. */
cudaError_t launch_pack_query(const Operand& query, const ScaleOperand& scale, const SequenceTable& table, int padded, const RowTarget& target, Findings* findings, cudaStream_t stream);
cudaError_t launch_pack_key(const Operand& key, const ScaleOperand& scale, const SequenceTable& table, int padded, uint8_t* tiles, Findings* findings, cudaStream_t stream);
cudaError_t launch_pack_value(const Operand& value, const ScaleOperand& scale, const ScaleOperand& channel, const SequenceTable& table, int padded,
                              uint8_t* tiles, float* channel_scale, cudaStream_t stream);

/** lse += scale · (q · mean), float64: what smooth-K took out of the log-sum-exp. */
cudaError_t launch_restore_lse(const Operand& query, const SequenceTable& table, int padded, const float* means, int kv_heads, float scale, float* lse,
                               const RowStrides& lse_strides, cudaStream_t stream);

}  // namespace intflash
