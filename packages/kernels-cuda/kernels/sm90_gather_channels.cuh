// Hopper's quantizers: what K's and V's channels need of all their tokens, by tiles.
#pragma once
#include "sm90_quantize_job.cuh"

namespace intflash {

/** Sums of K's channels over one tile, tokens in order; the head's last block adds up the tiles, in order. */
template <class P> __device__ __forceinline__ void gather_key(const QuantizeJob& job, const HeadPlace& at, int64_t head, int tile, uint8_t* memory) {
    const Operand& key = job.request.key;
    const Statistics& statistics = job.request.statistics;
    const Sm90Sequence& sequence = at.sequence;
    float* means = statistics.means + head * P::kD;
    const HeadProgress progress(job, head);
    if (sequence.tiles == 0) {
        if (tile == 0 && threadIdx.x < P::kD) means[threadIdx.x] = 0.f;
        if (tile == 0) arrive(progress.means_ready);
        return;
    }
    if (tile >= sequence.tiles) return;
    const int keys = min(kTileKeys, sequence.k_len - tile * kTileKeys);
    double* partial = statistics.partial_sums + (sequence.tile_base + static_cast<int64_t>(at.head) * sequence.tiles) * P::kD;
    fetch_rows<P>(memory, key, row_offset(key, at.batch, at.head, sequence.k_start + int64_t{tile} * kTileKeys), keys);
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();
    const int channel = 2 * threadIdx.x;
    if (channel < P::kD) {
        double2 sum = make_double2(0., 0.);
#pragma unroll 8
        for (int row = 0; row < keys; ++row) {
            const float2 x = pair_at<P>(memory, row, channel, key.type);
            sum.x += x.x, sum.y += x.y;
        }
        *reinterpret_cast<double2*>(partial + int64_t{tile} * P::kD + channel) = sum;
    }
    if (arrive(progress.key_tiles) + 1 < static_cast<uint32_t>(sequence.tiles)) return;
    __threadfence();
    if (threadIdx.x < P::kD) {
        double total = 0.;
        int done = 0;
        for (; done + 16 <= sequence.tiles; done += 16) {
            double x[16];
#pragma unroll
            for (int i = 0; i < 16; ++i) x[i] = __ldcg(partial + int64_t{done + i} * P::kD + threadIdx.x);
#pragma unroll
            for (int i = 0; i < 16; ++i) total += x[i];
        }
        for (; done < sequence.tiles; ++done) total += __ldcg(partial + int64_t{done} * P::kD + threadIdx.x);
        means[threadIdx.x] = static_cast<int>(threadIdx.x) < key.dim ? static_cast<float>(total / sequence.k_len) : 0.f;
    }
    arrive(progress.means_ready);
}

/** Largest magnitudes of V's channels. They are found on the bits, which for one sign order as the numbers do, NaN above all. */
template <class P> __device__ __forceinline__ void gather_value(const QuantizeJob& job, const HeadPlace& at, int64_t head, int tile, uint8_t* memory) {
    constexpr int kPieces = P::kD / P::kPiece, kStep = kQuantizeThreads / kPieces, kPerThread = kTileKeys / kStep;
    const Operand& value = job.request.value;
    const Sm90Sequence& sequence = at.sequence;
    if (tile >= sequence.tiles) return;
    const int keys = min(kTileKeys, sequence.k_len - tile * kTileKeys), piece = threadIdx.x % kPieces, channel = piece * P::kPiece;
    const bool aligned = aligned_rows(value);
    const int64_t first = row_offset(value, at.batch, at.head, sequence.k_start + int64_t{tile} * kTileKeys) + channel;
    uint32_t top[4] = {};
    constexpr int kBatch = kPerThread < 8 ? kPerThread : 8;
#pragma unroll 1
    for (int from = 0; from < kPerThread; from += kBatch) {
        uint4 raw[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            const int row = threadIdx.x / kPieces + (from + i) * kStep;
            raw[i] = row < keys && channel < value.dim ? load_piece<P::kWide>(value, first + row * value.strides.token, aligned) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            const uint32_t words[4] = {raw[i].x, raw[i].y, raw[i].z, raw[i].w};
#pragma unroll
            for (int w = 0; w < 4; ++w) top[w] = P::kWide ? max(top[w], words[w] & 0x7fffffffu) : __vmaxu2(top[w], words[w] & 0x7fff7fffu);
        }
    }
    uint32_t* shared_top = reinterpret_cast<uint32_t*>(memory);  // [channel], bits of float32
    for (int i = threadIdx.x; i < P::kD; i += kQuantizeThreads) shared_top[i] = 0;
    __syncthreads();
    float largest[P::kPiece];
    widen<P>(largest, make_uint4(top[0], top[1], top[2], top[3]), value.type);
#pragma unroll
    for (int step = kPieces; step < 32; step *= 2)
#pragma unroll
        for (int e = 0; e < P::kPiece; ++e)
            largest[e] = __uint_as_float(max(__float_as_uint(largest[e]), __shfl_xor_sync(~0u, __float_as_uint(largest[e]), step)));
    if (kPieces >= 32 || threadIdx.x % 32 < kPieces) {
#pragma unroll
        for (int e = 0; e < P::kPiece; ++e) atomicMax(shared_top + channel + e, __float_as_uint(largest[e]));
    }
    __syncthreads();
    if (threadIdx.x < P::kD) {
        const float most = __uint_as_float(shared_top[threadIdx.x]);
        if (!(most <= kLargestOperand)) {
            if (most <= FLT_MAX) atomicMax(&job.request.findings->large_value, __float_as_uint(most));
            else atomicOr(&job.request.findings->bad_value, 1u);
        }
        atomicMax(reinterpret_cast<uint32_t*>(job.request.statistics.maxima) + head * P::kD + threadIdx.x, __float_as_uint(most));
    }
    arrive(HeadProgress(job, head).value_tiles);
}

}  // namespace intflash
