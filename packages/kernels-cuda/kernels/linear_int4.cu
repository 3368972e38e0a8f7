// See linear_int4.h. As linear_float.cu, but that weights come as codes: four lanes share a product.
//   §1 codes to weights                 §3 many tokens: tiles of 32 tokens x 32 rows
//   §2 few tokens: eight rows a warp    §4 the arrangement of codes, and the launches
#include <cuda_runtime.h>

#include <algorithm>

#include "few_tokens.h"
#include "float_sums.cuh"
#include "linear_int4.h"
#include "ptx/copy_async.cuh"

namespace intflash {
namespace {

constexpr int kMaxGridY = 65535;  // CUDA's limit
constexpr int kSteps = kInt4Columns / 16;  // of 16 columns, in a lane's 16 bytes
constexpr int kPieceBytes = 16, kBlockBytes = kInt4Columns / 2;

// ── §1 ──
/** Nibble `index` of a word whose nibbles had their sign bits flipped (code + 8): as the low bits of 2^23, less 2^23 + 8. Exact. */
__device__ __forceinline__ float code_of(uint32_t word, int index) { return __uint_as_float((word >> (4 * index) & 15u) | 0x4b000000u) - 8388616.f; }

/** Four neighbouring weights, of the codes in nibbles first … first + 3. */
__device__ __forceinline__ float4 four_weights(uint32_t word, int first, float scale) {
    return make_float4(__fmul_rn(code_of(word, first), scale), __fmul_rn(code_of(word, first + 1), scale), __fmul_rn(code_of(word, first + 2), scale),
                       __fmul_rn(code_of(word, first + 3), scale));
}

// ── §2 ──
constexpr int kFewThreads = 128;

template <int kTokens>
__global__ void __launch_bounds__(kFewThreads) linear_int4_few(const Int4Weights weights, const float* input, int tokens, float* out, bool accumulate) {
    const int row = blockIdx.x * (kFewThreads / 4) + threadIdx.x / 4, part = threadIdx.x % 4, at = min(row, weights.rows - 1);
    const int blocks = weights.columns / kInt4Columns, groups = kInt4Columns / weights.group, steps_each = weights.group / 16;
    const uint4* codes = reinterpret_cast<const uint4*>(weights.codes + static_cast<int64_t>(at) * (weights.columns / 2)) + part;
    const float* scales = weights.scales + static_cast<int64_t>(at) * blocks * groups;
    const float4* x = reinterpret_cast<const float4*>(input) + part;
    const int64_t token_stride = weights.columns / 4;
    float sums[kTokens][4] = {};
#pragma unroll 2
    for (int block = 0; block < blocks; ++block) {
        const uint4 packed = __ldg(codes + block * (kBlockBytes / kPieceBytes));
        const uint32_t words[4] = {packed.x ^ 0x88888888u, packed.y ^ 0x88888888u, packed.z ^ 0x88888888u, packed.w ^ 0x88888888u};
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            const float scale = __ldg(scales + block * groups + step / steps_each);
            const float4 w = four_weights(words[step / 2], step % 2 * 4, scale);
#pragma unroll
            for (int t = 0; t < kTokens; ++t)
                if (t < tokens) multiply(sums[t], w, x[t * token_stride + (block * kSteps + step) * 4]);
        }
    }
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
        const float y = fold(sums[t]);
        if (part == 0 && t < tokens && row < weights.rows) finish_float(weights.bias, row, y, out + static_cast<int64_t>(t) * weights.rows + row, accumulate);
    }
}

// ── §3 ──
struct Int4Tile {
    static constexpr int kTokens = 32, kRows = 32, kDepth = 32, kThreads = 256;
};

