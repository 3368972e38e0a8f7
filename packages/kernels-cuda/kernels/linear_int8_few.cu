// See linear_int8.h: INT8 linear layers of up to eight tokens, bound by reading the weights once. Weights do not depend on the launch before, so a
// block asks for its first ones before it waits for that. `Rows` says what a block's rows are and where its sums go.
//   §1 what becomes of sums               §3 up to eight: a block sixteen rows, tensor cores (mma.sync m16n8k32)
//   §2 one token: a warp a row, dp4a      §4 launches
#include <cuda_runtime.h>

#include "activation.cuh"
#include "launch_early.h"
#include "linear_finish.cuh"
#include "ptx/grid_dependency.cuh"
#include "ptx/load_once.cuh"
#include "ptx/mma.cuh"
#include "row_codes.cuh"

namespace intflash {
namespace {

// ── §1 ──
/** A layer by itself: a row of weights is a row of the output. */
struct PlainRows {
    static constexpr int kSets = 1;
    Int8Weights weights;
    float* out;
    bool accumulate;

    __device__ __forceinline__ int count() const { return weights.rows; }
    __device__ __forceinline__ float take(int token, int row, const int (&sums)[kSets], float x_scale) const {
        finish(weights, row, sums[0], x_scale, out + static_cast<int64_t>(token) * weights.rows + row, accumulate);
        return 0.f;
    }
};

/** Of gate row r and up row r + count: silu(gate) · up. */
struct GatedPairs {
    static constexpr int kSets = 2;
    Int8Weights weights;
    GatedRows out;

