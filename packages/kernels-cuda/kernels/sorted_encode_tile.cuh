// Quantizers into sorted tiles: keys and values into a tile, sorted into slots.
#pragma once
#include <algorithm>

#include "sorted_tile_facts.cuh"
#include "tile_rows.cuh"

namespace intflash {

/**
 * A tile's rows are read twice. K's stay in shared memory in between, since what L2 hands out limits the whole more than its instructions do; V's are asked
 * for again: what shared memory would hold of them L1 holds as well, whose room it would take. In rounds of RowLanes.
 */
template <class P, int kKeys> constexpr int kKeptKeyRounds = std::min(Blocks<P>::kKeptBytes / (kKeys / RowLanes<P, kKeys>::kRounds * Blocks<P>::kRowBytes), RowLanes<P, kKeys>::kRounds);
template <class P, bool kHalf> constexpr int kStagedBytes = sorted_tile_keys(P::kD, kHalf) * P::kD * (kHalf ? 2 : 1);  // takes the room of K's rows

/** Largest |k - mean| of each key into facts.magnitude; what is wrong with K into the findings. */
template <class P, int kKeys, class Rows> __device__ __forceinline__ void measure_keys(TileFacts<kKeys>& facts, const Rows& rows, const OwnChannels<P>& mean, Findings* findings) {
    using Lanes = RowLanes<P, kKeys>;
    constexpr float kSurely = kLargestOperand / 2;  // where no |k - mean| and no |mean| is larger, no |k| is too large
    const Lanes lanes;
    float most = 0.f;
#pragma unroll
    for (int part = 0; part < 2; ++part)
#pragma unroll
        for (int e = 0; e < P::kPiece; ++e) most = max_or_nan(most, mean.x[part][e]);
    rows.template each<false>(lanes, [&](int row, const uint4& first, const uint4& second, ElementType type) {
        float largest = 0.f;
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            float x[P::kPiece];
            widen<P>(x, part == 0 ? first : second, type);
#pragma unroll
            for (int e = 0; e < P::kPiece; ++e) largest = max_or_nan(largest, x[e] - mean.x[part][e]);
        }
        most = max_or_nan(most, row < rows.count ? largest : 0.f);
        uint32_t bits = min(__float_as_uint(largest), 0x7f7fffffu);  // of NaN too: the answer is refused then, but every slot must get a key
#pragma unroll
        for (int step = 1; step < Lanes::kLanes; step *= 2) bits = max(bits, __shfl_xor_sync(~0u, bits, step));
        if (lanes.lane == 0) facts.magnitude[row] = row < rows.count ? __uint_as_float(bits) : 0.f;
    });
    if (most <= kSurely) return;
    uint32_t top = 0;
    rows.template each<false>(lanes, [&](int, const uint4& first, const uint4& second, ElementType type) { top = raise_magnitude<P>(raise_magnitude<P>(top, first), second); });
    judge_magnitude(wide_magnitude<P>(top, rows.operand.type), kLargestOperand, &findings->bad_key, &findings->large_key);
}

/** Weight of each value, its largest |v / channel's maximum|, into facts.weight. */
template <class P, int kKeys, class Rows> __device__ __forceinline__ void weigh_values(TileFacts<kKeys>& facts, const Rows& rows, const OwnChannels<P>& divisor) {
    using Lanes = RowLanes<P, kKeys>;
    const Lanes lanes;
    rows.template each<false>(lanes, [&](int row, const uint4& first, const uint4& second, ElementType type) {
        float weight = kMinWeight;
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            float x[P::kPiece];
            widen<P>(x, part == 0 ? first : second, type);
#pragma unroll
            for (int e = 0; e < P::kPiece; ++e) weight = fmaxf(weight, fabsf(x[e]) * divisor.x[part][e]);
        }
        weight = row_max<Lanes::kLanes>(weight);
        if (lanes.lane == 0) facts.weight[row] = row < rows.count ? fminf(weight, FLT_MAX) : 0.f;
    });
}

