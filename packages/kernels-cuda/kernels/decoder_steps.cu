// See decoder_steps.h. Small kernels bound by latency or memory: a block a token, or a warp a head of a token.
//   §1 embedding and norms   §2 heads: norms, rotation, query codes
#include <cuda_runtime.h>

#include <algorithm>

#include "decoder_steps.h"
#include "grid_limits.h"
#include "hadamard.cuh"
#include "ptx/grid_dependency.cuh"
#include "row_blocks.cuh"
#include "turn_head.cuh"

namespace intflash {
namespace {

// ── §1 ──
__global__ void __launch_bounds__(kMostRowThreads) embed(const Embedding embedding, const int32_t* ids, const StepTable step, float* hidden) {
    const int64_t token = blockIdx.x;
    const int64_t row = ids[token] * embedding.stride;
    const float* position = embedding.positions == nullptr ? nullptr : embedding.positions + int64_t{step.position(blockIdx.x)} * embedding.hidden;
    for (int c = threadIdx.x; c < embedding.hidden; c += blockDim.x) {
        const float x = embedding.table == nullptr ? __uint_as_float(static_cast<uint32_t>(embedding.bfloat16[row + c]) << 16) : embedding.table[row + c];
        hidden[token * embedding.hidden + c] = position == nullptr ? x : __fadd_rn(x, position[c]);
    }
}

/**
 * A thread stands for kFold, blockDim.x apart: so few rows and many, which have blocks of different sizes, get the same sums to the bit.
 *
 * @param cleared [tokens] that get zeros meanwhile, or null
 */
template <int kFold>
__global__ void __launch_bounds__(kMostRowThreads / kFold) norm_rows(const Norm norm, const float* input, const int32_t* rows, int width, const LayerInput out, uint32_t* cleared,
                                                                     uint32_t* findings) {
    __shared__ double sums[32];
    __shared__ float scratch[32];
    float some[kAtOnce], gains[kAtOnce];
    const auto ask = [&](int i, int c) { gains[i] = norm.gain[c]; };
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
        if (threadIdx.x + i * blockDim.x < width) ask(i, threadIdx.x + i * blockDim.x);  // the first that are needed; they do not depend on the launch before
    wait_for_launch_before();
    const int64_t token = blockIdx.x;
    const float* x = input + (rows == nullptr ? token : int64_t{rows[token]}) * width;
    float* row = row_memory(width, out, token);
    if (cleared != nullptr && threadIdx.x == 0) cleared[token] = 0;
    double sum[kFold] = {};
    for_columns(threadIdx.x, width, blockDim.x, [&](int i, int c) { some[i] = x[c]; }, [&](int i, int c) {
        row[c] = some[i];
        const double value = some[i];
        sum[i % kFold] = __dadd_rn(sum[i % kFold], norm.centered ? value : __dmul_rn(value, value));
    });
    launch_dependents();  // now that the row is here: what comes next asks for weights at once, which would be in its way
    double mean = 0, squares = block_sum(sum, sums);
    if (norm.centered) {
        mean = squares / width;
        for (double& part : sum) part = 0;
        for_columns(threadIdx.x, width, blockDim.x, [](int, int) {}, [&](int i, int c) {
            const double centered = row[c] - mean;
            sum[i % kFold] = __dadd_rn(sum[i % kFold], __dmul_rn(centered, centered));
        });
        squares = block_sum(sum, sums);
    }
    const double factor = 1 / sqrt(squares / width + norm.epsilon);
    float most = 0.f;
    for_columns(threadIdx.x, width, blockDim.x, [&](int i, int c) { if (c >= kAtOnce * static_cast<int>(blockDim.x)) ask(i, c); }, [&](int i, int c) {
        double scaled = __dmul_rn(__dmul_rn(norm.centered ? row[c] - mean : row[c], factor), gains[i]);
        if (norm.bias != nullptr) scaled = __dadd_rn(scaled, norm.bias[c]);
        row[c] = static_cast<float>(scaled);
        most = larger(most, row[c]);
    });
    finish_row(row, width, out, token, most, findings, scratch);
}

constexpr int kHeld = 4;  // numbers of a row that a thread holds

/**
 * norm_rows for what a decoder's step waits for twice a layer: root mean squares without a bias into codes, of rows of up to kHeld · blockDim.x, from
 * registers. Sums in the order of norm_rows, in far less code.
 */
__global__ void __launch_bounds__(kMostRowThreads) norm_short_rows(const Norm norm, const float* input, const int32_t* rows, int width, const Int8Rows out, int columns, uint32_t* cleared,
                                                                   uint32_t* findings) {
    __shared__ double sums[32];
    __shared__ float scratch[32];
    float x[kHeld], gains[kHeld];
    const auto column = [](int i) { return threadIdx.x + i * blockDim.x; };
#pragma unroll
    for (int i = 0; i < kHeld; ++i) gains[i] = column(i) < width ? norm.gain[column(i)] : 0.f;
    wait_for_launch_before();
    const int64_t token = blockIdx.x;
    const float* from = input + (rows == nullptr ? token : int64_t{rows[token]}) * width;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) x[i] = column(i) < width ? from[column(i)] : 0.f;
    double sum[1] = {};
#pragma unroll
    for (int i = 0; i < kHeld; ++i) sum[0] = __dadd_rn(sum[0], __dmul_rn(x[i], x[i]));
    launch_dependents();  // as norm_rows
    if (cleared != nullptr && threadIdx.x == 0) cleared[token] = 0;
    const double factor = 1 / sqrt(block_sum(sum, sums) / width + norm.epsilon);
    float most = 0.f;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
        x[i] = static_cast<float>(__dmul_rn(__dmul_rn(x[i], factor), gains[i]));
        most = larger(most, x[i]);
    }
    const float largest = block_largest(most, scratch);
    const Encoder encoder(symmetric_scale(largest));
#pragma unroll
    for (int i = 0; i < kHeld; ++i)
        if (column(i) < columns) out.codes[token * columns + column(i)] = static_cast<int8_t>(encoder.code(x[i]));
    if (threadIdx.x == 0) note_scale(largest, encoder.scale, out.scales + token, findings);
}

