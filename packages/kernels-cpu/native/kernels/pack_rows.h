// Rows to the packed layouts of HeadPack, 16 keys or one granule of values at a time.
#pragma once
#include "quantize_rows.h"

namespace int_flash {
namespace {

// `words` words of 16 rows, `stride` words apart, become the columns token … token + 15 of their key block.
INT_FLASH_INLINE void store_key_columns(uint32_t* packed, int words, int64_t token, const uint32_t* rows, ptrdiff_t stride, uint32_t flip) {
    uint32_t* out = packed + (token / kBlock * words) * kBlock + token % kBlock;
    int g = 0;
    for (; g + 16 <= words; g += 16) Simd::transpose_words(rows + g, stride, flip, out + g * kBlock, kBlock);
    for (; g < words; g++)
        for (int j = 0; j < 16; j++) out[g * kBlock + j] = rows[j * stride + g] ^ flip;
}

template <int kDim>
INT_FLASH_OUTLINE void pack_keys_of(const RowSource& rows, const float* scales, ptrdiff_t scale_stride, Precision precision, int64_t begin,
                                    int64_t end, HeadPack* head, Scratch* scratch, HeadStats* stats, float* max_scale) {
    const int dim = kDim > 0 ? kDim : rows.dim;
    const bool is_float = precision == Precision::kFp32;
    const int words = is_float ? dim : dim / kGranule;
    const float max_code = precision == Precision::kInt4Qk ? 7.0f : 127.0f;
    constexpr ptrdiff_t kStride = kMaxHeadDim;
    uint32_t* block = reinterpret_cast<uint32_t*>(scratch->float_tile);  // 16 rows of words
    const uint32_t flip = is_float ? 0 : Simd::kKeyFlip;
    uint32_t raw_bits = 0;
    float largest = 0.0f;
    const int64_t last = end < head->tokens ? end : round_up(end, kBlock);  // scores are computed by whole key blocks
    for (int64_t first = begin; first < last; first += 16) {
        if (first >= end) {
            uint32_t* out = static_cast<uint32_t*>(head->keys) + (first / kBlock * words) * kBlock + first % kBlock;
            for (int g = 0; g < words; g++) memset(out + g * kBlock, 0, 64);
            memset(head->key_scale + first, 0, 64);
            continue;
        }
        for (int64_t token = first; token < first + 16; token++) {
            uint32_t* out = block + (token - first) * kStride;
            float scale;
            if (token >= end) {
                for (int g = 0; g < words; g += 16) Simd::store(reinterpret_cast<float*>(out + g), Simd::splat(0.0f));
                head->key_scale[token] = 0.0f;
                continue;
            }
            if (rows.type == ElementType::kInt8) {
                copy_codes(code_row(rows, token), dim, scratch->codes);
                widen_row(scratch->codes, dim, out);
                scale = scales[token * scale_stride];
            } else {
                const float* row = next_row_floats(rows, token, end, scratch->row);
                const uint32_t bits = largest_magnitude_bits(row, dim);  // a NaN here must not hide behind the subtraction
                raw_bits = bits > raw_bits ? bits : raw_bits;
                if (is_float) {
                    scale = symmetric_scale(bits, max_code);
                    memcpy(out, row, static_cast<size_t>(dim) * 4);
                } else {
                    float* smooth = scratch->row;
                    for (int d = 0; d < dim; d += 16) Simd::store(smooth + d, Simd::sub(Simd::load(row + d), Simd::load(head->key_mean + d)));
                    scale = symmetric_scale(largest_magnitude_bits(smooth, dim), max_code);
                    encode_row(smooth, dim, scale, scratch->codes);
                    widen_row(scratch->codes, dim, out);
                }
            }
            largest = scale > largest ? scale : largest;
            head->key_scale[token] = scale;
        }
        store_key_columns(static_cast<uint32_t*>(head->keys), words, first, block, kStride, flip);
    }
    stats->max_bits = raw_bits;
    *max_scale = largest;
}

void pack_keys(const RowSource& rows, const float* scales, ptrdiff_t scale_stride, Precision precision, int64_t begin, int64_t end,
               HeadPack* head, Scratch* scratch, HeadStats* stats, float* max_scale) {
    with_dim(rows.dim, [&](auto dim) {
        pack_keys_of<decltype(dim)::value>(rows, scales, scale_stride, precision, begin, end, head, scratch, stats, max_scale);
    });
}

// Calls store(channel, out) for every 16 channels of step `step` (a token or a granule of tokens): their words go to `out`.
template <class Store>
INT_FLASH_INLINE void store_value_words(uint32_t* packed, int64_t steps, int64_t step, int width, Store store) {
    for (int c = 0; c < width; c += kBlock) {
        const int block = width - c < kBlock ? width - c : kBlock;
        uint32_t* out = packed + c * steps + step * block;
        for (int d = 0; d < block; d += 16) {
            if (Simd::kLanes == 16 || d + 16 <= block) {
                store(c + d, out + d);
                continue;
            }
            uint32_t words[16];
            store(c + d, words);
            memcpy(out + d, words, static_cast<size_t>(block - d) * sizeof *words);
        }
    }
}

// Values as float32, and as the float16 nearest to them for half-int8.
INT_FLASH_INLINE void pack_float_values(const RowSource& rows, Precision precision, int64_t begin, int64_t end, int64_t last, HeadPack* head,
                                        Scratch* scratch, HeadStats* stats) {
    const int dim = rows.dim;
    const int width = static_cast<int>(round_up(dim, Simd::kLanes));
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
        store_value_words(static_cast<uint32_t*>(head->values), head->padded, token, width, [row](int channel, uint32_t* out) INT_FLASH_LAMBDA {
            Simd::store(reinterpret_cast<float*>(out), Simd::load(row + channel));
        });
        head->tau[token] = 0.0f;
        head->inverse_weight[token] = token < end ? 1.0f : 0.0f;
    }
}

template <int kDim>
INT_FLASH_OUTLINE void pack_values_of(const RowSource& rows, const float* scales, ptrdiff_t scale_stride, Precision precision,
                                      const float* channel_max, int64_t begin, int64_t end, HeadPack* head, Scratch* scratch, HeadStats* stats) {
    const int dim = kDim > 0 ? kDim : rows.dim;
    const int width = static_cast<int>(round_up(dim, Simd::kLanes));
    // Past the end, products read up to a whole granule, except where they start from a tile's sums, and scores whole key blocks.
    const bool ends = end == head->tokens;
    const int64_t last = !ends ? end : Simd::kOffsetProducts ? head->padded : round_up(end, kGranule);
    stats->max_bits = 0;
    if (precision == Precision::kHalfInt8 || precision == Precision::kFp32)
        return pack_float_values(rows, precision, begin, end, ends ? round_up(end, kBlock) : end, head, scratch, stats);
    constexpr int kCodeRow = kMaxHeadDim + 64;  // distance of the rows in Scratch::codes
    alignas(64) float weight[kTileKeys];
    for (int64_t tile = begin; tile < last; tile += kTileKeys) {
        int32_t* sums = head->value_sums + tile / kTileKeys * width;
        if (Simd::kOffsetProducts) memset(sums, 0, sizeof(int32_t) * static_cast<size_t>(width));
        const int count = last - tile < kTileKeys ? static_cast<int>(last - tile) : kTileKeys;
        for (int j = 0; j < count; j += kGranule) {
            for (int g = 0; g < kGranule; g++) {
                const int64_t token = tile + j + g;
                int8_t* codes = scratch->codes + g * kCodeRow;
                weight[j + g] = 1.0f;
                if (token >= end) {
                    memset(codes, 0, static_cast<size_t>(width));
                } else if (rows.type == ElementType::kInt8) {
                    copy_codes(code_row(rows, token), dim, codes);
                    if (scale_stride != 0) weight[j + g] = scales[token * scale_stride] > kMinGivenWeight ? scales[token * scale_stride] : kMinGivenWeight;
                } else {
                    const float* row = next_row_floats(rows, token, end, scratch->row);
                    const uint32_t bits = largest_magnitude_bits(row, dim);
                    stats->max_bits = bits > stats->max_bits ? bits : stats->max_bits;
                    weight[j + g] = encode_value(row, dim, precision, channel_max, codes);
                }
            }
            store_value_words(static_cast<uint32_t*>(head->values), head->padded / kGranule, (tile + j) / kGranule, width,
                              [codes = scratch->codes](int channel, uint32_t* out) INT_FLASH_LAMBDA { Simd::interleave(codes + channel, kCodeRow, out); });
            if (Simd::kOffsetProducts) {
                for (int g = 0; g < kGranule; g++)
                    for (int d = 0; d < width; d++) sums[d] += 128 * scratch->codes[g * kCodeRow + d];
            }
        }
        const int visible = end - tile < kTileKeys ? static_cast<int>(end - tile) : kTileKeys;
        for (int j = visible; j < kTileKeys && j < visible + 32; j++) weight[j] = 1.0f;
        for (int j = 0; j < round_up(visible, kBlock); j += 32) {
            if (j >= visible) {
                memset(head->tau + tile + j, 0, 128);
                memset(head->inverse_weight + tile + j, 0, 128);
                continue;
            }
            Simd::read_weights(weight + j, head->inverse_weight + tile + j, head->tau + tile + j);
            for (int i = visible; i < j + 32; i++) head->inverse_weight[tile + i] = 0.0f;
        }
    }
}

void pack_values(const RowSource& rows, const float* scales, ptrdiff_t scale_stride, Precision precision, const float* channel_max,
                 int64_t begin, int64_t end, HeadPack* head, Scratch* scratch, HeadStats* stats) {
    with_dim(rows.dim, [&](auto dim) {
        pack_values_of<decltype(dim)::value>(rows, scales, scale_stride, precision, channel_max, begin, end, head, scratch, stats);
    });
}

}  // namespace
}  // namespace int_flash
