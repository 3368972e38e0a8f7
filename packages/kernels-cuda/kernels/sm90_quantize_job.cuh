// What the blocks of Hopper's quantizers (sm90_quantize.cu) share: the job, who waits for whom, how a block gets its rows.
#pragma once
#include <cuda_runtime.h>

#include "piece_codes.cuh"
#include "ptx/copy_async.cuh"
#include "sm90_quantize.h"

namespace intflash {

constexpr int kQuantizeThreads = 256, kQuantizeWarps = kQuantizeThreads / 32;

struct QuantizeJob {
    QuantizeRequest request;
    Sm90Table table;
    int8_t* query_codes;
    float* query_scales;
    uint8_t* tiles;
    float* channel_scale;
    int32_t heads;         // KV heads of all sequences
    int32_t gather_key, gather_value, encode_tiles, encode_queries;  // blocks of a head
    int32_t lag;           // heads between its gathering and its encoding blocks
};

/** Counters of one head in Statistics::arrivals. */
struct HeadProgress {
    uint32_t *key_tiles, *value_tiles, *means_ready;
    __device__ __forceinline__ HeadProgress(const QuantizeJob& job, int64_t head)
        : key_tiles(job.request.statistics.arrivals + head), value_tiles(key_tiles + job.heads), means_ready(value_tiles + job.heads) {}
};

__device__ __forceinline__ uint32_t acquire(const uint32_t* counter) {
    uint32_t value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
    return value;
}
/** All threads of the block have done their part: one more arrival. @returns how many came before, in every thread */
__device__ __forceinline__ uint32_t arrive(uint32_t* counter) {
    __shared__ uint32_t before;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) before = atomicAdd(counter, 1u);
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
    Sm90Sequence sequence;
    int batch, head;
    __device__ __forceinline__ HeadPlace(const QuantizeJob& job, int flat) : batch(flat / job.request.key.heads), head(flat - batch * job.request.key.heads) { sequence = job.table.sequences[batch]; }
};

/** How a warp covers rows: kGroups at once, a lane with two pieces of its row. */
template <class P> struct RowLanes {
    static constexpr int kLanes = P::kD / P::kPiece / 2, kGroups = 32 / kLanes, kRounds = kTileKeys / kQuantizeWarps / kGroups, kRowBytes = P::kD * (P::kWide ? 4 : 2);
    int lane, first_row;
    __device__ __forceinline__ RowLanes() : lane(threadIdx.x % kLanes), first_row(threadIdx.x / 32 * (kTileKeys / kQuantizeWarps) + threadIdx.x % 32 / kLanes) {}
    __device__ __forceinline__ int row(int round) const { return first_row + round * kGroups; }
    __device__ __forceinline__ int channel(int part) const { return (part * kLanes + lane) * P::kPiece; }
};

/** 128 rows of an operand on their way to shared memory, zeros where there are none. */
template <class P> __device__ __forceinline__ void fetch_rows(uint8_t* target, const Operand& operand, int64_t first, int rows) {
    constexpr int kPieces = P::kD / P::kPiece;
    const bool aligned = aligned_rows(operand);
#pragma unroll 4
    for (int item = threadIdx.x; item < kTileKeys * kPieces; item += kQuantizeThreads) {
        const int row = item / kPieces, channel = item % kPieces * P::kPiece;
        const bool present = row < rows && channel < operand.dim;
        const int64_t at = present ? first + row * operand.strides.token + channel : first;
        if (aligned) copy_async_16(shared_address_of(target) + item * 16, static_cast<const char*>(operand.data) + at * (P::kWide ? 4 : 2), present);
        else *reinterpret_cast<uint4*>(target + item * 16) = present ? load_piece<P::kWide>(operand, at, false) : make_uint4(0, 0, 0, 0);
    }
}

/** Two neighbouring channels of a row kept in shared memory. */
template <class P> __device__ __forceinline__ float2 pair_at(const uint8_t* rows, int row, int channel, ElementType type) {
    const uint8_t* at = rows + row * RowLanes<P>::kRowBytes + channel * (P::kWide ? 4 : 2);
    if constexpr (P::kWide) return *reinterpret_cast<const float2*>(at);
    const uint32_t bits = *reinterpret_cast<const uint32_t*>(at);
    if (type == ElementType::kFloat16) return __half22float2(*reinterpret_cast<const __half2*>(&bits));
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}

}  // namespace intflash
