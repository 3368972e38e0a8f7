// y = W·x + bias with INT4 weights, a scale for each group of neighbouring columns, and inputs in INT8 with a scale a group: exact int32
// dots within a group (the register tile of the INT8 layer), scaled and added up in float32, group by group.
#pragma once
#include "linear_rows.h"

namespace int_flash {
namespace {

// [row block][cols / granule / 2][kBlock rows][granule] bytes: code + 8 of one word in the low nibble, of the next word in the high one.
size_t linear_int4_bytes(int rows, int cols) { return static_cast<size_t>(round_up(rows, kBlock)) * static_cast<size_t>(cols) / 2; }

// `codes`: two's complement nibbles, low one first, [rows, cols]; cols is a multiple of 32.
void pack_linear_int4(const uint8_t* codes, int rows, int cols, void* packed) {
    uint8_t* out = static_cast<uint8_t*>(packed);
    const auto code = [&](int64_t row, int64_t col) {
        if (row >= rows) return 8;
        const int64_t at = row * cols + col;
        return ((codes[at / 2] >> (at % 2 * 4)) & 15) ^ 8;
    };
    for (int64_t block = 0; block < round_up(rows, kBlock); block += kBlock)
        for (int64_t c = 0; c < cols; c += 2 * kGranule)
            for (int64_t r = block; r < block + kBlock; r++)
                for (int g = 0; g < kGranule; g++) *out++ = static_cast<uint8_t>(code(r, c + g) | code(r, c + kGranule + g) << 4);
}

// One group's nibbles to the bytes that LinearOp loads.
INT_FLASH_INLINE void unpack_panel(const uint8_t* nibbles, int words, uint8_t* panel) {
    constexpr int kStep = kBlock * kGranule;  // bytes of a word of every row
    constexpr auto kOffset = static_cast<uint8_t>((Simd::kKeyFlip & 0xffu) - 8u);
    for (int w = 0; w < words; w += 2) {
        const uint8_t* from = nibbles + w / 2 * kStep;
        uint8_t *low = panel + w * kStep, *high = low + kStep;
        for (int i = 0; i < kStep; i++) {
            low[i] = static_cast<uint8_t>((from[i] & 15) + kOffset);
            high[i] = static_cast<uint8_t>((from[i] >> 4) + kOffset);
        }
    }
}

// kTiles times kRows tokens; a group's weights are unpacked once for them all.
template <int kRows, int kTiles>
INT_FLASH_INLINE void linear_int4_tiles(const LinearArgs& args, int block, int token, Scratch* scratch) {
    const int words = args.group / kGranule, groups = args.cols / args.group;
    const uint8_t* nibbles = static_cast<const uint8_t*>(args.weights) + static_cast<ptrdiff_t>(block) * args.cols / 2;
    const float* weight_scale = args.scales + static_cast<ptrdiff_t>(block) * groups;
    const uint32_t* input = static_cast<const uint32_t*>(args.input) + static_cast<ptrdiff_t>(token) * args.input_words;
    uint8_t* panel = reinterpret_cast<uint8_t*>(scratch->tile_keys);
    float* total = scratch->out;
    int32_t* sums = scratch->scores;
    static_assert(kTiles * kRows <= kMaxBlockRows && kBlock <= kMaxHeadDim, "totals fit Scratch::out");
    for (int i = 0; i < kTiles * kRows * kBlock; i++) total[i] = 0.0f;
    for (int g = 0; g < groups; g++) {
        unpack_panel(nibbles + static_cast<ptrdiff_t>(g) * words / 2 * kBlock * kGranule, words, panel);
        const float* w = weight_scale + g * kBlock;
        for (int first = 0; first < kTiles * kRows; first += kRows) {
            const int32_t* start = args.starts + static_cast<ptrdiff_t>(token + first) * groups + g;
            register_tile<LinearOp, kRows, Simd::kVectors>(
                panel, input + static_cast<ptrdiff_t>(first) * args.input_words + g * words, args.input_words, words,
                [=](int r, int) INT_FLASH_LAMBDA { return Simd::kOffsetScores ? Simd::splat_int(start[r * groups]) : Simd::zero_ints(); },
                [=](int r, int v, Simd::Ints sum) INT_FLASH_LAMBDA { Simd::store_ints(sums + r * kBlock + v * Simd::kLanes, sum); });
            for (int r = 0; r < kRows; r++) {
                const float x = args.input_scale[static_cast<ptrdiff_t>(token + first + r) * groups + g];
                float* to = total + (first + r) * kBlock;
                for (int i = 0; i < kBlock; i++) to[i] += static_cast<float>(sums[r * kBlock + i]) * (x * w[i]);
            }
        }
    }
    const int width = args.last_row - block < kBlock ? args.last_row - block : kBlock;
    for (int r = 0; r < kTiles * kRows; r++) {
        float* out = args.out + static_cast<ptrdiff_t>(token + r) * args.out_stride + (block - args.first_row);
        for (int i = 0; i < width; i++) {
            const float y = args.bias ? total[r * kBlock + i] + args.bias[block + i] : total[r * kBlock + i];
            out[i] = args.accumulate ? out[i] + y : y;
        }
    }
}

void linear_int4(const LinearArgs& args, Scratch* scratch) {
    constexpr int kTiles = 4;
    for (int block = args.first_row; block < args.last_row; block += kBlock) {
        int token = 0;
        for (; token + kTiles * kRowGroup <= args.tokens; token += kTiles * kRowGroup) linear_int4_tiles<kRowGroup, kTiles>(args, block, token, scratch);
        for (; token + kRowGroup <= args.tokens; token += kRowGroup) linear_int4_tiles<kRowGroup, 1>(args, block, token, scratch);
        for (; token < args.tokens; token++) linear_int4_tiles<1, 1>(args, block, token, scratch);
    }
}

}  // namespace
}  // namespace int_flash
