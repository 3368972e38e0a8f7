// How 128 keys lie in memory between the quantizer that writes them and the forward kernel that reads them.
//
// A tile is one contiguous block, copied to shared memory as it is:
//   K codes   [128 keys][D]      bytes, one row a key
//   V codes   [D channels][128]  bytes, one row a channel, keys in `key_position` order; or, for half-int8,
//   V values  [128 keys][D]      float16, one row a key
//   kScale, tau, inverseWeight   128 floats each, in `key_position` order
// D is the head dimension rounded up to 64, 128 or 256 and filled with zeros; so are keys past the sequence's end.
// 16-byte chunks of a row are swizzled by the row number, so that eight rows read at one column touch all banks once.
#pragma once
#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define INTFLASH_BOTH __host__ __device__ __forceinline__
#else
#define INTFLASH_BOTH inline
#endif

namespace intflash {

constexpr int kTileKeys = 128;  // docs/arithmetic.md: the tile against whose maximum P is quantized
constexpr int kMaxHeadDim = 256;

/** The head dimension that kernels are built for and that `dim` is padded to. */
INTFLASH_BOTH int padded_dim(int dim) { return dim <= 64 ? 64 : dim <= 128 ? 128 : 256; }

INTFLASH_BOTH int value_bytes(bool half_values) { return half_values ? 2 : 1; }
INTFLASH_BOTH int value_offset(int padded) { return kTileKeys * padded; }
INTFLASH_BOTH int scales_offset(int padded, bool half_values) { return kTileKeys * padded * (1 + value_bytes(half_values)); }
INTFLASH_BOTH int tile_bytes(int padded, bool half_values) { return scales_offset(padded, half_values) + 3 * kTileKeys * 4; }

/**
 * Where key j of a tile lies along the key axis. Within 16 keys: 0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15. In this order the
 * accumulator registers of Q·Kᵀ, packed to bytes where they are, form the A operand of P·V: no shuffles.
 */
INTFLASH_BOTH int key_position(int key) { return (key & ~15) + 4 * ((key & 7) >> 1) + 2 * ((key >> 3) & 1) + (key & 1); }

/** Swizzle of a row of `row_bytes` (64, or a multiple of 128): XOR this with the 16-byte chunk index. */
INTFLASH_BOTH int row_swizzle(int row, int row_bytes) { return row_bytes == 64 ? (row >> 1) & 3 : row & 7; }

INTFLASH_BOTH int swizzled(int row, int byte, int row_bytes) {
    return row * row_bytes + (((byte >> 4) ^ row_swizzle(row, row_bytes)) << 4) + (byte & 15);
}

INTFLASH_BOTH int key_code_offset(int key, int channel, int padded) { return swizzled(key, channel, padded); }
INTFLASH_BOTH int value_code_offset(int key, int channel, int padded) {
    return value_offset(padded) + swizzled(channel, key_position(key), kTileKeys);
}
INTFLASH_BOTH int half_value_offset(int key, int channel, int padded) { return value_offset(padded) + swizzled(key, 2 * channel, 2 * padded); }

}  // namespace intflash
