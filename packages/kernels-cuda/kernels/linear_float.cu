// See linear_float.h. Four lanes share a product: lane g of the four keeps partial sums 4g … 4g + 3, so that each loads 16 bytes.
//   §1 few tokens: eight rows of weights a warp, or sixteen
//   §2 many tokens: tiles of 32 or 64 tokens x 32 rows, three stages of cp.async
#include <cuda_runtime.h>

#include "few_tokens.h"
#include "float_sums.cuh"
#include "linear_float.h"
#include "ptx/copy_async.cuh"

namespace intflash {
namespace {

constexpr int kMaxGridY = 65535;  // CUDA's limit

// ── §1 ──
constexpr int kFewThreads = 128;

/** A group of four lanes has kRowsEach rows, so that what they load of the input serves all. */
template <int kTokens, int kRowsEach, class W>
__global__ void __launch_bounds__(kFewThreads) linear_float_few(const FloatWeights weights, const W* all, const float* input, int tokens, float* out, bool accumulate) {
    constexpr int kGroups = kFewThreads / 4;
    const int first_row = blockIdx.x * kGroups * kRowsEach + threadIdx.x / 4, part = threadIdx.x % 4;
    const int chunks = weights.columns / 4;
    const W* w[kRowsEach];
#pragma unroll
    for (int r = 0; r < kRowsEach; ++r) w[r] = all + static_cast<int64_t>(min(first_row + r * kGroups, weights.rows - 1)) * weights.columns;
    const float4* x = reinterpret_cast<const float4*>(input);
    float sums[kRowsEach][kTokens][4] = {};
#pragma unroll 4
    for (int c = part; c < chunks; c += 4) {
        float4 four[kRowsEach];
#pragma unroll
        for (int r = 0; r < kRowsEach; ++r) four[r] = four_at(w[r], c);
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
            if (t >= tokens) continue;
            const float4 other = x[static_cast<int64_t>(t) * chunks + c];
#pragma unroll
            for (int r = 0; r < kRowsEach; ++r) multiply(sums[r][t], four[r], other);
        }
    }
#pragma unroll
    for (int r = 0; r < kRowsEach; ++r)
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
            const float y = fold(sums[r][t]);
            const int row = first_row + r * kGroups;
            if (part == 0 && t < tokens && row < weights.rows) finish_float(weights.bias, row, y, out + static_cast<int64_t>(t) * weights.rows + row, accumulate);
        }
}

// ── §2 ──
/** A group of four lanes has kTokensEach by 4 products, so that loads from shared memory keep behind the multiplications. */
template <class W_, int kTokensEach_> struct FloatTile {
    using W = W_;
    static constexpr int kTokensEach = kTokensEach_, kRowsEach = 4, kTokens = 8 * kTokensEach, kRows = 8 * kRowsEach, kDepth = 32, kThreads = 256, kStages = 3;
    struct alignas(128) Stage {  // [16 columns][row][of them]: groups of four lanes read 64 bytes, or 32, in a row
        float x[kDepth / 16][kTokens][16];
        W w[kDepth / 16][kRows][16];
    };
};

/** kCount rows of kDepth numbers; rows past `last` repeat it, and what is made of them is not stored. */
template <class T, class N, int kCount> __device__ __forceinline__ void fetch_rows(N (&to)[T::kDepth / 16][kCount][16], const N* from, int first, int last, int columns, int column) {
    constexpr int kEach = 16 / sizeof(N), kChunks = T::kDepth / kEach;
#pragma unroll
    for (int i = threadIdx.x; i < kCount * kChunks; i += T::kThreads) {
        const int row = i / kChunks, at = i % kChunks * kEach;
        copy_async_16(shared_address_of(&to[at / 16][row][at % 16]), from + static_cast<int64_t>(min(first + row, last)) * columns + column + at);
    }
}

