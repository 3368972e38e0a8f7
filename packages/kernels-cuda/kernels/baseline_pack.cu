// See baseline_flash_fwd.h: inputs rounded to the baseline's type, in the layout of its kernel.
#include <cuda_runtime.h>

#include "baseline_flash_fwd.h"
#include "baseline_tile.cuh"
#include "float_pieces.cuh"
#include "ptx/mma.cuh"

namespace intflash {
namespace {

constexpr int kThreads = 256;

struct PackTarget {
    uint8_t* memory;
    BaselineKind kind;
    int32_t padded, part;  // part: 0 Q, 1 K, 2 V
    const uint32_t* maxima;
};

/** One thread eight channels of a row. */
__global__ void __launch_bounds__(kThreads) pack(const Operand operand, const SequenceTable table, const PackTarget target) {
    const Place at = place(table);
    const int lanes = target.padded / kChunk, channel = threadIdx.x % lanes * kChunk;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / lanes) + threadIdx.x / lanes;
    const bool query = target.part == 0;
    const int64_t length = query ? at.sequence.q_len : at.sequence.k_len, start = query ? at.sequence.q_start : at.sequence.k_start;
    if (row >= (query ? length : static_cast<int64_t>(at.sequence.tiles) * kTileKeys)) return;
    float x[kChunk] = {};
    if (row < length && channel < operand.dim) load_chunk(x, operand, row_offset(operand, at.batch, at.head, start + row) + channel);

    const bool bytes = target.kind == BaselineKind::kFp8;
    const int size = bytes ? 1 : 2;
    uint32_t words[4];
    if (bytes) {
        const float scale = fp8_scale(target.maxima[static_cast<int64_t>(at.batch) * operand.heads + at.head]);
        words[0] = pack_e4m3(x[0] / scale, x[1] / scale, x[2] / scale, x[3] / scale);
        words[1] = pack_e4m3(x[4] / scale, x[5] / scale, x[6] / scale, x[7] / scale);
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) words[i] = target.kind == BaselineKind::kFloat16 ? pack_f16(x[2 * i], x[2 * i + 1]) : pack_bf16(x[2 * i], x[2 * i + 1]);
    }
    uint8_t* place_of_row;
    if (query) {
        place_of_row = target.memory + (at.sequence.q_row_base + at.head * length + row) * target.padded * size + channel * size;
    } else {
        const int key = static_cast<int>(row % kBaselineKeys), half = kBaselineKeys * target.padded * size;
        uint8_t* tile = target.memory + (2 * at.tiles_at + row / kBaselineKeys) * baseline_tile_bytes(target.padded, size);
        if (bytes && target.part == 2) {
            for (int i = 0; i < kChunk; ++i)
                tile[half + swizzled(channel + i, key_position(key), kBaselineKeys)] = static_cast<uint8_t>(words[i / 4] >> (8 * (i % 4)));
            return;
        }
        place_of_row = tile + (target.part - 1) * half + swizzled(key, channel * size, target.padded * size);
    }
    if (bytes) *reinterpret_cast<uint2*>(place_of_row) = make_uint2(words[0], words[1]);
    else *reinterpret_cast<uint4*>(place_of_row) = make_uint4(words[0], words[1], words[2], words[3]);
}

}  // namespace

size_t place_baseline(BaselineRequest& request, const SequenceTable& table, int64_t row_count, int64_t tile_count, uint8_t* memory) {
    size_t at = 0;
    const auto take = [&](size_t bytes) {
        const uintptr_t place = reinterpret_cast<uintptr_t>(memory) + at;
        at += (bytes + 1023) / 1024 * 1024;
        return place;
    };
    const int size = request.kind == BaselineKind::kFp8 ? 1 : 2;
    const size_t sequences = static_cast<size_t>(table.count), kv_heads = sequences * static_cast<size_t>(request.key.heads);
    request.maxima.query = reinterpret_cast<uint32_t*>(take(sequences * static_cast<size_t>(request.query.heads) * 4));
    request.maxima.key = reinterpret_cast<uint32_t*>(take(kv_heads * 4));
    request.value_maxima = reinterpret_cast<uint32_t*>(take(kv_heads * 4));
    request.cleared_bytes = at;
    request.rows = reinterpret_cast<uint8_t*>(take(static_cast<size_t>(row_count * request.padded * size)));
    request.tiles = reinterpret_cast<uint8_t*>(take(static_cast<size_t>(2 * tile_count * baseline_tile_bytes(request.padded, size))));
    return at;
}

cudaError_t launch_baseline_pack(const BaselineRequest& request, const SequenceTable& table, cudaStream_t stream) {
    if (const cudaError_t status = cudaMemsetAsync(request.maxima.query, 0, request.cleared_bytes, stream)) return status;
    // float16 holds no more than 65504; a larger input would turn into infinity.
    const float largest = request.kind == BaselineKind::kFloat16 ? kLargestFloat16 : kLargestOperand;
    if (const cudaError_t status = launch_inspect(request.query, request.key, request.value, largest, largest, table, request.maxima, request.value_maxima, request.findings, stream))
        return status;
    const int rows = kThreads / (request.padded / kChunk);
    const Operand* operands[] = {&request.query, &request.key, &request.value};
    const uint32_t* maxima[] = {request.maxima.query, request.maxima.key, request.value_maxima};
    for (int part = 0; part < 3; ++part) {
        const int64_t count = part == 0 ? table.max_q_len : int64_t{table.max_tiles} * kTileKeys;
        const PackTarget target{part == 0 ? request.rows : request.tiles, request.kind, request.padded, part, maxima[part]};
        pack<<<grid_of((count + rows - 1) / rows, operands[part]->heads, table), kThreads, 0, stream>>>(*operands[part], table, target);
    }
    return cudaGetLastError();
}

}  // namespace intflash
