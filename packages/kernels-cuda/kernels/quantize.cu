// See quantize.h. Everything here is bound by memory; one story: read rows, find a scale, write codes where the forward wants them.
#include <cuda_runtime.h>

#include <cfloat>
#include <type_traits>

#include "load_operand.cuh"
#include "quantize.h"
#include "tile_layout.h"

namespace intflash {
namespace {

constexpr int kThreads = 256;
constexpr float kMinScale = 1.17549435e-38f;  // 2^-126: keeps an all-zero row from 0 / 0
constexpr float kMinWeight = 9.53674316e-7f;  // 2^-20
constexpr float kMinGivenWeight = 7.88860905e-31f;  // 2^-100: 1/w must sum within float32

__device__ __forceinline__ uint2 pack_codes(const int (&codes)[kChunk]) {
    uint2 packed = make_uint2(0, 0);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        packed.x |= (codes[i] & 255u) << (8 * i);
        packed.y |= (codes[i + 4] & 255u) << (8 * i);
    }
    return packed;
}

/** Maximum over the `lanes` neighbouring lanes (a power of two) that share a row. */
template <int lanes> __device__ __forceinline__ float row_max(float value) {
#pragma unroll
    for (int step = 1; step < lanes; step *= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
    return value;
}

__device__ __forceinline__ void note_max(uint32_t* target, float value) {
    for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
    if ((threadIdx.x & 31) == 0) atomicMax(target, __float_as_uint(value));
}

struct Place {
    Sequence sequence;
    int batch, head;
    int64_t tiles_at;  // first tile of this head
};

__device__ __forceinline__ Place place(const SequenceTable& table) {
    Place p;
    p.batch = blockIdx.z;
    p.head = blockIdx.y;
    p.sequence = table.sequences[blockIdx.z];
    p.tiles_at = p.sequence.tile_base + static_cast<int64_t>(p.head) * p.sequence.tiles;
    return p;
}

// ── per-token codes of Q (rows) and K (tiles) ──
template <int kD, bool kToTiles>
__global__ void __launch_bounds__(kThreads) quantize_rows(const Operand operand, const SequenceTable table, float levels, const float* means, bool half_values,
                                                          RowTarget rows, uint8_t* tiles, Findings* findings) {
    constexpr int kLanes = kD / kChunk, kRows = kThreads / kLanes;
    const Place at = place(table);
    const int lane = threadIdx.x % kLanes, channel = lane * kChunk;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / kLanes;
    const int64_t length = kToTiles ? at.sequence.k_len : at.sequence.q_len;
    if (static_cast<int64_t>(blockIdx.x) * kRows >= (kToTiles ? static_cast<int64_t>(at.sequence.tiles) * kTileKeys : length)) return;

    float x[kChunk] = {};
    float largest = 0.f;
    bool bad = false;
    if (row < length && channel < operand.dim) {
        load_chunk(x, operand, row_offset(operand, at.batch, at.head, (kToTiles ? at.sequence.k_start : at.sequence.q_start) + row) + channel);
        const float* mean = means == nullptr ? nullptr : means + (static_cast<int64_t>(at.batch) * operand.heads + at.head) * kD + channel;
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
            if (means != nullptr) x[i] = x[i] - mean[i];
            bad |= !(fabsf(x[i]) <= FLT_MAX);
            largest = fmaxf(largest, fabsf(x[i]));
        }
    }
    if (bad) atomicOr(kToTiles ? &findings->bad_key : &findings->bad_query, 1u);
    const float scale = fmaxf(__fdiv_rn(row_max<kLanes>(largest), levels), kMinScale);
    int codes[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) codes[i] = __float2int_rn(__fdiv_rn(x[i], scale));
    note_max(kToTiles ? &findings->max_key_scale : &findings->max_query_scale, row < length ? scale : 0.f);
    if constexpr (kToTiles) {
        if (row >= static_cast<int64_t>(at.sequence.tiles) * kTileKeys) return;
        const int key = static_cast<int>(row % kTileKeys);
        uint8_t* tile = tiles + (at.tiles_at + row / kTileKeys) * tile_bytes(kD, half_values);
        *reinterpret_cast<uint2*>(tile + key_code_offset(key, channel, kD)) = pack_codes(codes);
        if (lane == 0) reinterpret_cast<float*>(tile + scales_offset(kD, half_values))[key_position(key)] = scale;
    } else {
        if (row >= length) return;
        const int64_t target = at.sequence.q_row_base + at.head * length + row;
        *reinterpret_cast<uint2*>(rows.codes + target * kD + channel) = pack_codes(codes);
        if (lane == 0) rows.scales[target] = scale;
    }
}

// ── smooth-K ──
/** One thread a channel: the sum runs over the tokens in order, as in quant, so that the mean has the same bits. */
__global__ void key_means(const Operand key, const SequenceTable table, int padded, float* means) {
    const Place at = place(table);
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= key.dim) return;
    double sum = 0;
    const int64_t first = row_offset(key, at.batch, at.head, at.sequence.k_start) + channel;
    int token = 0;
    for (; token + 16 <= at.sequence.k_len; token += 16) {  // 16 loads in flight; the additions stay in order
        float x[16];
#pragma unroll
        for (int i = 0; i < 16; ++i) x[i] = load_one(key, first + (token + i) * key.strides.token);
#pragma unroll
        for (int i = 0; i < 16; ++i) sum += x[i];
    }
    for (; token < at.sequence.k_len; ++token) sum += load_one(key, first + token * key.strides.token);
    means[(static_cast<int64_t>(at.batch) * key.heads + at.head) * padded + channel] = at.sequence.k_len > 0 ? static_cast<float>(sum / at.sequence.k_len) : 0.f;
}

