// See cache_attention.h. A block takes runs of 1,024 keys of one KV head, one as a rule, and each of its eight warps a tile of 128 by itself
// (cache_run_tile.cuh). Warps meet once a run, to add up their tiles in order; the block that finishes last merges the runs (cache_run_sums.cuh).
//   §1 blocks at once   §2 a warp's tile   §3 kernel   §4 launch
#include <cuda_runtime.h>

#include <algorithm>

#include "cache_run_sums.cuh"
#include "ceil_div.h"
#include "grid_limits.h"
#include "launch_early.h"
#include "ptx/grid_dependency.cuh"
#include "ptx/ticket.cuh"
#include "shared_limit.h"

namespace intflash {
namespace {

// ── §1 ──
/** Of Hopper's registers and shared memory; small tiles are over soon, and then it takes more blocks to keep loads under way. */
constexpr int blocks_at_once(int dim, bool int4, int rows) { return dim == 256 ? 1 : dim == 128 || !int4 ? 2 : rows == 4 ? 4 : 3; }

template <class S> constexpr int block_bytes() { return static_cast<int>(sizeof(BlockMemory)) + kWarps * S::kBytes; }

// ── §2 ──
/** A block's keys and rows, by runs: tile w of a run is warp w's. */
struct RunSpan : Span {
    __device__ __forceinline__ int first_tile_of(int run) const { return max(0, first_tile - run * kWarps); }
    __device__ __forceinline__ int end_tile_of(int run) const { return min(kWarps, tiles - run * kWarps); }
    __device__ __forceinline__ bool has(int run, int warp) const { return warp >= first_tile_of(run) && warp < end_tile_of(run); }
};

/** A warp's tile. */
__device__ __forceinline__ TileSource source_of(const Span& s, int tile) {
    TileSource source;
    source.keys = min(kCacheTile, s.length - tile * kCacheTile);
    source.first = s.cache.image(tile * 2, blockIdx.y);
    source.second = source.keys > kPageTokens ? s.cache.image(tile * 2 + 1, blockIdx.y) : nullptr;
    return source;
}

/** Starts a tile of which nothing is under way. Of a block's warps the first asks for all at once and waits; when it goes on, the others need not hold back any more. */
template <class S> __device__ __forceinline__ void begin_tile(const Span& s, const TileSource& source, uint8_t* warp_memory, int tile, Pace pace, bool is_first, HeldSlot<S>& held) {
    // The launch before may still be under way. If it appends to the cache, then codes of new tokens, and for a value's first row that is not
    // zero also what attention needs of older ones; it touches neither the tables nor older codes.
    const bool is_old = (tile + 1) * kCacheTile <= s.length - s.tokens;
    if (!is_old) wait_for_launch_before();
    if (!is_old || is_first) pace.clocks = 0;
    start_tile<S>(source, warp_memory, pace, held);
    if (is_old) {
        KeyFacts::prefetch<S>(source);
        wait_for_launch_before();
    }
    if (S::kPaced && is_first) barrier_arrive(pace.ended);
    KeyFacts::of<S>(source).place(warp_memory + S::kRingBytes);
}

template <class S>
__device__ __forceinline__ RowState attend(const CacheAttention& args, const Span& s, const TileSource& source, const TileSource& next, uint8_t* warp_memory, int tile, bool early,
                                           const HeldSlot<S>& held, int (&sums)[S::kSums][4]) {
    const int lane = threadIdx.x % 32, first_position = s.length - s.tokens - tile * kCacheTile;
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
    return finish_tile<S>(args, {source, next, whole, early, begin_of(s.first_row), end_of(last)}, warp_memory, query, rows, held, sums);
}

template <class S> __device__ __forceinline__ void keep_tile(BlockMemory& shared, uint8_t* warp_memory, const RowState& state, const int (&sums)[S::kSums][4]) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    store_products<S>(warp_memory, sums);
    if (lane % 16 < S::kRows / kLaneRows) shared.states[row_of<S>() + lane / 16][warp] = state;
}

// ── §3 ──
/** How a launch shares out the keys: block x takes runs x · each on, more than one only where S::kSeveral. Scratch memory is laid out for `most_runs` of `most_rows`. */
struct RunLaunch {
    int most_rows, most_runs, each;
    bool early;  // the next launch may begin before this one ends
    int pace;    // clocks between loads of a slot each while the launch before is at work
};

/** Adds up the tiles of a run, once all are there. @returns whether it is the only run, so that this was all */
template <class S>
__device__ __forceinline__ bool add_up_run(const CacheAttention& args, const RunSpan& s, BlockMemory& shared, const uint8_t* warps, const ShortQueryScratch& scratch, int run, bool is_only,
                                           int64_t place) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Answer<S> out;
    const RowState state = add_tiles<S>(shared, warps, s.first_tile_of(run), s.end_tile_of(run), out);
    if (is_only) {  // merging with nothing changes no bit
        if (warp < S::kRows && lane == 0) shared.factors[warp] = final_factor(state);
        __syncthreads();
        write_answer<S>(args, s, shared, out);
        return true;
    }
#pragma unroll
    for (int e = 0; e < Share<S>::kPacks; ++e) {
        const int i = Share<S>::at(e);
        if (i / S::kD < s.row_count) *reinterpret_cast<typename Share<S>::Floats*>(reinterpret_cast<float*>(scratch.sums) + place * S::kD + i) = out[e];
    }
    if (warp < s.row_count && lane == 0) reinterpret_cast<float2*>(scratch.states)[place + warp] = make_float2(state.m, state.l);
    return false;
}

