// Quantizers for Hopper's forward kernel: what they write is sm90_layout.h's. Floats only; the caller's codes take the portable kernels.
#pragma once
#include <cuda_runtime_api.h>

#include "quantize.h"
#include "sm90_layout.h"

namespace intflash {

struct Sm90Table {
    const Sm90Sequence* sequences;
    int32_t count, max_q_blocks, max_tiles, padding;
};

/** Per-token codes of Q in blocks of 64 rows, and their scales [blocks][64]; rows past the end are zero. */
cudaError_t launch_sm90_quantize_query(const QuantizeRequest& request, const Sm90Table& table, int8_t* blocks, float* scales, cudaStream_t stream);

/**
 * K and V into tiles, once the statistics are gathered; `request.mode` is kTokenLevel or kHalf.
 * channel_scale[sequence][kv head][D] for the forward's epilogue: the channel's maximum / 127, or 1 with half values.
 */
cudaError_t launch_sm90_build_tiles(const QuantizeRequest& request, const Sm90Table& table, uint8_t* tiles, float* channel_scale, cudaStream_t stream);

}  // namespace intflash