__global__ void restore_lse(const Operand query, const SequenceTable table, int padded, const float* means, int group, float scale, float* lse, RowStrides strides) {
    const Place at = place(table);
    const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= at.sequence.q_len) return;
    const int64_t first = row_offset(query, at.batch, at.head, at.sequence.q_start + row);
    const float* mean = means + (static_cast<int64_t>(at.batch) * (query.heads / group) + at.head / group) * padded;
    double dot = 0;
    for (int d = lane; d < query.dim; d += 32) dot += static_cast<double>(load_one(query, first + d)) * mean[d];
    for (int step = 16; step > 0; step /= 2) dot += __shfl_xor_sync(~0u, dot, step);
    float* target = lse + at.batch * strides.batch + at.head * strides.head + (at.sequence.q_start + row) * strides.token;
    if (lane == 0) *target = static_cast<float>(*target + scale * dot);  // -infinity stays
}

// ── V ──
constexpr int kMaximaRows = 512;  // tokens a block reads

template <int kD> __global__ void __launch_bounds__(kThreads) value_maxima(const Operand value, const SequenceTable table, float* maxima, Findings* findings) {
    constexpr int kLanes = kD / kChunk, kRows = kThreads / kLanes;
    const Place at = place(table);
    const int channel = threadIdx.x % kLanes * kChunk;
    if (channel >= value.dim) return;
    float largest[kChunk] = {};
    bool bad = false;
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * kMaximaRows, end = min(begin + kMaximaRows, static_cast<int64_t>(at.sequence.k_len));
    for (int64_t row = begin + threadIdx.x / kLanes; row < end; row += kRows) {
        float x[kChunk];
        load_chunk(x, value, row_offset(value, at.batch, at.head, at.sequence.k_start + row) + channel);
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
            bad |= !(fabsf(x[i]) <= FLT_MAX);
            largest[i] = fmaxf(largest[i], fabsf(x[i]));
        }
    }
    uint32_t* target = reinterpret_cast<uint32_t*>(maxima + (static_cast<int64_t>(at.batch) * value.heads + at.head) * kD + channel);
    bool beyond = false;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
        beyond |= largest[i] > 65504.f;
        if (begin < end) atomicMax(target + i, __float_as_uint(largest[i]));
    }
    if (bad) atomicOr(&findings->bad_value, 1u);
    if (beyond) atomicOr(&findings->value_beyond_float16, 1u);
}

/** log2(w), bit for bit quant's log2Weight: float64, plain operations, w = 2^e·m with m in [√½, √2). */
__device__ float log2_weight(float w) {
    double m = w;
    int exponent = 0;
    if (m < 0x1p-100) m *= 0x1p64, exponent -= 64;
    exponent += (__double2hiint(m) >> 20) - 1023;
    m = __hiloint2double((__double2hiint(m) & 0x000fffff) | 0x3ff00000, __double2loint(m));
    if (m >= 1.4142135623730951) m = m / 2, exponent += 1;
    const double t = (m - 1) / (m + 1), z = t * t;
    double series = 1.0 / 19;
#pragma unroll
    for (int odd = 17; odd >= 1; odd -= 2) series = series * z + 1.0 / odd;
    return static_cast<float>(exponent + 2 * t * series * 1.4426950408889634);
}

