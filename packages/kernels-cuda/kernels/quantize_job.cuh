// What the blocks of the quantizers (quantize_floats.cu) share: the job, who waits for whom, how a block gets its rows.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>

#include "piece_codes.cuh"
#include "ptx/copy_async.cuh"
#include "ptx/load_once.cuh"
#include "sorted_quantize.h"

namespace intflash {

/** What the forward reads: tile_layout.h's tiles and rows, or sorted_layout.h's images. The second of each has V in float16. */
enum class TileFormat { kPlain, kPlainHalf, kSorted, kSortedHalf };
template <TileFormat kFormat> constexpr bool kIsPlain = kFormat == TileFormat::kPlain || kFormat == TileFormat::kPlainHalf;
template <TileFormat kFormat> constexpr bool kIsHalf = kFormat == TileFormat::kPlainHalf || kFormat == TileFormat::kSortedHalf;

/** How the work is cut into blocks. */
template <class P> struct Blocks {
    static constexpr int kSize = P::kWide ? 4 : 2, kRowBytes = P::kD * kSize;
    // Tiles are read several times and are to stay in L2 meanwhile: of the largest fewer are under way at a time, with more threads each.
    static constexpr int kThreads = P::kD == 256 ? 512 : 256, kWarps = kThreads / 32;
    /** Of a processor: what 64 registers a thread leave, or 80 for the long rows that need them. */
    static constexpr int kResident = P::kD == 256 ? 2 : P::kD == 128 && P::kWide ? 3 : 4;
    /** Shared memory for a tile's rows of K: all of them, or what the resident blocks have of a processor's 228 KB. */
    static constexpr int kKeptBytes = std::min(sorted_tile_keys(P::kD, false) * kRowBytes, P::kD == 64 ? 40 * 1024 : 96 * 1024);
    // Of short rows a block takes more: what it does once for all of them weighs less, and more of them are on their way.
    static constexpr int kGatherTiles = kRowBytes <= 128 ? 2 : 1, kQueryRows = kRowBytes <= 128 ? 512 : 256;
};

struct QuantizeJob {
    QuantizeRequest request;
    const Sequence* plain;            // the sequences: these,
    const SortedSequence* sequences;  // or, of sorted tiles, these
    int8_t* query_codes;
    float* query_scales;
    uint8_t* tiles;
    float* channel_scale;
    int32_t heads;         // KV heads of all sequences
    int32_t gather, encode_tiles, encode_queries;  // blocks of a head
    bool gathers_key, gathers_value, encodes_key, encodes_value;
    int32_t lag, query_lag;  // by how many heads the tiles' and the queries' encoding blocks come after the gathering ones
};

/** Counters of one head in Statistics::arrivals. */
struct HeadProgress {
    uint32_t *blocks, *ready;
    __device__ __forceinline__ HeadProgress(const QuantizeJob& job, int64_t head) : blocks(job.request.statistics.arrivals + head), ready(blocks + job.heads) {}
};

__device__ __forceinline__ uint32_t acquire(const uint32_t* counter) {
    uint32_t value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
    return value;
}
/** All threads of the block have done their part: one more arrival. @returns how many came before, in every thread, which then see what those blocks wrote */
__device__ __forceinline__ uint32_t arrive(uint32_t* counter) {
    __shared__ uint32_t before;
    __syncthreads();
    // The barrier hands the other threads' writes on to this one's release, and what it acquires on to them.
    if (threadIdx.x == 0) asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
    __syncthreads();
    return before;
}
/** The blocks waited for have lower numbers, and blocks start in the order of their numbers: they run or have run. */
__device__ __forceinline__ void wait_until(const uint32_t* counter, uint32_t value) {
    if (threadIdx.x == 0)
        while (acquire(counter) < value) __nanosleep(200);
    __syncthreads();
}

/** A KV head of a sequence. */
struct HeadPlace {
    SortedSequence sequence;
    int batch, head;
};
template <TileFormat kFormat> __device__ __forceinline__ HeadPlace head_place(const QuantizeJob& job, int flat) {
    HeadPlace at;
    at.batch = flat / job.request.key.heads, at.head = flat - at.batch * job.request.key.heads;
    if constexpr (kIsPlain<kFormat>) {
        const Sequence s = job.plain[at.batch];
        at.sequence = {s.q_start, s.k_start, s.q_row_base, s.tile_base, s.tile_base, s.q_len, s.k_len, 0, s.tiles, s.tiles, 0, 0, 0, 0, 0};
    } else {
        at.sequence = job.sequences[at.batch];
    }
    return at;
}

/** How a block covers kRows rows: a warp kGroups at once, a lane with two pieces of its row. */
template <class P, int kRows> struct RowLanes {
    static constexpr int kLanes = P::kD / P::kPiece / 2, kGroups = 32 / kLanes, kWarpRows = kRows / Blocks<P>::kWarps, kRounds = kWarpRows / kGroups;
    int lane, first_row;
    __device__ __forceinline__ RowLanes() : lane(threadIdx.x % kLanes), first_row(threadIdx.x / 32 * kWarpRows + threadIdx.x % 32 / kLanes) {}
    __device__ __forceinline__ int row(int round) const { return first_row + round * kGroups; }
    __device__ __forceinline__ int channel(int part) const { return (part * kLanes + lane) * P::kPiece; }
    /** Where the codes of the lane's second piece lie in an image of `rows` rows, if those of the first lie at `offset`. */
    static __device__ __forceinline__ int second_part(int offset, int rows) { return P::kD == 256 ? offset + rows * 128 : offset ^ P::kD / 2; }
};

/** Calls run(type) from a place of its own for each type: with the call inlined the type is a constant, and widening in loops takes no branch. */
template <class P, class F> __device__ __forceinline__ void with_type(ElementType type, F run) {
    if constexpr (P::kWide) run(ElementType::kFloat32);
    else if (type == ElementType::kFloat16) run(ElementType::kFloat16);
    else run(ElementType::kBfloat16);
}

// What is read once more soon should stay in L2: everything else is marked as the first to leave.
__device__ __forceinline__ uint4 load_once(const char* source) { return __ldcs(reinterpret_cast<const uint4*>(source)); }
template <bool kOnce> __device__ __forceinline__ uint4 load_16(const char* source) { return kOnce ? load_once(source) : __ldg(reinterpret_cast<const uint4*>(source)); }
__device__ __forceinline__ void store_once(void* target, const uint4& value) { __stcs(static_cast<uint4*>(target), value); }

/** Rows of an operand from `first` on; of those only `count` are there, and channels only up to operand.dim. */
template <class P> struct SourceRows {
    const Operand& operand;
    int64_t first;
    int count;
    bool aligned;
    __device__ __forceinline__ SourceRows(const Operand& operand, int64_t first, int count) : operand(operand), first(first), count(count), aligned(aligned_rows(operand)) {}
    /** True when kRows rows can be loaded 16 bytes at a time without a look at what is there. */
    template <int kRows> __device__ __forceinline__ bool whole() const { return aligned && count >= kRows && operand.dim == P::kD; }
    __device__ __forceinline__ const char* address(int row, int channel) const { return static_cast<const char*>(operand.data) + (first + row * operand.strides.token + channel) * Blocks<P>::kSize; }
    __device__ __forceinline__ uint4 piece(int row, int channel) const {
        return row < count && channel < operand.dim ? load_piece<P::kWide>(operand, first + row * operand.strides.token + channel, aligned) : make_uint4(0, 0, 0, 0);
    }
};

/** kRows rows on their way to shared memory, zeros where there are none. */
template <class P, int kRows> __device__ __forceinline__ void fetch_rows(uint8_t* target, const SourceRows<P>& rows) {
    constexpr int kPieces = P::kD / P::kPiece, kStep = Blocks<P>::kThreads / kPieces, kRowBytes = Blocks<P>::kRowBytes;
    const int first = threadIdx.x / kPieces, piece = threadIdx.x % kPieces, channel = piece * P::kPiece;
    const uint32_t own = shared_address_of(target) + first * kRowBytes + piece * 16;
    if (rows.template whole<kRows>()) {
        const char* source = rows.address(first, channel);
        const int64_t step = kStep * rows.operand.strides.token * Blocks<P>::kSize;
#pragma unroll
        for (int i = 0; i < kRows / kStep; ++i, source += step) copy_async<16>(own + i * kStep * kRowBytes, source);
        return;
    }
#pragma unroll 1
    for (int row = first; row < kRows; row += kStep) *reinterpret_cast<uint4*>(target + row * kRowBytes + piece * 16) = rows.piece(row, channel);
}

/** A channel of a row kept in shared memory. */
template <class P> __device__ __forceinline__ float channel_at(const uint8_t* rows, int row, int channel, ElementType type) {
    const uint8_t* at = rows + row * Blocks<P>::kRowBytes + channel * Blocks<P>::kSize;
    if constexpr (P::kWide) return *reinterpret_cast<const float*>(at);
    const unsigned short bits = *reinterpret_cast<const unsigned short*>(at);
    return type == ElementType::kFloat16 ? __half2float(__ushort_as_half(bits)) : __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

/** Raises `top`, bits of magnitudes (two a word if of 16 bits), to the numbers of two words. As bits they order as the numbers do, NaN above all. */
template <class P> __device__ __forceinline__ uint32_t raise_magnitude(uint32_t top, uint32_t a, uint32_t b) {
    if constexpr (P::kWide) return max(max(top, a & 0x7fffffffu), b & 0x7fffffffu);
    else return __vimax3_u16x2(top, a & 0x7fff7fffu, b & 0x7fff7fffu);
}
template <class P> __device__ __forceinline__ uint32_t raise_magnitude(uint32_t top, const uint4& raw) { return raise_magnitude<P>(raise_magnitude<P>(top, raw.x, raw.y), raw.z, raw.w); }

/** Bits as float32 of the larger magnitude in a word of raise_magnitude. */
template <class P> __device__ __forceinline__ uint32_t wide_magnitude(uint32_t top, ElementType type) {
    if constexpr (P::kWide) return top;
    const uint32_t most = max(top & 0xffffu, top >> 16);
    return type == ElementType::kFloat16 ? __float_as_uint(__half2float(__ushort_as_half(static_cast<unsigned short>(most)))) : most << 16;
}

/** What is wrong with an operand whose largest magnitude's bits are `top`. */
__device__ __forceinline__ void judge_magnitude(uint32_t top, float allowed, uint32_t* bad, uint32_t* large) {
    if (__uint_as_float(top) <= allowed) return;
    if (top < 0x7f800000u) atomicMax(large, top);
    else atomicOr(bad, 1u);
}

/** The same where any finite number is right. */
__device__ __forceinline__ void note_nonfinite(uint32_t top, uint32_t* bad) {
    if (top > 0x7f7fffffu) atomicOr(bad, 1u);
}

/** max(a, |b|), NaN if either is: one instruction. */
__device__ __forceinline__ float max_or_nan(float a, float b) {
    float most;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(most) : "f"(a), "f"(fabsf(b)));
    return most;
}

}  // namespace intflash
