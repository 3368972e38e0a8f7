// See decoder_steps.h. Small kernels bound by latency or memory: a block a token, or a warp a head of a token.
//   §1 sums over a block     §3 activations
//   §2 embedding and norms   §4 heads: norms, rotation, query codes
#include <cuda_runtime.h>

#include "decoder_steps.h"
#include "hadamard.cuh"
#include "row_codes.cuh"

namespace intflash {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxGridY = 65535;  // CUDA's limit

// ── §1 ──
__device__ __forceinline__ double warp_sum(double value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value = __dadd_rn(value, __shfl_xor_sync(~0u, value, step));
    return value;
}

/** The same in every thread. `scratch`: kThreads / 32 doubles. */
__device__ __forceinline__ double block_sum(double value, double* scratch) {
    value = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    value = scratch[0];
#pragma unroll
    for (int warp = 1; warp < kThreads / 32; ++warp) value = __dadd_rn(value, scratch[warp]);
    return value;
}

/** Zeros behind a row of floats, then its codes where they are wanted. */
__device__ __forceinline__ void finish_row(float* row, int width, const LayerInput& out, int64_t token, uint32_t* findings, float* scratch) {
    for (int c = width + threadIdx.x; c < out.columns; c += kThreads) row[c] = 0.f;
    if (out.codes.codes == nullptr) return;
    __syncthreads();
    write_row_codes(row, width, out.columns, out.codes.codes + token * out.columns, out.codes.scales + token, findings, scratch);
}

// ── §2 ──
__global__ void __launch_bounds__(kThreads) embed(const Embedding embedding, const int32_t* ids, const StepTable step, float* hidden) {
    const int64_t token = blockIdx.x;
    const int64_t row = ids[token] * embedding.stride;
    const float* position = embedding.positions == nullptr ? nullptr : embedding.positions + int64_t{step.position(blockIdx.x)} * embedding.hidden;
    for (int c = threadIdx.x; c < embedding.hidden; c += kThreads) {
        const float x = embedding.table == nullptr ? __uint_as_float(static_cast<uint32_t>(embedding.bfloat16[row + c]) << 16) : embedding.table[row + c];
        hidden[token * embedding.hidden + c] = position == nullptr ? x : __fadd_rn(x, position[c]);
    }
}

__global__ void __launch_bounds__(kThreads) norm_rows(const Norm norm, const float* input, const int32_t* rows, int width, const LayerInput out, uint32_t* findings) {
    __shared__ double sums[kThreads / 32];
    __shared__ float scratch[32];
    const int64_t token = blockIdx.x;
    const float* x = input + (rows == nullptr ? token : int64_t{rows[token]}) * width;
    float* row = out.floats + token * out.columns;
    double mean = 0;
    if (norm.centered) {
        double sum = 0;
        for (int c = threadIdx.x; c < width; c += kThreads) sum += x[c];
        mean = block_sum(sum, sums) / width;
    }
    double squares = 0;
    for (int c = threadIdx.x; c < width; c += kThreads) {
        const double centered = x[c] - mean;
        squares = __dadd_rn(squares, __dmul_rn(centered, centered));
    }
    const double factor = 1 / sqrt(block_sum(squares, sums) / width + norm.epsilon);
    for (int c = threadIdx.x; c < width; c += kThreads) {
        const double scaled = __dmul_rn(x[c] - mean, factor);
        row[c] = static_cast<float>(__dadd_rn(__dmul_rn(scaled, norm.gain[c]), norm.bias == nullptr ? 0. : norm.bias[c]));
    }
    finish_row(row, width, out, token, findings, scratch);
}

// ── §3 ──
__device__ __forceinline__ double silu(double x) { return x / (1 + exp(-x)); }

template <Activation kKind> __global__ void __launch_bounds__(kThreads) activate(const float* input, int width, const LayerInput out, uint32_t* findings) {
    __shared__ float scratch[32];
    const int64_t token = blockIdx.x;
    const float* x = input + token * width * (kKind == Activation::kSwiglu ? 2 : 1);
    float* row = out.floats + token * out.columns;
    for (int c = threadIdx.x; c < width; c += kThreads) {
        const double value = x[c];
        if constexpr (kKind == Activation::kSwiglu) row[c] = static_cast<float>(__dmul_rn(silu(value), x[width + c]));
        if constexpr (kKind == Activation::kSilu) row[c] = static_cast<float>(silu(value));
        if constexpr (kKind == Activation::kGelu) row[c] = static_cast<float>(0.5 * value * (1 + erf(value * 0.70710678118654752440)));
        if constexpr (kKind == Activation::kGeluTanh) row[c] = static_cast<float>(0.5 * value * (1 + tanh(0.79788456080286535588 * (value + 0.044715 * value * value * value))));
    }
    finish_row(row, width, out, token, findings, scratch);
}

// ── §4 ──
constexpr int kHeadWarps = 4;

/** One warp; `row` is in shared memory. */
__device__ __forceinline__ void norm_head(float* row, int dim, const float* gain, double epsilon) {
    double squares = 0;
    for (int d = threadIdx.x % 32; d < dim; d += 32) squares = __dadd_rn(squares, __dmul_rn(row[d], row[d]));
    const double factor = 1 / sqrt(warp_sum(squares) / dim + epsilon);
    for (int d = threadIdx.x % 32; d < dim; d += 32) row[d] = static_cast<float>(__dmul_rn(gain[d], __dmul_rn(row[d], factor)));
    __syncwarp();
}

/** Channel d turns with channel d + half; products of two floats are exact in float64. */
__device__ __forceinline__ void turn_head(float* row, const Rotation& rotation, int64_t position) {
    for (int d = threadIdx.x % 32; d < rotation.half; d += 32) {
        const double cos = rotation.cos[position * rotation.half + d], sin = rotation.sin[position * rotation.half + d];
        const double a = row[d], b = row[rotation.half + d];
        row[d] = static_cast<float>(a * cos - b * sin);
        row[rotation.half + d] = static_cast<float>(b * cos + a * sin);
    }
    __syncwarp();
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
    return value;
}

__global__ void __launch_bounds__(kHeadWarps * 32) turn_heads(const Heads heads, const HeadNorms norms, const Rotation rotation, const StepTable step, const QueryTarget target,
                                                              uint32_t* findings) {
    __shared__ float rows[kHeadWarps][kMaxHeadDim];
    __shared__ double work[kHeadWarps][kMaxHeadDim];
    const int lane = threadIdx.x % 32, token = blockIdx.x, head = blockIdx.y * kHeadWarps + threadIdx.x / 32, dim = heads.head_dim;
    if (head >= heads.heads + heads.kv_heads) return;
    const bool is_query = head < heads.heads;
    float* row = rows[threadIdx.x / 32];
    float* given = heads.qkv + (static_cast<int64_t>(token) * (heads.heads + 2 * heads.kv_heads) + head) * dim;
    for (int d = lane; d < dim; d += 32) row[d] = given[d];
    __syncwarp();
    const float* gain = is_query ? norms.query : norms.key;
    if (gain != nullptr) norm_head(row, dim, gain, norms.epsilon);
    if (rotation.cos != nullptr) turn_head(row, rotation, step.position(token));
    if (!is_query) {
        for (int d = lane; d < dim; d += 32) given[d] = row[d];
        return;
    }
    if (target.rotated) rotate_row(row, work[threadIdx.x / 32], dim);
    float largest = 0.f;
    bool bad = false;
    for (int d = lane; d < dim; d += 32) largest = fmaxf(largest, magnitude(row[d], bad));
    if (bad) atomicOr(findings, kNonfinite);
    const float scale = symmetric_scale(warp_max(largest));
    const StepSequence& sequence = step.sequences[step.sequence_of[token]];
    const int group = heads.heads / heads.kv_heads, rows_each = sequence.tokens * group;  // of a KV head
    const int64_t place = static_cast<int64_t>(sequence.first) * heads.heads + static_cast<int64_t>(head / group) * rows_each + (token - sequence.first) * group + head % group;
    for (int d = lane; d < target.padded; d += 32) target.codes[place * target.padded + d] = static_cast<int8_t>(d < dim ? to_code(row[d], scale) : 0);
    if (lane == 0) target.scales[place] = scale;
}

__global__ void __launch_bounds__(kHeadWarps * 32) rotate_back(float* rows, int64_t stride, int heads, int dim) {
    __shared__ float shared[kHeadWarps][kMaxHeadDim];
    __shared__ double work[kHeadWarps][kMaxHeadDim];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y * kHeadWarps + warp;
    if (head >= heads) return;
    float* given = rows + blockIdx.x * stride + static_cast<int64_t>(head) * dim;
    for (int d = lane; d < dim; d += 32) shared[warp][d] = given[d];
    __syncwarp();
    rotate_row(shared[warp], work[warp], dim);
    for (int d = lane; d < dim; d += 32) given[d] = shared[warp][d];
}

}  // namespace