/** tau and 1/w of one key; keys past the end weigh nothing in the row sum. */
__device__ __forceinline__ void store_weight(uint8_t* tile, int padded, int key, bool present, float weight) {
    float* scales = reinterpret_cast<float*>(tile + scales_offset(padded, false)) + key_position(key);
    scales[kTileKeys] = present && weight != 1.f ? log2_weight(weight) : 0.f;
    scales[2 * kTileKeys] = present ? __fdiv_rn(1.f, weight) : 0.f;
}

/** One block a tile. First the weight of each token, then, channel by channel, 16 keys at a time, the codes. */
__global__ void __launch_bounds__(kThreads) quantize_value(const Operand value, const SequenceTable table, ValueMode mode, int padded, const float* maxima,
                                                           uint8_t* tiles, float* channel_scale) {
    __shared__ float divisor[kMaxHeadDim], weight[kTileKeys], reduced[kThreads / 32];
    const Place at = place(table);
    const int tile_index = blockIdx.x;
    const int64_t head_at = (static_cast<int64_t>(at.batch) * value.heads + at.head) * padded;
    if (tile_index > 0 && tile_index >= at.sequence.tiles) return;  // block 0 writes the channel scales even of an empty sequence
    const int keys = min(kTileKeys, at.sequence.k_len - tile_index * kTileKeys);
    const int64_t first = row_offset(value, at.batch, at.head, at.sequence.k_start + static_cast<int64_t>(tile_index) * kTileKeys);

    float tensor_max = 0.f;
    if (mode == ValueMode::kPerTensor) {
        float mine = static_cast<int>(threadIdx.x) < value.dim ? maxima[head_at + threadIdx.x] : 0.f;
        mine = row_max<32>(mine);
        if (threadIdx.x % 32 == 0) reduced[threadIdx.x / 32] = mine;
        __syncthreads();
        for (int i = 0; i < kThreads / 32; ++i) tensor_max = fmaxf(tensor_max, reduced[i]);
    }
    const float tensor_scale = fmaxf(__fdiv_rn(tensor_max, 127.f), kMinScale);
    if (static_cast<int>(threadIdx.x) < padded) {
        float c = static_cast<int>(threadIdx.x) < value.dim ? maxima[head_at + threadIdx.x] : 0.f;
        if (c == 0.f) c = 1.f;
        divisor[threadIdx.x] = mode == ValueMode::kTokenLevel ? c : 1.f;
        if (tile_index == 0)
            channel_scale[head_at + threadIdx.x] = mode == ValueMode::kTokenLevel ? __fdiv_rn(c, 127.f) : mode == ValueMode::kPerTensor ? tensor_scale : 1.f;
    }
    if (tile_index >= at.sequence.tiles) return;
    __syncthreads();
    uint8_t* tile = tiles + (at.tiles_at + tile_index) * tile_bytes(padded, mode == ValueMode::kHalf);

    if (mode == ValueMode::kHalf) {
        for (int item = threadIdx.x; item < kTileKeys * (padded / kChunk); item += kThreads) {
            const int key = item / (padded / kChunk), channel = item % (padded / kChunk) * kChunk;
            float x[kChunk] = {};
            if (key < keys && channel < value.dim) load_chunk(x, value, first + key * value.strides.token + channel);
            __half2 packed[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) packed[i] = __floats2half2_rn(x[2 * i], x[2 * i + 1]);
            *reinterpret_cast<uint4*>(tile + half_value_offset(key, channel, padded)) = *reinterpret_cast<const uint4*>(packed);
        }
        return;
    }

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int key = warp; key < kTileKeys; key += kThreads / 32) {
        float w = 1.f;
        if (mode == ValueMode::kTokenLevel && key < keys) {
            w = kMinWeight;
            for (int channel = lane; channel < value.dim; channel += 32)
                w = fmaxf(w, fabsf(__fdiv_rn(load_one(value, first + key * value.strides.token + channel), divisor[channel])));
            w = row_max<32>(w);
        }
        if (lane == 0) {
            weight[key] = w;
            store_weight(tile, padded, key, key < keys, w);
        }
    }
    __syncthreads();
    for (int item = threadIdx.x; item < padded * (kTileKeys / 16); item += kThreads) {
        const int channel = item % padded, group = item / padded;
        uint32_t words[4] = {};
        if (channel < value.dim) {
#pragma unroll
            for (int i = 0; i < 16; ++i) {
                const int key = group * 16 + i, position = key_position(i);
                if (key >= keys) continue;
                const float x = load_one(value, first + key * value.strides.token + channel);
                const int code = mode == ValueMode::kTokenLevel ? __float2int_rn(__fdiv_rn(__fdiv_rn(x, divisor[channel]), __fdiv_rn(weight[key], 127.f)))
                                                                : __float2int_rn(__fdiv_rn(x, tensor_scale));
                words[position >> 2] |= (code & 255u) << (8 * (position & 3));
            }
        }
        *reinterpret_cast<uint4*>(tile + value_offset(padded) + swizzled(channel, group * 16, kTileKeys)) = make_uint4(words[0], words[1], words[2], words[3]);
    }
}

