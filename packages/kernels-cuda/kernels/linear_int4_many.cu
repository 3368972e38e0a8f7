// See linear_int4.h: many tokens, tiles of 64 tokens x 64 rows or 32 x 32 on tensor cores (mma.sync m16n8k32), a block of 128 columns a step, some stages of cp.async.
#include <cuda_runtime.h>

#include <type_traits>

#include "float_sums.cuh"
#include "grid_limits.h"
#include "int4_block.cuh"
#include "ptx/copy_async.cuh"
#include "ptx/mma.cuh"

namespace intflash {
namespace {

constexpr int kThreads = 128;

/** Four warps, two by two, each some products' rows of sixteen by some products' tokens of eight; kBlocksAtOnce find room on a processor. */
template <int kRowTiles_, int kTokenTiles_, int kStages_, int kBlocksAtOnce_> struct Int4Tile {
    static constexpr int kRowTiles = kRowTiles_, kTokenTiles = kTokenTiles_, kStages = kStages_, kBlocksAtOnce = kBlocksAtOnce_, kRows = 32 * kRowTiles, kTokens = 16 * kTokenTiles;
};
using LargeTile = Int4Tile<2, 4, 3, 3>;
using SmallTile = Int4Tile<1, 2, 6, 5>;

template <class T, int kScales> struct alignas(128) Stage {
    uint8_t weights[T::kRows][kBlockCodeBytes];
    int8_t input[T::kTokens][kInt4Columns];  // odd rows' chunks of 16 bytes in pairs the other way round, so that eight lanes' lie in different banks
    float w_scales[T::kRows][kScales], x_scales[T::kTokens][kScales];
};

template <class T, int kGroup> __global__ void __launch_bounds__(kThreads, T::kBlocksAtOnce) linear_int4_many(const Int4Weights weights, const GroupRows input, int tokens, float* out, bool accumulate) {
    constexpr int kScales = kScalesOf<kGroup>, kPartsEach = kInt4Parts / kScales, kRows = T::kRows, kTokens = T::kTokens, kStages = T::kStages, kRowTiles = T::kRowTiles, kTokenTiles = T::kTokenTiles;
    __shared__ Stage<T, kScales> stages[kStages];
    const int first_row = blockIdx.x * kRows, first_token = blockIdx.y * kTokens, blocks = weights.columns / kInt4Columns;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, r = lane / 4, c = lane % 4, row_part = warp % 2 * kRows / 2, token_part = warp / 2 * kTokens / 2;
    const auto fetch = [&](int block) {
        if (block < blocks) {
            Stage<T, kScales>& stage = stages[block % kStages];
            constexpr int kCodeChunks = kBlockCodeBytes / 16, kInputChunks = kInt4Columns / 16;
#pragma unroll
            for (int i = threadIdx.x; i < kRows * kCodeChunks; i += kThreads) {
                const int row = i / kCodeChunks, chunk = i % kCodeChunks;
                const bool inside = first_row + row < weights.rows;
                copy_async<16>(shared_address_of(&stage.weights[row][chunk * 16]), weights.codes + static_cast<int64_t>(inside ? first_row + row : 0) * (weights.columns / 2) + block * kBlockCodeBytes + chunk * 16, inside);
            }
#pragma unroll
            for (int i = threadIdx.x; i < kTokens * kInputChunks; i += kThreads) {
                const int token = i / kInputChunks, chunk = i % kInputChunks;
                const bool inside = first_token + token < tokens;
                copy_async<16>(shared_address_of(&stage.input[token][(chunk ^ token % 2) * 16]), input.codes + static_cast<int64_t>(inside ? first_token + token : 0) * weights.columns + block * kInt4Columns + chunk * 16, inside);
            }
#pragma unroll
            for (int i = threadIdx.x; i < kRows * kScales; i += kThreads) {
                const int row = i / kScales, g = i % kScales;
                const bool inside = first_row + row < weights.rows;
                copy_async<4>(shared_address_of(&stage.w_scales[row][g]), weights.scales + (static_cast<int64_t>(inside ? first_row + row : 0) * blocks + block) * kScales + g, inside);
            }
#pragma unroll
            for (int i = threadIdx.x; i < kTokens * kScales; i += kThreads) {
                const int token = i / kScales, g = i % kScales;
                const bool inside = first_token + token < tokens;
                copy_async<4>(shared_address_of(&stage.x_scales[token][g]), input.scales + (static_cast<int64_t>(inside ? first_token + token : 0) * blocks + block) * kScales + g, inside);
            }
        }
        commit_copies();
    };
    for (int block = 0; block < kStages - 1; ++block) fetch(block);
    float y[kRowTiles][kTokenTiles][4] = {};
    for (int block = 0; block < blocks; ++block) {
        wait_for_copies<kStages - 2>();
        __syncthreads();  // this block is there for all, and the stage fetched next is read by nobody any more
        fetch(block + kStages - 1);
        const Stage<T, kScales>& stage = stages[block % kStages];
        int4 w[kRowTiles][2];
        LaneInput x[kTokenTiles];
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) w[m][half] = *reinterpret_cast<const int4*>(&stage.weights[row_part + m * 16 + half * 8 + r][c * kLaneCodeBytes]);
#pragma unroll
        for (int n = 0; n < kTokenTiles; ++n)
#pragma unroll
            for (int half = 0; half < 2; ++half) x[n].halves[half] = *reinterpret_cast<const int4*>(&stage.input[token_part + n * 8 + r][((c * 2 + half) ^ r % 2) * 16]);
#pragma unroll
        for (int g = 0; g < kScales; ++g) {
            int sums[kRowTiles][kTokenTiles][4];
#pragma unroll
            for (int part = g * kPartsEach; part < (g + 1) * kPartsEach; ++part)
#pragma unroll
                for (int m = 0; m < kRowTiles; ++m) {
                    const uint32_t low = part_of(w[m][0], part), high = part_of(w[m][1], part);
                    const uint32_t a[4] = {even_codes(low), even_codes(high), odd_codes(low), odd_codes(high)};
#pragma unroll
                    for (int n = 0; n < kTokenTiles; ++n) {
                        if (part == g * kPartsEach) mma_s8_onto(sums[m][n], a, x[n].even(part), x[n].odd(part), 0);
                        else mma_s8(sums[m][n], a, x[n].even(part), x[n].odd(part));
                    }
                }
            float w_scales[kRowTiles][2];
#pragma unroll
            for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
                for (int half = 0; half < 2; ++half) w_scales[m][half] = stage.w_scales[row_part + m * 16 + half * 8 + r][g];
#pragma unroll
            for (int n = 0; n < kTokenTiles; ++n) {
                const float x_scales[2] = {stage.x_scales[token_part + n * 8 + 2 * c][g], stage.x_scales[token_part + n * 8 + 2 * c + 1][g]};
#pragma unroll
                for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
                    for (int k = 0; k < 4; ++k) y[m][n][k] = __fadd_rn(y[m][n][k], group_term(sums[m][n][k], x_scales[k % 2], w_scales[m][k / 2]));
            }
        }
    }
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n)
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const int token = first_token + token_part + n * 8 + 2 * c + k % 2;
            if (token >= tokens) continue;
#pragma unroll
            for (int m = 0; m < kRowTiles; ++m) {
                const int row = first_row + row_part + m * 16 + k / 2 * 8 + r;
                if (row < weights.rows) finish_float(weights.bias, row, y[m][n][k], out + static_cast<int64_t>(token) * weights.rows + row, accumulate);
            }
        }
}

