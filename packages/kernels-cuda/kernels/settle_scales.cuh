// The scales of values that a block has appended: each row's depends on the largest of those before it.
#pragma once
#include <cstdint>

#include "cache_rows.cuh"

namespace intflash {

constexpr int kAppendWarps = 8, kAppendThreads = 32 * kAppendWarps;  // of a block

/** The first value row that is not zero, and its scale: rows of zeros before it had nothing to compare with, and take their floor from it. */
struct FirstValue {
    int token;
    float scale;
};

/** Maximum of the threads before this one, over a block. */
__device__ __forceinline__ float max_before(float value) {
    __shared__ float most[kAppendWarps];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float running = value;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const float other = __shfl_up_sync(~0u, running, step);
        if (lane >= step) running = fmaxf(running, other);
    }
    if (lane == 31) most[warp] = running;
    const float earlier = __shfl_up_sync(~0u, running, 1);
    __syncthreads();
    float before = lane == 0 ? 0.f : earlier;
#pragma unroll
    for (int other = 0; other < kAppendWarps; ++other)
        if (other < warp) before = fmaxf(before, most[other]);
    return before;
}

/**
 * By a whole block, a run of rows a thread: each row's scale from its own and the largest of the rows before it. Rows that need other codes for
 * it get the scale's negative. `first` (shared) is set by who finds it.
 */
__device__ __forceinline__ void settle_scales(const Place& at, const Largest& kept, float* scales, FirstValue& first) {
    const int each = (at.tokens + kAppendThreads - 1) / kAppendThreads, begin = min(static_cast<int>(threadIdx.x) * each, at.tokens), end = min(begin + each, at.tokens);
    float most = 0.f;
#pragma unroll 4
    for (int token = begin; token < end; ++token) most = fmaxf(most, counted_scale(scales[token]));
    float before = fmaxf(kept.before, max_before(most));  // past this, all threads have read kept.before: its place may change
    for (int token = begin; token < end; ++token) {
        const float own = scales[token];
        if (counted_scale(own) > before) {
            if (before == 0.f) first = {token, own};
        } else if (own < floor_of(before)) {
            scales[token] = -floor_of(before);
        }
        before = fmaxf(before, counted_scale(own));
        keep_largest(at, kept, token, before);
    }
    if (threadIdx.x == 0) kept.recent[kRecent - 1] = kept.before;
}

/** By a whole block, after write_value of all rows gave `scales`: each row's weight, and other codes where it needs them. */
template <bool kInt4> __device__ __forceinline__ void settle(const Place& at, const Largest& kept, float* scales, HeadMemory (&rows)[kAppendWarps], uint32_t* findings) {
    __shared__ FirstValue first;
    if (threadIdx.x == 0) first = {0, 0.f};
    __syncthreads();  // all scales are there, too
    settle_scales(at, kept, scales, first);
    __syncthreads();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int base = warp * 32; base < at.tokens; base += kAppendThreads) {
        const float mine = base + lane < at.tokens ? scales[base + lane] : 0.f;
        for (unsigned wanting = __ballot_sync(~0u, mine < 0.f); wanting != 0; wanting &= wanting - 1) {
            const int which = __ffs(static_cast<int>(wanting)) - 1;
            const float floor = -__shfl_sync(~0u, mine, which);
            write_value<kInt4>(at, base + which, &floor, rows[warp], findings);
        }
    }
    const int zeros = first.scale > 0.f ? first.token : 0;  // rows of these tokens, all of zeros
    for (int token = threadIdx.x; token < at.tokens; token += kAppendThreads) store_weight<kInt4>(at, at.start + token, token < zeros ? floor_of(first.scale) : fabsf(scales[token]));
    if (first.scale > 0.f)
        for (int token = threadIdx.x; token < at.start; token += kAppendThreads) store_weight<kInt4>(at, token, floor_of(first.scale));
}

}  // namespace intflash
