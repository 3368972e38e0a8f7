// See launch_append in decoder_steps.h: the TypeScript cache (packages/llm, kv-cache-layer.ts and fitted-int4.ts) on the device. One block
// a KV head and sequence, a warp a row.
//   §1 the first append: key offsets     §3 rows into the cache
//   §2 a row's scale and codes           §4 the values' floor; kernel and launch
#include <cuda_runtime.h>

#include "decoder_steps.h"
#include "exact_math.cuh"
#include "hadamard.cuh"
#include "int4_codes.cuh"
#include "ptx/grid_dependency.cuh"
#include "row_codes.cuh"

namespace intflash {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kOffsetTokens = 64;  // a key offset is the mean of this many tokens at most …
constexpr int kMinOffsetTokens = 8;  // … and of no fewer than this
constexpr float kScaleFloor = 9.53674316e-7f;  // 2^-20: no value row gets a scale below this part of the largest before it
constexpr int kMaxInt4 = 7;

struct Place {
    CacheView cache;
    int start, tokens, dim, head;
    int64_t stride;
    const float *keys, *values;  // of the first token
};

/** A warp's row, and room to rotate it. */
struct alignas(16) RowMemory {
    float row[kMaxHeadDim];
    double work[kMaxHeadDim];
};

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
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
    return value;
}

__device__ __forceinline__ double warp_sum(double value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value = __dadd_rn(value, __shfl_xor_sync(~0u, value, step));
    return value;
}

/** Largest magnitude of a row, the same in every lane. */
__device__ __forceinline__ float row_max(const float* row, int dim, uint32_t* findings) {
    float largest = 0.f;
    bool bad = false;
    for (int d = threadIdx.x % 32; d < dim; d += 32) largest = fmaxf(largest, magnitude(row[d], bad));
    if (bad) atomicOr(findings, kNonfinite);
    return warp_max(largest);
}

/** How a row's numbers become codes: rounded to float32 before, or cut off at ±7 (INT4 with a grid narrower than the row). */
struct Grid {
    float scale;
    bool cut;

    __device__ __forceinline__ int code(float value) const {
        if (!cut) return to_code(value, scale);
        return max(-kMaxInt4, min(kMaxInt4, __double2int_rn(static_cast<double>(value) / scale)));
    }
};

/** The grid of least squared error among those that end at the row's maximum or at a part of it. */
__device__ __forceinline__ Grid fit_int4(const float* row, int dim, float largest) {
    constexpr double kRanges[] = {0.95, 0.9, 0.85, 0.8, 0.75, 0.7};
    const Grid widest{fmaxf(__fdiv_rn(largest, 7.f), kMinScale), false};
    const auto squared_error = [&](float scale) {
        const Grid grid{scale, true};  // errors are judged without the rounding to float32
        double sum = 0;
        for (int d = threadIdx.x % 32; d < dim; d += 32) {
            const double error = __dsub_rn(row[d], __dmul_rn(grid.code(row[d]), scale));
            sum = __dadd_rn(sum, __dmul_rn(error, error));
        }
        return warp_sum(sum);
    };
    Grid best = widest;
    double least = squared_error(widest.scale);
#pragma unroll 1
    for (const double range : kRanges) {
        const float narrower = static_cast<float>(__dmul_rn(widest.scale, range));
        const double error = squared_error(narrower);
        if (error < least) least = error, best = {narrower, true};
    }
    return best;
}

template <bool kInt4> __device__ __forceinline__ Grid fit(const float* row, int dim, uint32_t* findings) {
    const float largest = row_max(row, dim, findings);
    if constexpr (kInt4) return fit_int4(row, dim, largest);
    else return {symmetric_scale(largest), false};
}

template <bool kInt4> __device__ __forceinline__ void write_codes(const float* row, int dim, int padded, const Grid& grid, uint8_t* to) {
    if constexpr (kInt4) {
        for (int byte = threadIdx.x % 32; byte < padded / 2; byte += 32)
            to[byte] = 2 * byte < dim ? pack_int4(grid.code(row[2 * byte]), grid.code(row[2 * byte + 1])) : uint8_t{0};
    } else {
        for (int d = threadIdx.x % 32; d < padded; d += 32) to[d] = static_cast<uint8_t>(d < dim ? grid.code(row[d]) : 0);
    }
}

// ── §3 ──
template <bool kInt4> __device__ __forceinline__ void write_key(const Place& at, int token, const float* offsets, RowMemory& memory, uint32_t* findings) {
    for (int d = threadIdx.x % 32; d < at.dim; d += 32) memory.row[d] = __fsub_rn(at.keys[token * at.stride + d], offsets[d]);
    __syncwarp();
    if constexpr (kInt4) rotate_row(memory.row, memory.work, at.dim);
    const Grid grid = fit<kInt4>(memory.row, at.dim, findings);
    const int row_bytes = code_bytes(at.cache.padded, kInt4), slot = (at.start + token) % kPageTokens;
    uint8_t* image = at.cache.image((at.start + token) / kPageTokens, at.head);
    write_codes<kInt4>(memory.row, at.dim, at.cache.padded, grid, key_row(image, slot, row_bytes));
    if (threadIdx.x % 32 == 0) key_scales(image, row_bytes)[slot] = grid.scale;
    __syncwarp();  // the row's memory is free again
}

