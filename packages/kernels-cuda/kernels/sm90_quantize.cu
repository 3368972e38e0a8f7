// See sm90_quantize.h and sm90_layout.h. Bound by memory: a block reads its rows once, keeps them in shared memory, finds what all of them
// need to know, and writes them from there as one image.
#include <cuda_runtime.h>

#include "encode_rows.cuh"
#include "sm90_quantize.h"

namespace intflash {
namespace {

constexpr int kThreads = kEncodeThreads;

/** 128 queries of a head are two blocks of the image. */
template <class P>
__global__ void __launch_bounds__(kThreads) quantize_query(const __grid_constant__ QuantizeRequest request, const Sm90Table table, int8_t* blocks, float* scales) {
    constexpr int kPerImage = kTileKeys / kQueryBlock;
    const Sm90Sequence sequence = table.sequences[blockIdx.z];
    const int first = static_cast<int>(blockIdx.x) * kTileKeys, rows = sequence.q_blocks * kQueryBlock;
    if (first >= rows) return;
    const int64_t block = sequence.q_block_base + static_cast<int64_t>(blockIdx.y) * sequence.q_blocks + blockIdx.x * kPerImage;
    int8_t* target = blocks + block * (kQueryBlock * P::kD);
    encode_rows<P, true>(
        request.query, blockIdx.z, blockIdx.y, sequence.q_start, first, sequence.q_len, request.levels, nullptr, FLT_MAX, &request.findings->bad_query, nullptr,
        request.head_maxima.query + static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y,
        [&](int64_t row, int channel, const PieceCodes<P>& codes) {
            const int at = static_cast<int>(row) - first;
            if (row < rows) codes.store(target + at / kQueryBlock * (kQueryBlock * P::kD) + panel_offset(at % kQueryBlock, channel, kQueryBlock, P::kD));
        },
        [&](int64_t row, float scale) {
            if (row < rows) scales[block * kQueryBlock + row - first] = scale;
        });
}

/** What a block knows of its tile. */
struct TileFacts {
    float divisor[kMaxHeadDim];   // 1 / channel's largest |v|
    float mean[kMaxHeadDim];      // of K's channels; 0 without smooth-K
    float magnitude[kTileKeys];   // of a key: its largest |k|
    float weight[kTileKeys];      // of its value: largest |v / channel's maximum|
    float rank[kTileKeys];        // by which keys are sorted into slots
    float value_step[kTileKeys];  // of a slot: 127 / value weight
    int slot[kTileKeys];          // of a key
    int key[kTileKeys];           // of a slot
    unsigned long long best;
    int outliers;
    unsigned part_max[2];         // largest magnitudes of the low and the high slots, as bits
};

__device__ __forceinline__ bool fits(float weight, float shared_weight) { return weight <= shared_weight && weight > 0.5f * shared_weight; }

/**
 * The value weight that most keys share within a factor of two, and how many keys it does not fit. With too many of those the tile keeps a
 * weight and a scale a key.
 */
__device__ __forceinline__ TileKind classify(TileFacts& facts, int keys, float& shared_weight) {
    const int key = threadIdx.x % kTileKeys, from = threadIdx.x / kTileKeys;  // two threads a key
    const float own = facts.weight[key];
    int count = 0;
    for (int other = from; other < keys; other += 2) count += fits(facts.weight[other], own);
    facts.slot[key] = 0;
    __syncthreads();
    atomicAdd(&facts.slot[key], count);
    __syncthreads();
    if (from == 0 && key < keys) atomicMax(&facts.best, static_cast<unsigned long long>(facts.slot[key]) << 32 | __float_as_uint(own));
    __syncthreads();
    shared_weight = __uint_as_float(static_cast<uint32_t>(facts.best));
    if (from == 0 && key < keys && !fits(own, shared_weight)) atomicAdd(&facts.outliers, 1);
    __syncthreads();
    return facts.outliers == 0 ? TileKind::kPlain : facts.outliers <= kOutlierSlots ? TileKind::kOutliers : TileKind::kColumns;
}

/** Keys into slots by magnitude, outliers last. */
__device__ __forceinline__ void sort_into_slots(TileFacts& facts, int keys, TileKind kind, float shared_weight) {
    const int key = threadIdx.x % kTileKeys, from = threadIdx.x / kTileKeys;
    const bool outlier = kind == TileKind::kOutliers && key < keys && !fits(facts.weight[key], shared_weight);
    const float own = facts.magnitude[key] + (outlier ? FLT_MAX : 0.f);  // magnitudes are far smaller: K is refused beyond 2^100
    facts.rank[key] = own;
    facts.slot[key] = 0;
    __syncthreads();
    int before = 0;
    for (int other = from; other < kTileKeys; other += 2) {
        const float theirs = facts.rank[other];
        before += theirs < own || (theirs == own && other < key);
    }
    atomicAdd(&facts.slot[key], before);
    __syncthreads();
    if (from == 0) {
        const int slot = facts.slot[key];
        facts.key[slot] = key;
        atomicMax(&facts.part_max[slot >= kLowSlots], __float_as_uint(facts.magnitude[key]));
    }
    __syncthreads();
}

/** Bytes of one operand's 128 rows as the caller has them; where two do not fit, rows are read from memory again. */
template <class P> constexpr int kRowBytes = P::kD * (P::kWide ? 4 : 2);
template <class P> constexpr bool kKept = 2 * kTileKeys * kRowBytes<P> <= 128 * 1024;
template <class P, bool kHalf> constexpr int kDynamicBytes = kKept<P> ? 2 * kTileKeys * kRowBytes<P> : kTileKeys * P::kD * (kHalf ? 2 : 1);

template <class P, bool kHalf>
__global__ void __launch_bounds__(kThreads) build_tiles(const __grid_constant__ QuantizeRequest request, const Sm90Table table, uint8_t* tiles, float* channel_scale) {
    constexpr int kD = P::kD, kRows = kWarpRows / P::kGroups, kBatch = kRows < 4 / P::kParts ? kRows : 4 / P::kParts;
    extern __shared__ __align__(16) uint8_t rows_kept[];  // K's rows, V's rows; in the end V's part of the image, in K's place
    __shared__ TileFacts facts;
    const Operand &key = request.key, &value = request.value;
    const Sm90Sequence sequence = table.sequences[blockIdx.z];
    const int64_t head = static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
    const int tile_index = blockIdx.x, thread = threadIdx.x;
    if (thread < kD) {
        float c = !kHalf && thread < value.dim ? request.statistics.maxima[head * kD + thread] : 0.f;
        if (!(c > 0.f)) c = 1.f;
        facts.divisor[thread] = 1.f / fmaxf(c, kMinScale);
        facts.mean[thread] = request.statistics.means != nullptr ? request.statistics.means[head * kD + thread] : 0.f;
        if (tile_index == 0) channel_scale[head * kD + thread] = kHalf ? 1.f : fmaxf(c, kMinScale) / 127.f;  // even of an empty sequence
    }
    if (thread < 2) facts.part_max[thread] = 0;
    if (thread == 0) facts.best = 0, facts.outliers = 0;
    if (tile_index >= sequence.tiles) return;
    __syncthreads();
    const int keys = min(kTileKeys, sequence.k_len - tile_index * kTileKeys);
    const int64_t first_row = sequence.k_start + static_cast<int64_t>(tile_index) * kTileKeys;
    const int64_t key_at = row_offset(key, blockIdx.z, blockIdx.y, first_row), value_at = row_offset(value, blockIdx.z, blockIdx.y, first_row);
    const bool key_aligned = aligned_rows(key), value_aligned = aligned_rows(value);
    uint8_t* tile = tiles + (sequence.tile_base + static_cast<int64_t>(blockIdx.y) * sequence.tiles + tile_index) * sm90_tile_bytes(kD, kHalf);
    const LanePlace<P> lane;

    const auto read_key = [&](int row, int channel) {
        return row < keys && channel < key.dim ? load_piece<P::kWide>(key, key_at + row * key.strides.token + channel, key_aligned) : make_uint4(0, 0, 0, 0);
    };
    const auto read_value = [&](int row, int channel) {
        return row < keys && channel < value.dim ? load_piece<P::kWide>(value, value_at + row * value.strides.token + channel, value_aligned) : make_uint4(0, 0, 0, 0);
    };
    const auto kept = [&](bool of_value, int row, int channel) {
        return reinterpret_cast<uint4*>(rows_kept + (of_value ? kTileKeys * kRowBytes<P> : 0) + row * kRowBytes<P> + channel * (P::kWide ? 4 : 2));
    };
    const auto smooth = [&](float(&x)[P::kPiece], int row, int channel) {
        if (row >= keys) return;
#pragma unroll
        for (int e = 0; e < P::kPiece; ++e) x[e] -= facts.mean[channel + e];
    };

#pragma unroll 1
    for (int from = 0; from < kRows; from += kBatch) {
        uint4 raw_key[kBatch][P::kParts], raw_value[kBatch][P::kParts];
#pragma unroll
        for (int i = 0; i < kBatch; ++i)
#pragma unroll
            for (int part = 0; part < P::kParts; ++part) {
                const int row = lane.warp * kWarpRows + (from + i) * P::kGroups + lane.group;
                raw_key[i][part] = read_key(row, lane.piece_channel(part));
                raw_value[i][part] = read_value(row, lane.piece_channel(part));
            }
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            const int row = lane.warp * kWarpRows + (from + i) * P::kGroups + lane.group;
            float largest = 0.f, weight = row < keys ? kMinWeight : 0.f;
#pragma unroll
            for (int part = 0; part < P::kParts; ++part) {
                const int channel = lane.piece_channel(part);
                float x[P::kPiece];
                widen<P>(x, raw_key[i][part], key.type);
                if (!all_within(x, kLargestOperand)) report(x, kLargestOperand, &request.findings->bad_key, &request.findings->large_key);
                smooth(x, row, channel);
                largest = fmaxf(largest, magnitude(x));
                widen<P>(x, raw_value[i][part], value.type);
                if constexpr (kHalf) {
                    if (!all_within(x, kLargestFloat16)) report(x, kLargestFloat16, &request.findings->bad_value, &request.findings->large_value);
                } else {
#pragma unroll
                    for (int e = 0; e < P::kPiece; ++e) weight = fmaxf(weight, fabsf(x[e]) * facts.divisor[channel + e]);
                }
                if constexpr (kKept<P>) *kept(false, row, channel) = raw_key[i][part], *kept(true, row, channel) = raw_value[i][part];
            }
            largest = row_max<P::kLanes>(largest);
            weight = row_max<P::kLanes>(weight);
            if (lane.channel == 0) facts.magnitude[row] = largest, facts.weight[row] = kHalf ? 1.f : weight;
        }
    }
    __syncthreads();

