// Hopper's forward: what a thread block is made of, and the items of work it takes.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "sm90_flash_fwd.h"
#include "sorted_softmax.cuh"

namespace intflash {

template <int kD_, bool kHalf_> struct Sm90Traits {
    static constexpr int kD = kD_;
    static constexpr bool kHalf = kHalf_;
    // As many warpgroups as registers allow: they hide each other's latencies. Counts of registers are what the block is launched with, shared out anew.
    static constexpr int kConsumers = sm90_consumers(kD);
    static constexpr int kThreads = 128 * (kConsumers + 1);
    static constexpr int kConsumerRegisters = kConsumers == 3 ? 160 : 240, kProducerRegisters = kConsumers == 3 ? 32 : 24;
    // What warpgroups take turns at: half-int8 with 128 channels and more at the products, whose sums it waits for twice as long; INT8, and half-int8 with 64
    // channels, at the exponentials (docs/results/h200/log.md).
    static constexpr bool kProductTurns = kHalf && kD >= 128, kExponentialTurns = !kProductTurns;
    // A tile's kind is read while its scores are computed (with 64 channels 2% slower, no reason found: docs/results/h200/log.md).
    static constexpr bool kScoresFirst = !kHalf && kD >= 128;
    static constexpr int kRows = kQueryBlock * kConsumers;
    static constexpr int kQueryBuffers = kD == 256 ? 1 : 2;
    static constexpr int kStages = kHalf ? 3 : kD == 256 ? 2 : 4;
    static constexpr int kBlockBytes = kQueryBlock * kD, kQueryBytes = kConsumers * kBlockBytes;
    static constexpr int kKeys = sorted_tile_keys(kD, kHalf), kScores = kKeys / 2;  // of a tile; registers a thread
    // Of a tile's products P·V, 32 keys each, so many begin while the other keys are still weighed, where registers allow it.
    static constexpr int kEarlySteps = kKeys > 128 ? 4 : 0;
    static constexpr int kKeyBytes = kKeys * kD, kValueBytes = kKeyBytes * (kHalf ? 2 : 1), kColumnBytes = sorted_column_bytes(kKeys), kMetaBytes = sorted_meta_bytes(kKeys);
    static constexpr int kTileBytes = sorted_tile_bytes(kD, kHalf);
    // half-int8: V in panels of 64 keys; below the channels of each eight of ones, so that the products add up the rows' weights as well.
    static constexpr int kPanels = kHalf ? kKeys / 64 : 1, kOnes = 8, kHalfPanelBytes = kD * 128, kHalfPanelRoom = kHalfPanelBytes + kOnes * 128;
    static constexpr int kValueRoom = kHalf ? kPanels * kHalfPanelRoom : kValueBytes;
    static constexpr int kOut = kD / 2;  // registers of O a thread
    static_assert(kConsumers * kConsumerRegisters + kProducerRegisters <= (kConsumers + 1) * (65536 / kThreads / 8 * 8), "no register is there twice");
    static_assert(255LL * 255 * kKeys < (1 << 24), "P·(V + 128) read as the bits of a float, subnormal or of the least exponent, is that integer · 2^-149");
    static_assert(127LL * 127 * kD < -VisibleKeys::kLeast, "scores convert exactly, and none lies as low as one out of sight");
};

/**
 * Queries from first_row on of one head against tiles [tile_begin, tile_end): 64 for each warpgroup; or, where `shared`, 64 for all, which take
 * turns at the tiles and add up in the end. The latter is for what is left of a sequence and where there are too few queries to go round. Where there are
 * fewer still, the tiles are a part of those that the queries see, and merge_parts.cu puts the parts together.
 */
struct WorkItem {
    int32_t first_row, rows;  // rows: up to the end of the sequence, perhaps more than the item's; -1: no more work
    int32_t tile_begin, tile_end, shared;
    int32_t short_tile, short_span;  // a last tile whose slots end after 64 or 128, or -1
    TileRange own[4];  // of each warpgroup
    RowBand band;
    int64_t out_at, lse_at;  // of first_row
};

template <class T> struct SharedMemory {  // from a 1024-byte boundary: the 128-byte swizzle repeats every 8 rows
    alignas(1024) uint8_t query[T::kQueryBuffers][T::kQueryBytes];
    alignas(1024) uint8_t key[T::kStages][T::kKeyBytes];
    alignas(1024) uint8_t value[T::kStages][T::kValueRoom];
    alignas(16) uint8_t meta[T::kStages][T::kMetaBytes];
    alignas(16) float query_scale[T::kQueryBuffers][T::kRows];
    alignas(16) float channel_scale[T::kQueryBuffers][T::kD];
    WorkItem items[T::kQueryBuffers];
    alignas(16) float4 partial[8][128];  // of the O that one warpgroup hands to another, 32 registers a thread
    float2 partial_rows[3][128];
    alignas(8) uint64_t query_full[T::kQueryBuffers], query_empty[T::kQueryBuffers];
    uint64_t tile_full[T::kStages], tile_empty[T::kStages];
    uint64_t exponential_turn[T::kConsumers][4];
};

/** A place in a ring of `size`, and the parity of this lap. */
template <int size> struct RingSlot {
    int index = 0;
    uint32_t parity = 0;
    __device__ __forceinline__ void next() {
        if (++index == size) index = 0, parity ^= 1;
    }
};

/**
 * Heads of a section side by side, so that their keys and values stay in L2; of each, long items first: a causal mask's last rows. Items that warpgroups share are short: those of
 * heads from first_late_head on come last, where they even out what processors have left. The others come at the end of their section or, under a causal mask, before
 * the shortest third of its items: in the end they would read keys and values from memory again, of which half-int8 has twice as many bytes.
 * @returns false past a short sequence's end.
 */
template <class T> __device__ __forceinline__ bool find_item(const SortedArgs& args, int index, SortedSequence& sequence, int& head, int64_t& channel_at, WorkItem& item) {
    int batch, part = 0;
    if (args.part_items > 0) {
        batch = 0;
        for (int end = args.sequence_count; end - batch > 1;) {  // the last sequence with no more items before it
            const int middle = (batch + end) / 2;
            (args.sequences[middle].part_items_before <= index ? batch : end) = middle;
        }
        sequence = args.sequences[batch];
        const int within = index - sequence.part_items_before, in_head = within / sequence.parts;
        part = within - in_head * sequence.parts;
        head = in_head / sequence.q_blocks;
        item.shared = 1;
        item.first_row = (sequence.q_blocks - 1 - (in_head - head * sequence.q_blocks)) * kQueryBlock;
    } else {
        const bool is_causal = args.window_right == 0;
        const int all_heads = args.heads * args.sequence_count, both = args.max_full_items + args.max_shared_items;
        const int early_items = args.first_late_head * both, full_items = (all_heads - args.first_late_head) * args.max_full_items;
        const bool is_early = index < early_items, is_late = index >= early_items + full_items;  // of a head whose shared items do not come last; a shared one that does
        const int each = is_early ? both : is_late ? args.max_shared_items : args.max_full_items;
        if (!is_early) index -= is_late ? early_items + full_items : early_items;
        const int first_head = is_early ? 0 : args.first_late_head;
        const int per_section = args.section_heads * each, section = index / per_section, within = index - section * per_section;
        const int section_at = first_head + section * args.section_heads, heads = min(args.section_heads, all_heads - section_at);
        const int in_turn = within / heads, flat_head = section_at + (within - in_turn * heads);
        batch = flat_head / args.heads;
        head = flat_head - batch * args.heads;
        sequence = args.sequences[batch];
        const int full = sequence.full_items, shared = sequence.items - full, ahead = is_causal ? full - full / 3 : full, turn = is_late ? full + in_turn : in_turn;
        if (turn >= (is_early || is_late ? sequence.items : full)) return false;
        item.shared = turn >= ahead && turn < ahead + shared;
        item.first_row = item.shared ? full * T::kRows + (shared - 1 - (turn - ahead)) * kQueryBlock : (full - 1 - (turn < ahead ? turn : turn - shared)) * T::kRows;
    }
    item.rows = sequence.q_len - item.first_row;
    const int64_t token = sequence.q_start + item.first_row;
    channel_at = (static_cast<int64_t>(batch) * args.kv_heads + head / (args.heads / args.kv_heads)) * T::kD;
    if (args.part_items > 0) {
        item.lse_at = sequence.part_base + (static_cast<int64_t>(head) * sequence.parts + part) * sequence.q_len + item.first_row;
        item.out_at = item.lse_at * T::kD;
    } else {
        item.out_at = batch * args.out_strides.batch + head * args.out_strides.head + token * args.out_strides.token;
        item.lse_at = batch * args.lse_strides.batch + head * args.lse_strides.head + token * args.lse_strides.token;
    }
    item.band = band_of(args, sequence);
    const int item_rows = item.shared ? kQueryBlock : T::kRows;
    const TileRange all = tile_range<T::kKeys>(item.band, item.first_row, min(item.first_row + item_rows, sequence.q_len) - 1);
    item.tile_begin = all.begin, item.tile_end = all.end;
    if (args.part_items > 0) {
        const int64_t count = all.end - all.begin;
        item.tile_begin = all.begin + static_cast<int>(count * part / sequence.parts), item.tile_end = all.begin + static_cast<int>(count * (part + 1) / sequence.parts);
    }
    const int whole = sequence.k_len / T::kKeys, left = sequence.k_len % T::kKeys;
    item.short_span = sorted_span(left, T::kKeys);
    item.short_tile = left > 0 && item.short_span < T::kKeys ? whole : -1;
#pragma unroll
    for (int block = 0; block < T::kConsumers; ++block) {
        const int first = item.first_row + (item.shared ? 0 : block * kQueryBlock);
        item.own[block] = first < sequence.q_len ? tile_range<T::kKeys>(item.band, first, min(first + kQueryBlock, sequence.q_len) - 1) : TileRange{0, 0, 0, 0};
    }
    return true;
}

/** The last one to ask, which is one for each item, leaves the counter as it was. */
__device__ __forceinline__ int next_item(const SortedArgs& args) {
    const int before = atomicAdd(args.next_item, 1);
    if (before == args.items - 1) *args.next_item = 0;
    return gridDim.x + before;
}

}  // namespace intflash
