// linear_int8 of linear_rows.h, to the same bits, for many tokens: 32 of them by 32 rows of weights at a time on AMX.
#pragma once
#include "linear_rows.h"
#include "simd/amx_tiles.h"

namespace int_flash {
namespace {

constexpr int kAmxTokens = 2 * kAmxRows;

// W·x of tokens `first` … and `second` …, sixteen each, and 32 rows of weights; the rows of one token are kBlock apart in `sums`.
INT_FLASH_INLINE void amx_linear_square(const LinearArgs& args, const uint8_t* packed, int first, int second, const int32_t (*starts)[kAmxRows], int32_t* sums) {
    const ptrdiff_t stride = static_cast<ptrdiff_t>(args.input_words) * 4;
    const char* x = static_cast<const char*>(args.input);
    const char *x0 = x + first * stride, *x1 = x + second * stride;
    constexpr ptrdiff_t kStride = kBlock * kGranule, kSumStride = kBlock * sizeof(int32_t);
    amx_load<kSums0>(starts[0], kAmxBytes);
    amx_load<kSums1>(starts[0], kAmxBytes);
    amx_load<kSums2>(starts[kAmxRows], kAmxBytes);
    amx_load<kSums3>(starts[kAmxRows], kAmxBytes);
    for (int c = 0; c < args.cols; c += kAmxBytes, packed += kAmxRows * kStride) {
        amx_load<kLeft>(x0 + c, stride);
        amx_load<kRight>(packed, kStride);
        amx_dot_signed<kSums0, kLeft, kRight>();
        amx_load<kRightRest>(packed + kAmxBytes, kStride);
        amx_dot_signed<kSums1, kLeft, kRightRest>();
        amx_load<kLeftRest>(x1 + c, stride);
        amx_dot_signed<kSums2, kLeftRest, kRight>();
        amx_dot_signed<kSums3, kLeftRest, kRightRest>();
    }
    int32_t* lower = sums + kAmxRows * kBlock;
    amx_store<kSums0>(sums, kSumStride);
    amx_store<kSums1>(sums + kAmxRows, kSumStride);
    amx_store<kSums2>(lower, kSumStride);
    amx_store<kSums3>(lower + kAmxRows, kSumStride);
}

void amx_linear_int8(const LinearArgs& args, Scratch* scratch) {
    if (args.tokens < kAmxRows || args.cols % kAmxBytes != 0) return linear_int8(args, scratch);
    const AmxShapes shapes(0);
    int32_t* sums = scratch->tile_sums[0];
    for (int base = 0; base < args.tokens; base += kAmxTokens) {
        // The last sixteen tokens may be some of the first ones again; no sums are finished twice.
        const int last = args.tokens - kAmxRows, first = base < last ? base : last, second = base + kAmxRows < last ? base + kAmxRows : last;
        const int end = base + kAmxTokens < args.tokens ? base + kAmxTokens : args.tokens;
        for (int i = 0; i < kAmxTokens; i++) {
            const int token = i < kAmxRows ? first + i : second + i - kAmxRows;
            Simd::store_ints(scratch->tile_starts[i], Simd::splat_int(args.starts[token]));
        }
        for (int block = args.first_row; block < args.last_row; block += kBlock) {
            const uint8_t* packed = static_cast<const uint8_t*>(args.weights) + static_cast<ptrdiff_t>(block) * args.cols;
            for (int row = 0; row < kBlock; row += 2 * kAmxRows) amx_linear_square(args, packed + row * kGranule, first, second, scratch->tile_starts, sums + row);
            const int width = args.last_row - block < kBlock ? args.last_row - block : kBlock;
            for (int token = base; token < end; token++) {
                const int row = token < base + kAmxRows && token >= first ? token - first : kAmxRows + token - second;
                finish_linear_row(sums + row * kBlock, args.input_scale[token], args.scales + block, args.bias ? args.bias + block : nullptr, args.accumulate, width,
                                  args.out + static_cast<ptrdiff_t>(token) * args.out_stride + (block - args.first_row));
            }
        }
    }
}

}  // namespace
}  // namespace int_flash
