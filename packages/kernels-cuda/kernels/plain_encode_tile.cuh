// The quantizers' second job for tile_layout.h's tiles: 128 keys and values, each with a scale and a weight of its own, the bits of quant's
// quantizers (docs/arithmetic.md, "Quantizing"). A row is read once: the lanes that have it find its largest number between them.
#pragma once
#include "ptx/shared_memory.cuh"
#include "tile_rows.cuh"
#include "token_weight.cuh"

namespace intflash {

/** Of short rows a block takes more tiles: what it does once for all of them weighs less. */
template <class P> constexpr int kPlainTiles = P::kD == 64 ? 2 : 1;

/**
 * K's rows of 16-bit numbers come to shared memory, as much of it as the gathering blocks have anyway, and are on their way while the block waits for
 * the head. Others come by registers: more shared memory leaves less to L1.
 */
template <class P> constexpr int kKeptTileBytes = P::kWide ? 0 : kTileKeys * Blocks<P>::kRowBytes;
/** A block has either K's rows or V's codes, on their way from rows to channels. */
template <class P> constexpr int kPlainBytes = std::max(kPlainTiles<P> * kKeptTileBytes<P>, kTileKeys * P::kD);

/** Tiles [first, end) of a KV head, a block's. */
template <class P, bool kHalf> struct PlainTiles {
    using Lanes = RowLanes<P, kTileKeys>;
    const QuantizeJob& job;
    const HeadPlace& at;
    int64_t head;  // among the KV heads of all sequences
    int first, end;
    uint8_t* memory;
    __device__ __forceinline__ int keys(int index) const { return min(kTileKeys, at.sequence.k_len - index * kTileKeys); }
    __device__ __forceinline__ uint8_t* image(int index) const {
        return job.tiles + (at.sequence.tile_base + static_cast<int64_t>(at.head) * at.sequence.tiles + index) * tile_bytes(P::kD, kHalf);
    }
    /** Of the block's tile `i`, the first kKept rounds in shared memory. */
    template <int kKept> __device__ __forceinline__ TileRows<P, kTileKeys, kKept, 2> rows(const Operand& operand, int i) const {
        return {operand, row_offset(operand, at.batch, at.head, at.sequence.k_start + int64_t{first + i} * kTileKeys), keys(first + i), memory + i * kKeptTileBytes<P>};
    }
    __device__ __forceinline__ auto key_rows(int i) const { return rows<P::kWide ? 0 : Lanes::kRounds>(job.request.key, i); }
    __device__ __forceinline__ auto value_rows(int i) const { return rows<0>(job.request.value, i); }
    __device__ __forceinline__ void fetch_keys() const {
        const Lanes lanes;
#pragma unroll
        for (int i = 0; i < kPlainTiles<P>; ++i)
            if (first + i < end) key_rows(i).fetch(lanes);
        commit_copies();
    }
};

template <class P, bool kHalf> __device__ __forceinline__ void encode_plain_keys(const PlainTiles<P, kHalf>& tiles) {
    using Lanes = RowLanes<P, kTileKeys>;
    __shared__ __align__(16) float mean[kMaxHeadDim];
    const QuantizeRequest& request = tiles.job.request;
    for (int channel = threadIdx.x; channel < P::kD; channel += Blocks<P>::kThreads) mean[channel] = tiles.job.gathers_key ? __ldcg(request.statistics.means + tiles.head * P::kD + channel) : 0.f;
    __syncthreads();
    const Lanes lanes;
    const OwnChannels<P> own(mean, lanes);
    wait_for_copies<0>();
    const Divisor by_levels = divisor(request.levels);
    uint32_t top = 0;
    float largest_scale = 0.f;
#pragma unroll 1
    for (int i = 0; i < kPlainTiles<P>; ++i) {
        const int index = tiles.first + i;
        if (index >= tiles.end) break;
        uint8_t* image = tiles.image(index);
        float* scales = reinterpret_cast<float*>(image + scales_offset(P::kD, kHalf));
        const int keys = tiles.keys(index);
        const auto rows = tiles.key_rows(i);
        rows.template each<true>(lanes, [&](int row, const uint4& first, const uint4& second, ElementType type) {
            top = raise_magnitude<P>(raise_magnitude<P>(top, first), second);
            float x[2][P::kPiece];
            widen<P>(x[0], first, type), widen<P>(x[1], second, type);
            if (row < keys)
#pragma unroll
                for (int part = 0; part < 2; ++part)
#pragma unroll
                    for (int e = 0; e < P::kPiece; ++e) x[part][e] = x[part][e] - own.x[part][e];
            const float scale = row_scale(row_max<Lanes::kLanes>(fmaxf(magnitude(x[0]), magnitude(x[1]))), by_levels);
            if (row < keys) largest_scale = fmaxf(largest_scale, scale);
            if (lanes.lane == 0) scales[key_position(row)] = scale;
            PieceCodes<P> codes[2];
            encode_pieces<P>(codes, x, scale);
            const int offset = key_code_offset(row, lanes.channel(0), P::kD);
            codes[0].store_once(image + offset), codes[1].store_once(image + (offset ^ P::kD / 2));
        });
    }
    judge_magnitude(wide_magnitude<P>(top, request.key.type), kLargestOperand, &request.findings->bad_key, &request.findings->large_key);
    note_max(request.head_maxima.key + tiles.head, largest_scale);
}

/** Largest |v| of V's channels, or 1 where that is 0, as divisors. */
struct ChannelDivisors {
    alignas(16) float value[kMaxHeadDim], inverse[kMaxHeadDim], rest[kMaxHeadDim];
};

/** V as INT8 codes. kTokenLevel: v / channel's maximum, then a weight a token; else one scale for the whole head. */
template <class P, bool kTokenLevel> __device__ __forceinline__ void encode_plain_values(const PlainTiles<P, false>& tiles) {
    using Lanes = RowLanes<P, kTileKeys>;
    constexpr int kThreads = Blocks<P>::kThreads;
    static_assert(kThreads >= P::kD && kThreads >= kTileKeys, "a thread a channel, a thread a key");
    __shared__ ChannelDivisors channels;
    __shared__ float weights[kTileKeys], tensor_largest[kThreads / 32];
    const QuantizeRequest& request = tiles.job.request;
    const int thread = threadIdx.x;
    const float largest = thread < request.value.dim ? __ldcg(request.statistics.maxima + tiles.head * P::kD + thread) : 0.f;
    const float channel = largest == 0.f ? 1.f : largest;
    float tensor_scale = 1.f;
    if constexpr (!kTokenLevel) {
        const float of_warp = row_max<32>(largest);
        if (thread % 32 == 0) tensor_largest[thread / 32] = of_warp;
        __syncthreads();
        float all = 0.f;
        for (int i = 0; i < kThreads / 32; ++i) all = fmaxf(all, tensor_largest[i]);
        tensor_scale = fmaxf(__fdiv_rn(all, 127.f), kMinScale);
    }
    if (tiles.first == 0 && thread < P::kD) tiles.job.channel_scale[tiles.head * P::kD + thread] = kTokenLevel ? __fdiv_rn(channel, 127.f) : tensor_scale;  // even of an empty sequence
    const bool tiny = __syncthreads_or((kTokenLevel ? channel : tensor_scale) < kTinyDivisor) != 0;  // quotients and remainders would leave the normal numbers
    if (kTokenLevel && thread < P::kD) {
        const Divisor by = divisor(fmaxf(channel, kTinyDivisor));
        channels.value[thread] = channel, channels.inverse[thread] = by.inverse, channels.rest[thread] = by.rest;
    }
    const Lanes lanes;
    const uint32_t own = shared_address_of(channels.value) + 4 * lanes.channel(0);
    uint32_t* const staging = reinterpret_cast<uint32_t*>(tiles.memory);
    const Divisor by_127 = divisor(127.f), by_tensor = divisor(fmaxf(tensor_scale, kTinyDivisor));
#pragma unroll 1
    for (int i = 0; i < kPlainTiles<P>; ++i) {
        const int index = tiles.first + i;
        if (index >= tiles.end) break;
        __syncthreads();  // the channels are there, and what was staged before has gone
        uint8_t* image = tiles.image(index);
        const int keys = tiles.keys(index);
        const auto rows = tiles.value_rows(i);
        rows.template each<true>(lanes, [&](int row, const uint4& first, const uint4& second, ElementType type) {
            float u[2][P::kPiece];
            widen<P>(u[0], first, type), widen<P>(u[1], second, type);
            float weight = kMinWeight;
            if constexpr (kTokenLevel) {
#pragma unroll
                for (int part = 0; part < 2; ++part)
#pragma unroll
                    for (int e = 0; e < P::kPiece; e += 4) {
                        // Asked for with each row: registers would leave room for half as many warps.
                        const uint32_t from = own + 4 * (part * Lanes::kLanes * P::kPiece + e);
                        const float4 inverse = load_shared_floats(from + 4 * kMaxHeadDim), rest = load_shared_floats(from + 8 * kMaxHeadDim);
                        const float4 value = P::kWide || tiny ? load_shared_floats(from) : float4{};
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            float& x = u[part][e + i];
                            // Two numbers of 16 bits have at most 11 significant ones, so that their quotient is no nearer than 2^-36 of itself to a border
                            // between two float32: two operations, off by less than 2^-45, find it as divide's four do. Below 2^-29 it may be off, and is code 0.
                            if (tiny) x = __fdiv_rn(x, at(value, i));
                            else if constexpr (P::kWide) x = divide(x, {at(value, i), at(inverse, i), at(rest, i)});
                            else x = fmaf(x, at(inverse, i), x * at(rest, i));
                        }
                    }
                weight = row_max<Lanes::kLanes>(fmaxf(weight, fmaxf(magnitude(u[0]), magnitude(u[1]))));
            }
            if (!kTokenLevel || row >= keys) weight = 1.f;
            if (lanes.lane == 0) weights[row] = weight;
            const Divisor by = kTokenLevel ? divisor(divide(weight, by_127)) : by_tensor;
            const uint32_t position = key_position(row);
#pragma unroll
            for (int part = 0; part < 2; ++part) {
#pragma unroll
                for (int e = 0; e < P::kPiece; ++e) u[part][e] = !kTokenLevel && tiny ? __fdiv_rn(u[part][e], tensor_scale) : divide(u[part][e], by);
                nearest_piece<P>(u[part]).store(staging + position * (P::kD / 4) + turned<P::kD / 4>(position / 16, lanes.channel(part) / 4));
            }
        });
        __syncthreads();
        write_codes<P::kD, kTileKeys, kThreads>(staging, image + value_offset(P::kD));
        if (thread < kTileKeys) store_weight(image, P::kD, thread, thread < keys, weights[thread]);
    }
}