/** Codes of V + 128 by slot positions. */
template <class P, int kKeys, class Rows> __device__ __forceinline__ void stage_codes(const TileFacts<kKeys>& facts, const Rows& rows, const OwnChannels<P>& divisor, uint32_t* staging) {
    const RowLanes<P, kKeys> lanes;
    rows.template each<true>(lanes, [&](int row, const uint4& first, const uint4& second, ElementType type) {
        const uint32_t position = slot_position(facts.slot[row]);
        const float step = facts.value_step[row];
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            float x[P::kPiece];
            widen<P>(x, part == 0 ? first : second, type);
#pragma unroll
            for (int e = 0; e < P::kPiece; ++e) x[e] = x[e] * divisor.x[part][e] * step;
            PieceCodes<P> codes = nearest_piece<P>(x);
#pragma unroll
            for (uint32_t& word : codes.words) word ^= 0x80808080u;
            codes.store(staging + position * (P::kD / 4) + turned<P::kD / 4>(position / 16, lanes.channel(part) / 4));
        }
    });
}
/** V in float16 by slots; what is wrong with it into the findings. */
template <class P, int kKeys, class Rows> __device__ __forceinline__ void stage_halves(const TileFacts<kKeys>& facts, const Rows& rows, uint32_t* staging, Findings* findings) {
    const RowLanes<P, kKeys> lanes;
    uint32_t top = 0;
    rows.template each<true>(lanes, [&](int row, const uint4& first, const uint4& second, ElementType type) {
        top = raise_magnitude<P>(raise_magnitude<P>(top, first), second);
        const uint32_t slot = facts.slot[row];
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            PieceHalves<P>(part == 0 ? first : second, type).store(staging + slot * (P::kD / 2) + turned<P::kD / 2>(slot / 8, lanes.channel(part) / 2));
        }
    });
    judge_magnitude(wide_magnitude<P>(top, rows.operand.type), kLargestFloat16, &findings->bad_value, &findings->large_value);
}
/** Two channels and eight slots a thread at a time. */
template <int kD, int kKeys, int kThreads> __device__ __forceinline__ void write_halves(const uint32_t* staging, uint8_t* image) {
    static_assert(kKeys % 64 == 0, "panels of 8 chunks of 8 slots");
#pragma unroll 1
    for (uint32_t item = threadIdx.x; item < kD / 2 * (kKeys / 8); item += kThreads) {
        const uint32_t pair = item / 8 % (kD / 2), chunk = item % 8 + item / (kD / 2 * 8) * 8;
        const uint32_t* source = staging + chunk * 8 * (kD / 2) + turned<kD / 2>(chunk, pair);
        uint32_t out[2][4];
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            const uint32_t even = source[2 * w * (kD / 2)], odd = source[(2 * w + 1) * (kD / 2)];
            out[0][w] = __byte_perm(even, odd, 0x5410), out[1][w] = __byte_perm(even, odd, 0x7632);
        }
#pragma unroll
        for (int c = 0; c < 2; ++c)
            store_once(image + panel_offset(2 * pair + c, chunk * 16, kD, 2 * kKeys), make_uint4(out[c][0], out[c][1], out[c][2], out[c][3]));
    }
}

