// How Q, K and V lie in memory between Hopper's quantizer (sm90_quantize.cu) and its forward kernel (sm90_flash_fwd.cuh): images that
// bulk copies bring to shared memory as they are and wgmma reads there.
//
// Q block, 64 queries:   codes [64][D].
// Tile, 128 keys in 128 slots:
//   K codes   [128 slots][D]          one row a key
//   V codes   [D channels][128 slots] bytes of value + 128, slots in `slot_position` order; or, for half-int8,
//   V values  [2][D][64 slots]        float16, slots in their own order
//   columns   kScale, tau, inverseWeight: 128 floats each; key: 128 bytes, the slot's key within the tile; all in `slot_position` order
//   header    TileHeader
// Keys are sorted into slots: softmax does not see their order, and 96 keys of small magnitude then share a finer scale than the
// 32 of large magnitude; with half-int8 each eighth of the slots has a scale. Keys whose value weight is far from the others' lie in the last slots (TileKind::kOutliers).
// D is the head dimension rounded up to 64, 128 or 256 and filled with zeros; so are keys past the sequence's end.
// Rows longer than 128 bytes are cut into panels of 128 bytes, one after the other, and each row's 16-byte chunks are swizzled: what
// wgmma's descriptors call 64- and 128-byte swizzling.
#pragma once
#include <cstddef>
#include <cstdint>

#include "tile_layout.h"

namespace intflash {

constexpr int kQueryBlock = 64;     // rows of one wgmma
constexpr int kLowSlots = 96;       // slots that share TileHeader::k_scale[0]; the others share k_scale[1]
constexpr int kEighthSlots = 16;    // half-int8: slots that share a scale
constexpr int kOutlierSlots = 16;   // at most so many keys a tile are outliers; they take the last slots

enum class TileKind : int32_t {
    kPlain = 0,     // two key scales, one value weight: the header says all
    kOutliers = 1,  // as above, but the last 16 slots have value weights of their own
    kColumns = 2,   // every slot has its own: the columns say all
};

/** With half-int8 the key scales of the slots' eighths lie here instead: 8 floats. */
struct TileHeader {
    float k_scale[2];
    float tau, inverse_weight;  // log2 and reciprocal of the value weight that the tile's keys share
    int32_t kind, padding[3];
};

/** Where a slot lies along the axis that P·V sums over: accumulator registers, packed to bytes in place, are then its A operand. */
INTFLASH_BOTH int slot_position(int slot) { return key_position(slot); }

INTFLASH_BOTH int sm90_value_bytes(int padded, bool half) { return kTileKeys * padded * (half ? 2 : 1); }
INTFLASH_BOTH int sm90_columns_offset(int padded, bool half) { return kTileKeys * padded + sm90_value_bytes(padded, half); }
constexpr int kColumnBytes = 3 * kTileKeys * 4 + kTileKeys;
constexpr int kMetaBytes = kColumnBytes + static_cast<int>(sizeof(TileHeader));
INTFLASH_BOTH int sm90_tile_bytes(int padded, bool half) { return sm90_columns_offset(padded, half) + kMetaBytes; }

/** Byte offset of (row, byte) in an image of `rows` rows of `row_bytes`. */
INTFLASH_BOTH int panel_offset(int row, int byte, int rows, int row_bytes) {
    const int width = row_bytes < 128 ? row_bytes : 128;
    return byte / width * (rows * width) + swizzled(row, byte % width, width);
}
INTFLASH_BOTH int sm90_value_offset(int slot, int channel, int padded) { return kTileKeys * padded + panel_offset(channel, slot_position(slot), padded, kTileKeys); }
INTFLASH_BOTH int sm90_half_value_offset(int slot, int channel, int padded) { return kTileKeys * padded + panel_offset(channel, 2 * slot, padded, 2 * kTileKeys); }

/** One sequence on its way through Hopper's kernels. */
struct Sm90Sequence {
    int64_t q_start, k_start;
    int64_t q_block_base;  // Q block of (head h, block b): q_block_base + h * q_blocks + b
    int64_t tile_base;     // tile of (kv head h, tile t): tile_base + h * tiles + t
    int32_t q_len, k_len, q_blocks, tiles;
    int32_t full_items, items;  // of a head: see sm90_flash_fwd.h
};

static_assert(sizeof(TileHeader) == 32 && kMetaBytes % 16 == 0, "bulk copies move multiples of 16 bytes");

}  // namespace intflash
