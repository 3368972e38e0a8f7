// How codes come to a tile of cache_run_tile.cuh: through a ring of slots in shared memory that belongs to one warp.
//   §1 layout   §2 slots   §3 what attention needs besides codes   §4 a tile's first slots
#pragma once
#include "biased_sums.cuh"
#include "cache_span.cuh"
#include "paced_start.cuh"
#include "ptx/copy_async.cuh"
#include "ptx/load_once.cuh"
#include "ptx/shared_memory.cuh"

namespace intflash {

// ── §1 ──
constexpr int kSlotKeys = 32, kTileSlots = kCacheTile / kSlotKeys;  // of keys, and as many of values
constexpr int kTileSteps = 2 * kTileSlots;

/**
 * A warp's memory: `kDepth` slots, then what attention needs of keys besides codes. A tile's products go over both in the end, or, where a warp has
 * several tiles one after the other (`kSeveral`), behind them: the next tile's codes are on their way then.
 */
template <int kD_, bool kInt4_, int kRows_, int kDepth_, bool kSeveral_ = false> struct RunTile {
    static constexpr int kD = kD_, kRows = kRows_, kDepth = kDepth_;
    static constexpr bool kInt4 = kInt4_, kSeveral = kSeveral_;
    static constexpr int kRow = code_bytes(kD, kInt4), kChunks = kRow / 16, kSlotBytes = kSlotKeys * kRow, kRingBytes = kDepth * kSlotBytes;
    static constexpr bool kPaced = !kInt4 || kD > 64;  // the first loads, see paced_start.cuh; else there is no register left for it
    /** The slot behind those that the ring has room for is asked for with them and waits in registers, where that is faster (docs/results/h200/log.md). */
    static constexpr bool kHolds = kD == 128 && !kInt4 && !kSeveral;
    /** Step kDepth's slot, where it is held, takes the place of the one before it, the others the first that is free. */
    static __device__ __forceinline__ constexpr int place_of(int step) { return kHolds && step >= kDepth ? (step == kDepth ? kDepth - 1 : (step - 1) % kDepth) : step % kDepth; }
    /** Whose slot comes where `step`'s was. */
    static __device__ __forceinline__ constexpr int after(int step) { return kHolds && step < kDepth ? (step == kDepth - 1 ? kDepth : step + kDepth + 1) : step + kDepth; }
    static constexpr int kProductStride = kD + 4;  // 4: eight bytes from each of 16 lanes lie in different banks
    static constexpr int kProductBytes = 8 * kProductStride * 4, kFactsEnd = kRingBytes + kCacheTile * 3 * 4, kProductsAt = kSeveral ? kFactsEnd : 0;
    static constexpr int kBytes = kFactsEnd + (kSeveral ? kProductBytes : 0);
    static_assert(kProductsAt + kProductBytes <= kBytes, "the products of a tile find room");
    static_assert(!kSeveral || kTileSteps % kDepth == 0, "the next tile's first slot follows the last");
    static constexpr int kScores = kRows * kCacheTile / 32, kCodeWords = kScores / 4;  // of a lane
    static constexpr int kSums = kD / 16;                                             // accumulators of P·V
    using Biased = BiasedSums<kInt4>;
};

/** Where a warp's keys come from. */
struct TileSource {
    const uint8_t *first, *second;  // images of the tile's two pages
    int keys;                       // that are there, 1 to 128
};

// ── §2 ──
/**
 * Calls each(i, from, place) for the lane's 16-byte chunks of slot `step` of the tile: 32 rows of keys, from the fifth step on of values. None of a page
 * that is not there: its slots stay as they are, no result depends on them. `to`: the lane's place in the ring, see slot_place.
 */
template <class S, class Each> __device__ __forceinline__ void for_chunks(const TileSource& source, int step, uint32_t to, const Each& each) {
    constexpr int kAtOnce = 32 / S::kChunks;  // rows
    const int first = step % kTileSlots * kSlotKeys;
    if (first >= kPageTokens && source.keys <= kPageTokens) return;
    const uint8_t* from = (first < kPageTokens ? source.first : source.second) + threadIdx.x % 32 * 16;
    const int offset = (step / kTileSlots * kPageTokens + first % kPageTokens) * S::kRow;
#pragma unroll
    for (int i = 0; i < S::kSlotBytes / 512; ++i) each(i, from + (offset + i * 512), (to ^ (chunk_swizzle(i * kAtOnce, S::kRow) * 16)) + (S::place_of(step) * S::kSlotBytes + i * 512));
}

/** Starts slot `step`. */
template <class S> __device__ __forceinline__ void load_slot(const TileSource& source, int step, uint32_t to) {
    for_chunks<S>(source, step, to, [](int, const uint8_t* from, uint32_t place) {
        if constexpr (S::kInt4 && S::kD == 64) copy_async<16>(place, from);  // no registers left for more
        else copy_async_16_once(place, from, read_once_policy());
    });
}

/** Slot kDepth on its way to the ring, where S::kHolds. */
template <class S> struct HeldSlot {
    uint32_t chunks[S::kHolds ? S::kSlotBytes / 512 : 1][4];
    __device__ __forceinline__ void load(const TileSource& source) {
        for_chunks<S>(source, S::kDepth, 0, [&](int i, const uint8_t* from, uint32_t) { load_once_now(chunks[i], from, read_once_policy()); });
    }
    __device__ __forceinline__ void place(const TileSource& source, uint32_t to) const {
        for_chunks<S>(source, S::kDepth, to, [&](int i, const uint8_t*, uint32_t place) { store_shared_words(place, chunks[i]); });
    }
};

template <class S> __device__ __forceinline__ uint32_t slot_place(uint32_t ring) {
    const int lane = threadIdx.x % 32, row = lane / S::kChunks, chunk = lane % S::kChunks;
    return ring + row * S::kRow + (chunk ^ chunk_swizzle(row, S::kRow)) * 16;
}

/** Waits until the slot of step `step` has landed, for the whole warp. A group of copies follows each step, so those from behind a held slot came a step earlier. */
template <class S> __device__ __forceinline__ void wait_for_slot(int step) {
    if (S::kHolds && step >= S::kDepth && step < 2 * S::kDepth) wait_for_copies<S::kDepth>();
    else wait_for_copies<S::kDepth - 1>();
    __syncwarp();
}

// ── §3 ──
/** Scales of four keys, log2 and inverses of their values' weights, on their way. By loads, so that they need not come in the order of slots. */
struct KeyFacts {
    float4 found[3];
    int there;
    template <class S> static __device__ __forceinline__ KeyFacts of(const TileSource& source) {
        const int lane = threadIdx.x % 32;
        KeyFacts facts;
        facts.there = source.keys - lane * 4;
        const uint8_t* from = (lane < 16 || facts.there <= 0 ? source.first : source.second) + 2 * kPageTokens * S::kRow + lane % 16 * 16;
#pragma unroll
        for (int i = 0; i < 3; ++i) facts.found[i] = __ldcg(reinterpret_cast<const float4*>(from + i * kPageTokens * 4));
        return facts;
    }
    /** Asks for them before they may be read, so that they are in L2 then. */
    template <class S> static __device__ __forceinline__ void prefetch(const TileSource& source) {
        if constexpr (S::kInt4 && S::kD == 64) return;  // no registers left
        constexpr int kLine = 128, kLines = kPageTokens * 3 * 4 / kLine;
        const int lane = threadIdx.x % 32;
        const uint8_t* const page = lane < kLines ? source.first : source.second;
        if (lane < 2 * kLines && page != nullptr) prefetch_line(page + 2 * kPageTokens * S::kRow + lane % kLines * kLine);
    }
    /** To the warp's memory; zeros past the end. */
    __device__ __forceinline__ void place(uint8_t* memory) const {
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            const float4 four = found[i];
            *reinterpret_cast<float4*>(memory + i * kCacheTile * 4 + threadIdx.x % 32 * 16) = make_float4(there > 0 ? four.x : 0.f, there > 1 ? four.y : 0.f, there > 2 ? four.z : 0.f, there > 3 ? four.w : 0.f);
        }
    }
};

// ── §4 ──
/** The first slots of a tile, as many as there is room for; `pace` where they are not to be asked for all at once. */
template <class S> __device__ __forceinline__ void start_tile(const TileSource& source, const uint8_t* memory, const Pace& pace, HeldSlot<S>& held) {
    const uint32_t place = slot_place<S>(shared_address_of(memory));
#pragma unroll
    for (int step = 0; step < S::kDepth; ++step) {
        if constexpr (S::kPaced) pace.wait_for(step);
        load_slot<S>(source, step, place);
        commit_copies();
    }
    if constexpr (S::kHolds) {
        pace.wait_for(S::kDepth);
        held.load(source);
    }
}

}  // namespace intflash
