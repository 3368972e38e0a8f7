// See sm90_quantize.h and sm90_layout.h. One block makes one image, reading its rows twice (the second time from L1 or L2): once for
// magnitudes, once for codes.
#include <cuda_runtime.h>

#include <cfloat>

#include "load_operand.cuh"
#include "sm90_quantize.h"

namespace intflash {
namespace {

constexpr int kThreads = 256;
constexpr float kMinScale = 1.17549435e-38f;  // 2^-126: keeps an all-zero row from 0 / 0
constexpr float kMinWeight = 9.53674316e-7f;  // 2^-20, as in docs/arithmetic.md

template <int lanes> __device__ __forceinline__ float row_max(float value) {
#pragma unroll
    for (int step = 1; step < lanes; step *= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
    return value;
}

__device__ __forceinline__ uint32_t pack_codes(float a, float b, float c, float d, float per_step) {
    return (__float2int_rn(a * per_step) & 255u) | (__float2int_rn(b * per_step) & 255u) << 8 | (__float2int_rn(c * per_step) & 255u) << 16 |
           (__float2int_rn(d * per_step) & 255u) << 24;
}

/** Eight channels of a row as codes. |x · per_step| <= 127 up to rounding, because the step is the row's maximum / 127. */
__device__ __forceinline__ uint2 pack_row(const float (&x)[kChunk], float per_step) {
    return make_uint2(pack_codes(x[0], x[1], x[2], x[3], per_step), pack_codes(x[4], x[5], x[6], x[7], per_step));
}

template <int kD>
__global__ void __launch_bounds__(kThreads) quantize_query(const Operand query, const Sm90Table table, int8_t* blocks, float* scales, Findings* findings) {
    constexpr int kLanes = kD / kChunk, kRows = kThreads / kLanes;
    const Sm90Sequence sequence = table.sequences[blockIdx.z];
    if (static_cast<int>(blockIdx.x) >= sequence.q_blocks) return;
    const int64_t block = sequence.q_block_base + static_cast<int64_t>(blockIdx.y) * sequence.q_blocks + blockIdx.x;
    const int lane = threadIdx.x % kLanes, channel = lane * kChunk;
    bool bad = false;
#pragma unroll
    for (int first = 0; first < kQueryBlock; first += kRows) {
        const int in_block = first + threadIdx.x / kLanes, row = blockIdx.x * kQueryBlock + in_block;
        float x[kChunk] = {}, largest = 0.f;
        if (row < sequence.q_len && channel < query.dim) load_chunk(x, query, row_offset(query, blockIdx.z, blockIdx.y, sequence.q_start + row) + channel);
#pragma unroll
        for (int i = 0; i < kChunk; ++i) bad |= !(fabsf(x[i]) <= FLT_MAX), largest = fmaxf(largest, fabsf(x[i]));
        const float scale = fmaxf(row_max<kLanes>(largest) / 127.f, kMinScale);
        *reinterpret_cast<uint2*>(blocks + block * (kQueryBlock * kD) + panel_offset(in_block, channel, kQueryBlock, kD)) = pack_row(x, 1.f / scale);
        if (lane == 0) scales[block * kQueryBlock + in_block] = scale;
    }
    if (bad) atomicOr(&findings->bad_query, 1u);
}

/** What a block knows of its tile's keys. */
struct TileFacts {
    float divisor[kMaxHeadDim];  // 1 / channel maximum
    float magnitude[kTileKeys];  // of K: largest |k|
    float weight[kTileKeys];     // of V: largest |v / channel maximum|
    int slot[kTileKeys];         // of a key
    int key[kTileKeys];          // of a slot
    unsigned long long best;
    int outliers;
    unsigned part_max[2];        // largest magnitudes of the low and the high slots, as bits
};

/**
 * The value weight that most keys share within a factor of two, and the keys it does not fit. With too many of those the tile keeps a
 * weight and a scale a key.
 */
__device__ __forceinline__ TileKind classify(TileFacts& facts, int keys, float& shared_weight) {
    const int key = threadIdx.x;
    const float own = key < kTileKeys ? facts.weight[key] : 0.f;
    if (key == 0) facts.best = 0, facts.outliers = 0;
    __syncthreads();
    if (key < keys) {
        int fits = 0;
        for (int other = 0; other < keys; ++other) fits += facts.weight[other] <= own && facts.weight[other] > 0.5f * own;
        atomicMax(&facts.best, static_cast<unsigned long long>(fits) << 32 | __float_as_uint(own));
    }
    __syncthreads();
    shared_weight = __uint_as_float(static_cast<uint32_t>(facts.best));
    if (key < keys && !(own <= shared_weight && own > 0.5f * shared_weight)) atomicAdd(&facts.outliers, 1);
    __syncthreads();
    return facts.outliers == 0 ? TileKind::kPlain : facts.outliers <= kOutlierSlots ? TileKind::kOutliers : TileKind::kColumns;
}

/** Keys into slots by magnitude, outliers last. */
__device__ __forceinline__ void sort_into_slots(TileFacts& facts, int keys, TileKind kind, float shared_weight) {
    const auto rank_of = [&](int key) {
        const float weight = facts.weight[key];
        const bool outlier = kind == TileKind::kOutliers && key < keys && !(weight <= shared_weight && weight > 0.5f * shared_weight);
        return facts.magnitude[key] + (outlier ? FLT_MAX : 0.f);  // magnitudes are finite: the largest an outlier, whatever its own, comes last
    };
    const int key = threadIdx.x;
    int slot = 0;
    if (key < kTileKeys) {
        const float own = rank_of(key);
        for (int other = 0; other < kTileKeys; ++other) {
            const float theirs = rank_of(other);
            slot += theirs < own || (theirs == own && other < key);
        }
    }
    __syncthreads();
    if (key < kTileKeys) {
        facts.slot[key] = slot;
        facts.key[slot] = key;
        atomicMax(&facts.part_max[slot >= kLowSlots], __float_as_uint(facts.magnitude[key]));
    }
    __syncthreads();
}

template <int kD, bool kHalf>
__global__ void __launch_bounds__(kThreads) build_tiles(const Operand key, const Operand value, const Sm90Table table, const float* means, const float* maxima, uint8_t* tiles,
                                                        float* channel_scale, Findings* findings) {
    constexpr int kLanes = kD / kChunk, kRows = kThreads / kLanes;
    __shared__ TileFacts facts;
    const Sm90Sequence sequence = table.sequences[blockIdx.z];
    const int64_t head_at = (static_cast<int64_t>(blockIdx.z) * key.heads + blockIdx.y) * kD;
    const int tile_index = blockIdx.x, thread = threadIdx.x;
    if (thread < kD) {
        float c = thread < value.dim ? maxima[head_at + thread] : 0.f;
        if (!(c > 0.f)) c = 1.f;
        facts.divisor[thread] = 1.f / c;
        if (tile_index == 0) channel_scale[head_at + thread] = kHalf ? 1.f : c / 127.f;  // even of an empty sequence
    }
    if (thread < 2) facts.part_max[thread] = 0;
    if (tile_index >= sequence.tiles) return;
    __syncthreads();
    const int keys = min(kTileKeys, sequence.k_len - tile_index * kTileKeys);
    const int64_t first_row = sequence.k_start + static_cast<int64_t>(tile_index) * kTileKeys;
    const int64_t key_at = row_offset(key, blockIdx.z, blockIdx.y, first_row), value_at = row_offset(value, blockIdx.z, blockIdx.y, first_row);
    uint8_t* tile = tiles + (sequence.tile_base + static_cast<int64_t>(blockIdx.y) * sequence.tiles + tile_index) * sm90_tile_bytes(kD, kHalf);
    const int lane = thread % kLanes, channel = lane * kChunk;

    const auto load_key = [&](float(&x)[kChunk], int row) {
        if (row >= keys || channel >= key.dim) return;
        load_chunk(x, key, key_at + row * key.strides.token + channel);
        if (means == nullptr) return;
#pragma unroll
        for (int i = 0; i < kChunk; ++i) x[i] -= means[head_at + channel + i];
    };
    bool bad = false;
    for (int row = thread / kLanes; row < kTileKeys; row += kRows) {
        float x[kChunk] = {}, largest = 0.f;
        load_key(x, row);
#pragma unroll
        for (int i = 0; i < kChunk; ++i) bad |= !(fabsf(x[i]) <= FLT_MAX), largest = fmaxf(largest, fabsf(x[i]));
        largest = row_max<kLanes>(largest);
        float weight = 1.f;
        if constexpr (!kHalf) {
            float v[kChunk] = {};
            weight = row < keys ? kMinWeight : 0.f;
            if (row < keys && channel < value.dim) load_chunk(v, value, value_at + row * value.strides.token + channel);
#pragma unroll
            for (int i = 0; i < kChunk; ++i) weight = fmaxf(weight, fabsf(v[i]) * facts.divisor[channel + i]);
            weight = row_max<kLanes>(weight);
        }
        if (lane == 0) facts.magnitude[row] = largest, facts.weight[row] = weight;
    }
    if (bad) atomicOr(&findings->bad_key, 1u);
    __syncthreads();

    float shared_weight = 1.f;
    const TileKind kind = kHalf ? TileKind::kColumns : classify(facts, keys, shared_weight);
    sort_into_slots(facts, keys, kind, shared_weight);
    const bool own_scale = kind == TileKind::kColumns;
    const auto scale_of = [&](int row) {
        const float magnitude = own_scale ? facts.magnitude[row] : __uint_as_float(facts.part_max[facts.slot[row] >= kLowSlots]);
        return fmaxf(magnitude / 127.f, kMinScale);
    };
    const auto weight_of = [&](int row) {
        const float own = facts.weight[row];
        return kHalf ? 1.f : own_scale || !(own <= shared_weight && own > 0.5f * shared_weight) ? own : shared_weight;
    };

    for (int row = thread / kLanes; row < kTileKeys; row += kRows) {
        float x[kChunk] = {};
        load_key(x, row);
        *reinterpret_cast<uint2*>(tile + panel_offset(facts.slot[row], channel, kTileKeys, kD)) = pack_row(x, 1.f / scale_of(row));
    }
    for (int item = thread; item < kD * (kTileKeys / 16); item += kThreads) {
        const int d = item % kD, group = item / kD;
        if constexpr (kHalf) {
            __half values[16];
#pragma unroll
            for (int i = 0; i < 16; ++i) {
                const int row = facts.key[group * 16 + i];
                values[i] = __float2half_rn(d < value.dim && row < keys ? load_one(value, value_at + row * value.strides.token + d) : 0.f);
            }
#pragma unroll
            for (int i = 0; i < 16; i += 8)
                *reinterpret_cast<uint4*>(tile + sm90_half_value_offset(group * 16 + i, d, kD)) = *reinterpret_cast<const uint4*>(values + i);
        } else {
            uint32_t words[4] = {};
#pragma unroll
            for (int i = 0; i < 16; ++i) {
                const int row = facts.key[group * 16 + i], position = slot_position(i);
                int code = 0;
                if (d < value.dim && row < keys) code = __float2int_rn(load_one(value, value_at + row * value.strides.token + d) * facts.divisor[d] * (127.f / weight_of(row)));
                words[position >> 2] |= static_cast<uint32_t>(min(max(code, -127), 127) + 128) << (8 * (position & 3));
            }
            *reinterpret_cast<uint4*>(tile + sm90_value_offset(group * 16, d, kD)) = make_uint4(words[0], words[1], words[2], words[3]);
        }
    }
    uint8_t* meta = tile + sm90_columns_offset(kD, kHalf);
    if (thread < kTileKeys) {
        const int row = facts.key[thread], position = slot_position(thread);
        float* columns = reinterpret_cast<float*>(meta) + position;
        const bool present = row < keys;
        const float weight = present ? weight_of(row) : 1.f;
        columns[0] = scale_of(row);
        columns[kTileKeys] = log2f(weight);
        columns[2 * kTileKeys] = present ? 1.f / weight : 0.f;
        meta[3 * kTileKeys * 4 + position] = static_cast<uint8_t>(row);
    }
    if (thread == 0) {
        TileHeader header{};
        header.k_scale[0] = fmaxf(__uint_as_float(facts.part_max[0]) / 127.f, kMinScale);
        header.k_scale[1] = fmaxf(__uint_as_float(facts.part_max[1]) / 127.f, kMinScale);
        header.tau = log2f(shared_weight);
        header.inverse_weight = 1.f / shared_weight;
        header.kind = static_cast<int32_t>(kind);
        *reinterpret_cast<TileHeader*>(meta + kColumnBytes) = header;
    }
}

template <int kD> cudaError_t build(const Operand& key, const Operand& value, const Sm90Table& table, bool half_values, const float* means, const float* maxima, uint8_t* tiles,
                                    float* channel_scale, Findings* findings, cudaStream_t stream) {
    const dim3 grid(static_cast<unsigned>(table.max_tiles > 0 ? table.max_tiles : 1), key.heads, table.count);
    if (half_values) build_tiles<kD, true><<<grid, kThreads, 0, stream>>>(key, value, table, means, maxima, tiles, channel_scale, findings);
    else build_tiles<kD, false><<<grid, kThreads, 0, stream>>>(key, value, table, means, maxima, tiles, channel_scale, findings);
    return cudaGetLastError();
}

}  // namespace

cudaError_t launch_sm90_quantize_query(const Operand& query, const Sm90Table& table, int padded, int8_t* blocks, float* scales, Findings* findings, cudaStream_t stream) {
    if (table.max_q_blocks == 0 || table.count == 0) return cudaSuccess;
    const dim3 grid(table.max_q_blocks, query.heads, table.count);
    switch (padded) {
        case 64: quantize_query<64><<<grid, kThreads, 0, stream>>>(query, table, blocks, scales, findings); break;
        case 128: quantize_query<128><<<grid, kThreads, 0, stream>>>(query, table, blocks, scales, findings); break;
        default: quantize_query<256><<<grid, kThreads, 0, stream>>>(query, table, blocks, scales, findings);
    }
    return cudaGetLastError();
}

cudaError_t launch_sm90_build_tiles(const Operand& key, const Operand& value, const Sm90Table& table, int padded, bool half_values, const float* means, const float* maxima,
                                    uint8_t* tiles, float* channel_scale, Findings* findings, cudaStream_t stream) {
    if (table.count == 0) return cudaSuccess;
    switch (padded) {
        case 64: return build<64>(key, value, table, half_values, means, maxima, tiles, channel_scale, findings, stream);
        case 128: return build<128>(key, value, table, half_values, means, maxima, tiles, channel_scale, findings, stream);
        default: return build<256>(key, value, table, half_values, means, maxima, tiles, channel_scale, findings, stream);
    }
}

}  // namespace intflash