    float shared_weight = 1.f;
    const TileKind kind = kHalf ? TileKind::kColumns : classify(facts, keys, shared_weight);
    sort_into_slots(facts, keys, kind, shared_weight);
    const bool own_scale = kind == TileKind::kColumns;
    const auto scale_of = [&](int row) {
        const float magnitude = own_scale ? facts.magnitude[row] : __uint_as_float(facts.part_max[facts.slot[row] >= kLowSlots]);
        return fmaxf(magnitude / 127.f, kMinScale);
    };
    const auto weight_of = [&](int row) { return kHalf ? 1.f : own_scale || !fits(facts.weight[row], shared_weight) ? facts.weight[row] : shared_weight; };
    if (thread < kTileKeys) facts.value_step[thread] = facts.key[thread] < keys ? 127.f / weight_of(facts.key[thread]) : 0.f;

#pragma unroll 4
    for (int i = 0; i < kRows; ++i) {
        const int row = lane.warp * kWarpRows + i * P::kGroups + lane.group;
        const float per_step = 1.f / scale_of(row);
#pragma unroll
        for (int part = 0; part < P::kParts; ++part) {
            const int channel = lane.piece_channel(part);
            float x[P::kPiece];
            widen<P>(x, kKept<P> ? *kept(false, row, channel) : read_key(row, channel), key.type);
            smooth(x, row, channel);
            PieceCodes<P> codes;
#pragma unroll
            for (int w = 0; w < P::kPiece / 4; ++w)
                codes.words[w] = pack_codes(rounded_bits(x[4 * w] * per_step), rounded_bits(x[4 * w + 1] * per_step), rounded_bits(x[4 * w + 2] * per_step),
                                            rounded_bits(x[4 * w + 3] * per_step));
            codes.store(tile + panel_offset(facts.slot[row], channel, kTileKeys, kD));
        }
    }
    __syncthreads();