template <class S>
__global__ void __launch_bounds__(kThreads, blocks_at_once(S::kD, S::kInt4, S::kRows)) cache_run_query(const CacheAttention args, const ShortQueryScratch scratch, const RunLaunch launch) {
    extern __shared__ __align__(256) uint8_t memory[];
    BlockMemory& shared = *reinterpret_cast<BlockMemory*>(memory);
    uint8_t* const warps = memory + sizeof(BlockMemory);
    const int warp = threadIdx.x / 32;
    const RunSpan s{span_of(args, S::kRows)};
    const int each = S::kSeveral ? launch.each : 1, first_run = s.first_tile / kWarps, runs = (s.tiles + kWarps - 1) / kWarps;
    const int begin = max(first_run, static_cast<int>(blockIdx.x) * each), end = min(runs, (static_cast<int>(blockIdx.x) + 1) * each);
    if (s.tokens > kShortQuery || s.row_count <= 0 || begin >= end) return;
    // Worked out anew at each use: there is no register to keep them in.
    const auto head = [&] { return static_cast<int64_t>(s.sequence) * args.kv_heads + blockIdx.y; };
    const auto place_of = [&](int run) { return (head() * launch.most_runs + run) * launch.most_rows + s.first_row; };
    const auto add_up = [&](int run) { return add_up_run<S>(args, s, shared, warps, scratch, run, runs - first_run == 1, place_of(run)); };
    uint8_t* const warp_memory = warps + warp * S::kBytes;
    const uint32_t ended = shared_address(&shared.launch_before_ended), begun = static_cast<uint32_t>(clock());
    if constexpr (S::kPaced) {
        if (threadIdx.x == 0) barrier_init(ended, 32);
        __syncthreads();
    }
    const auto begin_this = [&](const TileSource& source, int tile, HeldSlot<S>& held) {
        begin_tile<S>(s, source, warp_memory, tile, {begun, warp, kWarps, launch.pace, ended}, warp == s.first_tile_of(begin), held);
    };
    if constexpr (S::kSeveral) {
        bool is_begun = false;
        HeldSlot<S> held;
#pragma unroll 1
        for (int run = begin; run < end; ++run) {
            const bool is_last = run + 1 == end, is_mine = s.has(run, warp), goes_on = !is_last && is_mine && s.has(run + 1, warp);
            const int tile = run * kWarps + warp;
            RowState state;
            int sums[S::kSums][4];
            if (is_mine) {
                const TileSource source = source_of(s, tile), next = goes_on ? source_of(s, tile + kWarps) : TileSource{nullptr, nullptr, 0};
                if (!is_begun) begin_this(source, tile, held);
                state = attend<S>(args, s, source, next, warp_memory, tile, launch.early && is_last, held, sums);
            }
            is_begun = goes_on;
            if (run > begin) __syncthreads();  // the products of the run before have been read
            if (is_mine) keep_tile<S>(shared, warp_memory, state, sums);
            __syncthreads();
            if (is_last) launch_dependents();
            if (add_up(run)) return;
        }
    } else {  // the same for one run; as a loop of one turn it would take more registers than there are
        const int run = blockIdx.x;
        if (s.has(run, warp)) {
            const int tile = run * kWarps + warp;
            const TileSource source = source_of(s, tile);
            HeldSlot<S> held;
            int sums[S::kSums][4];
            begin_this(source, tile, held);
            const RowState state = attend<S>(args, s, source, {}, warp_memory, tile, launch.early, held, sums);
            keep_tile<S>(shared, warp_memory, state, sums);
        }
        __syncthreads();
        launch_dependents();
        if (add_up(run)) return;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t* ticket = scratch.tickets + head() * (gridDim.z / args.step.count) + s.first_row / S::kRows;
        shared.last = draw_ticket(ticket) == static_cast<uint32_t>((runs + each - 1) / each - first_run / each - 1);
        if (shared.last) *ticket = 0;
    }
    __syncthreads();
    if (shared.last) merge_runs<S>(args, s, shared, warps, scratch, first_run, runs, launch.most_rows, place_of(0));
}

