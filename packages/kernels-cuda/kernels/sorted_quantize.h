// Quantizers into sorted tiles: what they write is sorted_layout.h's. Floats only; the caller's codes take the portable kernels.
#pragma once
#include <cuda_runtime_api.h>

#include "quantize.h"
#include "sorted_layout.h"

namespace intflash {

struct SortedTable {
    const SortedSequence* sequences;
    int32_t count, max_q_blocks, max_tiles, max_sums;
};

/** Where the images go. */
struct SortedImages {
    int8_t* query_codes;   // blocks of 64 rows; rows past the end are zero
    float* query_scales;   // [blocks][64]
    uint8_t* tiles;
    float* channel_scale;  // [sequence][kv head][D], for the forward's epilogue: the channel's maximum / 127, or 1 with half values
};

/** Q, K and V, all of 16 or all of 32 bits, in one launch; `request.mode` is kTokenLevel or kHalf, its statistics' workspace cleared, as launch_judge_and_clear leaves it. */
cudaError_t launch_sorted_quantize(const QuantizeRequest& request, const SortedTable& table, const SortedImages& images, cudaStream_t stream);

}  // namespace intflash
