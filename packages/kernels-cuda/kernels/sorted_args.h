// What the forward kernels on sorted tiles are told: Hopper's and every architecture's. Plain data.
#pragma once
#include "forward_args.h"
#include "sorted_layout.h"

namespace intflash {

struct SortedArgs {
    const int8_t* q_blocks;      // see sorted_layout.h
    const float* q_scales;       // [Q blocks][64]
    const uint8_t* tiles;
    const float* channel_scale;  // [sequence][kv head][D]
    const SortedSequence* sequences;
    int32_t* next_item;          // Hopper: 0 before a launch and after it: work is handed out one item at a time
    void* out;
    float* lse;                  // null: not wanted
    RowStrides out_strides, lse_strides;
    int64_t window_left, window_right;
    int32_t sequence_count, heads, kv_heads, head_dim_v, max_q_blocks, max_k_len;
    int32_t max_full_items, max_shared_items;  // of a head, Hopper: see sm90_items.cuh
    int32_t bottom_right;
    int32_t part_items;          // Hopper, where not 0: this launch is of sequences in parts, which have so many items, and `out` (float32) and `lse` are rows of parts
    int32_t out_type;            // ElementType of `out`: float32, float16 or bfloat16
    float scale;
    // Filled in by Hopper's launch: items = part_items or (max_full_items + max_shared_items) · heads · sequences, in sections of heads whose keys and values fit in L2 together;
    // shared items of heads from first_late_head on come last.
    int32_t section_heads, items, first_late_head;
};

}  // namespace intflash
