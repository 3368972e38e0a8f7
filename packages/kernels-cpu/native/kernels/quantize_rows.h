// Float rows to codes, and codes to the packed layouts. Two passes: statistics a channel needs of all tokens, then rows one by one.
#pragma once
#include "register_tile.h"

namespace int_flash {
namespace {

constexpr int kGranule = Simd::kGranule;

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

// Codes (padded to 16 with zeros) to words.
INT_FLASH_INLINE void widen_row(const int8_t* codes, int dim, uint32_t* words) {
    for (int d = 0; d < dim; d += 16) Simd::widen(words + d / kGranule, codes + d);
}

INT_FLASH_INLINE void copy_codes(const int8_t* source, int dim, int8_t* codes) {
    memcpy(codes, source, static_cast<size_t>(dim));
    for (int d = dim; d % 16 != 0; d++) codes[d] = 0;
}

INT_FLASH_INLINE int32_t offset_start(const int8_t* codes, int dim) {
    if (!Simd::kOffsetScores) return 0;
    int32_t sum = 0;
    for (int d = 0; d < dim; d++) sum += codes[d];
    return -128 * sum;
}

void channel_stats(const RowSource& rows, int64_t tokens, float* mean, float* maximum, HeadStats* stats) {
    alignas(64) float row[kMaxHeadDim + 16];
    alignas(64) double sums[kMaxHeadDim + 16];
    alignas(64) double run[kMaxHeadDim + 16];  // of the tile's tokens so far: docs/arithmetic.md, Smooth-K
    alignas(64) uint32_t largest[kMaxHeadDim + 16];
    const int dim = rows.dim;
    for (int d = 0; d < dim; d++) sums[d] = run[d] = 0.0, largest[d] = 0;
    for (int64_t token = 0; token < tokens; token++) {
        load_row(rows, token, row);
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

INT_FLASH_INLINE void store_key_words(uint32_t* packed, int words, int64_t token, const uint32_t* row, uint32_t flip) {
    uint32_t* column = packed + (token / kBlock * words) * kBlock + token % kBlock;
    for (int g = 0; g < words; g++) column[g * kBlock] = row[g] ^ flip;
}

void pack_keys(const RowSource& rows, const float* scales, ptrdiff_t scale_stride, Precision precision, int64_t begin, int64_t end,
               HeadPack* head, Scratch* scratch, HeadStats* stats, float* max_scale) {
    const int dim = rows.dim;
    const bool is_float = precision == Precision::kFp32;
    const int words = is_float ? dim : dim / kGranule;
    const float max_code = precision == Precision::kInt4Qk ? 7.0f : 127.0f;
    uint32_t* packed = static_cast<uint32_t*>(head->keys);
    float* row = scratch->row;
    alignas(64) uint32_t row_words[kMaxHeadDim + 16];
    stats->max_bits = 0;
    float largest = 0.0f;
    for (int64_t token = begin; token < end; token++) {
        float scale;
        if (rows.type == ElementType::kInt8) {
            copy_codes(code_row(rows, token), dim, scratch->codes);
            widen_row(scratch->codes, dim, row_words);
            scale = scales[token * scale_stride];
        } else {
            load_row(rows, token, row);
            const uint32_t raw_bits = largest_magnitude_bits(row, dim);  // a NaN here must not hide behind the subtraction
            stats->max_bits = raw_bits > stats->max_bits ? raw_bits : stats->max_bits;
            if (is_float) {
                scale = symmetric_scale(raw_bits, max_code);
                memcpy(row_words, row, static_cast<size_t>(dim) * 4);
            } else {
                for (int d = 0; d < dim; d++) row[d] = row[d] - head->key_mean[d];
                scale = symmetric_scale(largest_magnitude_bits(row, dim), max_code);
                encode_row(row, dim, scale, scratch->codes);
                widen_row(scratch->codes, dim, row_words);
            }
        }
        largest = scale > largest ? scale : largest;
        head->key_scale[token] = scale;
        store_key_words(packed, words, token, row_words, is_float ? 0 : Simd::kKeyFlip);
    }
    *max_scale = largest;
    if (end < head->tokens) return;
    memset(row_words, 0, sizeof row_words);
    for (int64_t token = end; token < head->padded; token++) {
        head->key_scale[token] = 0.0f;
        store_key_words(packed, words, token, row_words, is_float ? 0 : Simd::kKeyFlip);
    }
}

// Words of the channels [0, width) from kGranule rows of codes.
INT_FLASH_INLINE void interleave(const int8_t* codes, ptrdiff_t row_codes, int width, uint32_t* words) {
    const int8_t* r0 = codes;
    const int8_t* r1 = r0 + row_codes;
    if constexpr (kGranule == 2) {
        for (int d = 0; d < width; d++)
            words[d] = static_cast<uint32_t>(static_cast<uint16_t>(r0[d])) | (static_cast<uint32_t>(r1[d]) << 16);
    } else {
        const int8_t* r2 = r1 + row_codes;
        const int8_t* r3 = r2 + row_codes;
        for (int d = 0; d < width; d++)
            words[d] = static_cast<uint32_t>(static_cast<uint8_t>(r0[d])) | (static_cast<uint32_t>(static_cast<uint8_t>(r1[d])) << 8) |
                       (static_cast<uint32_t>(static_cast<uint8_t>(r2[d])) << 16) | (static_cast<uint32_t>(static_cast<uint8_t>(r3[d])) << 24);
    }
}

// Copies `width` words, one a channel, of step `step` (a token or a granule of tokens) into the channel blocks.
INT_FLASH_INLINE void store_value_words(uint32_t* packed, int64_t steps, int64_t step, const uint32_t* words, int width) {
    for (int c = 0; c < width; c += kBlock) {
        const int block = width - c < kBlock ? width - c : kBlock;
        memcpy(packed + c * steps + step * block, words + c, static_cast<size_t>(block) * 4);
    }
}

constexpr int kCodeRow = kMaxHeadDim + 64;  // distance of the rows in Scratch::codes

// Quantizes one row of V into `codes` and returns its weight w (1 where the precision has none).
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

void pack_values(const RowSource& rows, const float* scales, ptrdiff_t scale_stride, Precision precision, const float* channel_max,
                 int64_t begin, int64_t end, HeadPack* head, Scratch* scratch, HeadStats* stats) {
    const int dim = rows.dim;
    const int width = static_cast<int>(round_up(dim, Simd::kLanes));
    uint32_t* packed = static_cast<uint32_t*>(head->values);
    const int64_t last = end < head->tokens ? end : head->padded;
    stats->max_bits = 0;
    if (precision == Precision::kHalfInt8 || precision == Precision::kFp32) {
        float* row = scratch->row;
        for (int64_t token = begin; token < last; token++) {
            if (token < end) {
                load_row(rows, token, row);
                const uint32_t bits = largest_magnitude_bits(row, dim);
                stats->max_bits = bits > stats->max_bits ? bits : stats->max_bits;
                if (precision == Precision::kHalfInt8)
                    for (int d = 0; d < dim; d++) row[d] = round_to_float16(row[d]);
            } else {
                memset(row, 0, sizeof(float) * static_cast<size_t>(width));
            }
            store_value_words(packed, head->padded, token, reinterpret_cast<const uint32_t*>(row), width);
            head->tau[token] = 0.0f;
            head->inverse_weight[token] = token < end ? 1.0f : 0.0f;
        }
        return;
    }
    alignas(64) uint32_t words[kMaxHeadDim + 16];
    int32_t* sums = nullptr;
    for (int64_t token = begin; token < last; token += kGranule) {
        for (int g = 0; g < kGranule; g++) {
            int8_t* codes = scratch->codes + g * kCodeRow;
            const int64_t j = token + g;
            float weight = 1.0f;
            if (j >= end) {
                memset(codes, 0, static_cast<size_t>(width));
            } else if (rows.type == ElementType::kInt8) {
                copy_codes(code_row(rows, j), dim, codes);
                if (scale_stride != 0) weight = scales[j * scale_stride] > kMinGivenWeight ? scales[j * scale_stride] : kMinGivenWeight;
            } else {
                load_row(rows, j, scratch->row);
                const uint32_t bits = largest_magnitude_bits(scratch->row, dim);
                stats->max_bits = bits > stats->max_bits ? bits : stats->max_bits;
                weight = encode_value(scratch->row, dim, precision, channel_max, codes);
            }
            head->tau[j] = weight == 1.0f ? 0.0f : log2_weight(weight);
            head->inverse_weight[j] = j < end ? 1.0f / weight : 0.0f;
        }
        interleave(scratch->codes, kCodeRow, width, words);
        store_value_words(packed, head->padded / kGranule, token / kGranule, words, width);
        if (Simd::kOffsetProducts) {
            if (token % kTileKeys == 0) {
                sums = head->value_sums + token / kTileKeys * width;
                memset(sums, 0, sizeof(int32_t) * static_cast<size_t>(width));
            }
            for (int g = 0; g < kGranule; g++)
                for (int d = 0; d < width; d++) sums[d] += 128 * scratch->codes[g * kCodeRow + d];
        }
    }
}

}  // namespace
}  // namespace int_flash
