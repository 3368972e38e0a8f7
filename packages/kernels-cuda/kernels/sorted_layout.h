// How Q, K and V lie in memory between the quantizers into sorted tiles (quantize_floats.cu) and the forward kernels that read them (Hopper's
// sm90_flash_fwd.cuh and every architecture's sorted_flash_fwd.cuh): images that copies bring to shared memory as they are and wgmma or ldmatrix reads there.
//
// Q block, 64 queries:   codes [64][D].
// Tile, `sorted_tile_keys` keys in as many slots:
//   K codes   [slots][D]          one row a key
//   V codes   [D channels][slots] bytes of value + 128, slots in `slot_position` order; or, for half-int8,
//   V values  [slots / 64][D][64] float16, slots in their own order
//   columns   kScale, tau, inverseWeight: floats; key: 255 - the slot's key within the tile in 16 bits; all in `slot_position` order
//   header    TileHeader
// Keys are sorted into slots: softmax does not see their order, and three quarters, keys of small magnitude, then share a finer scale than
// those of large magnitude; with half-int8 each eighth of the slots has a scale. Keys whose value weight is far from the others' lie in the last slots (TileKind::kOutliers).
// D is the head dimension rounded up to 64, 128 or 256 and filled with zeros; so are keys past the sequence's end.
// Rows are cut into panels of 128 bytes, or of 64 where that does not divide them, one after the other, and each row's 16-byte chunks are
// swizzled: what wgmma's descriptors call 64- and 128-byte swizzling.
#pragma once
#include <cstddef>
#include <cstdint>

#include "tile_layout.h"

namespace intflash {

constexpr int kQueryBlock = 64;     // rows of one wgmma
constexpr int kSlotGroup = 16;      // the slots of four neighbouring threads' eight registers
constexpr int kOutlierSlots = 16;   // at most so many keys a tile are outliers; they take the last slots

enum class TileKind : int32_t {
    kPlain = 0,     // two key scales, one value weight: the header says all
    kOutliers = 1,  // as above, but the last 16 slots have value weights of their own
    kColumns = 2,   // every slot has its own: the columns say all
};

/** Keys of a tile. More of them share what a tile costs beside its scores; with 64 channels the registers are there. With 256 of float16 shared memory has room for 64. */
INTFLASH_BOTH constexpr int sorted_tile_keys(int padded, bool half) { return padded == 64 ? 192 : padded == 256 && half ? 64 : 128; }
/** Slots that an entry of TileFacts::part_scale is for: with half-int8 an eighth of the tile, which has a scale to itself; else a group. */
INTFLASH_BOTH constexpr int sorted_scale_slots(int keys, bool half) { return half ? keys / 8 : kSlotGroup; }
/** Slots that share TileHeader::k_scale[0]; the others share k_scale[1]. */
INTFLASH_BOTH constexpr int sorted_low_slots(int keys) { return keys / 4 * 3; }

/** Of a tile of `keys` keys the slots in use: a sequence's last tile, if plain, ends after 64 or 128 where that takes all of its keys. */
INTFLASH_BOTH constexpr int sorted_span(int keys, int tile_keys) { return keys <= 64 && tile_keys > 128 ? 64 : keys <= 128 && tile_keys > 128 ? 128 : tile_keys; }

/** With half-int8 the key scales of the slots' eighths lie here instead: 8 floats. */
struct TileHeader {
    float k_scale[2];            // of the low slots and the others
    float tau, inverse_weight;  // log2 and reciprocal of the value weight that the tile's keys share
    int32_t kind, padding[3];
};

/** Where a slot lies along the axis that P·V sums over: accumulator registers, packed to bytes in place, are then its A operand. */
INTFLASH_BOTH int slot_position(int slot) { return key_position(slot); }

INTFLASH_BOTH constexpr int sorted_column_bytes(int keys) { return keys * (3 * 4 + 2); }
INTFLASH_BOTH constexpr int sorted_meta_bytes(int keys) { return sorted_column_bytes(keys) + static_cast<int>(sizeof(TileHeader)); }
INTFLASH_BOTH constexpr int sorted_columns_offset(int padded, bool half) { return sorted_tile_keys(padded, half) * padded * (half ? 3 : 2); }
INTFLASH_BOTH constexpr int sorted_tile_bytes(int padded, bool half) { return sorted_columns_offset(padded, half) + sorted_meta_bytes(sorted_tile_keys(padded, half)); }

INTFLASH_BOTH constexpr int sorted_panel_bytes(int row_bytes) { return row_bytes % 128 == 0 ? 128 : 64; }
/** Byte offset of (row, byte) in an image of `rows` rows of `row_bytes`. */
INTFLASH_BOTH int panel_offset(int row, int byte, int rows, int row_bytes) {
    const int width = sorted_panel_bytes(row_bytes);
    return byte / width * (rows * width) + swizzled(row, byte % width, width);
}

/** One sequence on its way through the kernels on sorted tiles. */
struct SortedSequence {
    int64_t q_start, k_start;
    int64_t q_block_base;  // Q block of (head h, block b): q_block_base + h * q_blocks + b
    int64_t tile_base;     // tile of (kv head h, tile t): tile_base + h * tiles + t
    int64_t sum_base;      // sum of K over `kTileKeys` tokens t of kv head h: sum_base + h * sums + t
    int32_t q_len, k_len, q_blocks, tiles, sums;
    int32_t full_items, items;  // of a head, Hopper: see sm90_items.cuh
    // Hopper, few queries and many keys (merge_parts.h): into how many parts the keys of each item are cut, all items of the sequences before this one, and where
    // answers lie: row of (head h, part p, query i): part_base + (h * parts + p) * q_len + i. Otherwise parts are 0, and these items are in the other count.
    int32_t parts, part_items_before;
    int64_t part_base;
};

static_assert(sizeof(TileHeader) == 32 && sorted_meta_bytes(64) % 16 == 0, "bulk copies move multiples of 16 bytes");

}  // namespace intflash