// ── codes that the caller made ──
template <bool kToTiles>
__global__ void pack_rows(const Operand operand, const ScaleOperand scale, const SequenceTable table, int padded, RowTarget rows, uint8_t* tiles, Findings* findings) {
    const Place at = place(table);
    const int lanes = padded / kChunk, rows_here = blockDim.x / lanes, channel = threadIdx.x % lanes * kChunk;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * rows_here + threadIdx.x / lanes;
    const int64_t length = kToTiles ? at.sequence.k_len : at.sequence.q_len;
    const int64_t start = kToTiles ? at.sequence.k_start : at.sequence.q_start;
    const bool present = row < length;
    int codes[kChunk] = {};
    float row_scale = 1.f;
    if (present) {
        row_scale = scale.data[at.batch * scale.strides.batch + at.head * scale.strides.head + (start + row) * scale.strides.token];
        const int8_t* source = static_cast<const int8_t*>(operand.data) + row_offset(operand, at.batch, at.head, start + row) + channel;
        if (channel < operand.dim)
            for (int i = 0; i < kChunk; ++i) codes[i] = source[i];
    }
    note_max(kToTiles ? &findings->max_key_scale : &findings->max_query_scale, present ? row_scale : 0.f);
    if constexpr (kToTiles) {
        if (row >= static_cast<int64_t>(at.sequence.tiles) * kTileKeys) return;
        const int key = static_cast<int>(row % kTileKeys);
        uint8_t* tile = tiles + (at.tiles_at + row / kTileKeys) * tile_bytes(padded, false);
        *reinterpret_cast<uint2*>(tile + key_code_offset(key, channel, padded)) = pack_codes(codes);
        if (channel == 0) reinterpret_cast<float*>(tile + scales_offset(padded, false))[key_position(key)] = row_scale;
    } else if (present) {
        const int64_t target = at.sequence.q_row_base + at.head * length + row;
        *reinterpret_cast<uint2*>(rows.codes + target * padded + channel) = pack_codes(codes);
        if (channel == 0) rows.scales[target] = row_scale;
    }
}

__global__ void __launch_bounds__(kThreads) pack_value(const Operand value, const ScaleOperand scale, const ScaleOperand channels, const SequenceTable table, int padded,
                                                       uint8_t* tiles, float* channel_scale) {
    const Place at = place(table);
    const int tile_index = blockIdx.x, keys = min(kTileKeys, at.sequence.k_len - tile_index * kTileKeys);
    const bool per_token = scale.strides.token != 0;
    const float* scales = scale.data + at.batch * scale.strides.batch + at.head * scale.strides.head;
    if (tile_index == 0)
        for (int d = threadIdx.x; d < padded; d += kThreads) {
            float factor = channels.data != nullptr && d < value.dim ? channels.data[at.batch * channels.strides.batch + at.head * channels.strides.head + d] : 1.f;
            if (!per_token) factor = factor * scales[0];
            channel_scale[(static_cast<int64_t>(at.batch) * value.heads + at.head) * padded + d] = factor;
        }
    if (tile_index >= at.sequence.tiles) return;
    uint8_t* tile = tiles + (at.tiles_at + tile_index) * tile_bytes(padded, false);
    const int64_t start = at.sequence.k_start + static_cast<int64_t>(tile_index) * kTileKeys;
    for (int key = threadIdx.x; key < kTileKeys; key += kThreads)
        store_weight(tile, padded, key, key < keys, per_token && key < keys ? fmaxf(scales[(start + key) * scale.strides.token], kMinGivenWeight) : 1.f);
    const int8_t* codes = static_cast<const int8_t*>(value.data) + row_offset(value, at.batch, at.head, start);
    for (int item = threadIdx.x; item < padded * kTileKeys; item += kThreads) {
        const int channel = item % padded, key = item / padded;
        tile[value_code_offset(key, channel, padded)] = key < keys && channel < value.dim ? codes[key * value.strides.token + channel] : 0;
    }
}

dim3 grid_of(int64_t blocks, int heads, const SequenceTable& table) {
    return dim3(static_cast<unsigned>(blocks > 0 ? blocks : 1), static_cast<unsigned>(heads), static_cast<unsigned>(table.count));
}

