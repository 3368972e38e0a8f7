// What the forward kernels are told. Plain data, shared by host and device.
#pragma once
#include <cstddef>
#include <cstdint>

namespace intflash {

/** Elements from one batch entry, head or token to the next. */
struct RowStrides {
    int64_t batch, head, token;
};

/** One sequence: its rows in the caller's tensors, and where its rows and tiles begin in the quantized workspace. */
struct Sequence {
    int64_t q_start, k_start;
    int64_t q_row_base;  // workspace row of (head h, query i): q_row_base + h * q_len + i
    int64_t tile_base;   // workspace tile of (kv head h, tile t): tile_base + h * tiles + t
    int32_t q_len, k_len, tiles, padding;
};

/** A mask over scores, broadcast by zero strides; data is null when there is none. */
struct MaskOperand {
    const void* data;
    int64_t batch, head, query, key;
    int32_t is_float, padding;
};

struct ForwardArgs {
    const int8_t* q_codes;       // [rows][D]
    const float* q_scales;       // [rows]
    const uint8_t* tiles;        // see tile_layout.h
    const float* channel_scale;  // [sequence][kv head][D]
    const Sequence* sequences;
    float* out;
    float* lse;  // null: not wanted
    RowStrides out_strides, lse_strides;
    MaskOperand mask;
    int64_t window_left, window_right;  // "unlimited" is a large number
    int32_t sequence_count, heads, kv_heads, head_dim_v, max_q_len;
    int32_t bottom_right;
    int32_t running_max;  // paper-int8: P against the running maximum of the row, not the tile's own
    int32_t stages;
    float scale, softcap;  // softcap 0: off
    float level_bits;      // log2 of the largest P code: 255, or 127 in paper-int8; half-int8: see the kernel
};

struct LaunchLimits {
    int shared_bytes;  // largest dynamic shared memory of a block
    int processors;
};

}  // namespace intflash
