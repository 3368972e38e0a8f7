// Launches of Hopper's forward kernels, one translation unit a padded head dimension.
#pragma once
#include <cuda_runtime_api.h>

#include "forward_args.h"
#include "sm90_layout.h"

namespace intflash {

struct Sm90Args {
    const int8_t* q_blocks;      // see sm90_layout.h
    const float* q_scales;       // [Q blocks][64]
    const uint8_t* tiles;
    const float* channel_scale;  // [sequence][kv head][D]
    const Sm90Sequence* sequences;
    int32_t* next_item;          // 0 before a launch and after it: work is handed out one item at a time
    void* out;
    float* lse;                  // null: not wanted
    RowStrides out_strides, lse_strides;
    int64_t window_left, window_right;
    int32_t sequence_count, heads, kv_heads, head_dim_v, max_items, max_k_len;  // max_items: of a head
    int32_t bottom_right;
    int32_t out_type;            // ElementType of `out`: float32, float16 or bfloat16
    float scale;
    // Filled in by the launch: items = max_items · heads · sequences, in sections of heads whose keys and values fit in L2 together.
    int32_t section_heads, items;
};

/** Warpgroups of a block that multiply, 64 queries each: as many as the registers of a multiprocessor allow. */
constexpr int sm90_consumers(int padded) { return padded == 256 ? 2 : 3; }

/** True where a kernel exists: half-int8 with D = 256 does not fit in shared memory. */
constexpr bool sm90_supports(int padded, bool half_values) { return !half_values || padded <= 128; }

cudaError_t launch_sm90_flash_fwd_d64(const Sm90Args& args, bool half_values, int processors, cudaStream_t stream);
cudaError_t launch_sm90_flash_fwd_d128(const Sm90Args& args, bool half_values, int processors, cudaStream_t stream);
cudaError_t launch_sm90_flash_fwd_d256(const Sm90Args& args, bool half_values, int processors, cudaStream_t stream);

}  // namespace intflash
