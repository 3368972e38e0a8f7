// See launch_append in decoder_steps.h: many tokens' keys and values into a cache.
//   §1 the first append: keys' shifts   §2 rows of 64 tokens a block, then one block a KV head and sequence for scales
#include <cuda_runtime.h>

#include "grid_limits.h"
#include "launch_early.h"
#include "ptx/grid_dependency.cuh"
#include "settle_scales.cuh"

namespace intflash {
namespace {

constexpr int kOffsetTokens = 64;  // a key offset is the mean of this many tokens at most
constexpr int kMostChannelBits = 30;  // a channel's scale is 2^30 at most: queries times it stay far inside float32

// ── §1 ──
/** Of at least kMinOffsetTokens tokens; fewer have offsets of zero. */
__device__ __forceinline__ float mean_key(const Place& at, int d) {
    const int counted = min(at.tokens, kOffsetTokens);
    double sum = 0;
#pragma unroll 8
    for (int token = 0; token < counted; ++token) sum = __dadd_rn(sum, at.keys[token * at.stride + d]);
    return static_cast<float>(sum / counted);
}

__device__ __forceinline__ int exponent_of(float magnitude) { return __float_as_int(magnitude) >> 23; }

/** A block a KV head and sequence, a thread a channel. Channels more than twice as large as the middle one get the power of two that brings them there. */
__global__ void __launch_bounds__(kMaxHeadDim) freeze_shifts(const Heads heads, const CacheLayer layer, const StepTable step) {
    __shared__ int exponents[kMaxHeadDim], middle;
    const StepSequence sequence = step.sequences[blockIdx.y];
    if (sequence.start > 0) return;
    const Place at = place_of(heads, layer, sequence, blockIdx.x);
    const int d = threadIdx.x, counted = min(at.tokens, kOffsetTokens);
    const bool is_channel = d < at.dim;
    float offset = 0.f, scale = 1.f;
    if (counted >= kMinOffsetTokens) {
        if (is_channel) {
            offset = mean_key(at, d);
            float largest = 0.f;
            for (int token = 0; token < counted; ++token) largest = fmaxf(largest, fabsf(__fsub_rn(at.keys[token * at.stride + d], offset)));
            exponents[d] = exponent_of(largest);
        }
        __syncthreads();
        if (is_channel) {
            int rank = 0;
            for (int other = 0; other < at.dim; ++other) rank += exponents[other] < exponents[d] || (exponents[other] == exponents[d] && other < d);
            if (rank == at.dim / 2) middle = exponents[d];
        }
        __syncthreads();
        if (is_channel) scale = __int_as_float((127 + min(max(exponents[d] - middle - 1, 0), kMostChannelBits)) << 23);
    }
    const int64_t place = (static_cast<int64_t>(layer.index) * heads.kv_heads + at.head) * at.dim + d;
    if (is_channel) sequence.offsets[place] = __fdiv_rn(offset, scale), sequence.channels[place] = scale;
}

// ── §2 ──
constexpr int kBlockTokens = 64;

template <bool kInt4, bool kChannels> __global__ void __launch_bounds__(kAppendThreads, kInt4 ? 3 : 5) append_rows(const Heads heads, const CacheLayer layer, const StepTable step, float* scales, uint32_t* findings) {
    __shared__ HeadMemory rows[kAppendWarps];
    __shared__ alignas(16) float offsets[kMaxHeadDim];
    const int head = blockIdx.x, warp = threadIdx.x / 32, first_token = blockIdx.z * kBlockTokens;
    const StepSequence sequence = step.sequences[blockIdx.y];
    if (first_token >= sequence.tokens) return;
    const Place at = place_of(heads, layer, sequence, head);
    const int64_t place = (static_cast<int64_t>(layer.index) * heads.kv_heads + head) * at.dim;
    float* const kept = sequence.offsets + place;
    const float* const channels = kChannels ? sequence.channels + place : nullptr;
    const bool is_frozen = kChannels || at.start > 0;
    for (int d = threadIdx.x; d < at.dim; d += kAppendThreads) {
        offsets[d] = is_frozen ? kept[d] : at.tokens < kMinOffsetTokens ? 0.f : mean_key(at, d);
        if (!is_frozen && first_token == 0) kept[d] = offsets[d];
    }
    __syncthreads();
    float* own = scales + static_cast<int64_t>(head) * step.tokens + sequence.first;
    for (int token = first_token + warp; token < min(first_token + kBlockTokens, at.tokens); token += kAppendWarps) {
        load_head(rows[warp].row, at.keys + token * at.stride, at.dim);
        write_key<kInt4>(at, token, offsets, channels, rows[warp], findings);
        const float scale = write_value<kInt4>(at, token, nullptr, rows[warp], findings);
        if (threadIdx.x % 32 == 0) own[token] = scale;
    }
}

template <bool kInt4> __global__ void __launch_bounds__(kAppendThreads) settle_rows(const Heads heads, const CacheLayer layer, const StepTable step, float* scales, uint32_t* findings) {
    __shared__ HeadMemory rows[kAppendWarps];
    launch_dependents();
    const int head = blockIdx.x;
    const StepSequence sequence = step.sequences[blockIdx.y];
    float* own = scales + static_cast<int64_t>(head) * step.tokens + sequence.first;
    settle<kInt4>(place_of(heads, layer, sequence, head), largest_of(sequence, layer, heads.kv_heads, head), own, rows, findings);
}

template <bool kInt4> cudaError_t launch_append_as(const Heads& heads, const CacheLayer& cache, const StepTable& step, float* scratch, uint32_t* findings, cudaStream_t stream) {
    const dim3 grid(heads.kv_heads, step.count, (step.most + kBlockTokens - 1) / kBlockTokens);
    if (grid.z > kMaxGridZ) return cudaErrorInvalidConfiguration;
    if (cache.channel_scales) append_rows<kInt4, true><<<grid, kAppendThreads, 0, stream>>>(heads, cache, step, scratch, findings);
    else append_rows<kInt4, false><<<grid, kAppendThreads, 0, stream>>>(heads, cache, step, scratch, findings);
    settle_rows<kInt4><<<dim3(heads.kv_heads, step.count), kAppendThreads, 0, stream>>>(heads, cache, step, scratch, findings);
    return cudaGetLastError();
}

}  // namespace

cudaError_t launch_freeze_shifts(const Heads& heads, const CacheLayer& cache, const StepTable& step, cudaStream_t stream) {
    freeze_shifts<<<dim3(heads.kv_heads, step.count), kMaxHeadDim, 0, stream>>>(heads, cache, step);
    return cudaGetLastError();
}

cudaError_t launch_append(const Heads& heads, const CacheLayer& cache, const StepTable& step, float* scratch, uint32_t* findings, cudaStream_t stream) {
    return cache.int4 ? launch_append_as<true>(heads, cache, step, scratch, findings, stream) : launch_append_as<false>(heads, cache, step, scratch, findings, stream);
}

}  // namespace intflash
