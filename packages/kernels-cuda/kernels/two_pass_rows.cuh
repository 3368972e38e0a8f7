// How the blocks of two_pass_quantize.cu read a chunk of a tensor's rows, whatever their length and alignment.
#pragma once
#include "quantize_job.cuh"

namespace intflash {

constexpr int kTwoPassThreads = 256;

/** Rows that a block takes, 32 KiB: enough blocks for an even end, and eight pieces a thread. */
template <class P> constexpr int kChunkRows = 32 * 1024 / Blocks<P>::kRowBytes;

/** kPerRow threads a row, neighbours in a warp, each with kParts pieces of it. */
template <class P, int kParts> struct ChunkLanes {
    static constexpr int kPerRow = P::kD / P::kPiece / kParts, kStep = kTwoPassThreads / kPerRow, kRounds = kChunkRows<P> / kStep;
    static_assert(kRounds * kParts == 8, "a chunk is eight pieces a thread");
    int lane, first;
    __device__ __forceinline__ ChunkLanes() : lane(threadIdx.x % kPerRow), first(threadIdx.x / kPerRow) {}
    __device__ __forceinline__ int row(int round) const { return first + round * kStep; }
    __device__ __forceinline__ int channel(int part) const { return (part * kPerRow + lane) * P::kPiece; }
};

/**
 * Calls work(row, the thread's pieces of it) round by round; where there is no row, or no channel, pieces are zeros. All threads of a warp come along.
 * kBatch rounds are on their way at a time; ready() is called while the first are.
 *
 * @tparam kOnce nobody reads them again
 */
template <class P, int kParts, int kBatch, bool kOnce, class Ready, class Work> __device__ __forceinline__ void each_row(const SourceRows<P>& rows, Ready ready, Work work) {
    using Lanes = ChunkLanes<P, kParts>;
    static_assert(Lanes::kRounds % kBatch == 0, "batches are whole");
    const Lanes lanes;
    const char* source = rows.address(lanes.row(0), lanes.channel(0));
    const int64_t step = Lanes::kStep * rows.operand.strides.token * Blocks<P>::kSize;
    uint4 raw[kBatch][kParts];
    const auto load = [&](int begin) {
        if (rows.aligned) {
#pragma unroll
            for (int i = 0; i < kBatch; ++i, source += step)
#pragma unroll
                for (int part = 0; part < kParts; ++part)
                    raw[i][part] = lanes.row(begin + i) < rows.count && lanes.channel(part) < rows.operand.dim ? load_16<kOnce>(source + part * Lanes::kPerRow * 16) : make_uint4(0, 0, 0, 0);
        } else {
#pragma unroll
            for (int i = 0; i < kBatch; ++i)
#pragma unroll
                for (int part = 0; part < kParts; ++part) raw[i][part] = rows.piece(lanes.row(begin + i), lanes.channel(part));
        }
    };
    load(0);
    ready();
    for (int begin = 0;;) {
#pragma unroll
        for (int i = 0; i < kBatch; ++i) work(lanes.row(begin + i), raw[i]);
        begin += kBatch;
        if (begin >= Lanes::kRounds || begin * Lanes::kStep >= rows.count) break;
        load(begin);
    }
}

/** Channels in four bytes: a float32, or two neighbours of 16 bits. */
template <class P> constexpr int kWordChannels = P::kWide ? 1 : 2;

template <class P, bool kAligned> __device__ __forceinline__ uint32_t load_word(const char* source) {
    if constexpr (P::kWide || kAligned) return __ldg(reinterpret_cast<const uint32_t*>(source));
    const unsigned short* halves = reinterpret_cast<const unsigned short*>(source);
    return __ldg(halves) | static_cast<uint32_t>(__ldg(halves + 1)) << 16;
}

/**
 * x · 2^-896 as float64, exactly, zeros and the smallest numbers too, from the bits of a float32: its exponent and fraction in a double's places. Some
 * integer operations, where converting takes the time of eight. Sums of such numbers are rounded as those of the numbers themselves are: what lies below
 * the smallest normal float64 are multiples of 2^-1045, which it has.
 */
__device__ __forceinline__ double shrunken(uint32_t bits) { return __hiloint2double(static_cast<int>(bits) >> 3 & 0x8fffffff, static_cast<int>(bits << 29)); }
/** The same where the last three bits are zeros, as of float16 and bfloat16. */
__device__ __forceinline__ double shrunken_short(uint32_t bits) { return __hiloint2double(static_cast<int>(bits) >> 3 & 0x8fffffff, 0); }
/** The same of the bfloat16 in a word's upper half; the lower half is masked out. */
__device__ __forceinline__ double shrunken_high(uint32_t word) { return __hiloint2double(static_cast<int>(word) >> 3 & 0x8fffe000, 0); }
constexpr double kGrow = 0x1p896;  // back again

/** Adds a word's numbers, shrunken, to its channels' sums. */
template <class P> __device__ __forceinline__ void add_word(double (&sums)[kWordChannels<P>], uint32_t word, ElementType type) {
    if constexpr (P::kWide) {
        sums[0] += shrunken(word);
    } else if (type == ElementType::kFloat16) {
        const float2 x = __half22float2(*reinterpret_cast<const __half2*>(&word));
        sums[0] += shrunken_short(__float_as_uint(x.x)), sums[1] += shrunken_short(__float_as_uint(x.y));
    } else {
        sums[0] += shrunken_short(word << 16), sums[1] += shrunken_high(word);
    }
}

}  // namespace intflash
