// See launch_append in decoder_steps.h: the TypeScript cache (packages/llm, kv-cache-layer.ts) on the device, INT8. One block a KV head.
//   §1 the first append: key offsets        §3 values: scales, their floor, codes
//   §2 keys                                  §4 kernel and launch
#include <cuda_runtime.h>

#include "decoder_steps.h"
#include "exact_math.cuh"
#include "row_codes.cuh"

namespace intflash {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kOffsetTokens = 64;  // a key offset is the mean of this many tokens at most …
constexpr int kMinOffsetTokens = 8;  // … and of no fewer than this
constexpr float kScaleFloor = 9.53674316e-7f;  // 2^-20: no value row gets a scale below this part of the largest before it

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
    return value;
}

struct Place {
    int start, tokens, dim, padded, head;
    int64_t stride;
    const float *keys, *values;  // of the first token
};

__device__ __forceinline__ uint8_t* image_of(const CacheView& cache, const Place& at, int token) { return cache.image(token / kPageTokens, at.head); }

// ── §1 ──
__device__ __forceinline__ void freeze_offsets(const Place& at, float* offsets) {
    const int counted = min(at.tokens, kOffsetTokens);
    for (int d = threadIdx.x; d < at.dim; d += kThreads) {
        double sum = 0;
        for (int token = 0; token < counted; ++token) sum = __dadd_rn(sum, at.keys[token * at.stride + d]);
        offsets[d] = at.tokens < kMinOffsetTokens ? 0.f : static_cast<float>(sum / counted);
    }
}

// ── §2 ──
__device__ __forceinline__ void write_key(const CacheView& cache, const Place& at, int token, const float* offsets, uint32_t* findings) {
    const int lane = threadIdx.x % 32;
    const float* key = at.keys + token * at.stride;
    float largest = 0.f;
    bool bad = false;
    for (int d = lane; d < at.dim; d += 32) largest = fmaxf(largest, magnitude(__fsub_rn(key[d], offsets[d]), bad));
    if (bad) atomicOr(findings, kNonfinite);
    const float scale = symmetric_scale(warp_max(largest));
    uint8_t* image = image_of(cache, at, at.start + token);
    int8_t* codes = key_row(image, (at.start + token) % kPageTokens, at.padded);
    for (int d = lane; d < at.padded; d += 32) codes[d] = static_cast<int8_t>(d < at.dim ? to_code(__fsub_rn(key[d], offsets[d]), scale) : 0);
    if (lane == 0) key_scales(image, at.padded)[(at.start + token) % kPageTokens] = scale;
}

// ── §3 ──
__device__ __forceinline__ float value_scale(const Place& at, int token, uint32_t* findings) {
    const float* value = at.values + token * at.stride;
    float largest = 0.f;
    bool bad = false;
    for (int d = threadIdx.x % 32; d < at.dim; d += 32) largest = fmaxf(largest, magnitude(value[d], bad));
    if (bad) atomicOr(findings, kNonfinite);
    return symmetric_scale(warp_max(largest));
}

__device__ __forceinline__ void store_weight(uint8_t* image, int token, int padded, float scale) {
    const float weight = fmaxf(scale, kMinCacheWeight);
    value_taus(image, padded)[token] = log2_weight(weight);
    value_inverses(image, padded)[token] = __fdiv_rn(1.f, weight);
}

__device__ __forceinline__ void write_value(const CacheView& cache, const Place& at, int token, float scale) {
    const int lane = threadIdx.x % 32, slot = (at.start + token) % kPageTokens;
    const float* value = at.values + token * at.stride;
    uint8_t* image = image_of(cache, at, at.start + token);
    int8_t* codes = value_row(image, slot, at.padded);
    for (int d = lane; d < at.padded; d += 32) codes[d] = static_cast<int8_t>(d < at.dim ? to_code(value[d], scale) : 0);
    if (lane == 0) store_weight(image, slot, at.padded, scale);
}

// ── §4 ──
__global__ void __launch_bounds__(kThreads) append(const Heads heads, const CacheView cache, const CacheMemory memory, const int32_t* start, float* scratch, uint32_t* findings) {
    __shared__ float maxima[32];
    const int head = blockIdx.x, warp = threadIdx.x / 32;
    Place at;
    at.start = *start;
    at.tokens = heads.tokens;
    at.dim = heads.head_dim;
    at.padded = cache.padded;
    at.head = head;
    at.stride = static_cast<int64_t>(heads.heads + 2 * heads.kv_heads) * heads.head_dim;
    at.keys = heads.qkv + static_cast<int64_t>(heads.heads + head) * heads.head_dim;
    at.values = at.keys + static_cast<int64_t>(heads.kv_heads) * heads.head_dim;
    float* offsets = memory.offsets + static_cast<int64_t>(head) * at.dim;
    float* scales = scratch + static_cast<int64_t>(head) * at.tokens;
    if (at.start == 0) freeze_offsets(at, offsets);
    __syncthreads();

    float largest_here = 0.f;  // of this warp's rows that are not zero
    for (int token = warp; token < at.tokens; token += kWarps) {
        write_key(cache, at, token, offsets, findings);
        const float scale = value_scale(at, token, findings);
        if (threadIdx.x % 32 == 0) scales[token] = scale;
        if (scale > kMinScale) largest_here = fmaxf(largest_here, scale);
    }
    const float before = at.start == 0 ? 0.f : memory.largest[head];
    const float largest = fmaxf(before, block_max(largest_here, maxima));  // block_max: all scales are written, `before` is read
    const float floor = largest == 0.f ? 1.f : __fmul_rn(largest, kScaleFloor);
    for (int token = warp; token < at.tokens; token += kWarps) write_value(cache, at, token, fmaxf(scales[token], floor));
    // Rows of zeros at the very start had nothing to compare with; their scale is free, so it follows once there is something.
    if (before == 0.f && largest > 0.f)
        for (int token = threadIdx.x; token < at.start; token += kThreads) store_weight(image_of(cache, at, token), token % kPageTokens, at.padded, floor);
    if (threadIdx.x == 0) memory.largest[head] = largest;
}

}  // namespace

cudaError_t launch_append(const Heads& heads, const CacheView& cache, const CacheMemory& memory, const int32_t* start, float* scratch, uint32_t* findings, cudaStream_t stream) {
    append<<<heads.kv_heads, kThreads, 0, stream>>>(heads, cache, memory, start, scratch, findings);
    return cudaGetLastError();
}

}  // namespace intflash
