// How the tiles that a block's warps made (cache_run_tile.cuh) become a run, and runs the answer: in order, so that the bits are those of
// cache_short_query.cu. Threads share out rows and channels.
//   §1 a block's memory   §2 order   §3 tiles into a run   §4 runs into the answer
#pragma once
#include "cache_run_tile.cuh"

namespace intflash {

// ── §1 ──
constexpr int kWarps = kCacheRun / kCacheTile, kThreads = kWarps * 32;
constexpr int kAtOnce = 16;  // runs that are merged at once, a lane each

struct alignas(256) BlockMemory {
    Rescale rescale[8][kAtOnce];
    RowState states[8][kWarps];
    float factors[8];
    uint64_t launch_before_ended;  // see paced_start.cuh
    bool last;
};

// ── §2 ──
/**
 * Step 6 of docs/arithmetic.md for `count` parts, kParts at most, lane i the i-th: how each is rescaled. Maximum and row sum, the same in all lanes, go on
 * from what they were. Only the row sum needs order: the larger of two numbers does not depend on it.
 */
template <int kParts> __device__ __forceinline__ Rescale absorb_in_order(const RowState& part, int count, RowState& state) {
    constexpr int kUnrolled = 4;  // little code, since a launch waits for code that it comes to for the first time
    static_assert(kParts % kUnrolled == 0);
    const int lane = threadIdx.x % 32;
    float after = part.m;
#pragma unroll
    for (int step = 1; step < kParts; step *= 2) {
        const float other = __shfl_up_sync(~0u, after, step);
        if (lane >= step) after = fmaxf(after, other);
    }
    after = fmaxf(after, state.m);
    float before = __shfl_up_sync(~0u, after, 1);
    if (lane == 0) before = state.m;
    Rescale by{1.f, 0.f};
    if (part.m != -INFINITY) by = {before == -INFINITY ? 0.f : exp2_polynomial(__fsub_rn(before, after)), exp2_polynomial(__fsub_rn(part.m, after))};
#pragma unroll 1
    for (int first = 0; first < count; first += kUnrolled)  // parts behind the last change nothing
#pragma unroll
        for (int i = first; i < first + kUnrolled; ++i)
            state.l = __fmaf_rn(__shfl_sync(~0u, part.l, i), __shfl_sync(~0u, by.beta, i), __fmul_rn(state.l, __shfl_sync(~0u, by.alpha, i)));
    state.m = __shfl_sync(~0u, after, kParts - 1);
    return by;
}

__device__ __forceinline__ float final_factor(const RowState& state) { return state.m == -INFINITY ? 0.f : __fdiv_rn(1.f / 255.f, state.l); }

// ── §3 ──
/** How a block's threads share rows and channels: pack e of a thread is the numbers (thread + e · kThreads) · kWidth on, row after row. */
template <class S> struct Share {
    static constexpr int kElements = S::kRows * S::kD / kThreads, kWidth = kElements < 4 ? kElements : 4, kPacks = kElements / kWidth;
    using Floats = Pack<float, kWidth>;
    static __device__ __forceinline__ int at(int pack) { return (threadIdx.x + pack * kThreads) * kWidth; }
};

template <class S> using Answer = typename Share<S>::Floats[Share<S>::kPacks];

template <int kWidth> __device__ __forceinline__ void add_part(Pack<float, kWidth>& sum, const Pack<float, kWidth>& part, const Rescale& by) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sum.at[i] = __fmaf_rn(part.at[i], by.beta, __fmul_rn(sum.at[i], by.alpha));
}

template <class S> __device__ __forceinline__ void write_answer(const CacheAttention& args, const Span& s, const BlockMemory& shared, const Answer<S>& total) {
#pragma unroll
    for (int e = 0; e < Share<S>::kPacks; ++e) {
        const int r = Share<S>::at(e) / S::kD, d = Share<S>::at(e) % S::kD;
        if (r >= s.row_count) continue;
        float* to = out_row(args, s, r) + d;
#pragma unroll
        for (int i = 0; i < Share<S>::kWidth; ++i)
            if (d + i < args.head_dim) to[i] = __fmul_rn(total[e].at[i], shared.factors[r]);
    }
}

