// The rows of a tile of K or V as a quantizer's threads read them, and V's way through shared memory from rows to channels.
#pragma once
#include "byte_transpose.cuh"
#include "quantize_job.cuh"

namespace intflash {

/** A tile's rows of one operand, those of the first kKept rounds in shared memory; of the others up to kAtOnce a thread are on their way at a time. */
template <class P, int kKeys, int kKept, int kAtOnce = 4> struct TileRows : SourceRows<P> {
    using Lanes = RowLanes<P, kKeys>;
    static constexpr int kRest = Lanes::kRounds - kKept, kBatch = kRest < kAtOnce ? kRest : kRest % kAtOnce == 0 ? kAtOnce : 3, kStride = Lanes::kGroups * Blocks<P>::kRowBytes;
    uint8_t* own;  // the thread reads what it fetched itself
    __device__ __forceinline__ TileRows(const Operand& operand, int64_t first, int count, uint8_t* kept)
        : SourceRows<P>(operand, first, count), own(kept + (threadIdx.x / 32 * kKept * Lanes::kGroups + threadIdx.x % 32 / Lanes::kLanes) * Blocks<P>::kRowBytes + threadIdx.x % Lanes::kLanes * 16) {}

    /** The kept rows on their way. Nobody reads them again. */
    __device__ __forceinline__ void fetch(const Lanes& lanes) const {
        if (this->template whole<kKeys>()) {
            // ptxas (13.0) encodes a copy with a policy wrongly when part of its target lies in a uniform register. What comes out of an exchange does not.
            const uint32_t target = __shfl_sync(~0u, shared_address_of(own), threadIdx.x % 32);
            const uint64_t policy = read_once_policy();
            const char* source = this->address(lanes.first_row, lanes.channel(0));
            const int64_t step = Lanes::kGroups * this->operand.strides.token * Blocks<P>::kSize;
#pragma unroll
            for (int round = 0; round < kKept; ++round, source += step)
#pragma unroll
                for (int part = 0; part < 2; ++part) copy_async_16_once(target + round * kStride + part * Lanes::kLanes * 16, source + part * Lanes::kLanes * 16, policy);
            return;
        }
#pragma unroll 1
        for (int round = 0; round < kKept; ++round)
#pragma unroll
            for (int part = 0; part < 2; ++part) reinterpret_cast<uint4*>(own + round * kStride)[part * Lanes::kLanes] = this->piece(lanes.row(round), lanes.channel(part));
    }

    /** Calls work(row, its two pieces, their type) for the thread's rows. kLast: nobody reads them again. */
    template <bool kLast, class F> __device__ __forceinline__ void each(const Lanes& lanes, F work) const {
        if constexpr (kKept > 0)
            with_type<P>(this->operand.type, [&](ElementType type) {
                const uint8_t* source = own;
#pragma unroll 1
                for (int round = 0; round < kKept; ++round, source += kStride)
                    work(lanes.row(round), reinterpret_cast<const uint4*>(source)[0], reinterpret_cast<const uint4*>(source)[Lanes::kLanes], type);
            });
        if constexpr (kRest > 0) {
            static_assert(kRest % kBatch == 0, "batches are whole");
            if (this->template whole<kKeys>()) {
                with_type<P>(this->operand.type, [&](ElementType type) {
                    const char* source = this->address(lanes.row(kKept), lanes.channel(0));
                    const int64_t step = Lanes::kGroups * this->operand.strides.token * Blocks<P>::kSize;
#pragma unroll 1
                    for (int begin = kKept; begin < Lanes::kRounds; begin += kBatch) {
                        uint4 raw[kBatch][2];
#pragma unroll
                        for (int i = 0; i < kBatch; ++i, source += step)
#pragma unroll
                            for (int part = 0; part < 2; ++part) raw[i][part] = load_16<kLast>(source + part * Lanes::kLanes * 16);
#pragma unroll
                        for (int i = 0; i < kBatch; ++i) work(lanes.row(begin + i), raw[i][0], raw[i][1], type);
                    }
                });
                return;
            }
#pragma unroll 1
            for (int round = kKept; round < Lanes::kRounds; ++round) {
                const int row = lanes.row(round);
                work(row, this->piece(row, lanes.channel(0)), this->piece(row, lanes.channel(1)), this->operand.type);
            }
        }
    }
};

/** The lane's channels of something that a block knows of each. */
template <class P> struct OwnChannels {
    float x[2][P::kPiece];
    template <class Lanes> __device__ __forceinline__ OwnChannels(const float* all, const Lanes& lanes) {
#pragma unroll
        for (int part = 0; part < 2; ++part)
#pragma unroll
            for (int e = 0; e < P::kPiece; e += 4) {
                const float4 four = *reinterpret_cast<const float4*>(all + lanes.channel(part) + e);
                x[part][e] = four.x, x[part][e + 1] = four.y, x[part][e + 2] = four.z, x[part][e + 3] = four.w;
            }
    }
};

/**
 * V's part of the image on its way through shared memory: rows of slots, of kWords words. The threads that read there at once want a word each of
 * eight chunks of kRows rows: the words of chunk c are turned on by 4c, so that these lie in banks of their own.
 */
template <int kWords> __device__ __forceinline__ uint32_t turned(uint32_t chunk, uint32_t word) { return (word + 4 * chunk) % kWords; }

/** From staged rows to channels, four of them and 16 positions a thread at a time; eight threads write a line. */
template <int kD, int kKeys, int kThreads> __device__ __forceinline__ void write_codes(const uint32_t* staging, uint8_t* image) {
    constexpr uint32_t kChunks = kKeys / 16;
#pragma unroll 1
    for (uint32_t item = threadIdx.x; item < kD / 4 * kChunks; item += kThreads) {
        const uint32_t chunk = item % kChunks, quad = item / kChunks;
        const uint32_t* source = staging + chunk * 16 * (kD / 4) + turned<kD / 4>(chunk, quad);
        uint32_t out[4][4];  // [channel][word]
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            uint32_t rows[4], columns[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) rows[i] = source[(4 * w + i) * (kD / 4)];
            transpose_bytes(rows, columns);
#pragma unroll
            for (int c = 0; c < 4; ++c) out[c][w] = columns[c];
        }
#pragma unroll
        for (int c = 0; c < 4; ++c)
            store_once(image + panel_offset(4 * quad + c, chunk * 16, kD, kKeys), make_uint4(out[c][0], out[c][1], out[c][2], out[c][3]));
    }
}

}  // namespace intflash
