// Codes that the caller made, into the places where the quantizers put theirs.
#include <cuda_runtime.h>

#include "float_pieces.cuh"
#include "token_weight.cuh"

namespace intflash {
namespace {

constexpr int kThreads = 256;
constexpr float kMinGivenWeight = 7.88860905e-31f;  // 2^-100: 1/w must sum within float32

template <bool kToTiles>
__global__ void pack_rows(const Operand operand, const ScaleOperand scale, const SequenceTable table, int padded, RowTarget rows, uint8_t* tiles, bool half_values, uint32_t* maxima) {
    const Place at = place(table);
    const int lanes = padded / kChunk, rows_here = blockDim.x / lanes, channel = threadIdx.x % lanes * kChunk;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * rows_here + threadIdx.x / lanes;
    const int64_t length = kToTiles ? at.sequence.k_len : at.sequence.q_len;
    const int64_t start = kToTiles ? at.sequence.k_start : at.sequence.q_start;
    const bool present = row < length;
    uint32_t codes[2] = {};
    float row_scale = 1.f;
    if (present) {
        row_scale = scale.data[at.batch * scale.strides.batch + at.head * scale.strides.head + (start + row) * scale.strides.token];
        const uint8_t* source = static_cast<const uint8_t*>(operand.data) + row_offset(operand, at.batch, at.head, start + row) + channel;
        if (channel < operand.dim)
            for (int i = 0; i < kChunk; ++i) codes[i / 4] |= static_cast<uint32_t>(source[i]) << (8 * (i % 4));
    }
    note_max(maxima + static_cast<int64_t>(at.batch) * operand.heads + at.head, present ? row_scale : 0.f);
    if constexpr (kToTiles) {
        if (row >= static_cast<int64_t>(at.sequence.tiles) * kTileKeys) return;
        const int key = static_cast<int>(row % kTileKeys);
        uint8_t* tile = tiles + (at.tiles_at + row / kTileKeys) * tile_bytes(padded, half_values);
        *reinterpret_cast<uint2*>(tile + key_code_offset(key, channel, padded)) = make_uint2(codes[0], codes[1]);
        if (channel == 0) reinterpret_cast<float*>(tile + scales_offset(padded, half_values))[key_position(key)] = row_scale;
    } else if (present) {
        const int64_t target = at.sequence.q_row_base + at.head * length + row;
        *reinterpret_cast<uint2*>(rows.codes + target * padded + channel) = make_uint2(codes[0], codes[1]);
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

}  // namespace

cudaError_t launch_pack(const QuantizeRequest& request, const SequenceTable& table, cudaStream_t stream) {
    const int padded = request.padded, rows = kThreads / (padded / kChunk);
    const bool half_values = request.mode == ValueMode::kHalf;  // those are floats: only Q and K may be codes then
    if (!is_float(request.query))
        pack_rows<false><<<grid_of((table.max_q_len + rows - 1) / rows, request.query.heads, table), kThreads, 0, stream>>>(request.query, request.query_scale, table, padded, request.rows,
                                                                                                                        nullptr, half_values, request.head_maxima.query);
    if (!is_float(request.key))
        pack_rows<true><<<grid_of(int64_t{table.max_tiles} * kTileKeys / rows, request.key.heads, table), kThreads, 0, stream>>>(request.key, request.key_scale, table, padded, {},
                                                                                                                             request.tiles, half_values, request.head_maxima.key);
    if (!is_float(request.value))
        pack_value<<<grid_of(table.max_tiles, request.value.heads, table), kThreads, 0, stream>>>(request.value, request.value_scale, request.value_channel, table, padded, request.tiles,
                                                                                                 request.channel_scale);
    return cudaGetLastError();
}

}  // namespace intflash