cudaError_t launch_embed(const Embedding& embedding, const int32_t* ids, const StepTable& step, float* hidden, cudaStream_t stream) {
    embed<<<step.tokens, kThreads, 0, stream>>>(embedding, ids, step, hidden);
    return cudaGetLastError();
}

cudaError_t launch_norm(const Norm& norm, const float* input, const int32_t* rows, int tokens, int width, const LayerInput& out, uint32_t* findings, cudaStream_t stream) {
    norm_rows<<<tokens, kThreads, 0, stream>>>(norm, input, rows, width, out, findings);
    return cudaGetLastError();
}

cudaError_t launch_activate(Activation activation, const float* input, int tokens, int width, const LayerInput& out, uint32_t* findings, cudaStream_t stream) {
    switch (activation) {
        case Activation::kSwiglu: activate<Activation::kSwiglu><<<tokens, kThreads, 0, stream>>>(input, width, out, findings); break;
        case Activation::kSilu: activate<Activation::kSilu><<<tokens, kThreads, 0, stream>>>(input, width, out, findings); break;
        case Activation::kGelu: activate<Activation::kGelu><<<tokens, kThreads, 0, stream>>>(input, width, out, findings); break;
        default: activate<Activation::kGeluTanh><<<tokens, kThreads, 0, stream>>>(input, width, out, findings);
    }
    return cudaGetLastError();
}

cudaError_t launch_turn_heads(const Heads& heads, const HeadNorms& norms, const Rotation& rotation, const StepTable& step, const QueryTarget& target, uint32_t* findings,
                              cudaStream_t stream) {
    const int blocks = (heads.heads + heads.kv_heads + kHeadWarps - 1) / kHeadWarps;
    if (blocks > kMaxGridY) return cudaErrorInvalidConfiguration;
    turn_heads<<<dim3(step.tokens, blocks), kHeadWarps * 32, 0, stream>>>(heads, norms, rotation, step, target, findings);
    return cudaGetLastError();
}

cudaError_t launch_rotate_back(float* rows, int64_t stride, int tokens, int heads, int head_dim, cudaStream_t stream) {
    rotate_back<<<dim3(tokens, (heads + kHeadWarps - 1) / kHeadWarps), kHeadWarps * 32, 0, stream>>>(rows, stride, heads, head_dim);
    return cudaGetLastError();
}

}  // namespace intflash
