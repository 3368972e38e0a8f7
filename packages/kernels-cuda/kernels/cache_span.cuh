// What a block of a short query's kernels works on: rows of one KV head of one sequence.
#pragma once
#include <cfloat>

#include "cache_attention.h"
#include "warp_reductions.cuh"

namespace intflash {

/** blockIdx.y: the KV head; blockIdx.z: the sequence and the part of its rows. */
struct Span {
    CacheView cache;
    int sequence, tokens, length, rows, first_row, row_count, first_tile, tiles;

    /** The part's first row, among the query's. */
    __device__ __forceinline__ int64_t query_row(const CacheAttention& args) const {
        return static_cast<int64_t>(args.step.sequences[sequence].first) * args.heads + static_cast<int64_t>(blockIdx.y) * rows + first_row;
    }
};

__device__ __forceinline__ Span span_of(const CacheAttention& args, int part_rows) {
    Span s;
    const int part = gridDim.z == args.step.count ? 0 : blockIdx.z / args.step.count;  // as a rule there is one, and a division is slow
    s.sequence = blockIdx.z - part * args.step.count;
    const StepSequence& sequence = args.step.sequences[s.sequence];
    const int4 head = *reinterpret_cast<const int4*>(&sequence);  // pages, start, tokens
    s.cache = view_of(sequence, args.cache);
    s.cache.pages = reinterpret_cast<uint8_t* const*>(static_cast<uint32_t>(head.x) | static_cast<uint64_t>(static_cast<uint32_t>(head.y)) << 32);
    s.tokens = head.w;
    s.length = head.z + s.tokens;
    s.rows = s.tokens * (args.heads / args.kv_heads);
    s.first_row = part * part_rows;
    s.row_count = min(part_rows, s.rows - s.first_row);
    const int64_t first_visible = args.window_left < 0 ? 0 : max(int64_t{0}, head.z - args.window_left);
    s.first_tile = static_cast<int>(first_visible / kCacheTile);
    s.tiles = (s.length + kCacheTile - 1) / kCacheTile;
    return s;
}

/** Where row `row` of the part at hand is written. */
__device__ __forceinline__ float* out_row(const CacheAttention& args, const Span& s, int row) {
    const int group = args.heads / args.kv_heads, i = s.first_row + row;
    return args.out + (args.step.sequences[s.sequence].first + i / group) * args.out_stride + (blockIdx.y * group + i % group) * args.head_dim;
}

}  // namespace intflash
