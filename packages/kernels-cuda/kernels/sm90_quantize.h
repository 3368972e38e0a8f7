// Quantizers for Hopper's forward kernel: what they write is sm90_layout.h's.
#pragma once
#include <cuda_runtime_api.h>

#include "operand.h"
#include "quantize.h"
#include "sm90_layout.h"

namespace intflash {

struct Sm90Table {
    const Sm90Sequence* sequences;
    int32_t count, max_q_blocks, max_tiles, padding;
};

/** Per-token codes of Q in blocks of 64 rows, and their scales [blocks][64]; rows past the end are zero. */
cudaError_t launch_sm90_quantize_query(const Operand& query, const Sm90Table& table, int padded, int8_t* blocks, float* scales, Findings* findings, cudaStream_t stream);

/**
 * K and V into tiles. `means` is null without smooth-K; `maxima` [sequence][kv head][D] are the channels' largest |v|.
 * channel_scale[sequence][kv head][D] for the forward's epilogue: maxima / 127, or 1 with half values.
 */
cudaError_t launch_sm90_build_tiles(const Operand& key, const Operand& value, const Sm90Table& table, int padded, bool half_values, const float* means, const float* maxima,
                                    uint8_t* tiles, float* channel_scale, Findings* findings, cudaStream_t stream);

}  // namespace intflash