    __device__ __forceinline__ int count() const { return weights.rows / 2; }
    __device__ __forceinline__ float take(int token, int row, const int (&sums)[kSets], float x_scale) const {
        const float y = swiglu(finished(weights, row, sums[0], x_scale), finished(weights, row + count(), sums[1], x_scale));
        out.floats[token * out.stride + row] = y;
        return y;
    }
    /** Bits of magnitudes are in the order of magnitudes, and a NaN's above all. */
    __device__ __forceinline__ void report(int token, float largest) const { atomicMax(out.largest + token, __float_as_uint(largest)); }
};

// ── §2 ──
constexpr int kOneWarps = 4, kOneAhead = 4;
/** About as many as run at once when a launch ends. */
constexpr int kLastBlocks = 1584;
constexpr int kLine = 128;

/** The last blocks of a launch ask for a share each. */
__device__ __forceinline__ void ask_ahead(const WeightsAhead& ahead) {
    const int blocks = min(static_cast<int>(gridDim.x), kLastBlocks), mine = static_cast<int>(blockIdx.x) - (static_cast<int>(gridDim.x) - blocks);
    if (mine < 0) return;
    const int lines = ahead.bytes / kLine, share = (lines + blocks - 1) / blocks, end = min((mine + 1) * share, lines);
    for (int line = mine * share + threadIdx.x; line < end; line += blockDim.x) {
        prefetch_line(ahead.first + line * kLine);
        if (ahead.second != nullptr) prefetch_line(ahead.second + line * kLine);
    }
}

__device__ __forceinline__ int dot16(const int4& a, const int4& b, int sum) {
    sum = __dp4a(a.x, b.x, sum);
    sum = __dp4a(a.y, b.y, sum);
    sum = __dp4a(a.z, b.z, sum);
    return __dp4a(a.w, b.w, sum);
}

template <class Rows> __global__ void __launch_bounds__(kOneWarps * 32) linear_int8_one(const Rows rows, const Int8Rows input, const WeightsAhead ahead) {
    constexpr int kSets = Rows::kSets, kAhead = kOneAhead / kSets;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.x * kOneWarps + warp;
    const int chunks = rows.weights.columns / 16;
    const int4* w[kSets];
    int4 codes[kSets][kAhead];
#pragma unroll
    for (int set = 0; set < kSets; ++set) w[set] = reinterpret_cast<const int4*>(rows.weights.codes + static_cast<int64_t>(min(row, rows.count() - 1) + set * rows.count()) * rows.weights.columns);
    const uint64_t policy = read_once_policy();
    const auto fetch = [&](int i, int chunk) {
#pragma unroll
        for (int set = 0; set < kSets; ++set) codes[set][i] = chunk < chunks ? load_once(w[set] + chunk, policy) : make_int4(0, 0, 0, 0);
    };
    launch_dependents();
#pragma unroll
    for (int i = 0; i < kAhead; ++i) fetch(i, lane + 32 * i);
    wait_for_launch_before();
    const int4* x = reinterpret_cast<const int4*>(input.codes);
    int sums[kSets] = {};
    for (int first = lane; first < chunks; first += 32 * kAhead) {
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
            const int chunk = first + 32 * i;
            if (chunk >= chunks) break;
            const int4 other = x[chunk];
#pragma unroll
            for (int set = 0; set < kSets; ++set) sums[set] = dot16(codes[set][i], other, sums[set]);
            fetch(i, chunk + 32 * kAhead);
        }
    }
#pragma unroll
    for (int set = 0; set < kSets; ++set) sums[set] = __reduce_add_sync(~0u, sums[set]);
    float y = 0.f;
    if (lane == 0 && row < rows.count()) y = rows.take(0, row, sums, input.scales[0]);
    if constexpr (kSets > 1) {
        __shared__ float found[kOneWarps];
        if (lane == 0) found[warp] = y;
        __syncthreads();
        if (threadIdx.x == 0) {
#pragma unroll
            for (int other = 0; other < kOneWarps; ++other) y = larger(y, found[other]);
            rows.report(0, y);
        }
    }
    ask_ahead(ahead);
}

// ── §3 ──
constexpr int kSomeWarps = 8, kSomeRows = 16, kSomeAhead = 4;

/**
 * Warps share a row's columns, 128 at a time: whole lines of memory. Column 16c + 4i + j of each 64 takes the place that is lane c's in the products'
 * operands: which column meets which does not matter to a sum, if it is the same for weights and input.
 */
template <class Rows> __global__ void __launch_bounds__(kSomeWarps * 32) linear_int8_some(const Rows rows, const Int8Rows input, int tokens) {
    constexpr int kSets = Rows::kSets, kWays = kSomeWarps / kSets;
    __shared__ int parts[kSomeWarps][kFewTokens][kSomeRows + 1];
    const int warp = threadIdx.x / 32, r = threadIdx.x % 32 / 4, c = threadIdx.x % 4, set = warp / kWays, way = warp % kWays;
    const int chunks = rows.weights.columns / 64, first_row = blockIdx.x * kSomeRows, last = rows.count() - 1;
    const auto row_at = [&](int row) {
        return reinterpret_cast<const int4*>(rows.weights.codes + static_cast<int64_t>(min(row, last) + set * rows.count()) * rows.weights.columns) + c;
    };
    const int4 *const w0 = row_at(first_row + r), *const w1 = row_at(first_row + r + 8);
    const auto chunk_of = [&](int index) { return 2 * (way + index / 2 * kWays) + index % 2; };  // this warp's, of 64 columns
    int4 a[2][kSomeAhead][2];  // two batches: one comes while the other is multiplied
    const uint64_t policy = read_once_policy();
    const auto fetch = [&](int4(&batch)[kSomeAhead][2], int index) {
#pragma unroll
        for (int i = 0; i < kSomeAhead; ++i) {
            const int chunk = min(chunk_of(index + i), chunks - 1);
            batch[i][0] = load_once(w0 + 4 * chunk, policy);
            batch[i][1] = load_once(w1 + 4 * chunk, policy);
        }
    };
    launch_dependents();
    fetch(a[0], 0);
    fetch(a[1], kSomeAhead);
    wait_for_launch_before();
    const int4* x = reinterpret_cast<const int4*>(input.codes + static_cast<int64_t>(min(r, tokens - 1)) * rows.weights.columns) + c;
    int sums[4] = {};
    for (int index = 0; chunk_of(index) < chunks; index += 2 * kSomeAhead) {
#pragma unroll
        for (int which = 0; which < 2; ++which) {
            const int first = index + which * kSomeAhead;
#pragma unroll
            for (int i = 0; i < kSomeAhead; ++i) {
                const int chunk = chunk_of(first + i);
                if (chunk >= chunks) break;
                const int4(&w)[2] = a[which][i];
                const int4 b = x[4 * chunk];
                const uint32_t low[4] = {uint32_t(w[0].x), uint32_t(w[1].x), uint32_t(w[0].y), uint32_t(w[1].y)};
                const uint32_t high[4] = {uint32_t(w[0].z), uint32_t(w[1].z), uint32_t(w[0].w), uint32_t(w[1].w)};
                mma_s8(sums, low, b.x, b.y);
                mma_s8(sums, high, b.z, b.w);
            }
            if (chunk_of(first + 2 * kSomeAhead) < chunks) fetch(a[which], first + 2 * kSomeAhead);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) parts[warp][2 * c + i % 2][r + i / 2 * 8] = sums[i];
    __syncthreads();
    const int token = threadIdx.x / kSomeRows, row = first_row + threadIdx.x % kSomeRows;
    if (token >= kFewTokens) return;
    float y = 0.f;
    if (token < tokens && row <= last) {
        int total[kSets] = {};
#pragma unroll
        for (int other = 0; other < kSomeWarps; ++other) total[other / kWays] += parts[other][token][threadIdx.x % kSomeRows];
        y = rows.take(token, row, total, input.scales[token]);
    }
    if constexpr (kSets > 1) {
#pragma unroll
        for (int step = kSomeRows / 2; step > 0; step /= 2) y = larger(y, __shfl_xor_sync(~0u, y, step));
        if (threadIdx.x % kSomeRows == 0 && token < tokens) rows.report(token, y);
    }
}

// ── §4 ──
template <class Rows> cudaError_t launch(const Rows& rows, int count, const Int8Rows& input, int tokens, const WeightsAhead& ahead, cudaStream_t stream) {
    if (tokens == 1) return launch_early(linear_int8_one<Rows>, dim3((count + kOneWarps - 1) / kOneWarps), kOneWarps * 32, 0, stream, rows, input, ahead);
    return launch_early(linear_int8_some<Rows>, dim3((count + kSomeRows - 1) / kSomeRows), kSomeWarps * 32, 0, stream, rows, input, tokens);
}

}  // namespace

cudaError_t launch_linear_int8_few(const Int8Weights& weights, const Int8Rows& input, int tokens, float* out, bool accumulate, const WeightsAhead& ahead, cudaStream_t stream) {
    return launch(PlainRows{weights, out, accumulate}, weights.rows, input, tokens, ahead, stream);
}

cudaError_t launch_swiglu_int8(const Int8Weights& weights, const Int8Rows& input, int tokens, const GatedRows& out, const WeightsAhead& ahead, cudaStream_t stream) {
    return launch(GatedPairs{weights, out}, weights.rows / 2, input, tokens, ahead, stream);
}

}  // namespace intflash