    // V's part of the image: two channels a thread, 16 slots at a time; then out in whole lines.
    const auto value_pair = [&](int row, int channel) -> float2 {
        if constexpr (kKept<P>) {
            if constexpr (P::kWide) return reinterpret_cast<const float2*>(kept(true, row, 0))[channel / 2];
            const uint32_t bits = reinterpret_cast<const uint32_t*>(kept(true, row, 0))[channel / 2];
            if (value.type == ElementType::kFloat16) return __half22float2(*reinterpret_cast<const __half2*>(&bits));
            return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
        } else {
            if (row >= keys || channel >= value.dim) return make_float2(0.f, 0.f);
            const int64_t at = value_at + row * value.strides.token + channel;
            return make_float2(load_one(value, at), load_one(value, at + 1));
        }
    };
    for (int item = thread; item < kD / 2 * (kTileKeys / 16); item += kThreads) {
        const int channel = item % (kD / 2) * 2, group = item / (kD / 2);
        if constexpr (kHalf) {
            uint32_t words[2][8];
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const float2 a = value_pair(facts.key[group * 16 + 2 * i], channel), b = value_pair(facts.key[group * 16 + 2 * i + 1], channel);
                const __half2 low = __floats2half2_rn(a.x, b.x), high = __floats2half2_rn(a.y, b.y);
                words[0][i] = *reinterpret_cast<const uint32_t*>(&low), words[1][i] = *reinterpret_cast<const uint32_t*>(&high);
            }
#pragma unroll
            for (int c = 0; c < 2; ++c)
#pragma unroll
                for (int i = 0; i < 8; i += 4)
                    *reinterpret_cast<uint4*>(rows_kept + panel_offset(channel + c, 2 * (group * 16 + 2 * i), kD, 2 * kTileKeys)) =
                        make_uint4(words[c][i], words[c][i + 1], words[c][i + 2], words[c][i + 3]);
        } else {
            const float divisor[2] = {facts.divisor[channel], facts.divisor[channel + 1]};
            uint32_t bits[2][16];  // by position
#pragma unroll
            for (int i = 0; i < 16; ++i) {
                const float2 v = value_pair(facts.key[group * 16 + i], channel);
                const float step = facts.value_step[group * 16 + i];
                bits[0][slot_position(i)] = rounded_bits(v.x * divisor[0] * step), bits[1][slot_position(i)] = rounded_bits(v.y * divisor[1] * step);
            }
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                uint32_t words[4];
#pragma unroll
                for (int w = 0; w < 4; ++w) words[w] = pack_codes(bits[c][4 * w], bits[c][4 * w + 1], bits[c][4 * w + 2], bits[c][4 * w + 3]) ^ 0x80808080u;  // + 128
                *reinterpret_cast<uint4*>(rows_kept + panel_offset(channel + c, group * 16, kD, kTileKeys)) = make_uint4(words[0], words[1], words[2], words[3]);
            }
        }
    }
    __syncthreads();
    for (int at = thread * 16; at < sm90_value_bytes(kD, kHalf); at += kThreads * 16)
        *reinterpret_cast<uint4*>(tile + kTileKeys * kD + at) = *reinterpret_cast<const uint4*>(rows_kept + at);

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
        const float largest[2] = {__uint_as_float(facts.part_max[0]), __uint_as_float(facts.part_max[1])};
        for (int part = 0; part < 2; ++part) header.k_scale[part] = fmaxf(largest[part] / 127.f, kMinScale);
        header.tau = log2f(shared_weight);
        header.inverse_weight = 1.f / shared_weight;
        header.kind = static_cast<int32_t>(kind);
        *reinterpret_cast<TileHeader*>(meta + kColumnBytes) = header;
        atomicMax(request.head_maxima.key + head, __float_as_uint(fmaxf(fmaxf(largest[0], largest[1]) / 127.f, kMinScale)));
    }
}

