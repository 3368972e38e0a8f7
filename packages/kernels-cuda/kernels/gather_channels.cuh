// The quantizers' first job: what K's and V's channels need of all their tokens, by tiles.
#pragma once
#include <algorithm>

#include "quantize_job.cuh"

namespace intflash {

/** K's rows come to shared memory in chunks of 32 KiB at most, two under way. */
template <class P> struct KeyChunks {
    static constexpr int kAll = Blocks<P>::kGatherTiles * kTileKeys, kRows = std::min(32 * 1024 / Blocks<P>::kRowBytes, kAll);
    static constexpr int kCount = kAll / kRows, kBuffers = kCount < 2 ? 1 : 2, kBytes = kRows * Blocks<P>::kRowBytes;
    static_assert(kCount == 1 || Blocks<P>::kGatherTiles == 1, "a chunk has rows of all of the block's tiles");
};
/** How V's maxima of several rows come together: a row of words for each of kGroups of threads. */
template <class P> struct ValueGroups {
    static constexpr int kPieces = P::kD / P::kPiece, kCount = kPieces < 32 ? Blocks<P>::kWarps : Blocks<P>::kThreads / kPieces, kWords = Blocks<P>::kRowBytes / 4;
};
template <class P> constexpr int kGatherBytes = KeyChunks<P>::kBuffers * KeyChunks<P>::kBytes + ValueGroups<P>::kCount * ValueGroups<P>::kWords * 4;

template <class P> __device__ __forceinline__ void fetch_key_chunk(const SourceRows<P>& keys, int chunk, uint8_t* memory) {
    using Chunks = KeyChunks<P>;
    const int from = chunk * Chunks::kRows;
    fetch_rows<P, Chunks::kRows>(memory + chunk % Chunks::kBuffers * Chunks::kBytes, SourceRows<P>(keys.operand, keys.first + from * keys.operand.strides.token, keys.count - from));
    commit_copies();
}

/** Sums of K's channels over each of `tiles` tiles whose first chunks are on their way, tokens in order. */
template <class P> __device__ __forceinline__ void sum_keys(const SourceRows<P>& keys, int tiles, double* sums, uint8_t* memory) {
    using Chunks = KeyChunks<P>;
    const int tile = threadIdx.x / P::kD, channel = threadIdx.x % P::kD, first = tile * kTileKeys;
    double sum = 0.;
#pragma unroll 1
    for (int chunk = 0; chunk < Chunks::kCount; ++chunk) {
        if (chunk + 1 < Chunks::kCount) wait_for_copies<1>();
        else wait_for_copies<0>();
        __syncthreads();
        const uint8_t* rows = memory + chunk % Chunks::kBuffers * Chunks::kBytes + first * Blocks<P>::kRowBytes;
        const int count = min(keys.count - chunk * Chunks::kRows - first, min(Chunks::kRows, kTileKeys));
        if (tile < tiles)
            with_type<P>(keys.operand.type, [&](ElementType type) {
#pragma unroll 16
                for (int row = 0; row < count; ++row) sum += channel_at<P>(rows, row, channel, type);
            });
        if (chunk + Chunks::kBuffers < Chunks::kCount) {
            __syncthreads();
            fetch_key_chunk<P>(keys, chunk + Chunks::kBuffers, memory);
        }
    }
    if (tile < tiles) sums[threadIdx.x] = sum;
}

/** K's means from the tiles' sums, in order. */
template <class P> __device__ __forceinline__ void find_means(const double* sums, int tiles, int tokens, int dim, float* means) {
    if (threadIdx.x >= P::kD) return;
    double total = 0.;
    int done = 0;
    for (; done + 16 <= tiles; done += 16) {
        double x[16];
#pragma unroll
        for (int i = 0; i < 16; ++i) x[i] = __ldcg(sums + int64_t{done + i} * P::kD + threadIdx.x);
#pragma unroll
        for (int i = 0; i < 16; ++i) total += x[i];
    }
    for (; done < tiles; ++done) total += __ldcg(sums + int64_t{done} * P::kD + threadIdx.x);
    means[threadIdx.x] = static_cast<int>(threadIdx.x) < dim ? static_cast<float>(total / tokens) : 0.f;
}

/** Raises the largest magnitudes of V's channels to those of the block's tiles. */
template <class P> __device__ __forceinline__ void raise_maxima(const SourceRows<P>& values, Findings* findings, uint32_t* maxima, uint32_t* scratch) {
    using Groups = ValueGroups<P>;
    constexpr int kPieces = Groups::kPieces, kStep = Blocks<P>::kThreads / kPieces, kPerThread = KeyChunks<P>::kAll / kStep, kBatch = kPerThread < 8 ? kPerThread : 8;
    const int thread = threadIdx.x, piece = thread % kPieces, channel = piece * P::kPiece;
    uint32_t top[4] = {};
    const auto raise = [&](const uint4(&raw)[kBatch]) {
#pragma unroll
        for (int i = 0; i < kBatch; i += 2) {
            top[0] = raise_magnitude<P>(top[0], raw[i].x, raw[i + 1].x), top[1] = raise_magnitude<P>(top[1], raw[i].y, raw[i + 1].y);
            top[2] = raise_magnitude<P>(top[2], raw[i].z, raw[i + 1].z), top[3] = raise_magnitude<P>(top[3], raw[i].w, raw[i + 1].w);
        }
    };
    if (values.template whole<KeyChunks<P>::kAll>()) {
        const char* source = values.address(thread / kPieces, channel);
        const int64_t step = kStep * values.operand.strides.token * Blocks<P>::kSize;
#pragma unroll 1
        for (int from = 0; from < kPerThread; from += kBatch) {
            uint4 raw[kBatch];
#pragma unroll
            for (int i = 0; i < kBatch; ++i, source += step) raw[i] = load_16<false>(source);
            raise(raw);
        }
    } else {
#pragma unroll 1
        for (int row = thread / kPieces; row < values.count; row += kStep) {
            uint4 raw[kBatch] = {values.piece(row, channel)};
            raise(raw);
        }
    }
#pragma unroll
    for (int step = kPieces; step < 32; step *= 2)
#pragma unroll
        for (int w = 0; w < 4; ++w) top[w] = raise_magnitude<P>(top[w], __shfl_xor_sync(~0u, top[w], step), 0);
    if (kPieces >= 32 || thread % 32 < kPieces)
        reinterpret_cast<uint4*>(scratch)[(kPieces < 32 ? thread / 32 : thread / kPieces) * kPieces + piece] = make_uint4(top[0], top[1], top[2], top[3]);
    __syncthreads();
    const auto note = [&](int at, uint32_t bits) {
        judge_magnitude(bits, kLargestOperand, &findings->bad_value, &findings->large_value);
        if (bits != 0) atomicMax(maxima + at, bits);
    };
    if (thread < Groups::kWords) {
        uint32_t most = 0;
#pragma unroll
        for (int group = 0; group < Groups::kCount; group += 2) most = raise_magnitude<P>(most, scratch[group * Groups::kWords + thread], scratch[(group + 1) * Groups::kWords + thread]);
        if constexpr (P::kWide) {
            note(thread, most);
        } else {
            note(2 * thread, wide_magnitude<P>(most & 0xffffu, values.operand.type));
            note(2 * thread + 1, wide_magnitude<P>(most >> 16, values.operand.type));
        }
    }
}

/** Both of a block's tiles; the head's last block adds up the sums of its tiles, in order, and says that the head is ready. */
template <class P> __device__ __forceinline__ void gather_channels(const QuantizeJob& job, const HeadPlace& at, int64_t head, int block, uint8_t* memory) {
    constexpr int kTiles = Blocks<P>::kGatherTiles;
    const Operand &key = job.request.key, &value = job.request.value;
    const Statistics& statistics = job.request.statistics;
    const SortedSequence& sequence = at.sequence;
    float* means = statistics.means + head * P::kD;
    const HeadProgress progress(job, head);
    const int first_tile = block * kTiles;
    if (sequence.sums == 0) {
        if (block == 0 && job.gathers_key && threadIdx.x < P::kD) means[threadIdx.x] = 0.f;
        if (block == 0) arrive(progress.ready);
        return;
    }
    if (first_tile >= sequence.sums) return;
    const int count = min(kTiles * kTileKeys, sequence.k_len - first_tile * kTileKeys);
    const int64_t first_row = sequence.k_start + int64_t{first_tile} * kTileKeys;
    const SourceRows<P> keys(key, row_offset(key, at.batch, at.head, first_row), count), values(value, row_offset(value, at.batch, at.head, first_row), count);
    double* sums = statistics.partial_sums + (sequence.sum_base + static_cast<int64_t>(at.head) * sequence.sums) * P::kD;
    if (job.gathers_key)
        for (int chunk = 0; chunk < KeyChunks<P>::kBuffers; ++chunk) fetch_key_chunk<P>(keys, chunk, memory);
    if (job.gathers_value)
        raise_maxima<P>(values, job.request.findings, reinterpret_cast<uint32_t*>(statistics.maxima) + head * P::kD,
                        reinterpret_cast<uint32_t*>(memory + KeyChunks<P>::kBuffers * KeyChunks<P>::kBytes));
    if (job.gathers_key) sum_keys<P>(keys, min(kTiles, sequence.sums - first_tile), sums + int64_t{first_tile} * P::kD, memory);
    if (arrive(progress.blocks) + 1 < static_cast<uint32_t>((sequence.sums + kTiles - 1) / kTiles)) return;
    if (job.gathers_key) find_means<P>(sums, sequence.sums, sequence.k_len, key.dim, means);
    arrive(progress.ready);
}

}  // namespace intflash