template <class T>
__global__ void __launch_bounds__(T::kThreads) linear_float_many(const FloatWeights weights, const typename T::W* all, const float* input, int tokens, float* out, bool accumulate) {
    __shared__ typename T::Stage stages[T::kStages];
    const int first_row = blockIdx.x * T::kRows, first_token = blockIdx.y * T::kTokens;
    const int part = threadIdx.x % 4, row_part = threadIdx.x / 4 % 8, token_part = threadIdx.x / 32;
    const int steps = weights.columns / T::kDepth;
    const auto fetch = [&](int step) {
        if (step < steps) {
            typename T::Stage& stage = stages[step % T::kStages];
            fetch_rows<T>(stage.x, input, first_token, tokens - 1, weights.columns, step * T::kDepth);
            fetch_rows<T>(stage.w, all, first_row, weights.rows - 1, weights.columns, step * T::kDepth);
        }
        commit_copies();
    };
    for (int step = 0; step < T::kStages - 1; ++step) fetch(step);
    float sums[T::kTokensEach][T::kRowsEach][4] = {};  // [token][row][partial sum]
    for (int step = 0; step < steps; ++step) {
        wait_for_copies<T::kStages - 2>();
        __syncthreads();  // this step's numbers are there for all, and the stage fetched next is read by nobody any more
        fetch(step + T::kStages - 1);
        const typename T::Stage& stage = stages[step % T::kStages];
#pragma unroll
        for (int k = 0; k < T::kDepth / 16; ++k) {
            float4 w[T::kRowsEach];
#pragma unroll
            for (int r = 0; r < T::kRowsEach; ++r) w[r] = widened(&stage.w[k][row_part + r * 8][part * 4]);
#pragma unroll
            for (int t = 0; t < T::kTokensEach; ++t) {
                const float4 x = *reinterpret_cast<const float4*>(&stage.x[k][token_part + t * 8][part * 4]);
#pragma unroll
                for (int r = 0; r < T::kRowsEach; ++r) multiply(sums[t][r], w[r], x);
            }
        }
    }
#pragma unroll
    for (int t = 0; t < T::kTokensEach; ++t)
#pragma unroll
        for (int r = 0; r < T::kRowsEach; ++r) {
            const float y = fold(sums[t][r]);
            const int token = first_token + token_part + t * 8, row = first_row + row_part + r * 8;
            if (part == r && token < tokens && row < weights.rows) finish_float(weights.bias, row, y, out + static_cast<int64_t>(token) * weights.rows + row, accumulate);
        }
}

template <class T> cudaError_t launch_many(const FloatWeights& weights, const typename T::W* all, const float* input, int tokens, float* out, bool accumulate, cudaStream_t stream) {
    const dim3 grid((weights.rows + T::kRows - 1) / T::kRows, (tokens + T::kTokens - 1) / T::kTokens);
    if (grid.y > kMaxGridY) return cudaErrorInvalidConfiguration;
    linear_float_many<T><<<grid, T::kThreads, 0, stream>>>(weights, all, input, tokens, out, accumulate);
    return cudaGetLastError();
}

template <int kTokens, class W> void launch_few(const FloatWeights& weights, const W* all, const float* input, int tokens, float* out, bool accumulate, cudaStream_t stream) {
    constexpr int kRowsEach = kTokens == 1 ? 1 : 2, kBlock = kFewThreads / 4 * kRowsEach;
    linear_float_few<kTokens, kRowsEach><<<(weights.rows + kBlock - 1) / kBlock, kFewThreads, 0, stream>>>(weights, all, input, tokens, out, accumulate);
}

template <class W> cudaError_t launch(const FloatWeights& weights, const W* all, const float* input, int tokens, float* out, bool accumulate, cudaStream_t stream) {
    if (tokens > kFewTokens)
        return tokens <= 32 ? launch_many<FloatTile<W, 4>>(weights, all, input, tokens, out, accumulate, stream) : launch_many<FloatTile<W, 8>>(weights, all, input, tokens, out, accumulate, stream);
    with_few_tokens(tokens, [&](auto most) { launch_few<most.value>(weights, all, input, tokens, out, accumulate, stream); });
    return cudaGetLastError();
}

}  // namespace

cudaError_t launch_linear_float(const FloatWeights& weights, const float* input, int tokens, float* out, bool accumulate, cudaStream_t stream) {
    if (weights.bfloat16 != nullptr) return launch(weights, weights.bfloat16, input, tokens, out, accumulate, stream);
    return launch(weights, weights.weights, input, tokens, out, accumulate, stream);
}

}  // namespace intflash