/** V as float16, one row a key. */
template <class P> __device__ __forceinline__ void round_plain_values(const PlainTiles<P, true>& tiles) {
    const QuantizeRequest& request = tiles.job.request;
    if (tiles.first == 0 && threadIdx.x < P::kD) tiles.job.channel_scale[tiles.head * P::kD + threadIdx.x] = 1.f;
    const RowLanes<P, kTileKeys> lanes;
    uint32_t top = 0;
#pragma unroll 1
    for (int i = 0; i < kPlainTiles<P>; ++i) {
        const int index = tiles.first + i;
        if (index >= tiles.end) break;
        uint8_t* image = tiles.image(index);
        const auto rows = tiles.value_rows(i);
        rows.template each<true>(lanes, [&](int row, const uint4& first, const uint4& second, ElementType type) {
            top = raise_magnitude<P>(raise_magnitude<P>(top, first), second);
#pragma unroll
            for (int part = 0; part < 2; ++part) PieceHalves<P>(part == 0 ? first : second, type).store(image + half_value_offset(row, lanes.channel(part), P::kD));
        });
    }
    judge_magnitude(wide_magnitude<P>(top, request.value.type), kLargestFloat16, &request.findings->bad_value, &request.findings->large_value);
}

/** The keys, or the values, of the tiles from `first` on that a block takes. The first block sees also to an empty sequence. */
template <class P, bool kHalf> __device__ __forceinline__ void encode_plain_tiles(const QuantizeJob& job, const HeadPlace& at, int64_t head, int first, bool keys, uint8_t* memory) {
    if (keys ? !job.encodes_key : !job.encodes_value) return;
    const PlainTiles<P, kHalf> tiles{job, at, head, first, min(first + kPlainTiles<P>, at.sequence.tiles), memory};
    if (keys) tiles.fetch_keys();
    if (job.gather > 0) wait_until(HeadProgress(job, head).ready, 1);
    if (keys) return encode_plain_keys(tiles);
    if constexpr (kHalf) round_plain_values(tiles);
    else if (job.request.mode == ValueMode::kTokenLevel) encode_plain_values<P, true>(tiles);
    else encode_plain_values<P, false>(tiles);
}

}  // namespace intflash