template <class P, bool kHalf> cudaError_t build(const QuantizeRequest& request, const Sm90Table& table, uint8_t* tiles, float* channel_scale, cudaStream_t stream) {
    constexpr int bytes = kDynamicBytes<P, kHalf>;
    if (const cudaError_t status = cudaFuncSetAttribute(build_tiles<P, kHalf>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return status;
    const dim3 grid(static_cast<unsigned>(table.max_tiles > 0 ? table.max_tiles : 1), request.key.heads, table.count);
    build_tiles<P, kHalf><<<grid, kThreads, bytes, stream>>>(request, table, tiles, channel_scale);
    return cudaGetLastError();
}

}  // namespace

cudaError_t launch_sm90_quantize_query(const QuantizeRequest& request, const Sm90Table& table, int8_t* blocks, float* scales, cudaStream_t stream) {
    if (table.max_q_blocks == 0 || table.count == 0) return cudaSuccess;
    return with_pieces(request.padded, request.query.type == ElementType::kFloat32, [&](auto pieces) {
        const dim3 grid((table.max_q_blocks * kQueryBlock + kTileKeys - 1) / kTileKeys, request.query.heads, table.count);
        quantize_query<decltype(pieces)><<<grid, kThreads, 0, stream>>>(request, table, blocks, scales);
    });
}

cudaError_t launch_sm90_build_tiles(const QuantizeRequest& request, const Sm90Table& table, uint8_t* tiles, float* channel_scale, cudaStream_t stream) {
    if (table.count == 0) return cudaSuccess;
    cudaError_t status = cudaSuccess;
    const cudaError_t launched = with_pieces(request.padded, request.key.type == ElementType::kFloat32, [&](auto pieces) {
        using P = decltype(pieces);
        status = request.mode == ValueMode::kHalf ? build<P, true>(request, table, tiles, channel_scale, stream) : build<P, false>(request, table, tiles, channel_scale, stream);
    });
    return status != cudaSuccess ? status : launched;
}

}  // namespace intflash
