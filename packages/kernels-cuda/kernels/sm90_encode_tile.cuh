// Hopper's quantizers: 128 keys and values into a tile, sorted into slots.
#pragma once
#include "sm90_quantize_job.cuh"

namespace intflash {

/** What a block knows of its tile. */
struct alignas(16) TileFacts {  // read 16 bytes at a time
    float divisor[kMaxHeadDim];   // 1 / channel's largest |v|
    float mean[kMaxHeadDim];      // of K's channels; 0 without smooth-K
    float magnitude[kTileKeys];   // of a key: its largest |k|
    float weight[kTileKeys];      // of its value: largest |v / channel's maximum|
    uint32_t rank[kTileKeys];     // by which keys are sorted into slots; no two alike
    float value_step[kTileKeys];  // of a slot: 127 / value weight
    int slot[kTileKeys];          // of a key
    int key[kTileKeys];           // of a slot
    float part_scale[8], part_step[8];  // of the slots' eighths, and their reciprocals
    unsigned long long best;
    int outliers;
};

__device__ __forceinline__ bool fits(float weight, float shared_weight) { return weight <= shared_weight && weight > 0.5f * shared_weight; }

/**
 * The value weight that most keys share within a factor of two, and how many keys it does not fit. With too many of those the tile keeps a
 * weight and a scale a key.
 */
__device__ __forceinline__ TileKind classify(TileFacts& facts, int keys, float& shared_weight) {
    uint32_t most = 0, least = ~0u;
#pragma unroll
    for (int i = 0; i < kTileKeys; i += 32) {
        const int key = i + threadIdx.x % 32;
        const uint32_t bits = __float_as_uint(facts.weight[key]);
        if (key < keys) most = max(most, bits), least = min(least, bits);
    }
    shared_weight = __uint_as_float(__reduce_max_sync(~0u, most));
    if (fits(__uint_as_float(__reduce_min_sync(~0u, least)), shared_weight)) return TileKind::kPlain;  // all fit the largest, as they nearly always do

    const int key = threadIdx.x / 2, half = threadIdx.x % 2;
    const float own = facts.weight[key];
    int count = 0;
    for (int other = half; other < keys; other += 2) count += fits(facts.weight[other], own);
    count += __shfl_xor_sync(~0u, count, 1);
    if (half == 0 && key < keys) atomicMax(&facts.best, static_cast<unsigned long long>(count) << 32 | __float_as_uint(own));
    __syncthreads();
    shared_weight = __uint_as_float(static_cast<uint32_t>(facts.best));
    if (half == 0 && key < keys && !fits(own, shared_weight)) atomicAdd(&facts.outliers, 1);
    __syncthreads();
    return facts.outliers <= kOutlierSlots ? TileKind::kOutliers : TileKind::kColumns;
}

/** Keys into slots by magnitude, outliers last. Magnitudes alike but for their last seven bits count as alike; the earlier key comes first. */
__device__ __forceinline__ void sort_into_slots(TileFacts& facts, int keys, TileKind kind, float shared_weight) {
    const int key = threadIdx.x / 2, half = threadIdx.x % 2;
    const bool outlier = kind == TileKind::kOutliers && key < keys && !fits(facts.weight[key], shared_weight);
    const uint32_t own = (__float_as_uint(facts.magnitude[key]) & ~127u) | static_cast<uint32_t>(key) | (outlier ? 1u << 31 : 0u);
    if (half == 0) facts.rank[key] = own;
    __syncthreads();
    int before = 0;
#pragma unroll 8
    for (int i = 0; i < kTileKeys / 8; ++i) {
        const uint4 others = reinterpret_cast<const uint4*>(facts.rank)[2 * i + half];
        before += (others.x < own) + (others.y < own) + (others.z < own) + (others.w < own);
    }
    before += __shfl_xor_sync(~0u, before, 1);
    if (half == 0) facts.slot[key] = before, facts.key[before] = key;
    __syncthreads();
}

/** Scales of the slots' eighths; without half values the low slots share one, and so do the high ones. All threads call it. */
template <bool kHalf> __device__ __forceinline__ void find_part_scales(TileFacts& facts) {
    const int part = threadIdx.x / 32, lane = threadIdx.x % 32;  // a warp an eighth
    const auto scale = [](uint32_t most) { return fmaxf(__uint_as_float(most) / 127.f, kMinScale); };
    uint32_t bits = 0;
    if constexpr (kHalf) {
        bits = __float_as_uint(facts.magnitude[facts.key[part * kEighthSlots + lane % kEighthSlots]]);
    } else {
        const bool low = part < kLowSlots / kEighthSlots;
        for (int slot = (low ? 0 : kLowSlots) + lane; slot < (low ? kLowSlots : kTileKeys); slot += 32) bits = max(bits, __float_as_uint(facts.magnitude[facts.key[slot]]));
    }
    bits = __reduce_max_sync(~0u, bits);
    if (lane == 0) facts.part_scale[part] = scale(bits), facts.part_step[part] = 1.f / scale(bits);
    __syncthreads();
}
static_assert(kTileKeys / kEighthSlots == kQuantizeWarps && kLowSlots % kEighthSlots == 0, "a warp an eighth");

/** Where the caller's rows fit into shared memory twice over they are kept there, else read again. */
template <class P> constexpr bool kKept = 2 * kTileKeys * RowLanes<P>::kRowBytes <= 128 * 1024;
template <class P, bool kHalf> constexpr int kDynamicBytes = kKept<P> ? 2 * kTileKeys * RowLanes<P>::kRowBytes : kTileKeys * RowLanes<P>::kRowBytes;

template <class P, bool kHalf> __device__ __forceinline__ void encode_tile(const QuantizeJob& job, const HeadPlace& at, int64_t head, int tile_index, uint8_t* memory) {
    constexpr int kD = P::kD;
    using Lanes = RowLanes<P>;
    __shared__ TileFacts facts;
    const QuantizeRequest& request = job.request;
    const Operand &key = request.key, &value = request.value;
    const Sm90Sequence& sequence = at.sequence;
    const int thread = threadIdx.x, keys = min(kTileKeys, sequence.k_len - tile_index * kTileKeys);
    const int64_t first_row = sequence.k_start + int64_t{tile_index} * kTileKeys;
    const int64_t key_at = row_offset(key, at.batch, at.head, first_row), value_at = row_offset(value, at.batch, at.head, first_row);
    uint8_t *key_rows = memory, *value_rows = memory + kTileKeys * Lanes::kRowBytes;
    if (kKept<P> && keys > 0) {
        fetch_rows<P>(key_rows, key, key_at, keys);
        fetch_rows<P>(value_rows, value, value_at, keys);
    }
    commit_copies();
    if (request.statistics.means != nullptr) wait_until(HeadProgress(job, head).means_ready, 1);
    if (!kHalf) wait_until(HeadProgress(job, head).value_tiles, sequence.tiles);
    if (thread < kD) {
        float c = !kHalf && thread < value.dim ? __ldcg(request.statistics.maxima + head * kD + thread) : 0.f;
        c = c > 0.f ? fmaxf(c, kMinScale) : 1.f;
        facts.divisor[thread] = 1.f / c;
        facts.mean[thread] = request.statistics.means != nullptr ? __ldcg(request.statistics.means + head * kD + thread) : 0.f;
        if (tile_index == 0) job.channel_scale[head * kD + thread] = kHalf ? 1.f : c / 127.f;  // even of an empty sequence
    }
    if (thread == 0) facts.best = 0, facts.outliers = 0;
    if (tile_index >= sequence.tiles) return;
    wait_for_copies<0>();
    __syncthreads();

    uint8_t* tile = job.tiles + (sequence.tile_base + static_cast<int64_t>(at.head) * sequence.tiles + tile_index) * sm90_tile_bytes(kD, kHalf);
    const Lanes lanes;
    const auto piece = [&](const Operand& operand, const uint8_t* rows, int64_t from, int row, int channel) -> uint4 {
        if constexpr (kKept<P>) return *reinterpret_cast<const uint4*>(rows + row * Lanes::kRowBytes + channel * (P::kWide ? 4 : 2));
        return row < keys && channel < operand.dim ? load_piece<P::kWide>(operand, from + row * operand.strides.token + channel, aligned_rows(operand)) : make_uint4(0, 0, 0, 0);
    };
    const auto smooth = [&](float(&x)[P::kPiece], int channel) {
#pragma unroll
        for (int e = 0; e < P::kPiece; ++e) x[e] -= facts.mean[channel + e];
    };

#pragma unroll 2
    for (int round = 0; round < Lanes::kRounds; ++round) {
        const int row = lanes.row(round);
        uint32_t largest = 0, raw_largest = 0;  // as bits: NaN above all
        float weight = kMinWeight;
        bool large_half = false;
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            const int channel = lanes.channel(part);
            float x[P::kPiece];
            widen<P>(x, piece(key, key_rows, key_at, row, channel), key.type);
#pragma unroll
            for (int e = 0; e < P::kPiece; ++e) raw_largest = max(raw_largest, __float_as_uint(fabsf(x[e])));
            smooth(x, channel);
#pragma unroll
            for (int e = 0; e < P::kPiece; ++e) largest = max(largest, __float_as_uint(fabsf(x[e])));
            widen<P>(x, piece(value, value_rows, value_at, row, channel), value.type);
            if constexpr (kHalf) {
                large_half |= !all_within(x, kLargestFloat16);
                if (large_half) report(x, kLargestFloat16, &request.findings->bad_value, &request.findings->large_value);
            } else {
#pragma unroll
                for (int e = 0; e < P::kPiece; ++e) weight = fmaxf(weight, fabsf(x[e]) * facts.divisor[channel + e]);
            }
        }
        if (!(__uint_as_float(raw_largest) <= kLargestOperand)) {
            if (raw_largest < 0x7f800000u) atomicMax(&request.findings->large_key, raw_largest);
            else atomicOr(&request.findings->bad_key, 1u);
        }
        largest = min(largest, 0x7f7fffffu);  // the answer is refused then, but every slot must get a key
#pragma unroll
        for (int step = 1; step < Lanes::kLanes; step *= 2) largest = max(largest, __shfl_xor_sync(~0u, largest, step));
        if constexpr (!kHalf) weight = row_max<Lanes::kLanes>(weight);
        if (lanes.lane == 0) {
            const bool present = row < keys;
            facts.magnitude[row] = present ? __uint_as_float(largest) : 0.f;
            facts.weight[row] = kHalf ? 1.f : present ? fminf(weight, FLT_MAX) : 0.f;
        }
    }
    __syncthreads();