/** With fewer blocks of LargeTile, two for each processor of a large GPU, a block's chain of steps is what takes long. */
constexpr int64_t kFewBlocks = 264;

template <class T> dim3 grid_of(const Int4Weights& weights, int tokens) { return dim3((weights.rows + T::kRows - 1) / T::kRows, (tokens + T::kTokens - 1) / T::kTokens); }

template <class T> cudaError_t launch(const Int4Weights& weights, const GroupRows& input, int tokens, float* out, bool accumulate, cudaStream_t stream) {
    const dim3 grid = grid_of<T>(weights, tokens);
    if (grid.y > kMaxGridY) return cudaErrorInvalidConfiguration;
    return with_group(weights.group, [&](auto size) {
        linear_int4_many<T, size.value><<<grid, kThreads, 0, stream>>>(weights, input, tokens, out, accumulate);
        return cudaGetLastError();
    });
}

}  // namespace

cudaError_t launch_linear_int4_many(const Int4Weights& weights, const GroupRows& input, int tokens, float* out, bool accumulate, cudaStream_t stream) {
    const dim3 large = grid_of<LargeTile>(weights, tokens);
    const auto launch_as = int64_t{large.x} * large.y < kFewBlocks ? launch<SmallTile> : launch<LargeTile>;
    return launch_as(weights, input, tokens, out, accumulate, stream);
}

}  // namespace intflash