// ── §4 ──
/**
 * From so many runs on the next launch begins while these are still at work, which keeps loads under way. With fewer a step takes longer then: the weights
 * that the next layer asks for are in the way (docs/results/h200/log.md).
 */
constexpr int64_t kManyRuns = 64;

int runs_of(int tiles) { return ceil_div(tiles, kWarps); }
/** Parts that the rows of all sequences' KV heads are cut into. */
template <class S> int64_t parts_of(const CacheAttention& args, int rows) { return int64_t{ceil_div(rows, S::kRows)} * args.step.count; }

template <class S> cudaError_t launch(const CacheAttention& args, const ShortQueryScratch& scratch, int tiles, int rows, int each, cudaStream_t stream) {
    const cudaError_t status = cudaFuncSetAttribute(cache_run_query<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, block_bytes<S>());
    if (status != cudaSuccess) return status;
    const int runs = runs_of(tiles);
    const int64_t parts = parts_of<S>(args, rows);
    if (parts > kMaxGridZ) return cudaErrorInvalidConfiguration;
    const dim3 grid(ceil_div(runs, each), args.kv_heads, static_cast<unsigned>(parts));
    const bool early = runs * args.kv_heads * parts >= kManyRuns;
    int pace = 0;
    if (running_code().architecture >= 900)  // earlier code begins when the launch before has ended
        if (const cudaError_t failed = pace_of(S::kSlotBytes, int64_t{grid.x} * grid.y * grid.z, pace)) return failed;
    return launch_early(cache_run_query<S>, grid, kThreads, block_bytes<S>(), stream, args, scratch, RunLaunch{rows, runs, each, early, pace});
}

/**
 * INT4 with 128 channels: tiles are small, and too few warps share a processor to keep its memory busy between one block and the next. Where blocks
 * come in a few rounds each takes several runs instead (docs/results/h200/log.md).
 */
template <int kRows> using SmallTile = RunTile<128, true, kRows, 4, true>;
constexpr int kFewRounds = 8;      // after more of them no two blocks of a processor are at the same point any more, and the memory is busy
constexpr double kBeginning = 0.3;  // of a block, in runs

/** How many runs a block takes for the shortest launch, where `others` blocks share each part of the keys: powers of two, since runs often are. */
int runs_of_a_block(int runs, int64_t others, int64_t at_once) {
    const auto rounds = [&](int each) { return ceil_div(ceil_div(runs, each) * others, at_once); };
    const auto cost = [&](int each) { return rounds(each) * (each + kBeginning); };
    int best = 1;
    if (rounds(1) > kFewRounds) return best;
    for (int each = 2; each <= runs; each *= 2)
        if (cost(each) < cost(best)) best = each;
    return best;
}

/** Launches blocks of several runs where that is quicker, and says whether it did. */
template <class S> cudaError_t launch_several(const CacheAttention& args, const ShortQueryScratch& scratch, int tiles, int rows, cudaStream_t stream, bool& launched) {
    int device = 0, processors = 0, shared_bytes = 0;
    cudaError_t status = cudaGetDevice(&device);
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
    if (status != cudaSuccess) return status;
    constexpr int kReserved = 1024;  // by the system, of each block
    const int resident = std::min(blocks_at_once(S::kD, S::kInt4, S::kRows), shared_bytes / (block_bytes<S>() + kReserved));
    const int each = runs_of_a_block(runs_of(tiles), args.kv_heads * parts_of<S>(args, rows), int64_t{processors} * resident);
    launched = each > 1;
    return launched ? launch<S>(args, scratch, tiles, rows, each, stream) : cudaSuccess;
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
    if (args.cache.padded == 128 && args.cache.int4 && block_bytes<SmallTile<8>>() <= shared_bytes) {
        bool launched = false;
        const cudaError_t status = rows <= 4 ? launch_several<SmallTile<4>>(args, scratch, tiles, rows, stream, launched) : launch_several<SmallTile<8>>(args, scratch, tiles, rows, stream, launched);
        if (launched || status != cudaSuccess) return status;
    }
    return with_tile(args.cache.padded, args.cache.int4, rows, shared_bytes, [&](auto tile) { return launch<decltype(tile)>(args, scratch, tiles, rows, 1, stream); });
}

}  // namespace intflash