    float shared_weight = 1.f;
    const TileKind kind = kHalf ? TileKind::kPlain : classify(facts, keys, shared_weight);
    sort_into_slots(facts, keys, kind, shared_weight);
    const bool own_scale = kind == TileKind::kColumns;
    find_part_scales<kHalf>(facts);
    const auto scale_of = [&](int row, int slot) { return own_scale ? fmaxf(facts.magnitude[row] / 127.f, kMinScale) : facts.part_scale[slot / kEighthSlots]; };
    const auto weight_of = [&](int row) { return kHalf ? 1.f : own_scale || !fits(facts.weight[row], shared_weight) ? facts.weight[row] : shared_weight; };
    if (thread < kTileKeys) facts.value_step[thread] = facts.key[thread] < keys ? 127.f / weight_of(facts.key[thread]) : 0.f;

#pragma unroll 2
    for (int round = 0; round < Lanes::kRounds; ++round) {
        const int row = lanes.row(round), slot = facts.slot[row];
        float step = own_scale ? 1.f / scale_of(row, slot) : facts.part_step[slot / kEighthSlots];
        if (row >= keys) step = 0.f;  // codes of absent keys are zeros, with or without a mean
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            const int channel = lanes.channel(part);
            float x[P::kPiece];
            widen<P>(x, piece(key, key_rows, key_at, row, channel), key.type);
            smooth(x, channel);
            PieceCodes<P> codes;
#pragma unroll
            for (int w = 0; w < P::kPiece / 4; ++w)
                codes.words[w] = pack_codes(rounded_bits(x[4 * w] * step), rounded_bits(x[4 * w + 1] * step), rounded_bits(x[4 * w + 2] * step), rounded_bits(x[4 * w + 3] * step));
            codes.store(tile + panel_offset(slot, channel, kTileKeys, kD));
        }
    }
    __syncthreads();

    // V's part of the image, in place of K's rows: two channels a thread, 16 slots at a time; then out in whole lines.
    const auto value_pair = [&](int row, int channel) -> float2 {
        if constexpr (kKept<P>) return pair_at<P>(value_rows, row, channel, value.type);
        if (row >= keys || channel >= value.dim) return make_float2(0.f, 0.f);
        const int64_t from = value_at + row * value.strides.token + channel;
        return make_float2(load_one(value, from), load_one(value, from + 1));
    };
    for (int item = thread; item < kD / 2 * (kTileKeys / 16); item += kQuantizeThreads) {
        const int channel = item % (kD / 2) * 2, group = item / (kD / 2);
        const int4* group_keys = reinterpret_cast<const int4*>(facts.key + group * 16);
        int row[16];
#pragma unroll
        for (int i = 0; i < 4; ++i) row[4 * i] = group_keys[i].x, row[4 * i + 1] = group_keys[i].y, row[4 * i + 2] = group_keys[i].z, row[4 * i + 3] = group_keys[i].w;
        if constexpr (kHalf) {
            uint32_t words[2][8];
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const float2 a = value_pair(row[2 * i], channel), b = value_pair(row[2 * i + 1], channel);
                const __half2 low = __floats2half2_rn(a.x, b.x), high = __floats2half2_rn(a.y, b.y);
                words[0][i] = *reinterpret_cast<const uint32_t*>(&low), words[1][i] = *reinterpret_cast<const uint32_t*>(&high);
            }
#pragma unroll
            for (int c = 0; c < 2; ++c)
#pragma unroll
                for (int i = 0; i < 8; i += 4)
                    *reinterpret_cast<uint4*>(memory + panel_offset(channel + c, 2 * (group * 16 + 2 * i), kD, 2 * kTileKeys)) =
                        make_uint4(words[c][i], words[c][i + 1], words[c][i + 2], words[c][i + 3]);
        } else {
            const float2 divisor = *reinterpret_cast<const float2*>(facts.divisor + channel);
            uint32_t words[2][4];
#pragma unroll
            for (int w = 0; w < 4; ++w) {  // the slots at positions 4w .. 4w + 3
                uint32_t bits[2][4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int slot = 2 * w + (i & 1) + 8 * (i >> 1);
                    const float2 v = value_pair(row[slot], channel);
                    const float step = facts.value_step[group * 16 + slot];
                    bits[0][i] = rounded_bits(v.x * divisor.x * step), bits[1][i] = rounded_bits(v.y * divisor.y * step);
                }
#pragma unroll
                for (int c = 0; c < 2; ++c) words[c][w] = pack_codes(bits[c][0], bits[c][1], bits[c][2], bits[c][3]) ^ 0x80808080u;  // + 128
            }
#pragma unroll
            for (int c = 0; c < 2; ++c) *reinterpret_cast<uint4*>(memory + panel_offset(channel + c, group * 16, kD, kTileKeys)) = make_uint4(words[c][0], words[c][1], words[c][2], words[c][3]);
        }
    }
    __syncthreads();
