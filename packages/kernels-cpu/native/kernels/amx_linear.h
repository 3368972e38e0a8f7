// linear_int8 of linear_rows.h, to the same bits, for many tokens: 32 of them by 32 rows of weights at a time on AMX.
#pragma once
#include "linear_rows.h"
#include "simd/amx_tiles.h"

namespace int_flash {
namespace {

constexpr int kAmxTokens = 2 * kAmxRows;

// Columns that are multiplied for all rows before the next ones: 32 tokens' codes of so many stay in the fastest cache (docs/results/cpu/log.md).
constexpr int kAmxDepth = 512;

// Onto `sums`, or `starts` where there are none yet: columns of tokens `first` … and `second` …, sixteen each, times 32 rows of weights. The rows' sums of one token are
// `sum_stride` bytes apart.
INT_FLASH_INLINE void amx_linear_square(const LinearArgs& args, const uint8_t* packed, int first, int second, int begin, int end, const int32_t (*starts)[kAmxRows], int32_t* sums,
                                        ptrdiff_t sum_stride) {
    const ptrdiff_t stride = static_cast<ptrdiff_t>(args.input_words) * 4;
    const char* x = static_cast<const char*>(args.input);
    const char *x0 = x + first * stride, *x1 = x + second * stride;
    constexpr ptrdiff_t kStride = kBlock * kGranule;
    int32_t* lower = sums + kAmxRows * (sum_stride / 4);
    if (begin == 0) {
        amx_load<kSums0>(starts[0], kAmxBytes);
        amx_load<kSums1>(starts[0], kAmxBytes);
        amx_load<kSums2>(starts[kAmxRows], kAmxBytes);
        amx_load<kSums3>(starts[kAmxRows], kAmxBytes);
    } else {
        amx_load<kSums0>(sums, sum_stride);
        amx_load<kSums1>(sums + kAmxRows, sum_stride);
        amx_load<kSums2>(lower, sum_stride);
        amx_load<kSums3>(lower + kAmxRows, sum_stride);
    }
    packed += begin / kGranule * kStride;
    for (int c = begin; c < end; c += kAmxBytes, packed += kAmxRows * kStride) {
        amx_load<kLeft>(x0 + c, stride);
        amx_load<kRight>(packed, kStride);
        amx_dot_signed<kSums0, kLeft, kRight>();
        amx_load<kRightRest>(packed + kAmxBytes, kStride);
        amx_dot_signed<kSums1, kLeft, kRightRest>();
        amx_load<kLeftRest>(x1 + c, stride);
        amx_dot_signed<kSums2, kLeftRest, kRight>();
        amx_dot_signed<kSums3, kLeftRest, kRightRest>();
    }
    amx_store<kSums0>(sums, sum_stride);
    amx_store<kSums1>(sums + kAmxRows, sum_stride);
    amx_store<kSums2>(lower, sum_stride);
    amx_store<kSums3>(lower + kAmxRows, sum_stride);
}

void amx_linear_int8(const LinearArgs& args, Scratch* scratch) {
    if (args.tokens < kAmxRows || args.cols % kAmxBytes != 0) return linear_int8(args, scratch);
    const AmxShapes shapes(0);
    int32_t* sums = reinterpret_cast<int32_t*>(scratch->float_tile);
    constexpr int kMostRows = static_cast<int>(sizeof scratch->float_tile / sizeof(int32_t) / kAmxTokens) / kBlock * kBlock - kBlock;
    for (int base = 0; base < args.tokens; base += kAmxTokens) {
        // The last sixteen tokens may be some of the first ones again; no sums are finished twice.
        const int last = args.tokens - kAmxRows, first = base < last ? base : last, second = base + kAmxRows < last ? base + kAmxRows : last;
        const int end = base + kAmxTokens < args.tokens ? base + kAmxTokens : args.tokens;
        for (int i = 0; i < kAmxTokens; i++) {
            const int token = i < kAmxRows ? first + i : second + i - kAmxRows;
            Simd::store_ints(scratch->tile_starts[i], Simd::splat_int(args.starts[token]));
        }
        for (int rows = args.first_row; rows < args.last_row; rows += kMostRows) {
            const int rows_end = rows + kMostRows < args.last_row ? rows + kMostRows : args.last_row;
            const ptrdiff_t stride = round_up(rows_end - rows, kBlock) + kAmxRows;  // no power of two
            for (int c = 0; c < args.cols; c += kAmxDepth) {
                const int c_end = c + kAmxDepth < args.cols ? c + kAmxDepth : args.cols;
                for (int row = rows; row < rows_end; row += 2 * kAmxRows) {
                    const int block = rows + (row - rows) / kBlock * kBlock;
                    const uint8_t* packed = static_cast<const uint8_t*>(args.weights) + static_cast<ptrdiff_t>(block) * args.cols + (row - block) * kGranule;
                    amx_linear_square(args, packed, first, second, c, c_end, scratch->tile_starts, sums + (row - rows), stride * 4);
                }
            }
            for (int token = base; token < end; token++) {
                const int at = token < base + kAmxRows && token >= first ? token - first : kAmxRows + token - second;
                finish_linear_row(sums + at * stride, args.input_scale[token], args.scales + rows, args.bias ? args.bias + rows : nullptr, args.accumulate, rows_end - rows,
                                  args.out + static_cast<ptrdiff_t>(token) * args.out_stride + (rows - args.first_row));
            }
        }
    }
}

}  // namespace
}  // namespace int_flash
