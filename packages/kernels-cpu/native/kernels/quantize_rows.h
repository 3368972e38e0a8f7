// Float rows to codes, and what a channel needs to know of all tokens before any row can be coded.
#pragma once
#include "register_tile.h"

namespace int_flash {
namespace {

constexpr int kGranule = Simd::kGranule;

// Calls f with the head dimension as a constant where it is a common one, and with 0 for the others: loops over a row without ends to
// see to are several times as fast.
template <class F>
INT_FLASH_INLINE auto with_dim(int dim, F f) {
    if (dim == 64) return f(Constant<64>{});
    if (dim == 128) return f(Constant<128>{});
    return f(Constant<0>{});
}

INT_FLASH_INLINE size_t element_bytes(ElementType type) {
    return type == ElementType::kFloat32 ? 4 : type == ElementType::kInt8 ? 1 : 2;
}

// Row `token` as float32 at `out`, zeros up to the next multiple of 16.
INT_FLASH_INLINE void load_row(const RowSource& rows, int64_t token, float* out) {
    const char* start = static_cast<const char*>(rows.data) + token * rows.token_stride * static_cast<ptrdiff_t>(element_bytes(rows.type));
    const int dim = rows.dim;
    if (rows.type == ElementType::kFloat32) {
        memcpy(out, start, static_cast<size_t>(dim) * 4);
    } else if (rows.type == ElementType::kBfloat16) {
        uint16_t bits[kMaxHeadDim];
        memcpy(bits, start, static_cast<size_t>(dim) * 2);
        for (int d = 0; d < dim; d++) out[d] = float_of(static_cast<uint32_t>(bits[d]) << 16);
    } else {
        uint16_t bits[kMaxHeadDim];
        memcpy(bits, start, static_cast<size_t>(dim) * 2);
        for (int d = 0; d < dim; d++) out[d] = float16_to_float32(bits[d]);
    }
    for (int d = dim; d % 16 != 0; d++) out[d] = 0.0f;
}

// The same row: where it lies if it is whole blocks of 16 float32, else in `buffer`.
INT_FLASH_INLINE const float* row_floats(const RowSource& rows, int64_t token, float* buffer) {
    if (rows.type == ElementType::kFloat32 && rows.dim % 16 == 0) return static_cast<const float*>(rows.data) + token * rows.token_stride;
    load_row(rows, token, buffer);
    return buffer;
}

// The same for a pass over rows up to `end`.
INT_FLASH_INLINE const float* next_row_floats(const RowSource& rows, int64_t token, int64_t end, float* buffer) {
    const float* row = row_floats(rows, token, buffer);
    if (row != buffer && token + kPassRowsAhead < end) fetch_ahead(row + kPassRowsAhead * rows.token_stride, sizeof(float) * static_cast<size_t>(rows.dim));
    return row;
}

INT_FLASH_INLINE const int8_t* code_row(const RowSource& rows, int64_t token) {
    return static_cast<const int8_t*>(rows.data) + token * rows.token_stride;
}

INT_FLASH_INLINE uint32_t largest_magnitude_bits(const float* row, int dim) {
    uint32_t largest = 0;
    for (int d = 0; d < dim; d++) {
        const uint32_t magnitude = bits_of(row[d]) & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

INT_FLASH_INLINE float symmetric_scale(uint32_t max_bits, float max_code) {
    const float scale = float_of(max_bits) / max_code;
    return scale > kMinScale ? scale : kMinScale;
}

// codes = rne(row / scale); `row` is padded to 16.
INT_FLASH_INLINE void encode_row(const float* row, int dim, float scale, int8_t* codes) {
    const Simd::Floats s = Simd::splat(scale);
    for (int d = 0; d < dim; d += 16) Simd::store_codes(codes + d, Simd::div(Simd::load(row + d), s));
}

// The same, and the sum of the codes. Float addition is exact here, and what was stored in pieces is not read again at once.
INT_FLASH_INLINE int32_t encode_and_sum(const float* row, int dim, float scale, int8_t* codes) {
    const Simd::Floats s = Simd::splat(scale), magic = Simd::splat(kRoundMagic);
    Simd::Floats sum = Simd::splat(0.0f);
    for (int d = 0; d < dim; d += 16) {
        const Simd::Floats x = Simd::div(Simd::load(row + d), s);
        Simd::store_codes(codes + d, x);
        sum = Simd::add(sum, Simd::sub(Simd::add(x, magic), magic));
    }
    return static_cast<int32_t>(Simd::fold(sum));
}

// Codes (padded to 16 with zeros) to words.
INT_FLASH_INLINE void widen_row(const int8_t* codes, int dim, uint32_t* words) {
    for (int d = 0; d < dim; d += 16) Simd::widen(words + d / kGranule, codes + d);
}

INT_FLASH_INLINE void copy_codes(const int8_t* source, int dim, int8_t* codes) {
    memcpy(codes, source, static_cast<size_t>(dim));
    for (int d = dim; d % 16 != 0; d++) codes[d] = 0;
}

INT_FLASH_INLINE int32_t sum_of_codes(const int8_t* codes, int dim) {
    int32_t sum = 0;
    for (int d = 0; d < dim; d++) sum += codes[d];
    return sum;
}

// What a score starts at where keys are stored with an offset of 128.
INT_FLASH_INLINE int32_t offset_start(int32_t sum) { return Simd::kOffsetScores ? -128 * sum : 0; }

template <int kDim, class S = Simd>
INT_FLASH_OUTLINE void channel_stats_of(const RowSource& rows, int64_t tokens, float* mean, float* maximum, HeadStats* stats) {
    alignas(64) float buffer[kMaxHeadDim + 16];
    alignas(64) double sums[kMaxHeadDim + 16];
    alignas(64) double run[kMaxHeadDim + 16];  // of the tile's tokens so far: docs/arithmetic.md, Smooth-K
    alignas(64) uint32_t largest[kMaxHeadDim + 16];
    const int dim = kDim > 0 ? kDim : rows.dim;
    for (int d = 0; d < dim; d++) sums[d] = run[d] = 0.0, largest[d] = 0;
    int64_t token = 0;
    if constexpr (S::kChannelsOfRows) {
        const bool fits = rows.type == ElementType::kFloat32 && dim % 64 == 0;
        for (; fits && token < tokens; token += kTileKeys) {
            const int n = tokens - token < kTileKeys ? static_cast<int>(tokens - token) : kTileKeys;
            const float* row = static_cast<const float*>(rows.data) + token * rows.token_stride;
            for (int d = 0; d < dim; d += 64) {
                if (mean) {
                    S::template channels_of_rows<true>(row + d, rows.token_stride, n, sums + d, largest + d);
                } else {
                    S::template channels_of_rows<false>(row + d, rows.token_stride, n, sums + d, largest + d);
                }
            }
        }
    }
    for (; token < tokens; token++) {
        const float* row = row_floats(rows, token, buffer);
        if (mean) {
            for (int d = 0; d < dim; d++) run[d] += static_cast<double>(row[d]);
            if ((token + 1) % kTileKeys == 0 || token + 1 == tokens)
                for (int d = 0; d < dim; d++) sums[d] += run[d], run[d] = 0.0;
        }
        for (int d = 0; d < dim; d++) {
            const uint32_t magnitude = bits_of(row[d]) & 0x7fffffffu;
            largest[d] = magnitude > largest[d] ? magnitude : largest[d];
        }
    }
    stats->max_bits = 0;
    for (int d = 0; d < dim; d++) {
        if (mean) mean[d] = tokens > 0 ? static_cast<float>(sums[d] / static_cast<double>(tokens)) : 0.0f;
        if (maximum) maximum[d] = float_of(largest[d]);
        stats->max_bits = largest[d] > stats->max_bits ? largest[d] : stats->max_bits;
    }
}

void channel_stats(const RowSource& rows, int64_t tokens, float* mean, float* maximum, HeadStats* stats) {
    with_dim(rows.dim, [&](auto dim) { channel_stats_of<decltype(dim)::value>(rows, tokens, mean, maximum, stats); });
}

// Quantizes one row of V into `codes` and returns its weight w (1 where the precision has none). `row` and `channel_max` are padded to 16.
INT_FLASH_INLINE float encode_value(const float* row, int dim, Precision precision, const float* channel_max, int8_t* codes) {
    if (precision == Precision::kPaperInt8) {
        encode_row(row, dim, symmetric_scale(bits_of(channel_max[0]), 127.0f), codes);
        return 1.0f;
    }
    alignas(64) float unit[kMaxHeadDim];
    Simd::Floats largest = Simd::splat(kMinWeight);
    for (int d = 0; d < dim; d += 16) {
        const Simd::Floats u = Simd::div(Simd::load(row + d), Simd::load(channel_max + d));
        Simd::store(unit + d, u);
        largest = Simd::max(Simd::abs(u), largest);
    }
    const float weight = Simd::largest(largest);
    encode_row(unit, dim, weight / 127.0f, codes);
    return weight;
}

}  // namespace
}  // namespace int_flash
