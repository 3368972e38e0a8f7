// See linear_float.h. Four lanes share a product: lane g of the four keeps partial sums 4g … 4g + 3, so that each loads 16 bytes.
//   §1 few tokens, one where weights are in bfloat16: eight rows of weights a warp, or sixteen
//   §2 many tokens, weights in float32: tiles of 32 or 64 tokens x 32 rows, three stages of cp.async
//   §3 more tokens, weights in bfloat16: a lane has one column of eight, sixteen tokens and eight rows, so that it loads little for what it multiplies
#include <cuda_runtime.h>

#include <cstdint>

#include "few_tokens.h"
#include "float_sums.cuh"
#include "grid_limits.h"
#include "linear_float.h"
#include "ptx/copy_async.cuh"
#include "ptx/mma.cuh"
#include "ptx/shared_memory.cuh"

namespace intflash {
namespace {

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
template <int kTokensEach_> struct FloatTile {
    static constexpr int kTokensEach = kTokensEach_, kRowsEach = 4, kTokens = 8 * kTokensEach, kRows = 8 * kRowsEach, kDepth = 32, kThreads = 256, kStages = 3;
    struct alignas(128) Stage {  // [16 columns][row][of them]: groups of four lanes read 64 bytes in a row
        float x[kDepth / 16][kTokens][16], w[kDepth / 16][kRows][16];
    };
};

/** kCount rows of kDepth numbers; rows past `last` repeat it, and what is made of them is not stored. */
template <class T, int kCount> __device__ __forceinline__ void fetch_rows(float (&to)[T::kDepth / 16][kCount][16], const float* from, int first, int last, int columns, int column) {
    constexpr int kChunks = T::kDepth / 4;
#pragma unroll
    for (int i = threadIdx.x; i < kCount * kChunks; i += T::kThreads) {
        const int row = i / kChunks, at = i % kChunks * 4;
        copy_async<16>(shared_address_of(&to[at / 16][row][at % 16]), from + static_cast<int64_t>(min(first + row, last)) * columns + column + at);
    }
}

template <class T>
__global__ void __launch_bounds__(T::kThreads) linear_float_many(const FloatWeights weights, const float* input, int tokens, float* out, bool accumulate) {
    __shared__ typename T::Stage stages[T::kStages];
    const int first_row = blockIdx.x * T::kRows, first_token = blockIdx.y * T::kTokens;
    const int part = threadIdx.x % 4, row_part = threadIdx.x / 4 % 8, token_part = threadIdx.x / 32;
    const int steps = weights.columns / T::kDepth;
    const auto fetch = [&](int step) {
        if (step < steps) {
            typename T::Stage& stage = stages[step % T::kStages];
            fetch_rows<T>(stage.x, input, first_token, tokens - 1, weights.columns, step * T::kDepth);
            fetch_rows<T>(stage.w, weights.weights, first_row, weights.rows - 1, weights.columns, step * T::kDepth);
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
            for (int r = 0; r < T::kRowsEach; ++r) w[r] = *reinterpret_cast<const float4*>(&stage.w[k][row_part + r * 8][part * 4]);
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

// ── §3 ──
/**
 * kTokens by kRows: what registers hold the partial sums of. Two warps share 16 tokens and 32 rows: one has partial sums 0 to 7, the other 8 to 15. Small blocks,
 * several a processor: while one waits for its columns, others multiply. kUnroll and the rest as measured: what the compiler makes of the registers' banks decides.
 */
template <int kTokens_, int kWarps_, int kStages_, int kUnroll_> struct ColumnTile {
    static constexpr int kTokens = kTokens_, kWarps = kWarps_, kStages = kStages_, kUnroll = kUnroll_;
    static constexpr int kGroups = kTokens / 16, kRows = 16 * kWarps / kGroups, kDepth = 64, kThreads = 32 * kWarps, kBlocks = 8 / kWarps;
    static constexpr int kRowBytes = kDepth * 2, kColumnBytes = kTokens * 4;  // of the weights; of the input, which is turned: [column][token]
    static constexpr int kWeightBytes = kRows * kRowBytes, kInputBytes = kDepth * kColumnBytes, kStageBytes = kWeightBytes + kInputBytes;
    static constexpr int kSharedBytes = kStages * kStageBytes;
    static_assert(kSharedBytes >= kWarps * 32 * 32 * 4, "the partial sums that warps exchange");
    /** Four tokens of a column are a chunk; permuted, so that eight columns' lie in different banks. `column`: mod 8. */
    __device__ static int permuted(int chunk, int column) { return chunk ^ (kTokens >= 32 ? column : column / 2); }
};
using SomeTokens = ColumnTile<16, 2, 4, 4>;
using ManyTokens = ColumnTile<32, 4, 3, 1>;

/** [tile of tokens][column][token, in permuted chunks]: a tile's columns one behind the other, as stages have them. Zeros for tokens past the last. */
template <class T> __global__ void __launch_bounds__(T::kThreads) turn_input(const float* input, int tokens, int columns, float* turned) {
    __shared__ float square[T::kTokens][T::kDepth + 1];
    const int first_column = blockIdx.x * T::kDepth, first_token = blockIdx.y * T::kTokens;
    for (int i = threadIdx.x; i < T::kTokens * T::kDepth; i += T::kThreads) {
        const int token = first_token + i / T::kDepth;
        square[i / T::kDepth][i % T::kDepth] = token < tokens ? input[static_cast<int64_t>(token) * columns + first_column + i % T::kDepth] : 0.f;
    }
    __syncthreads();
    float* to = turned + (static_cast<int64_t>(blockIdx.y) * columns + first_column) * T::kTokens;
    for (int i = threadIdx.x; i < T::kTokens * T::kDepth; i += T::kThreads) {
        const int column = i / T::kTokens, token = T::permuted(i % T::kTokens / 4, column % 8) * 4 + i % 4;
        to[i] = square[token][column];
    }
}

/** Tiles of the same rows one after the other. */
template <class T>
__global__ void __launch_bounds__(T::kThreads, T::kBlocks) linear_float_columns(const FloatWeights weights, const float* turned, int token_tiles, int tokens, float* out, bool accumulate) {
    extern __shared__ __align__(128) uint8_t stages[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, half = warp % 2, group = warp / 2 % T::kGroups, band = warp / 2 / T::kGroups;
    const int first_row = blockIdx.x / token_tiles * T::kRows, first_token = blockIdx.x % token_tiles * T::kTokens;
    const int steps = weights.columns / T::kDepth;
    const uint32_t base = shared_address_of(stages);
    constexpr int kFetches = T::kWeightBytes / 16 / T::kThreads, kRowsApart = T::kThreads / 8;
    const int fetched_row = threadIdx.x / 8, fetched_chunk = threadIdx.x % 8;
    const uint16_t* w_next[kFetches];
#pragma unroll
    for (int i = 0; i < kFetches; ++i) w_next[i] = weights.bfloat16 + static_cast<int64_t>(min(first_row + fetched_row + i * kRowsApart, weights.rows - 1)) * weights.columns + fetched_chunk * 8;
    const float* x_next = turned + static_cast<int64_t>(first_token) * weights.columns + threadIdx.x * 4;
    const uint32_t w_to = base + fetched_row * T::kRowBytes + (fetched_chunk ^ fetched_row % 8) * 16, x_to = base + T::kWeightBytes + threadIdx.x * 16;
    const auto behind = [](uint32_t stage) { return stage == (T::kStages - 1) * T::kStageBytes ? 0 : stage + T::kStageBytes; };
    uint32_t fetching = 0, reading = 0;
    const auto fetch = [&](bool is_there) {
        if (is_there) {
#pragma unroll
            for (int i = 0; i < kFetches; ++i) {
                copy_async<16>(w_to + fetching + i * kRowsApart * T::kRowBytes, w_next[i]);
                w_next[i] += T::kDepth;
            }
#pragma unroll
            for (int i = 0; i < T::kInputBytes / 16 / T::kThreads; ++i) copy_async<16>(x_to + fetching + i * T::kThreads * 16, x_next + i * T::kThreads * 4);
            x_next += T::kInputBytes / 4;
        }
        commit_copies();
        fetching = behind(fetching);
    };
    for (int step = 0; step < T::kStages - 1; ++step) fetch(step < steps);
    // Matrices of ldmatrix: rows 0-7, 8-15, 16-23 and 24-31 of this warp's band. Turned, a lane gets two rows of each in column lane / 4.
    const uint32_t w_from = base + (band * 32 + lane) * T::kRowBytes, w_chunk = (half ^ lane % 8) * 16;
    uint32_t x_from[4];
#pragma unroll
    for (int chunk = 0; chunk < 4; ++chunk) x_from[chunk] = base + T::kWeightBytes + (half * 8 + lane / 4) * T::kColumnBytes + T::permuted(group * 4 + chunk, lane / 4) * 16;
    float sums[16][8] = {};  // [token][row]
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        wait_for_copies<T::kStages - 2>();
        __syncthreads();  // this step's numbers are there for all, and the stage fetched next is read by nobody any more
        fetch(step + T::kStages - 1 < steps);
#pragma unroll T::kUnroll
        for (int k = 0; k < T::kDepth / 16; ++k) {
            uint32_t pairs[4];
            ldmatrix_x4_transposed(pairs, w_from + reading + (w_chunk ^ k * 32));
            float w[8];
#pragma unroll
            for (int m = 0; m < 4; ++m) w[m * 2] = __uint_as_float(pairs[m] << 16), w[m * 2 + 1] = __uint_as_float(pairs[m] & 0xffff0000u);
#pragma unroll
            for (int chunk = 0; chunk < 4; ++chunk) {
                const float4 x = load_shared_floats(x_from[chunk] + reading + k * 16 * T::kColumnBytes);
#pragma unroll
                for (int t = 0; t < 4; ++t)
#pragma unroll
                    for (int r = 0; r < 8; ++r) sums[chunk * 4 + t][r] = __fmaf_rn(w[r], at(x, t), sums[chunk * 4 + t][r]);
            }
        }
        reading = behind(reading);
    }
    // Sums 0 to 7 and 8 to 15 come together: each of the two warps keeps eight tokens and gets the other's half of them, four tokens at a time.
    float* exchange = reinterpret_cast<float*>(stages) + lane;
    float kept[8][8];
#pragma unroll
    for (int pass = 0; pass < 2; ++pass) {
        __syncthreads();
#pragma unroll
        for (int t = 0; t < 4; ++t)
#pragma unroll
            for (int r = 0; r < 8; ++r) exchange[(warp * 32 + t * 8 + r) * 32] = half ? sums[pass * 4 + t][r] : sums[8 + pass * 4 + t][r];
        __syncthreads();
#pragma unroll
        for (int t = 0; t < 4; ++t)
#pragma unroll
            for (int r = 0; r < 8; ++r) kept[pass * 4 + t][r] = __fadd_rn(half ? sums[8 + pass * 4 + t][r] : sums[pass * 4 + t][r], exchange[((warp ^ 1) * 32 + t * 8 + r) * 32]);
    }
    // + 4, 2, 1: of two lanes each keeps half of the tokens.
#pragma unroll
    for (int left = 4; left >= 1; left /= 2)
#pragma unroll
        for (int t = 0; t < left; ++t)
#pragma unroll
            for (int r = 0; r < 8; ++r) {
                const bool upper = lane & left * 4;
                const float other = __shfl_xor_sync(~0u, upper ? kept[t][r] : kept[t + left][r], left * 4);
                kept[t][r] = __fadd_rn(upper ? kept[t + left][r] : kept[t][r], other);
            }
    const int token = first_token + group * 16 + half * 8 + lane / 4;
    if (token >= tokens) return;
#pragma unroll
    for (int r = 0; r < 8; ++r) {
        const int row = first_row + band * 32 + r / 2 * 8 + lane % 4 * 2 + r % 2;
        if (row < weights.rows) finish_float(weights.bias, row, kept[0][r], out + static_cast<int64_t>(token) * weights.rows + row, accumulate);
    }
}

template <class T> cudaError_t launch_columns(const FloatWeights& weights, const float* input, int tokens, float* out, bool accumulate, float* turned, cudaStream_t stream) {
    const int row_tiles = (weights.rows + T::kRows - 1) / T::kRows, token_tiles = (tokens + T::kTokens - 1) / T::kTokens;
    if (token_tiles > kMaxGridY || static_cast<int64_t>(row_tiles) * token_tiles > INT32_MAX) return cudaErrorInvalidConfiguration;
    if (const cudaError_t status = cudaFuncSetAttribute(linear_float_columns<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, T::kSharedBytes)) return status;
    turn_input<T><<<dim3(weights.columns / T::kDepth, token_tiles), T::kThreads, 0, stream>>>(input, tokens, weights.columns, turned);
    linear_float_columns<T><<<row_tiles * token_tiles, T::kThreads, T::kSharedBytes, stream>>>(weights, turned, token_tiles, tokens, out, accumulate);
    return cudaGetLastError();
}

template <class T> cudaError_t launch_tiles(const FloatWeights& weights, const float* input, int tokens, float* out, bool accumulate, cudaStream_t stream) {
    const dim3 grid((weights.rows + T::kRows - 1) / T::kRows, (tokens + T::kTokens - 1) / T::kTokens);
    if (grid.y > kMaxGridY) return cudaErrorInvalidConfiguration;
    linear_float_many<T><<<grid, T::kThreads, 0, stream>>>(weights, input, tokens, out, accumulate);
    return cudaGetLastError();
}

template <int kTokens, class W> void launch_few(const FloatWeights& weights, const W* all, const float* input, int tokens, float* out, bool accumulate, cudaStream_t stream) {
    constexpr int kRowsEach = kTokens == 1 ? 1 : 2, kBlock = kFewThreads / 4 * kRowsEach;
    linear_float_few<kTokens, kRowsEach><<<(weights.rows + kBlock - 1) / kBlock, kFewThreads, 0, stream>>>(weights, all, input, tokens, out, accumulate);
}

cudaError_t launch_float32(const FloatWeights& weights, const float* input, int tokens, float* out, bool accumulate, cudaStream_t stream) {
    if (tokens > 32) return launch_tiles<FloatTile<8>>(weights, input, tokens, out, accumulate, stream);
    if (tokens > kFewTokens) return launch_tiles<FloatTile<4>>(weights, input, tokens, out, accumulate, stream);
    with_few_tokens(tokens, [&](auto most) { launch_few<most.value>(weights, weights.weights, input, tokens, out, accumulate, stream); });
    return cudaGetLastError();
}

cudaError_t launch_bfloat16(const FloatWeights& weights, const float* input, int tokens, float* out, bool accumulate, float* turned, cudaStream_t stream) {
    if (tokens > SomeTokens::kTokens) return launch_columns<ManyTokens>(weights, input, tokens, out, accumulate, turned, stream);
    if (tokens > 1) return launch_columns<SomeTokens>(weights, input, tokens, out, accumulate, turned, stream);
    launch_few<1>(weights, weights.bfloat16, input, tokens, out, accumulate, stream);
    return cudaGetLastError();
}

}  // namespace

int64_t turned_floats(int tokens, int columns) { return tokens <= 1 ? 0 : static_cast<int64_t>((tokens + ManyTokens::kTokens - 1) / ManyTokens::kTokens * ManyTokens::kTokens) * columns; }

cudaError_t launch_linear_float(const FloatWeights& weights, const float* input, int tokens, float* out, bool accumulate, float* turned, cudaStream_t stream) {
    if (weights.bfloat16 != nullptr) return launch_bfloat16(weights, input, tokens, out, accumulate, turned, stream);
    return launch_float32(weights, input, tokens, out, accumulate, stream);
}

}  // namespace intflash
