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

INT_FLASH_INLINE void finish_int4_row(const LinearArgs& args, int block, int token, const float* total) {
    const int width = args.last_row - block < kBlock ? args.last_row - block : kBlock;
    float* out = args.out + static_cast<ptrdiff_t>(token) * args.out_stride + (block - args.first_row);
    for (int i = 0; i < width; i++) {
        const float y = args.bias ? total[i] + args.bias[block + i] : total[i];
        out[i] = args.accumulate ? out[i] + y : y;
    }
}

// A group's part of a total: its sum in float32, times the scales of the input and of the rows.
INT_FLASH_INLINE Simd::Partial with_group(Simd::Partial total, Simd::Ints sum, Simd::Partial input_scale, const float* weight_scale) {
    return Simd::plus(total, Simd::multiply(Simd::to_floats(sum), Simd::multiply(input_scale, Simd::load_floats(weight_scale))));
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
    static_assert(kTiles * kRows <= kMaxBlockRows && kBlock <= kMaxHeadDim, "totals fit Scratch::out");
    for (int i = 0; i < kTiles * kRows * kBlock; i++) total[i] = 0.0f;
    for (int g = 0; g < groups; g++) {
        unpack_panel(nibbles + static_cast<ptrdiff_t>(g) * words / 2 * kBlock * kGranule, words, panel);
        const float* w = weight_scale + g * kBlock;
        for (int first = 0; first < kTiles * kRows; first += kRows) {
            const int32_t* start = args.starts + static_cast<ptrdiff_t>(token + first) * groups + g;
            const float* x = args.input_scale + static_cast<ptrdiff_t>(token + first) * groups + g;
            float* to = total + first * kBlock;
            register_tile<LinearOp, kRows, Simd::kVectors>(
                panel, input + static_cast<ptrdiff_t>(first) * args.input_words + g * words, args.input_words, words,
                [=](int r, int) INT_FLASH_LAMBDA { return Simd::kOffsetScores ? Simd::splat_int(start[r * groups]) : Simd::zero_ints(); },
                [=](int r, int v, Simd::Ints sum) INT_FLASH_LAMBDA {
                    float* at = to + r * kBlock + v * Simd::kLanes;
                    Simd::store_floats(at, with_group(Simd::load_floats(at), sum, Simd::spread_float(x + static_cast<ptrdiff_t>(r) * groups), w + v * Simd::kLanes));
                });
        }
    }
    for (int r = 0; r < kTiles * kRows; r++) finish_int4_row(args, block, token + r, total + r * kBlock);
}

// One token: codes become bytes in registers, since no other wants them; as code + 8, for which sums start at a sixteenth of what code + 128 has. Even and odd
// words' sums are apart, so that twice as many dot products are under way. `S`: Simd, where codes are stored with an offset.
template <class S>
INT_FLASH_INLINE void linear_int4_token(const LinearArgs& args, int block, int token, float* total) {
    using Ints = typename S::Ints;
    using Partial = typename S::Partial;
    constexpr int V = S::kVectors;
    const int words = args.group / kGranule, groups = args.cols / args.group;
    const uint8_t* nibbles = static_cast<const uint8_t*>(args.weights) + static_cast<ptrdiff_t>(block) * args.cols / 2;
    const float* weight_scale = args.scales + static_cast<ptrdiff_t>(block) * groups;
    const uint32_t* input = static_cast<const uint32_t*>(args.input) + static_cast<ptrdiff_t>(token) * args.input_words;
    const ptrdiff_t first = static_cast<ptrdiff_t>(token) * groups;
    Partial t0 = S::zero_floats(), t1 = t0, t2 = t0, t3 = t0;
    for (int g = 0; g < groups; g++, weight_scale += kBlock) {
        Ints e0 = S::splat_int(args.starts[first + g] / 16), e1 = e0, e2 = e0, e3 = e0, o0 = S::zero_ints(), o1 = o0, o2 = o0, o3 = o0;
        for (int w = 0; w < words; w += 2, input += 2, nibbles += kBlock * kGranule) {
            const Ints even = S::spread(input), odd = S::spread(input + 1);
            const auto dot = [&](int v, Ints& e, Ints& o) INT_FLASH_LAMBDA {
                const Ints packed = S::load_linear(nibbles, v);
                e = S::dot_scores(e, S::low_nibbles(packed), even);
                o = S::dot_scores(o, S::high_nibbles(packed), odd);
            };
            dot(0, e0, o0);
            if constexpr (V > 1) dot(1, e1, o1);
            if constexpr (V > 2) dot(2, e2, o2);
            if constexpr (V > 3) dot(3, e3, o3);
        }
        const Partial x = S::spread_float(args.input_scale + first + g);
        t0 = with_group(t0, S::plus(e0, o0), x, weight_scale);
        if constexpr (V > 1) t1 = with_group(t1, S::plus(e1, o1), x, weight_scale + S::kLanes);
        if constexpr (V > 2) t2 = with_group(t2, S::plus(e2, o2), x, weight_scale + 2 * S::kLanes);
        if constexpr (V > 3) t3 = with_group(t3, S::plus(e3, o3), x, weight_scale + 3 * S::kLanes);
    }
    S::store_floats(total, t0);
    if constexpr (V > 1) S::store_floats(total + S::kLanes, t1);
    if constexpr (V > 2) S::store_floats(total + 2 * S::kLanes, t2);
    if constexpr (V > 3) S::store_floats(total + 3 * S::kLanes, t3);
    finish_int4_row(args, block, token, total);
}

void linear_int4(const LinearArgs& args, Scratch* scratch) {
    constexpr int kTiles = 4;
    for (int block = args.first_row; block < args.last_row; block += kBlock) {
        int token = 0;
        for (; token + kTiles * kRowGroup <= args.tokens; token += kTiles * kRowGroup) linear_int4_tiles<kRowGroup, kTiles>(args, block, token, scratch);
        for (; token + kRowGroup <= args.tokens; token += kRowGroup) linear_int4_tiles<kRowGroup, 1>(args, block, token, scratch);
        for (; token < args.tokens; token++) {
            if constexpr (Simd::kOffsetScores) linear_int4_token<Simd>(args, block, token, scratch->out);
            else linear_int4_tiles<1, 1>(args, block, token, scratch);
        }
    }
}

}  // namespace
}  // namespace int_flash
