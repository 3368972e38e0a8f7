// Quantizers on the device, the same bits as @int-flash/quant (docs/arithmetic.md, Quantizing). Compiled without fused multiply-add
// other than what the code spells out.
//
// One launch quantizes float inputs (two more where their widths differ): what a channel needs of all its tokens is gathered a little ahead of the
// tiles that need it. The caller's own codes are packed into the same places.
#pragma once
#include <cuda_runtime_api.h>

#include "operand.h"

namespace intflash {

constexpr float kLargestOperand = 0x1p100f;  // of K and V: docs/arithmetic.md, Refused
constexpr float kLargestQuery = 3.40282347e38f;  // any finite number: the bound of the scores judges it
constexpr float kLargestFloat16 = 65504.f;

/** What the quantizers notice about the data, for the host to judge once they are done. Zeros mean that all is well. */
struct Findings {
    uint32_t bad_query, bad_key, bad_value;  // 1 if NaN or infinity was seen
    uint32_t large_query, large_key, large_value;  // bits of the largest finite magnitude beyond what is allowed
    uint32_t bad_given;                      // bits of Given, see check_operands.h
    uint32_t large_output;                   // 1 if an output was too large for its format (cast_floats.h)
    uint64_t score_bound;                    // bits of the largest bound of a (sequence, head) beyond 2^100, a double
};

/** Maxima for the score bound, as bits (positive floats order as their bits): scales where rows are codes, else magnitudes. */
struct HeadMaxima {
    uint32_t* query;  // [sequence][head]
    uint32_t* key;    // [sequence][kv head]
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

/** Statistics of channels, in the workspace. */
struct Statistics {
    double* partial_sums;  // [tile][padded]: a tile's sum of K, tokens in order
    uint32_t* arrivals;    // [2][sequence][kv head]: blocks that have done their part, and whether means and maxima are there
    float* means;          // [sequence][kv head][padded]: what smooth-K subtracts; null without it
    float* maxima;         // [sequence][kv head][padded]: max |v| of a channel; null for codes and for half-int8, which need none
};

/** Three operands, each floats to be quantized or codes that the caller made, and where their codes go. */
struct QuantizeRequest {
    Operand query, key, value;
    ScaleOperand query_scale, key_scale, value_scale, value_channel;  // of codes. value_scale: per head where its token stride is 0
    ValueMode mode;
    int32_t padded;    // head dimension of the tiles
    float levels;      // codes of Q and K lie in [-levels, levels]: 127 or 7
    int32_t smooth_k;
    float scale;       // of the scores, for their bound
    int32_t padding;
    RowTarget rows;
    uint8_t* tiles;
    float* channel_scale;  // [sequence][kv head][padded], for the forward's epilogue
    Findings* findings;    // zeroed by the caller
    Statistics statistics;   // from here on filled in by place_workspace
    HeadMaxima head_maxima;
    size_t cleared_bytes;  // at the workspace's start
};

/** Lays the workspace out from `memory` (16-byte aligned; null to find the size) on. @returns its bytes */
size_t place_workspace(QuantizeRequest& request, const SequenceTable& table, int64_t tile_count, uint8_t* memory);

/** Quantizes or packs everything: a fill, a launch for floats, one for each operand of codes, and the judge of the scores. */
cudaError_t launch_quantize(const QuantizeRequest& request, const SequenceTable& table, cudaStream_t stream);

// The parts of launch_quantize, each in the file of its name.
/** quantize_floats.cu: float operands into rows and tiles, with zeros past the sequences' ends. */
cudaError_t launch_encode(const QuantizeRequest& request, const SequenceTable& table, cudaStream_t stream);
/** pack_codes.cu: the caller's codes into the same places. */
cudaError_t launch_pack(const QuantizeRequest& request, const SequenceTable& table, cudaStream_t stream);

/** Magnitudes of float operands that are not quantized: into `maxima` a head, V's only if wanted, and what is wrong with them into `findings`. */
cudaError_t launch_inspect(const Operand& query, const Operand& key, const Operand& value, float largest_query, float largest, const SequenceTable& table,
                           const HeadMaxima& maxima,
                           uint32_t* value_maxima, Findings* findings, cudaStream_t stream);

/** Notes the worst score bound beyond 2^100; `codes` is 127 where the maxima are of scales, 1 where they are of magnitudes. */
cudaError_t launch_judge_scores(const HeadMaxima& maxima, const SequenceTable& table, int heads, int kv_heads, double codes, int head_dim, float scale,
                                Findings* findings, cudaStream_t stream);

/** The same for what the quantizers into sorted tiles found; clears the workspace's start for the next time, which saves a launch before them. */
cudaError_t launch_judge_and_clear(const QuantizeRequest& request, const SequenceTable& table, cudaStream_t stream);

/** lse += scale · (q · mean), float64: what smooth-K took out of the log-sum-exp. */
cudaError_t launch_restore_lse(const Operand& query, const SequenceTable& table, int padded, const float* means, int kv_heads, float scale, float* lse,
                               const RowStrides& lse_strides, cudaStream_t stream);

}  // namespace intflash