// ── §2 ──
constexpr int kHeadWarps = 4;

__global__ void __launch_bounds__(kHeadWarps * 32, 8) turn_heads(const Heads heads, const HeadNorms norms, const Rotation rotation, const StepTable step, const QueryTarget target,
                                                              int layer, int first, int end, uint32_t* findings) {
    __shared__ HeadMemory memories[kHeadWarps];
    const int token = blockIdx.x, head = first + blockIdx.y * kHeadWarps + threadIdx.x / 32, dim = heads.head_dim;
    if (head >= end) return;
    const bool is_query = head < heads.heads;
    HeadMemory& memory = memories[threadIdx.x / 32];
    float* given = heads.qkv + (static_cast<int64_t>(token) * (heads.heads + 2 * heads.kv_heads) + head) * dim;
    load_head(memory.row, given, dim);
    turn_as(memory.row, dim, is_query ? norms.query : norms.key, norms.epsilon, rotation, turn_at(rotation, step.position(token)));
    if (is_query) {
        scale_query(memory.row, dim, step.sequences[step.sequence_of[token]], static_cast<int64_t>(layer) * heads.kv_heads + head / (heads.heads / heads.kv_heads));
        return write_query(memory, heads, step, token, head, target, findings);
    }
    for (int d = threadIdx.x % 32; d < dim; d += 32) given[d] = memory.row[d];
}

/** A block a token, its warps a head each at a time; codes where they are wanted. */
__global__ void __launch_bounds__(kMostRowThreads) rotate_back(int heads, int dim, const LayerInput rows, uint32_t* findings) {
    __shared__ float scratch[32];
    wait_for_launch_before();
    const int64_t token = blockIdx.x;
    const float* given = rows.floats + token * rows.columns;
    float *row = row_memory(heads * dim, rows, token), most = 0.f;
    for (int head = threadIdx.x / 32; head < heads; head += blockDim.x / 32) {
        rotate_row(given + head * dim, row + head * dim, dim);
        for (int d = threadIdx.x % 32; d < dim; d += 32) most = larger(most, row[head * dim + d]);
    }
    launch_dependents();
    finish_row(row, heads * dim, rows, token, most, findings, scratch);
}

}  // namespace

cudaError_t launch_embed(const Embedding& embedding, const int32_t* ids, const StepTable& step, float* hidden, cudaStream_t stream) {
    embed<<<step.tokens, threads_for(embedding.hidden), 0, stream>>>(embedding, ids, step, hidden);
    return cudaGetLastError();
}

cudaError_t launch_norm(const Norm& norm, const float* input, const int32_t* rows, int tokens, int width, const LayerInput& out, uint32_t* cleared, uint32_t* findings, cudaStream_t stream) {
    const int threads = threads_for(width);
    if (tokens < kManyRows && !norm.centered && norm.bias == nullptr && out.codes.codes != nullptr && out.columns <= kHeld * threads)
        return launch_early(norm_short_rows, dim3(tokens), threads, 0, stream, norm, input, rows, width, out.codes, out.columns, cleared, findings);
    return tokens < kManyRows ? launch_rows(norm_rows<1>, dim3(tokens), threads, width, out, stream, norm, input, rows, width, out, cleared, findings)
                              : launch_rows(norm_rows<kAtOnce>, dim3(tokens), threads / kAtOnce, width, out, stream, norm, input, rows, width, out, cleared, findings);
}

cudaError_t launch_turn_heads(const Heads& heads, const HeadNorms& norms, const Rotation& rotation, const StepTable& step, const QueryTarget& target, const CacheLayer& cache, TurnedHeads which,
                              uint32_t* findings, cudaStream_t stream) {
    const int first = which == TurnedHeads::kKeys ? heads.heads : 0, end = which == TurnedHeads::kQueries ? heads.heads : heads.heads + heads.kv_heads;
    const int blocks = (end - first + kHeadWarps - 1) / kHeadWarps;
    if (blocks > kMaxGridY) return cudaErrorInvalidConfiguration;
    turn_heads<<<dim3(step.tokens, blocks), kHeadWarps * 32, 0, stream>>>(heads, norms, rotation, step, target, cache.index, first, end, findings);
    return cudaGetLastError();
}

cudaError_t launch_rotate_back(const LayerInput& rows, int tokens, int heads, int head_dim, uint32_t* findings, cudaStream_t stream) {
    const int threads = std::min(heads * 32, tokens < kManyRows ? kMostRowThreads : kMostRowThreads / kAtOnce);
    return launch_rows(rotate_back, dim3(tokens), threads, heads * head_dim, rows, stream, heads, head_dim, rows, findings);
}

}  // namespace intflash