/** The run's tiles `from` to `to` - 1, counted from its first, in order; row r's state in warp r. */
template <class S> __device__ __forceinline__ RowState add_tiles(BlockMemory& shared, const uint8_t* warps, int from, int to, Answer<S>& out) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    RowState state{-INFINITY, 0.f};
    if (warp < S::kRows) {
        const Rescale by = absorb_in_order<kWarps>(lane >= from && lane < to ? shared.states[warp][lane] : RowState{-INFINITY, 0.f}, to, state);
        if (lane < kWarps) shared.rescale[warp][lane] = by;
    }
    __syncthreads();
#pragma unroll
    for (int e = 0; e < Share<S>::kPacks; ++e) {
        const int r = Share<S>::at(e) / S::kD, d = Share<S>::at(e) % S::kD;
        out[e] = {};
        const auto add = [&](int tile) { add_part(out[e], tile_product<S, Share<S>::kWidth>(warps + tile * S::kBytes, r, d), shared.rescale[r][tile]); };
        if (from == 0 && to == kWarps) {
#pragma unroll
            for (int tile = 0; tile < kWarps; ++tile) add(tile);
        } else {
#pragma unroll 1
            for (int tile = from; tile < to; ++tile) add(tile);
        }
    }
    return state;
}

// ── §4 ──
/** How many at once: as many as find room in the warps' memory, which is free by then. */
template <class S> constexpr int kTogetherOf = kAtOnce * S::kRows * S::kD * 4 <= kWarps * S::kBytes ? kAtOnce : kAtOnce / 2;

/** By the block that finishes last: runs into the answer, in order. `base`: the place of row 0 of run 0. Each thread fetches its own numbers through `memory`. */
template <class S> __device__ void merge_runs(const CacheAttention& args, const Span& s, BlockMemory& shared, uint8_t* memory, const ShortQueryScratch& scratch, int first_run, int runs, int64_t run_stride, int64_t base) {
    constexpr int kRunFloats = S::kRows * S::kD, kTogether = kTogetherOf<S>;
    static_assert(kTogether * kRunFloats * 4 <= kWarps * S::kBytes, "runs find room");
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Answer<S> total = {};
    RowState state{-INFINITY, 0.f};  // of row `warp`
    for (int first = first_run; first < runs; first += kTogether) {
        const int count = min(kTogether, runs - first);
        const int64_t place = base + first * run_stride;
        RowState part{-INFINITY, 0.f};
        if (warp < s.row_count && lane < count) {
            const float2 both = __ldcg(reinterpret_cast<const float2*>(scratch.states) + place + lane * run_stride + warp);
            part = {both.x, both.y};
        }
#pragma unroll
        for (int e = 0; e < Share<S>::kPacks; ++e) {
            const int i = Share<S>::at(e);
            if (i / S::kD < s.row_count)
#pragma unroll 4
                for (int run = 0; run < count; ++run) copy_async<Share<S>::kWidth * 4>(shared_address_of(memory) + (run * kRunFloats + i) * 4, scratch.sums + (place + run * run_stride) * S::kD + i);
        }
        commit_copies();
        __syncthreads();  // the factors before these have been read
        if (warp < s.row_count) {
            const Rescale by = absorb_in_order<kAtOnce>(part, count, state);
            if (lane < kAtOnce) shared.rescale[warp][lane] = by;
        }
        wait_for_copies<0>();
        __syncthreads();
#pragma unroll
        for (int e = 0; e < Share<S>::kPacks; ++e) {
            const int i = Share<S>::at(e);
#pragma unroll 4
            for (int run = 0; run < count; ++run)
                add_part(total[e], *reinterpret_cast<const typename Share<S>::Floats*>(memory + (run * kRunFloats + i) * 4), shared.rescale[i / S::kD][run]);
        }
    }
    if (warp < s.row_count && lane == 0) shared.factors[warp] = final_factor(state);
    __syncthreads();
    write_answer<S>(args, s, shared, total);
}

}  // namespace intflash