template <class F> cudaError_t with_padded(int dim, F launch) {
    switch (padded_dim(dim)) {
        case 64: launch(std::integral_constant<int, 64>()); break;
        case 128: launch(std::integral_constant<int, 128>()); break;
        default: launch(std::integral_constant<int, 256>());
    }
    return cudaGetLastError();
}

}  // namespace

cudaError_t launch_key_means(const Operand& key, const SequenceTable& table, int padded, float* means, cudaStream_t stream) {
    key_means<<<grid_of((key.dim + 31) / 32, key.heads, table), 32, 0, stream>>>(key, table, padded, means);
    return cudaGetLastError();
}

cudaError_t launch_quantize_query(const Operand& query, const SequenceTable& table, int padded, float levels, const RowTarget& target, Findings* findings, cudaStream_t stream) {
    return with_padded(padded, [&](auto dim) {
        constexpr int kD = dim();
        constexpr int kRows = kThreads / (kD / kChunk);
        quantize_rows<kD, false><<<grid_of((table.max_q_len + kRows - 1) / kRows, query.heads, table), kThreads, 0, stream>>>(query, table, levels, nullptr, false, target, nullptr, findings);
    });
}

cudaError_t launch_quantize_key(const Operand& key, const SequenceTable& table, int padded, float levels, const float* means, bool half_values, uint8_t* tiles,
                                Findings* findings, cudaStream_t stream) {
    return with_padded(padded, [&](auto dim) {
        constexpr int kD = dim();
        constexpr int kRows = kThreads / (kD / kChunk);
        quantize_rows<kD, true><<<grid_of(int64_t{table.max_tiles} * kTileKeys / kRows, key.heads, table), kThreads, 0, stream>>>(key, table, levels, means, half_values, {}, tiles, findings);
    });
}

cudaError_t launch_value_maxima(const Operand& value, const SequenceTable& table, int padded, float* maxima, Findings* findings, cudaStream_t stream) {
    return with_padded(padded, [&](auto dim) {
        constexpr int kD = dim();
        const int64_t blocks = (int64_t{table.max_tiles} * kTileKeys + kMaximaRows - 1) / kMaximaRows;
        value_maxima<kD><<<grid_of(blocks, value.heads, table), kThreads, 0, stream>>>(value, table, maxima, findings);
    });
}

cudaError_t launch_quantize_value(const Operand& value, const SequenceTable& table, ValueMode mode, int padded, const float* maxima, uint8_t* tiles,
                                  float* channel_scale, cudaStream_t stream) {
    quantize_value<<<grid_of(table.max_tiles, value.heads, table), kThreads, 0, stream>>>(value, table, mode, padded, maxima, tiles, channel_scale);
    return cudaGetLastError();
}

cudaError_t launch_pack_query(const Operand& query, const ScaleOperand& scale, const SequenceTable& table, int padded, const RowTarget& target, Findings* findings, cudaStream_t stream) {
    const int rows = kThreads / (padded / kChunk);
    pack_rows<false><<<grid_of((table.max_q_len + rows - 1) / rows, query.heads, table), kThreads, 0, stream>>>(query, scale, table, padded, target, nullptr, findings);
    return cudaGetLastError();
}

cudaError_t launch_pack_key(const Operand& key, const ScaleOperand& scale, const SequenceTable& table, int padded, uint8_t* tiles, Findings* findings, cudaStream_t stream) {
    const int rows = kThreads / (padded / kChunk);
    pack_rows<true><<<grid_of(int64_t{table.max_tiles} * kTileKeys / rows, key.heads, table), kThreads, 0, stream>>>(key, scale, table, padded, {}, tiles, findings);
    return cudaGetLastError();
}

cudaError_t launch_pack_value(const Operand& value, const ScaleOperand& scale, const ScaleOperand& channel, const SequenceTable& table, int padded,
                              uint8_t* tiles, float* channel_scale, cudaStream_t stream) {
    pack_value<<<grid_of(table.max_tiles, value.heads, table), kThreads, 0, stream>>>(value, scale, channel, table, padded, tiles, channel_scale);
    return cudaGetLastError();
}

cudaError_t launch_restore_lse(const Operand& query, const SequenceTable& table, int padded, const float* means, int kv_heads, float scale, float* lse,
                               const RowStrides& lse_strides, cudaStream_t stream) {
    constexpr int kWarps = 8;
    restore_lse<<<grid_of((table.max_q_len + kWarps - 1) / kWarps, query.heads, table), kWarps * 32, 0, stream>>>(query, table, padded, means, query.heads / kv_heads, scale, lse, lse_strides);
    return cudaGetLastError();
}

}  // namespace intflash
