// See linear_float.h. Four lanes share a product: lane g of the four keeps partial sums 4g … 4g + 3, so that each loads 16 bytes.
//   §1 few tokens: eight rows of weights a warp
//   §2 many tokens: tiles of 32 tokens x 32 rows, four by four products for each group of four lanes
#include <cuda_runtime.h>

#include "float_sums.cuh"
#include "linear_float.h"
#include "ptx/copy_async.cuh"

namespace intflash {
namespace {

constexpr int kFewTokens = 8;
constexpr int kMaxGridY = 65535;  // CUDA's limit

// ── §1 ──
constexpr int kFewThreads = 128;

template <int kTokens, class W>
__global__ void __launch_bounds__(kFewThreads) linear_float_few(const FloatWeights weights, const W* all, const float* input, int tokens, float* out, bool accumulate) {
    const int row = blockIdx.x * (kFewThreads / 4) + threadIdx.x / 4, part = threadIdx.x % 4;
    const int chunks = weights.columns / 4;
    const W* w = all + static_cast<int64_t>(min(row, weights.rows - 1)) * weights.columns;
    const float4* x = reinterpret_cast<const float4*>(input);
    float sums[kTokens][4] = {};
#pragma unroll 4
    for (int c = part; c < chunks; c += 4) {
        const float4 four = four_at(w, c);
#pragma unroll
        for (int t = 0; t < kTokens; ++t)
            if (t < tokens) multiply(sums[t], four, x[static_cast<int64_t>(t) * chunks + c]);
    }
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
        const float y = fold(sums[t]);
        if (part == 0 && t < tokens && row < weights.rows) finish_float(weights.bias, row, y, out + static_cast<int64_t>(t) * weights.rows + row, accumulate);
    }
}

// ── §2 ──
struct FloatTile {
    static constexpr int kTokens = 32, kRows = 32, kDepth = 32, kThreads = 256;
};

template <class W>
__global__ void __launch_bounds__(FloatTile::kThreads) linear_float_many(const FloatWeights weights, const W* all, const float* input, int tokens, float* out, bool accumulate) {
    using T = FloatTile;
    // [stage][x, w][16 columns][32 rows][16 floats]: two groups of four lanes read 128 bytes in a row
    __shared__ alignas(128) float stages[2][2][T::kDepth / 16][32][16];
    const int first_row = blockIdx.x * T::kRows, first_token = blockIdx.y * T::kTokens;
    const int part = threadIdx.x % 4, quad = threadIdx.x / 4, row_part = quad % 8, token_part = quad / 8;
    const int steps = weights.columns / T::kDepth;
    const auto fetch = [&](int step) {
        const int row = threadIdx.x / 8, chunk = threadIdx.x % 8;  // 32 rows x 8 chunks of 16 bytes
        const int64_t column = static_cast<int64_t>(step) * T::kDepth + chunk * 4;
        float(&stage)[2][T::kDepth / 16][32][16] = stages[step % 2];
        // Rows past the end repeat the last one; what is made of them is not stored.
        copy_async_16(shared_address_of(&stage[0][chunk / 4][row][chunk % 4 * 4]), input + static_cast<int64_t>(min(first_token + row, tokens - 1)) * weights.columns + column);
        const W* from = all + static_cast<int64_t>(min(first_row + row, weights.rows - 1)) * weights.columns + column;
        float* to = &stage[1][chunk / 4][row][chunk % 4 * 4];
        if constexpr (sizeof(W) == sizeof(float)) copy_async_16(shared_address_of(to), from);
        commit_copies();
        if constexpr (sizeof(W) != sizeof(float)) *reinterpret_cast<float4*>(to) = four_at(from, 0);
    };
    fetch(0);
    float sums[4][4][4] = {};  // [token][row][partial sum]
    for (int step = 0; step < steps; ++step) {
        wait_for_copies<0>();
        __syncthreads();
        if (step + 1 < steps) fetch(step + 1);
#pragma unroll
        for (int k = 0; k < T::kDepth / 16; ++k) {
            float4 x[4], w[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                x[i] = *reinterpret_cast<const float4*>(&stages[step % 2][0][k][token_part + i * 8][part * 4]);
                w[i] = *reinterpret_cast<const float4*>(&stages[step % 2][1][k][row_part + i * 8][part * 4]);
            }
#pragma unroll
            for (int t = 0; t < 4; ++t)
#pragma unroll
                for (int r = 0; r < 4; ++r) multiply(sums[t][r], w[r], x[t]);
        }
    }
#pragma unroll
    for (int t = 0; t < 4; ++t)
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const float y = fold(sums[t][r]);
            const int token = first_token + token_part + t * 8, row = first_row + row_part + r * 8;
            if (part == r && token < tokens && row < weights.rows) finish_float(weights.bias, row, y, out + static_cast<int64_t>(token) * weights.rows + row, accumulate);
        }
}

template <int kTokens, class W> void launch_few(const FloatWeights& weights, const W* all, const float* input, int tokens, float* out, bool accumulate, cudaStream_t stream) {
    linear_float_few<kTokens><<<(weights.rows + kFewThreads / 4 - 1) / (kFewThreads / 4), kFewThreads, 0, stream>>>(weights, all, input, tokens, out, accumulate);
}

template <class W> cudaError_t launch(const FloatWeights& weights, const W* all, const float* input, int tokens, float* out, bool accumulate, cudaStream_t stream) {
    if (tokens == 1) {
        launch_few<1>(weights, all, input, tokens, out, accumulate, stream);
    } else if (tokens <= 4) {
        launch_few<4>(weights, all, input, tokens, out, accumulate, stream);
    } else if (tokens <= kFewTokens) {
        launch_few<kFewTokens>(weights, all, input, tokens, out, accumulate, stream);
    } else {
        const dim3 grid((weights.rows + FloatTile::kRows - 1) / FloatTile::kRows, (tokens + FloatTile::kTokens - 1) / FloatTile::kTokens);
        if (grid.y > kMaxGridY) return cudaErrorInvalidConfiguration;
        linear_float_many<<<grid, FloatTile::kThreads, 0, stream>>>(weights, all, input, tokens, out, accumulate);
    }
    return cudaGetLastError();
}

}  // namespace

cudaError_t launch_linear_float(const FloatWeights& weights, const float* input, int tokens, float* out, bool accumulate, cudaStream_t stream) {
    if (weights.bfloat16 != nullptr) return launch(weights, weights.bfloat16, input, tokens, out, accumulate, stream);
    return launch(weights, weights.weights, input, tokens, out, accumulate, stream);
}

}  // namespace intflash
