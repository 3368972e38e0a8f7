// y = W·x + bias. INT8: exact int32 dots of packed weights (the register tile of Q·Kᵀ, weights in place of keys).
// float32: 16 partial sums a dot, column c into sum c mod 16 by fma, folded 8, 4, 2, 1: the same bits on every instruction set.
#pragma once
#include "machine_limits.h"

namespace int_flash {
namespace {

constexpr ptrdiff_t kAheadBytes = 2048;  // float weights that one token reads come from memory: so far ahead
constexpr int kLinearColumns = 4;  // columns are padded to whole words of any granule

size_t linear_int8_bytes(int rows, int cols) {
    return static_cast<size_t>(round_up(rows, kBlock)) * static_cast<size_t>(round_up(cols, kLinearColumns));
}

// [row block][cols / granule][kBlock rows][granule] codes.
void pack_linear_int8(const int8_t* codes, int rows, int cols, void* packed) {
    const int padded = static_cast<int>(round_up(cols, kLinearColumns));
    uint8_t* out = static_cast<uint8_t*>(packed);
    const uint8_t flip = static_cast<uint8_t>(Simd::kKeyFlip & 0xffu);
    for (int64_t block = 0; block < round_up(rows, kBlock); block += kBlock) {
        for (int64_t c = 0; c < padded; c += kGranule) {
            for (int64_t r = block; r < block + kBlock; r++) {
                for (int g = 0; g < kGranule; g++) {
                    const bool inside = r < rows && c + g < cols;
                    *out++ = static_cast<uint8_t>(static_cast<uint8_t>(inside ? codes[r * cols + c + g] : 0) ^ flip);
                }
            }
        }
    }
}

// out = sum · (input scale · row scale) + bias, or that added to out.
INT_FLASH_INLINE void finish_linear_row(const int32_t* sums, float x, const float* scales, const float* bias, bool accumulate, int width, float* out) {
    if (!bias && !accumulate) {
        for (int i = 0; i < width; i++) out[i] = static_cast<float>(sums[i]) * (x * scales[i]);
        return;
    }
    for (int i = 0; i < width; i++) {
        float y = static_cast<float>(sums[i]) * (x * scales[i]);
        if (bias) y = y + bias[i];
        out[i] = accumulate ? out[i] + y : y;
    }
}

template <int kRows>
INT_FLASH_INLINE void linear_int8_rows(const LinearArgs& args, int block, int token, int32_t* sums) {
    const int steps = static_cast<int>(round_up(args.cols, kLinearColumns)) / kGranule;
    const uint8_t* packed = static_cast<const uint8_t*>(args.weights) + static_cast<ptrdiff_t>(block) * steps * kGranule;
    const uint32_t* words = static_cast<const uint32_t*>(args.input) + static_cast<ptrdiff_t>(token) * args.input_words;
    const int32_t* starts = args.starts + token;
    register_tile<LinearOp, kRows, Simd::kVectors>(
        packed, words, args.input_words, steps,
        [=](int r, int) INT_FLASH_LAMBDA { return Simd::kOffsetScores ? Simd::splat_int(starts[r]) : Simd::zero_ints(); },
        [=](int r, int v, Simd::Ints sum) INT_FLASH_LAMBDA { Simd::store_ints(sums + r * kBlock + v * Simd::kLanes, sum); });
    const int width = args.last_row - block < kBlock ? args.last_row - block : kBlock;
    for (int r = 0; r < kRows; r++) {
        const float x = args.input_scale[token + r];
        float* out = args.out + static_cast<ptrdiff_t>(token + r) * args.out_stride + (block - args.first_row);
        finish_linear_row(sums + r * kBlock, x, args.scales + block, args.bias ? args.bias + block : nullptr, args.accumulate, width, out);
    }
}

// A block of weights stays in the fastest cache while some tokens pass; all of them at once would write to a page each.
void linear_int8(const LinearArgs& args, Scratch* scratch) {
    constexpr int kTokensAtOnce = 16;
    for (int base = 0; base < args.tokens; base += kTokensAtOnce) {
        const int end = args.tokens - base < kTokensAtOnce ? args.tokens : base + kTokensAtOnce;
        for (int block = args.first_row; block < args.last_row; block += kBlock) {
            int token = base;
            for (; token + kRowGroup <= end; token += kRowGroup) linear_int8_rows<kRowGroup>(args, block, token, scratch->scores);
            for (; token < end; token++) linear_int8_rows<1>(args, block, token, scratch->scores);
        }
    }
}

INT_FLASH_INLINE Simd::Floats load_weights(const float* p) { return Simd::load(p); }
INT_FLASH_INLINE Simd::Floats load_weights(const uint16_t* p) { return Simd::load_bfloat16(p); }

template <int kTokens, int kRows, class Weight>
INT_FLASH_INLINE void linear_float_tile(const LinearArgs& args, int row, int token, int cols) {
    static_assert(kFloatColumns == 16 && kBlock % kFloatRows == 0, "columns of one Floats; rows are shared out in whole blocks");
    const Weight* w = static_cast<const Weight*>(args.weights) + static_cast<ptrdiff_t>(row / kFloatRows * kFloatRows) * cols + row % kFloatRows * 16;
    const float* x0 = static_cast<const float*>(args.input) + static_cast<ptrdiff_t>(token) * args.input_words;
    const Simd::Floats zero = Simd::splat(0.0f);
    Simd::Floats a0 = zero, a1 = zero, a2 = zero, a3 = zero;  // token 0: rows 0 … 3; with two tokens: rows 0, 1 of each
    for (int c = 0; c < cols; c += 16, w += kFloatRows * 16) {
        const Simd::Floats x = Simd::load(x0 + c);
        const Simd::Floats first = load_weights(w);
        a0 = Simd::fma(first, x, a0);
        if constexpr (kTokens == 2) {
            const Simd::Floats y = Simd::load(x0 + args.input_words + c), second = load_weights(w + 16);
            a1 = Simd::fma(second, x, a1);
            a2 = Simd::fma(first, y, a2);
            a3 = Simd::fma(second, y, a3);
        } else if constexpr (kRows == 4) {
            a1 = Simd::fma(load_weights(w + 16), x, a1);
            a2 = Simd::fma(load_weights(w + 32), x, a2);
            a3 = Simd::fma(load_weights(w + 48), x, a3);
            fetch_ahead(reinterpret_cast<const char*>(w) + kAheadBytes, sizeof(Weight) * kFloatRows * 16);
        }
    }
    const auto put = [&](int t, int r, Simd::Floats sum) INT_FLASH_LAMBDA {
        const float dot = Simd::fold(sum), y = args.bias ? dot + args.bias[row + r] : dot;
        float* out = args.out + static_cast<ptrdiff_t>(token + t) * args.out_stride + (row + r - args.first_row);
        *out = args.accumulate ? *out + y : y;
    };
    put(0, 0, a0);
    if constexpr (kTokens == 2) {
        put(0, 1, a1), put(1, 0, a2), put(1, 1, a3);
    } else if constexpr (kRows == 4) {
        put(0, 1, a1), put(0, 2, a2), put(0, 3, a3);
    }
}

template <class Weight>
INT_FLASH_INLINE void linear_float_rows(const LinearArgs& args) {
    const int cols = static_cast<int>(round_up(args.cols, 16));
    constexpr int kRowsAtOnce = 32;  // of weights that stay in L1 while the tokens pass
    for (int base = args.first_row; base < args.last_row; base += kRowsAtOnce) {
        const int last = base + kRowsAtOnce < args.last_row ? base + kRowsAtOnce : args.last_row;
        int token = 0;
        for (; token + 2 <= args.tokens; token += 2) {
            int row = base;
            for (; row + 2 <= last; row += 2) linear_float_tile<2, 2, Weight>(args, row, token, cols);
            for (; row < last; row++) {
                linear_float_tile<1, 1, Weight>(args, row, token, cols);
                linear_float_tile<1, 1, Weight>(args, row, token + 1, cols);
            }
        }
        for (; token < args.tokens; token++) {
            int row = base;
            for (; row + 4 <= last; row += 4) linear_float_tile<1, 4, Weight>(args, row, token, cols);
            for (; row < last; row++) linear_float_tile<1, 1, Weight>(args, row, token, cols);
        }
    }
}

void linear_float(const LinearArgs& args, Scratch*) {
    if (args.bfloat16) return linear_float_rows<uint16_t>(args);
    linear_float_rows<float>(args);
}

}  // namespace
}  // namespace int_flash
