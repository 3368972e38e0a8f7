// See linear_int8.h. Few tokens: linear_int8_few.cu.
//   §1 many tokens: tiles of 64 tokens x 64 or 32 rows on tensor cores (mma.sync m16n8k32), six stages of cp.async; or what cuBLASLt summed up
//   §2 quantizing the input, and the launches
#include <cuda_runtime.h>

#include "grid_limits.h"
#include "launch_early.h"
#include "linear_finish.cuh"
#include "linear_int8.h"
#include "ptx/copy_async.cuh"
#include "ptx/grid_dependency.cuh"
#include "ptx/mma.cuh"
#include "row_codes.cuh"
#include "row_threads.h"

namespace intflash {
namespace {

// ── §1 ──
/** `kRows_` of weights by 64 tokens. */
template <int kRows_> struct GemmTile {
    static constexpr int kTokens = 64, kRows = kRows_, kDepth = kLinearColumns, kStages = 6, kThreads = 128;
    static constexpr int kInputBytes = kTokens * kDepth, kWeightBytes = kRows * kDepth, kStageBytes = kInputBytes + kWeightBytes;
    static constexpr int kWarpRows = kRows / 2, kTiles = kWarpRows / 8;  // a warp's part is 32 tokens by kWarpRows rows
};
/** Below this many blocks of 64 rows, two for each processor of a large GPU, blocks take 32: reading weights once wants many at it. */
constexpr int64_t kFewBlocks = 264;

/** Rows of 64 bytes, four 16-byte chunks each, permuted so that eight rows of one chunk lie in different banks. */
__device__ __forceinline__ int chunk_offset(int row, int chunk) { return row * kLinearColumns + ((chunk ^ (row / 2 & 3)) * 16); }

/** kBytes of rows of 64 bytes; rows past `count` become zeros. */
template <int kBytes, int kThreads> __device__ __forceinline__ void copy_rows(uint32_t target, const int8_t* from, int first, int count, int stride, int depth) {
#pragma unroll
    for (int i = 0; i < kBytes / 16 / kThreads; ++i) {
        const int item = threadIdx.x + i * kThreads, row = item / 4, chunk = item % 4;
        const bool inside = first + row < count;
        copy_async<16>(target + chunk_offset(row, chunk), from + static_cast<int64_t>(inside ? first + row : 0) * stride + depth + chunk * 16, inside);
    }
}

template <class T>
__global__ void __launch_bounds__(T::kThreads) linear_int8_many(const Int8Weights weights, const Int8Rows input, int tokens, float* out, bool accumulate) {
    __shared__ alignas(128) uint8_t stages[T::kStages][T::kStageBytes];
    const int first_row = blockIdx.x * T::kRows, first_token = blockIdx.y * T::kTokens;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int token_part = warp / 2 * 32, row_part = warp % 2 * T::kWarpRows;
    const int steps = weights.columns / T::kDepth;
    const uint32_t base = shared_address_of(stages);
    const auto fetch = [&](int step) {
        if (step < steps) {
            const uint32_t stage = base + step % T::kStages * T::kStageBytes;
            copy_rows<T::kInputBytes, T::kThreads>(stage, input.codes, first_token, tokens, weights.columns, step * T::kDepth);
            copy_rows<T::kWeightBytes, T::kThreads>(stage + T::kInputBytes, weights.codes, first_row, weights.rows, weights.columns, step * T::kDepth);
        }
        commit_copies();
    };
    for (int step = 0; step < T::kStages - 1; ++step) fetch(step);
    int sums[2][T::kTiles][4] = {};
    for (int step = 0; step < steps; ++step) {
        wait_for_copies<T::kStages - 2>();
        __syncthreads();  // this step's bytes are there for all, and the stage fetched next is read by nobody any more
        fetch(step + T::kStages - 1);
        const uint32_t stage = base + step % T::kStages * T::kStageBytes;
#pragma unroll
        for (int k = 0; k < T::kDepth / 32; ++k) {
            uint32_t x[2][4], w[T::kTiles / 2][4];
#pragma unroll
            for (int m = 0; m < 2; ++m)  // matrices: rows 0-7 and 8-15 of bytes 0-15, then of bytes 16-31
                ldmatrix_x4(x[m], stage + chunk_offset(token_part + m * 16 + lane % 16, k * 2 + lane / 16));
#pragma unroll
            for (int n = 0; n < T::kTiles / 2; ++n)  // matrices: bytes 0-15 and 16-31 of rows 0-7, then of rows 8-15
                ldmatrix_x4(w[n], stage + T::kInputBytes + chunk_offset(row_part + n * 16 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
                for (int n = 0; n < T::kTiles; ++n) mma_s8(sums[m][n], x[m], w[n / 2][n % 2 * 2], w[n / 2][n % 2 * 2 + 1]);
        }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int token = first_token + token_part + m * 16 + half * 8 + lane / 4;
            if (token >= tokens) continue;
            const float x_scale = input.scales[token];
#pragma unroll
            for (int n = 0; n < T::kTiles; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const int row = first_row + row_part + n * 8 + lane % 4 * 2 + i;
                    if (row < weights.rows) finish(weights, row, sums[m][n][half * 2 + i], x_scale, out + static_cast<int64_t>(token) * weights.rows + row, accumulate);
                }
        }
}

constexpr int kFinishThreads = 256;

__global__ void __launch_bounds__(kFinishThreads) finish_sums(const Int8Weights weights, const int32_t* sums, const float* scales, float* out, bool accumulate) {
    const int64_t token = blockIdx.y;
    const float x_scale = scales[token];
    for (int row = blockIdx.x * kFinishThreads + threadIdx.x; row < weights.rows; row += gridDim.x * kFinishThreads)
        finish(weights, row, sums[token * weights.rows + row], x_scale, out + token * weights.rows + row, accumulate);
}

// ── §2 ──
// A linear layer behind these asks for weights as soon as it may begin. So it may when a row has been read, not before: the row would come behind the weights.
constexpr int kEncoders = 256;
constexpr int kManyTokens = 256;  // from there on a processor gets several rows at a time

__global__ void __launch_bounds__(kMostRowThreads) quantize_input(const float* input, int64_t stride, int cols, int columns, const Int8Rows target, uint32_t* nonfinite) {
    __shared__ float scratch[32];
    wait_for_launch_before();
    const int64_t token = blockIdx.x;
    const float* row = input + token * stride;
    float most = 0.f;
#pragma unroll 4
    for (int c = threadIdx.x; c < cols; c += blockDim.x) most = larger(most, row[c]);
    launch_dependents();
    encode_row(row, cols, columns, block_largest(most, scratch), target.codes + token * columns, target.scales + token, nonfinite);
}

/** The same of rows of up to 4 · blockDim.x numbers, a multiple of four, on 16 bytes: they are read once, and in far less code. */
__global__ void __launch_bounds__(kMostRowThreads) quantize_short_input(const float* input, int64_t stride, int cols, int columns, const Int8Rows target, uint32_t* nonfinite) {
    __shared__ float scratch[32];
    wait_for_launch_before();
    const int64_t token = blockIdx.x;
    const int c = threadIdx.x * 4;
    float4 x{};
    if (c < cols) x = *reinterpret_cast<const float4*>(input + token * stride + c);
    launch_dependents();
    const float largest = block_largest(larger(larger(x.x, x.y), larger(x.z, x.w)), scratch);
    const Encoder encoder(symmetric_scale(largest));
    if (c < columns) *reinterpret_cast<uint32_t*>(target.codes + token * columns + c) = pack_codes(encoder.code(x.x), encoder.code(x.y), encoder.code(x.z), encoder.code(x.w));
    if (threadIdx.x == 0) note_scale(largest, encoder.scale, target.scales + token, nonfinite);
}

/** The same of rows whose largest magnitudes are known, as bits. */
__global__ void __launch_bounds__(kEncoders) encode_input(const float* input, int64_t stride, int cols, int columns, const uint32_t* largest, const Int8Rows target, uint32_t* nonfinite) {
    wait_for_launch_before();
    const int64_t token = blockIdx.y;
    const int c = (blockIdx.x * kEncoders + threadIdx.x) * 4;
    const float top = __uint_as_float(largest[token]), scale = symmetric_scale(top);
    encode_columns(input + token * stride, cols, columns, scale, target.codes + token * columns, c, gridDim.x * kEncoders * 4);
    launch_dependents();
    if (c == 0) note_scale(top, scale, target.scales + token, nonfinite);
}

template <class T> cudaError_t launch_many(const Int8Weights& weights, const Int8Rows& input, int tokens, float* out, bool accumulate, cudaStream_t stream) {
    const dim3 grid((weights.rows + T::kRows - 1) / T::kRows, (tokens + T::kTokens - 1) / T::kTokens);
    if (grid.y > kMaxGridY) return cudaErrorInvalidConfiguration;
    linear_int8_many<T><<<grid, T::kThreads, 0, stream>>>(weights, input, tokens, out, accumulate);
    return cudaGetLastError();
}

}  // namespace

cudaError_t launch_quantize_rows(const float* input, int64_t input_stride, int tokens, int cols, const Int8Rows& target, uint32_t* nonfinite, cudaStream_t stream) {
    const int threads = threads_for(cols, tokens < kManyTokens ? kMostRowThreads : kMostRowThreads / 4);
    const bool is_short = padded_columns(cols) <= 4 * threads && cols % 4 == 0 && input_stride % 4 == 0 && reinterpret_cast<uintptr_t>(input) % sizeof(float4) == 0;
    return launch_early(is_short ? quantize_short_input : quantize_input, dim3(tokens), threads, 0, stream, input, input_stride, cols, padded_columns(cols), target, nonfinite);
}

cudaError_t launch_encode_rows(const float* input, int64_t input_stride, int tokens, int cols, const uint32_t* largest, const Int8Rows& target, uint32_t* nonfinite, cudaStream_t stream) {
    if (tokens > kMaxGridY) return cudaErrorInvalidConfiguration;
    const int columns = padded_columns(cols);
    const dim3 grid((columns + 4 * kEncoders - 1) / (4 * kEncoders), tokens);
    return launch_early(encode_input, grid, kEncoders, 0, stream, input, input_stride, cols, columns, largest, target, nonfinite);
}

cudaError_t launch_linear_int8(const Int8Weights& weights, const Int8Rows& input, int tokens, float* out, bool accumulate, const WeightsAhead& ahead, cudaStream_t stream) {
    if (tokens <= kFewTokens) return launch_linear_int8_few(weights, input, tokens, out, accumulate, ahead, stream);
    const int64_t blocks = (weights.rows + int64_t{63}) / 64 * ((tokens + 63) / 64);
    return blocks < kFewBlocks ? launch_many<GemmTile<32>>(weights, input, tokens, out, accumulate, stream) : launch_many<GemmTile<64>>(weights, input, tokens, out, accumulate, stream);
}

cudaError_t launch_finish_int8(const Int8Weights& weights, const int32_t* sums, const float* scales, int tokens, float* out, bool accumulate, cudaStream_t stream) {
    if (tokens > kMaxGridY) return cudaErrorInvalidConfiguration;
    const int blocks = (weights.rows + 4 * kFinishThreads - 1) / (4 * kFinishThreads);
    finish_sums<<<dim3(blocks, tokens), kFinishThreads, 0, stream>>>(weights, sums, scales, out, accumulate);
    return cudaGetLastError();
}

}  // namespace intflash