/** Four weights of a row from column `column` on, a multiple of four. */
__device__ __forceinline__ float4 read_weights(const Int4Weights& weights, int row, int column) {
    const int block = column / kInt4Columns, step = column % kInt4Columns / 16, part = column % 16 / 4;
    const uint8_t* from = weights.codes + static_cast<int64_t>(row) * (weights.columns / 2) + block * kBlockBytes + part * kPieceBytes + step * 2;
    const uint32_t word = *reinterpret_cast<const uint16_t*>(from) ^ 0x8888u;
    return four_weights(word, 0, __ldg(weights.scales + static_cast<int64_t>(row) * (weights.columns / weights.group) + column / weights.group));
}

__global__ void __launch_bounds__(Int4Tile::kThreads) linear_int4_many(const Int4Weights weights, const float* input, int tokens, float* out, bool accumulate) {
    using T = Int4Tile;
    // [stage][x, w][16 columns][32 rows][16 floats]: two groups of four lanes read 128 bytes in a row
    __shared__ alignas(128) float stages[2][2][T::kDepth / 16][32][16];
    const int first_row = blockIdx.x * T::kRows, first_token = blockIdx.y * T::kTokens;
    const int part = threadIdx.x % 4, quad = threadIdx.x / 4, row_part = quad % 8, token_part = quad / 8;
    const int steps = weights.columns / T::kDepth;
    const auto fetch = [&](int step) {
        const int row = threadIdx.x / 8, chunk = threadIdx.x % 8;  // 32 rows x 8 chunks of four columns
        const int column = step * T::kDepth + chunk * 4;
        float(&stage)[2][T::kDepth / 16][32][16] = stages[step % 2];
        // Rows past the end repeat the last one; what is made of them is not stored.
        copy_async_16(shared_address_of(&stage[0][chunk / 4][row][chunk % 4 * 4]), input + static_cast<int64_t>(min(first_token + row, tokens - 1)) * weights.columns + column);
        commit_copies();
        *reinterpret_cast<float4*>(&stage[1][chunk / 4][row][chunk % 4 * 4]) = read_weights(weights, min(first_row + row, weights.rows - 1), column);
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

// ── §4 ──
__global__ void __launch_bounds__(256) arrange_int4(const uint16_t* source, int64_t count, uint16_t* target) {
    constexpr int kFours = kInt4Columns / 4;  // of a block, two bytes each
    for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        const int at = static_cast<int>(i % kFours), part = at / kSteps, step = at % kSteps;
        target[i] = source[i - at + step * 4 + part];
    }
}

template <int kTokens> void launch_few(const Int4Weights& weights, const float* input, int tokens, float* out, bool accumulate, cudaStream_t stream) {
    linear_int4_few<kTokens><<<(weights.rows + kFewThreads / 4 - 1) / (kFewThreads / 4), kFewThreads, 0, stream>>>(weights, input, tokens, out, accumulate);
}

}  // namespace

cudaError_t launch_arrange_int4(const uint8_t* source, int rows, int columns, uint8_t* target, cudaStream_t stream) {
    const int64_t count = static_cast<int64_t>(rows) * columns / 4;
    const int blocks = static_cast<int>(std::min<int64_t>((count + 255) / 256, 65535));
    arrange_int4<<<blocks, 256, 0, stream>>>(reinterpret_cast<const uint16_t*>(source), count, reinterpret_cast<uint16_t*>(target));
    return cudaGetLastError();
}

cudaError_t launch_linear_int4(const Int4Weights& weights, const float* input, int tokens, float* out, bool accumulate, cudaStream_t stream) {
    if (tokens <= kFewTokens) {
        with_few_tokens(tokens, [&](auto most) { launch_few<most.value>(weights, input, tokens, out, accumulate, stream); });
    } else {
        const dim3 grid((weights.rows + Int4Tile::kRows - 1) / Int4Tile::kRows, (tokens + Int4Tile::kTokens - 1) / Int4Tile::kTokens);
        if (grid.y > kMaxGridY) return cudaErrorInvalidConfiguration;
        linear_int4_many<<<grid, Int4Tile::kThreads, 0, stream>>>(weights, input, tokens, out, accumulate);
    }
    return cudaGetLastError();
}

}  // namespace intflash