#pragma unroll 4
    for (int offset = thread * 16; offset < sm90_value_bytes(kD, kHalf); offset += kQuantizeThreads * 16)
        *reinterpret_cast<uint4*>(tile + kTileKeys * kD + offset) = *reinterpret_cast<const uint4*>(memory + offset);

    uint8_t* meta = tile + sm90_columns_offset(kD, kHalf);
    if (thread < kTileKeys) {
        const int row = facts.key[thread], position = slot_position(thread);
        float* columns = reinterpret_cast<float*>(meta) + position;
        const bool present = row < keys;
        const float weight = present ? weight_of(row) : 1.f;
        columns[0] = scale_of(row, thread);
        columns[kTileKeys] = log2f(weight);
        columns[2 * kTileKeys] = present ? 1.f / weight : 0.f;
        meta[3 * kTileKeys * 4 + position] = static_cast<uint8_t>(row);
    } else if (thread == kTileKeys) {
        if constexpr (kHalf) {
            float4* header = reinterpret_cast<float4*>(meta + kColumnBytes);
            header[0] = reinterpret_cast<const float4*>(facts.part_scale)[0];
            header[1] = reinterpret_cast<const float4*>(facts.part_scale)[1];
        } else {
            TileHeader header{};
            header.k_scale[0] = facts.part_scale[0], header.k_scale[1] = facts.part_scale[7];
            header.tau = log2f(shared_weight);
            header.inverse_weight = 1.f / shared_weight;
            header.kind = static_cast<int32_t>(kind);
            *reinterpret_cast<TileHeader*>(meta + kColumnBytes) = header;
        }
        float largest = 0.f;
        for (int part = 0; part < 8; ++part) largest = fmaxf(largest, facts.part_scale[part]);
        atomicMax(request.head_maxima.key + head, __float_as_uint(largest));
    }
}

}  // namespace intflash
