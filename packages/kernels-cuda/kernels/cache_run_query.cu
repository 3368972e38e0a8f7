// See cache_attention.h. A block takes a run of 1,024 keys of one KV head, and each of its eight warps a tile of 128 by itself (cache_run_tile.cuh).
// Warps meet once, to add up their tiles in order; the block that finishes last merges the runs. The bits are those of cache_short_query.cu, which
// has a block for each tile.
//   §1 shared memory     §3 tiles into a run, runs into the answer
//   §2 order             §4 kernel and launch
#include <cuda_runtime.h>

#include "cache_run_tile.cuh"
#include "launch_early.h"
#include "ptx/grid_dependency.cuh"
#include "ptx/ticket.cuh"
#include "shared_limit.h"

namespace intflash {
namespace {

// ── §1 ──
constexpr int kWarps = kCacheRun / kCacheTile, kThreads = kWarps * 32;
constexpr int kAtOnce = 16;  // runs that are merged at once, a lane each

struct alignas(256) BlockMemory {
    Rescale rescale[8][kAtOnce];
    RowState states[8][kWarps];
    float factors[8];
    bool last;
};

/** Of Hopper's registers and shared memory; small tiles are over soon, and then it takes more blocks to keep loads under way. */
constexpr int blocks_at_once(int dim, bool int4, int rows) { return dim == 256 ? 1 : dim == 128 || !int4 ? 2 : rows == 4 ? 4 : 3; }

template <class S> constexpr int block_bytes() { return static_cast<int>(sizeof(BlockMemory)) + kWarps * S::kBytes; }

// ── §2 ──
/**
 * Step 6 of docs/arithmetic.md for up to kParts parts, lane i the i-th: how each is rescaled. Maximum and row sum, the same in all lanes, go on
 * from what they were. Only the row sum needs order: the larger of two numbers does not depend on it.
 */
template <int kParts> __device__ __forceinline__ Rescale absorb_in_order(const RowState& part, RowState& state) {
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
#pragma unroll
    for (int i = 0; i < kParts; ++i)
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

/** What another block wrote. */
template <int kWidth> __device__ __forceinline__ Pack<float, kWidth> load_pack(const int32_t* from) {
    Pack<float, kWidth> pack;
    if constexpr (kWidth == 1) {
        pack.at[0] = __int_as_float(__ldcg(from));
    } else if constexpr (kWidth == 2) {
        const int2 both = __ldcg(reinterpret_cast<const int2*>(from));
        pack = {__int_as_float(both.x), __int_as_float(both.y)};
    } else {
        const int4 all = __ldcg(reinterpret_cast<const int4*>(from));
        pack = {__int_as_float(all.x), __int_as_float(all.y), __int_as_float(all.z), __int_as_float(all.w)};
    }
    return pack;
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
        const Rescale by = absorb_in_order<kWarps>(lane >= from && lane < to ? shared.states[warp][lane] : RowState{-INFINITY, 0.f}, state);
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

/** By the block that finishes last: runs into the answer, in order. `base`: the place of row 0 of run 0. */
template <class S> __device__ void merge_runs(const CacheAttention& args, const Span& s, BlockMemory& shared, const ShortQueryScratch& scratch, int first_run, int runs, int64_t run_stride, int64_t base) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Answer<S> total = {};
    RowState state{-INFINITY, 0.f};  // of row `warp`
    for (int first = first_run; first < runs; first += kAtOnce) {
        const int count = min(kAtOnce, runs - first);
        const int64_t place = base + first * run_stride;
        RowState part{-INFINITY, 0.f};
        if (warp < s.row_count && lane < count) {
            const float2 both = __ldcg(reinterpret_cast<const float2*>(scratch.states) + place + lane * run_stride + warp);
            part = {both.x, both.y};
        }
        Answer<S> parts[kAtOnce];  // on their way while the states are dealt with
#pragma unroll
        for (int run = 0; run < kAtOnce; ++run)
#pragma unroll
            for (int e = 0; e < Share<S>::kPacks; ++e)
                if (run < count && Share<S>::at(e) / S::kD < s.row_count) parts[run][e] = load_pack<Share<S>::kWidth>(scratch.sums + (place + run * run_stride) * S::kD + Share<S>::at(e));
        __syncthreads();  // the factors before these have been read
        if (warp < s.row_count) {
            const Rescale by = absorb_in_order<kAtOnce>(part, state);
            if (lane < kAtOnce) shared.rescale[warp][lane] = by;
        }
        __syncthreads();
#pragma unroll
        for (int run = 0; run < kAtOnce; ++run)
#pragma unroll
            for (int e = 0; e < Share<S>::kPacks; ++e)
                if (run < count) add_part(total[e], parts[run][e], shared.rescale[Share<S>::at(e) / S::kD][run]);
    }
    if (warp < s.row_count && lane == 0) shared.factors[warp] = final_factor(state);
    __syncthreads();
    write_answer<S>(args, s, shared, total);
}

// ── §4 ──
/** Tile `tile`, which is this warp's. */
template <class S> __device__ __forceinline__ void attend(const CacheAttention& args, const Span& s, BlockMemory& shared, uint8_t* warp_memory, int tile, bool early) {
    const int first_key = tile * kCacheTile;
    TileSource source;
    source.keys = min(kCacheTile, s.length - first_key);
    source.first = s.cache.image(tile * 2, blockIdx.y);
    source.second = source.keys > kPageTokens ? s.cache.image(tile * 2 + 1, blockIdx.y) : nullptr;
    // The launch before may still be under way. If it appends to the cache, then codes of new tokens, and for a value's first row that is not
    // zero also what attention needs of older ones; it touches neither the tables nor older codes.
    const bool is_old = first_key + kCacheTile <= s.length - s.tokens;
    if (!is_old) wait_for_launch_before();
    start_tile<S>(source, warp_memory);
    if (is_old) wait_for_launch_before();
    load_facts<S>(source, warp_memory + S::kRingBytes);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first_position = s.length - s.tokens - first_key;
    const float inverse_group = __frcp_rn(static_cast<float>(args.heads / args.kv_heads));
    const auto position_of = [&](int row) { return first_position + static_cast<int>((row + 0.5f) * inverse_group); };  // row / group, as rows are few
    const auto begin_of = [&](int i) { return args.window_left < 0 || args.window_left > s.length ? 0 : position_of(i) - static_cast<int>(args.window_left); };
    const auto end_of = [&](int i) { return position_of(i) + 1; };
    const int last = s.first_row + s.row_count - 1;
    const auto mine = [&](int row) { return min(s.first_row + row, last); };  // rows past the last repeat it, and are not written
    const int64_t first_query = s.query_row(args) - s.first_row;
    TileRow rows[kLaneRows];
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) {
        const int row = mine(row_of<S>() + i);
        const float scale = args.query.scales[first_query + row];
        rows[i] = {begin_of(row), end_of(row), scale, __fmul_rn(__fmul_rn(scale, args.scale), kLog2E)};
    }
    const bool whole = begin_of(last) <= 0 && end_of(s.first_row) >= kCacheTile;
    const int8_t* query = args.query.codes + (first_query + mine(lane / 4 % S::kRows)) * S::kD;
    const RowState state = finish_tile<S>(args, source, warp_memory, query, rows, whole, begin_of(s.first_row), end_of(last), early);
    if (lane % 16 < S::kRows / kLaneRows) shared.states[row_of<S>() + lane / 16][warp] = state;
}

template <class S> __global__ void __launch_bounds__(kThreads, blocks_at_once(S::kD, S::kInt4, S::kRows)) cache_run_query(const CacheAttention args, const ShortQueryScratch scratch, int most_rows, bool early) {
    extern __shared__ __align__(256) uint8_t memory[];
    BlockMemory& shared = *reinterpret_cast<BlockMemory*>(memory);
    uint8_t* const warps = memory + sizeof(BlockMemory);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Span s = span_of(args, S::kRows);
    const int run = blockIdx.x, first_run = s.first_tile / kWarps, runs = (s.tiles + kWarps - 1) / kWarps;
    if (s.tokens > kShortQuery || s.row_count <= 0 || run < first_run || run >= runs) return;
    const int from = max(0, s.first_tile - run * kWarps), to = min(kWarps, s.tiles - run * kWarps);
    if (warp >= from && warp < to) attend<S>(args, s, shared, warps + warp * S::kBytes, run * kWarps + warp, early);
    __syncthreads();
    launch_dependents();
    Answer<S> out;
    const RowState state = add_tiles<S>(shared, warps, from, to, out);
    if (runs - first_run == 1) {  // merging with nothing changes no bit
        if (warp < S::kRows && lane == 0) shared.factors[warp] = final_factor(state);
        __syncthreads();
        write_answer<S>(args, s, shared, out);
        return;
    }
    const int64_t head = static_cast<int64_t>(s.sequence) * args.kv_heads + blockIdx.y;
    const int64_t base = head * gridDim.x * most_rows + s.first_row, place = base + static_cast<int64_t>(run) * most_rows;
#pragma unroll
    for (int e = 0; e < Share<S>::kPacks; ++e) {
        const int i = Share<S>::at(e);
        if (i / S::kD < s.row_count) *reinterpret_cast<typename Share<S>::Floats*>(reinterpret_cast<float*>(scratch.sums) + place * S::kD + i) = out[e];
    }
    if (warp < s.row_count && lane == 0) reinterpret_cast<float2*>(scratch.states)[place + warp] = make_float2(state.m, state.l);
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t* ticket = scratch.tickets + head * (gridDim.z / args.step.count) + s.first_row / S::kRows;
        shared.last = draw_ticket(ticket) == static_cast<uint32_t>(runs - first_run - 1);
        if (shared.last) *ticket = 0;
    }
    __syncthreads();
    if (shared.last) merge_runs<S>(args, s, shared, scratch, first_run, runs, most_rows, base);
}

/**
 * From so many blocks on, for several sequences, the next launch begins while these are still at work, which keeps loads under way. A lone sequence's step
 * takes longer then: the weights that the next layer asks for are in the way (docs/results/h200/log.md).
 */
constexpr unsigned kManyBlocks = 64;

template <class S> cudaError_t launch(const CacheAttention& args, const ShortQueryScratch& scratch, int tiles, int rows, cudaStream_t stream) {
    const cudaError_t status = cudaFuncSetAttribute(cache_run_query<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, block_bytes<S>());
    if (status != cudaSuccess) return status;
    const dim3 grid((tiles + kWarps - 1) / kWarps, args.kv_heads, (rows + S::kRows - 1) / S::kRows * args.step.count);
    if (grid.z > kMaxGridZ) return cudaErrorInvalidConfiguration;
    return launch_early(cache_run_query<S>, grid, kThreads, block_bytes<S>(), stream, args, scratch, rows, args.step.count > 1 && grid.x * grid.y * grid.z >= kManyBlocks);
}

/** Slots of a ring: with blocks_at_once on a processor of Hopper 160 KB and more are under way. */
constexpr int ring_depth(int slot_bytes, int blocks) { return slot_bytes >= 4096 || blocks == 1 ? 3 : blocks == 3 ? 7 : 5; }
constexpr int kShallow = 2, kLeastShared = 99 * 1024;  // where three slots find no room: GPUs with as little shared memory a block

/** Calls f with a RunTile: the deepest that finds room in `shared_bytes`, else the shallowest. */
template <class F> auto with_tile(int padded, bool int4, int rows, int shared_bytes, F f) {
    const auto with_depth = [&](auto dim, auto packed, auto part) {
        constexpr int kDepth = ring_depth(kSlotKeys * code_bytes(dim.value, packed.value), blocks_at_once(dim.value, packed.value, part.value));
        using Deep = RunTile<dim.value, packed.value, part.value, kDepth>;
        if constexpr (block_bytes<Deep>() > kLeastShared)
            if (block_bytes<Deep>() > shared_bytes) return f(RunTile<dim.value, packed.value, part.value, kShallow>());
        return f(Deep());
    };
    const auto with_rows = [&](auto dim, auto packed) {  // a part of four wastes nothing on groups of up to four
        return rows <= 4 ? with_depth(dim, packed, std::integral_constant<int, 4>()) : with_depth(dim, packed, std::integral_constant<int, 8>());
    };
    const auto with_packing = [&](auto dim) { return int4 ? with_rows(dim, std::true_type()) : with_rows(dim, std::false_type()); };
    switch (padded) {
        case 64: return with_packing(std::integral_constant<int, 64>());
        case 128: return with_packing(std::integral_constant<int, 128>());
        default: return with_packing(std::integral_constant<int, 256>());
    }
}

}  // namespace

bool run_query_fits(int padded, bool int4, int rows, int shared_bytes) {
    return with_tile(padded, int4, rows, shared_bytes, [&](auto tile) { return block_bytes<decltype(tile)>() <= shared_bytes; });
}

cudaError_t launch_run_query(const CacheAttention& args, const ShortQueryScratch& scratch, int tiles, int rows, cudaStream_t stream) {
    int shared_bytes = 0;
    if (const cudaError_t status = most_shared_bytes(shared_bytes)) return status;
    return with_tile(args.cache.padded, args.cache.int4, rows, shared_bytes, [&](auto tile) { return launch<decltype(tile)>(args, scratch, tiles, rows, stream); });
}

}  // namespace intflash