template <class P, bool kHalf> __device__ __forceinline__ void encode_tile(const QuantizeJob& job, const HeadPlace& at, int64_t head, int tile_index, uint8_t* memory) {
    constexpr int kD = P::kD, kKeys = sorted_tile_keys(kD, kHalf), kThreads = Blocks<P>::kThreads;
    constexpr int kScaleSlots = sorted_scale_slots(kKeys, kHalf), kParts = kKeys / kScaleSlots;
    using Lanes = RowLanes<P, kKeys>;
    __shared__ TileFacts<kKeys> facts;
    const QuantizeRequest& request = job.request;
    const Operand &key = request.key, &value = request.value;
    const SortedSequence& sequence = at.sequence;
    const int thread = threadIdx.x, keys = min(kKeys, sequence.k_len - tile_index * kKeys);
    const int64_t first_row = sequence.k_start + int64_t{tile_index} * kKeys;
    static_assert(kStagedBytes<P, kHalf> <= Blocks<P>::kKeptBytes, "V's codes find room where K's rows were");
    const Lanes lanes;
    const TileRows<P, kKeys, kKeptKeyRounds<P, kKeys>> key_rows(key, row_offset(key, at.batch, at.head, first_row), keys, memory);
    const TileRows<P, kKeys, 0> value_rows(value, row_offset(value, at.batch, at.head, first_row), keys, memory);
    if (keys > 0) key_rows.fetch(lanes);
    commit_copies();
    if (job.gather > 0) wait_until(HeadProgress(job, head).ready, 1);
    if (thread < kD) {
        const float mean = job.gathers_key ? __ldcg(request.statistics.means + head * kD + thread) : 0.f;
        float c = !kHalf && thread < value.dim ? __ldcg(request.statistics.maxima + head * kD + thread) : 0.f;
        facts.mean[thread] = mean;
        if (tile_index == 0) job.channel_scale[head * kD + thread] = kHalf ? 1.f : c > 0.f ? fmaxf(c, kMinScale) / 127.f : 0.f;  // even of an empty sequence
        facts.divisor[thread] = 1.f / (c > 0.f ? fmaxf(c, kMinScale) : 1.f);
    }
    if (tile_index >= sequence.tiles) return;
    wait_for_copies<0>();
    __syncthreads();

    uint8_t* tile = job.tiles + (sequence.tile_base + static_cast<int64_t>(at.head) * sequence.tiles + tile_index) * sorted_tile_bytes(kD, kHalf);
    measure_keys<P>(facts, key_rows, OwnChannels<P>(facts.mean, lanes), request.findings);
    if constexpr (!kHalf) weigh_values<P>(facts, value_rows, OwnChannels<P>(facts.divisor, lanes));
    __syncthreads();

    float shared_weight = 1.f;
    const uint32_t reach = weight_reach(value.dim);
    const TileKind kind = kHalf ? TileKind::kPlain : classify<kThreads>(facts, keys, reach, shared_weight);
    const int span = kind == TileKind::kPlain ? sorted_span(keys, kKeys) : kKeys;
    sort_into_slots<kThreads>(facts, keys, span, kind, reach, shared_weight);
    const bool own_scale = kind == TileKind::kColumns;
    const auto weight_of = [&](int row) { return kHalf ? 1.f : own_scale || !fits(facts.weight[row], shared_weight, reach) ? facts.weight[row] : shared_weight; };
    if (!kHalf && thread < kKeys) facts.value_step[thread] = thread < keys ? 127.f / weight_of(thread) : 0.f;
    find_scales<kHalf, kThreads>(facts, keys, span, own_scale);
    const auto scale_of = [&](int row, int slot) { return own_scale ? key_scale(__float_as_uint(facts.magnitude[row])) : facts.part_scale[slot / kScaleSlots]; };

    const OwnChannels<P> mean(facts.mean, lanes);
    key_rows.template each<true>(lanes, [&](int row, const uint4& first, const uint4& second, ElementType type) {
        const int slot = facts.slot[row];
        const float step = facts.key_step[row];
        const int offset = panel_offset(slot, lanes.channel(0), kKeys, kD);
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            float x[P::kPiece];
            widen<P>(x, part == 0 ? first : second, type);
#pragma unroll
            for (int e = 0; e < P::kPiece; ++e) x[e] = (x[e] - mean.x[part][e]) * step;
            nearest_piece<P>(x).store_once(tile + (part == 0 ? offset : Lanes::second_part(offset, kKeys)));
        }
    });
    __syncthreads();  // K's rows make room for V's codes

    uint32_t* staging = reinterpret_cast<uint32_t*>(memory);
    if constexpr (kHalf) stage_halves<P>(facts, value_rows, staging, request.findings);
    else stage_codes<P>(facts, value_rows, OwnChannels<P>(facts.divisor, lanes), staging);
    __syncthreads();
    if constexpr (kHalf) write_halves<kD, kKeys, kThreads>(staging, tile + kKeys * kD);
    else write_codes<kD, kKeys, kThreads>(staging, tile + kKeys * kD);

    uint8_t* meta = tile + sorted_columns_offset(kD, kHalf);
    if (thread < kKeys) {
        const int row = facts.key[thread], position = slot_position(thread);
        float* columns = reinterpret_cast<float*>(meta) + position;
        const bool present = row < keys;
        const float weight = present ? weight_of(row) : 1.f;
        columns[0] = scale_of(row, thread);
        columns[kKeys] = log2f(weight);
        columns[2 * kKeys] = present ? 1.f / weight : 0.f;
        reinterpret_cast<uint16_t*>(meta + 3 * kKeys * 4)[position] = static_cast<uint16_t>(255 - row);
    } else if (thread == kKeys) {
        if constexpr (kHalf) {
            float4* header = reinterpret_cast<float4*>(meta + sorted_column_bytes(kKeys));
            header[0] = reinterpret_cast<const float4*>(facts.part_scale)[0];
            header[1] = reinterpret_cast<const float4*>(facts.part_scale)[1];
        } else {
            TileHeader header{};
            header.k_scale[0] = facts.part_scale[0], header.k_scale[1] = facts.part_scale[kParts - 1];
            header.tau = log2f(shared_weight);
            header.inverse_weight = 1.f / shared_weight;
            header.kind = static_cast<int32_t>(kind);
            *reinterpret_cast<TileHeader*>(meta + sorted_column_bytes(kKeys)) = header;
        }
        float largest = 0.f;
        for (int part = 0; part < kParts; ++part) largest = fmaxf(largest, facts.part_scale[part]);
        atomicMax(request.head_maxima.key + head, __float_as_uint(largest));
    }
}

}  // namespace intflash
