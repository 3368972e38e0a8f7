// Which keys a row of queries may attend, and which tiles of keys.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

namespace intflash {

/** Keys [first(row), end(row)). Worked out anew where it is needed: registers are dearer than additions. */
struct RowBand {
    int left, right, keys;  // row + left is the first key, row + right one past the last, both cut to [0, keys]
    __device__ __forceinline__ int first(int row) const { return min(max(row + left, 0), keys); }
    __device__ __forceinline__ int end(int row) const { return min(max(row + right, 0), keys); }
};

/** Of a forward kernel's arguments and one of its sequences. */
template <class Args, class Sequence> __device__ __forceinline__ RowBand band_of(const Args& args, const Sequence& sequence) {
    constexpr int64_t kFar = int64_t{1} << 30;  // no sequence is longer, so nothing overflows
    const int64_t diagonal = args.bottom_right ? static_cast<int64_t>(sequence.k_len) - sequence.q_len : 0;
    return {static_cast<int>(max(min(diagonal - args.window_left, kFar), -kFar)), static_cast<int>(max(min(diagonal + args.window_right + 1, kFar), -kFar)), sequence.k_len};
}

/** Tiles [begin, end) that some of a group of rows sees; of these, every row sees all of [clear_begin, clear_end). */
struct alignas(16) TileRange {
    int32_t begin, clear_begin, clear_end, end;
};

/** Of tiles of kKeys keys, and rows `first` to `last`. */
template <int kKeys> __device__ __forceinline__ TileRange tile_range(const RowBand& band, int first, int last) {
    TileRange range{band.first(first) / kKeys, (band.first(last) + kKeys - 1) / kKeys, band.end(first) / kKeys, (band.end(last) + kKeys - 1) / kKeys};
    if (band.end(last) <= band.first(first)) range.end = range.begin;
    return range;
}

}  // namespace intflash
