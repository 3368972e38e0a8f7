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

__device__ __forceinline__ void prefetch_to_l2(const void* address) { asm volatile("prefetch.global.L2 [%0];" ::"l"(address)); }

/** Channels in four bytes: a float32, or two neighbours of 16 bits. */
template <class P> constexpr int kWordChannels = P::kWide ? 1 : 2;

template <class P, bool kAligned> __device__ __forceinline__ uint32_t load_word(const char* source) {
    if constexpr (P::kWide || kAligned) return __ldg(reinterpret_cast<const uint32_t*>(source));
    const unsigned short* halves = reinterpret_cast<const unsigned short*>(source);
    return __ldg(halves) | static_cast<uint32_t>(__ldg(halves + 1)) << 16;
}

/** sums[c] += the word's channel c. */
template <class P> __device__ __forceinline__ void add_word(double (&sums)[kWordChannels<P>], uint32_t word, ElementType type) {
    if constexpr (P::kWide) {
        sums[0] += __uint_as_float(word);
    } else {
        const float2 x = type == ElementType::kFloat16 ? __half22float2(*reinterpret_cast<const __half2*>(&word)) : make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
        sums[0] += x.x, sums[1] += x.y;
    }
}

}  // namespace intflash