/** Codes of a value row under its own scale, which is returned, or under `floor` where its own is smaller. */
template <bool kInt4> __device__ __forceinline__ float write_value(const Place& at, int token, const float* floor, RowMemory& memory, uint32_t* findings) {
    for (int d = threadIdx.x % 32; d < at.dim; d += 32) memory.row[d] = at.values[token * at.stride + d];
    __syncwarp();
    if constexpr (kInt4) rotate_row(memory.row, memory.work, at.dim);
    const Grid grid = floor == nullptr ? fit<kInt4>(memory.row, at.dim, findings) : Grid{*floor, false};
    uint8_t* image = at.cache.image((at.start + token) / kPageTokens, at.head);
    write_codes<kInt4>(memory.row, at.dim, at.cache.padded, grid, value_row(image, (at.start + token) % kPageTokens, code_bytes(at.cache.padded, kInt4)));
    __syncwarp();
    return grid.scale;
}

template <bool kInt4> __device__ __forceinline__ void store_weight(const Place& at, int token, float scale) {
    const float weight = fmaxf(scale, kMinCacheWeight);
    uint8_t* image = at.cache.image(token / kPageTokens, at.head);
    const int row_bytes = code_bytes(at.cache.padded, kInt4);
    value_taus(image, row_bytes)[token % kPageTokens] = log2_weight(weight);
    value_inverses(image, row_bytes)[token % kPageTokens] = __fdiv_rn(1.f, weight);
}

// ── §4 ──
/** The first value row that is not zero, and its scale: rows of zeros before it had nothing to compare with, and take their floor from it. */
struct FirstValue {
    int token;
    float scale;
};

__device__ __forceinline__ float floor_of(float largest) { return largest == 0.f ? 1.f : __fmul_rn(largest, kScaleFloor); }

/**
 * By one warp: each row's scale from its own and the largest of the rows before it. Rows that need other codes for it get the scale's
 * negative. Returns the largest of all.
 */
__device__ __forceinline__ float settle_scales(float* scales, int tokens, float largest, FirstValue& first) {
    const int lane = threadIdx.x % 32;
    for (int base = 0; base < tokens; base += 32) {
        const int token = base + lane;
        const float own = token < tokens ? scales[token] : 0.f, counted = own > kMinScale ? own : 0.f;
        float running = counted;
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
            const float other = __shfl_up_sync(~0u, running, step);
            if (lane >= step) running = fmaxf(running, other);
        }
        const float earlier = __shfl_up_sync(~0u, running, 1), before = lane == 0 ? largest : fmaxf(largest, earlier);
        if (counted > before) {
            if (before == 0.f) first = {token, own};
        } else if (token < tokens && own < floor_of(before)) {
            scales[token] = -floor_of(before);
        }
        largest = fmaxf(largest, __shfl_sync(~0u, running, 31));
    }
    return largest;
}

template <bool kInt4>
__global__ void __launch_bounds__(kThreads) append(const Heads heads, const CacheLayer layer, const StepTable step, float* scratch, uint32_t* findings) {
    __shared__ RowMemory rows[kWarps];
    __shared__ FirstValue first;
    __shared__ float largest;
    launch_dependents();  // attention reads older tokens' codes meanwhile
    const int head = blockIdx.x, warp = threadIdx.x / 32;
    Place at;
    const StepSequence sequence = step.sequences[blockIdx.y];
    at.cache = view_of(sequence, layer);
    at.start = sequence.start;
    at.tokens = sequence.tokens;
    at.dim = heads.head_dim;
    at.head = head;
    at.stride = static_cast<int64_t>(heads.heads + 2 * heads.kv_heads) * heads.head_dim;
    at.keys = heads.qkv + sequence.first * at.stride + static_cast<int64_t>(heads.heads + head) * heads.head_dim;
    at.values = at.keys + static_cast<int64_t>(heads.kv_heads) * heads.head_dim;
    const int64_t place = static_cast<int64_t>(layer.index) * heads.kv_heads + head;
    float* offsets = sequence.offsets + place * at.dim;
    float* scales = scratch + static_cast<int64_t>(head) * step.tokens + sequence.first;
    if (at.start == 0) freeze_offsets(at, offsets);
    __syncthreads();

    for (int token = warp; token < at.tokens; token += kWarps) {
        write_key<kInt4>(at, token, offsets, rows[warp], findings);
        const float scale = write_value<kInt4>(at, token, nullptr, rows[warp], findings);
        if (threadIdx.x % 32 == 0) scales[token] = scale;
    }
    if (threadIdx.x == 0) first = {0, 0.f};
    __syncthreads();
    if (warp == 0) {
        const float most = settle_scales(scales, at.tokens, at.start == 0 ? 0.f : sequence.largest[place], first);
        if (threadIdx.x == 0) largest = most;
    }
    __syncthreads();
    for (int token = warp; token < at.tokens; token += kWarps) {
        const float floor = -scales[token];
        if (floor > 0.f) write_value<kInt4>(at, token, &floor, rows[warp], findings);
    }
    const int zeros = first.scale > 0.f ? first.token : 0;  // rows of these tokens, all of zeros
    for (int token = threadIdx.x; token < at.tokens; token += kThreads) store_weight<kInt4>(at, at.start + token, token < zeros ? floor_of(first.scale) : fabsf(scales[token]));
    if (first.scale > 0.f)
        for (int token = threadIdx.x; token < at.start; token += kThreads) store_weight<kInt4>(at, token, floor_of(first.scale));
    if (threadIdx.x == 0) sequence.largest[place] = largest;
}

}  // namespace

cudaError_t launch_append(const Heads& heads, const CacheLayer& cache, const StepTable& step, float* scratch, uint32_t* findings, cudaStream_t stream) {
    const dim3 grid(heads.kv_heads, step.count);
    if (cache.int4) append<true><<<grid, kThreads, 0, stream>>>(heads, cache, step, scratch, findings);
    else append<false><<<grid, kThreads, 0, stream>>>(heads, cache, step, scratch, findings);
    return cudaGetLastError();
}

}  // namespace intflash
