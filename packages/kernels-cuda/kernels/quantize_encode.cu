// The second launch of the quantizers: every operand is read once, 128 rows a block, and its codes written where the forward wants them.
// Bound by memory. A block has one of three jobs; within each, a warp keeps several rows in flight, then finds a row's scale over its lanes.
#include <cuda_runtime.h>

#include "piece_codes.cuh"
#include "token_weight.cuh"

namespace intflash {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kWarpRows = kTileKeys / kWarps;

/** Which channels and rows a lane of a warp has. */
template <class P> struct LanePlace {
    int warp, group, channel;  // channel: of the lane's first piece; the next is 128 on
    __device__ __forceinline__ LanePlace() {
        warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
        group = threadIdx.x % 32 / P::kLanes;
        channel = threadIdx.x % P::kLanes * P::kPiece;
    }
    __device__ __forceinline__ int piece_channel(int part) const { return channel + part * P::kLanes * P::kPiece; }
};

/**
 * Per-token codes of 128 rows, from `first` on, with the same mean taken off each. store(row, part, codes) writes a piece's codes,
 * keep(row, scale) is called by a row's first lane. Rows from `length` on count as zeros, if `kPadded`, or are left out.
 */
template <class P, bool kPadded, class Store, class Keep>
__device__ __forceinline__ void encode_rows(const Operand& operand, int batch, int head, int64_t start, int64_t first, int64_t length, float levels, const float* mean,
                                            float limit, uint32_t* bad, uint32_t* large, uint32_t* maximum, Store store, Keep keep) {
    constexpr int kRows = kWarpRows / P::kGroups, kBatch = kRows < 8 / P::kParts ? kRows : 8 / P::kParts;
    const LanePlace<P> lane;
    const bool aligned = aligned_rows(operand);
    const int64_t base = row_offset(operand, batch, head, start);
    float means[P::kParts][P::kPiece];
#pragma unroll
    for (int part = 0; part < P::kParts; ++part)
#pragma unroll
        for (int i = 0; i < P::kPiece; ++i) means[part][i] = mean == nullptr ? 0.f : mean[lane.piece_channel(part) + i];
    float largest_scale = 0.f;
#pragma unroll 1
    for (int from = 0; from < kRows; from += kBatch) {
        uint4 raw[kBatch][P::kParts];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            const int64_t row = first + lane.warp * kWarpRows + (from + i) * P::kGroups + lane.group;
#pragma unroll
            for (int part = 0; part < P::kParts; ++part) {
                raw[i][part] = make_uint4(0, 0, 0, 0);
                if (row < length && lane.piece_channel(part) < operand.dim)
                    raw[i][part] = load_piece<P::kWide>(operand, base + row * operand.strides.token + lane.piece_channel(part), aligned);
            }
        }
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            const int64_t row = first + lane.warp * kWarpRows + (from + i) * P::kGroups + lane.group;
            float x[P::kParts][P::kPiece], largest = 0.f;
#pragma unroll
            for (int part = 0; part < P::kParts; ++part) {
                widen<P>(x[part], raw[i][part], operand.type);
                if (!all_within(x[part], limit)) report(x[part], limit, bad, large);
                if (row < length) {
#pragma unroll
                    for (int e = 0; e < P::kPiece; ++e) x[part][e] = x[part][e] - means[part][e];
                }
                largest = fmaxf(largest, magnitude(x[part]));
            }
            float scale = fmaxf(__fdiv_rn(row_max<P::kLanes>(largest), levels), kMinScale);
            if (!kPadded && row >= length) continue;  // only after the shuffles
            if (row < length) largest_scale = fmaxf(largest_scale, scale);
            if (lane.channel == 0) keep(row, scale);
            if (scale < kTinyDivisor) {
                scale *= kScaleUp;
#pragma unroll
                for (int part = 0; part < P::kParts; ++part)
#pragma unroll
                    for (int e = 0; e < P::kPiece; ++e) x[part][e] *= kScaleUp;
            }
            const Divisor by = divisor(scale);
#pragma unroll
            for (int part = 0; part < P::kParts; ++part) store(row, lane.piece_channel(part), encode_piece<P>(x[part], by));
        }
    }
    note_max(maximum, largest_scale);
}

template <class P> __device__ __forceinline__ void encode_query(const QuantizeRequest& request, const Place& at, int head, int chunk) {
    const int64_t length = at.sequence.q_len, first = int64_t{chunk} * kTileKeys, target = at.sequence.q_row_base + head * length;
    if (first >= length) return;
    encode_rows<P, false>(
        request.query, at.batch, head, at.sequence.q_start, first, length, request.levels, nullptr, FLT_MAX, &request.findings->bad_query, nullptr,
        request.head_maxima.query + static_cast<int64_t>(at.batch) * request.query.heads + head,
        [&](int64_t row, int channel, const PieceCodes<P>& codes) { codes.store(request.rows.codes + (target + row) * P::kD + channel); },
        [&](int64_t row, float scale) { request.rows.scales[target + row] = scale; });
}

template <class P> __device__ __forceinline__ void encode_key(const QuantizeRequest& request, const Place& at, int tile_index) {
    if (tile_index >= at.sequence.tiles) return;
    const int64_t first = int64_t{tile_index} * kTileKeys, head = static_cast<int64_t>(at.batch) * request.key.heads + at.head;
    uint8_t* tile = request.tiles + (at.tiles_at + tile_index) * tile_bytes(P::kD, request.mode == ValueMode::kHalf);
    float* scales = reinterpret_cast<float*>(tile + scales_offset(P::kD, request.mode == ValueMode::kHalf));
    encode_rows<P, true>(
        request.key, at.batch, at.head, at.sequence.k_start, first, at.sequence.k_len, request.levels,
        request.statistics.means == nullptr ? nullptr : request.statistics.means + head * P::kD, kLargestOperand, &request.findings->bad_key,
        &request.findings->large_key, request.head_maxima.key + head,
        [&](int64_t row, int channel, const PieceCodes<P>& codes) { codes.store(tile + key_code_offset(static_cast<int>(row - first), channel, P::kD)); },
        [&](int64_t row, float scale) { scales[key_position(static_cast<int>(row - first))] = scale; });
}

/** float16 values, one row a key. */
template <class P> __device__ __forceinline__ void round_values(const QuantizeRequest& request, const Place& at, int tile_index) {
    constexpr int kRows = kWarpRows / P::kGroups;
    const LanePlace<P> lane;
    const Operand& value = request.value;
    const bool aligned = aligned_rows(value);
    const int keys = min(kTileKeys, at.sequence.k_len - tile_index * kTileKeys);
    const int64_t first = row_offset(value, at.batch, at.head, at.sequence.k_start + int64_t{tile_index} * kTileKeys);
    uint8_t* tile = request.tiles + (at.tiles_at + tile_index) * tile_bytes(P::kD, true);
#pragma unroll 4
    for (int i = 0; i < kRows; ++i) {
        const int key = lane.warp * kWarpRows + i * P::kGroups + lane.group;
#pragma unroll
        for (int part = 0; part < P::kParts; ++part) {
            const int channel = lane.piece_channel(part);
            uint4 raw = make_uint4(0, 0, 0, 0);
            if (key < keys && channel < value.dim) raw = load_piece<P::kWide>(value, first + key * value.strides.token + channel, aligned);
            float x[P::kPiece];
            widen<P>(x, raw, value.type);
            if (!all_within(x, kLargestFloat16)) report(x, kLargestFloat16, &request.findings->bad_value, &request.findings->large_value);
            __half2 packed[P::kPiece / 2];
#pragma unroll
            for (int e = 0; e < P::kPiece / 2; ++e) packed[e] = __floats2half2_rn(x[2 * e], x[2 * e + 1]);
            uint8_t* target = tile + half_value_offset(key, channel, P::kD);
            if constexpr (P::kWide) *reinterpret_cast<uint2*>(target) = *reinterpret_cast<const uint2*>(packed);
            else *reinterpret_cast<uint4*>(target) = *reinterpret_cast<const uint4*>(packed);
        }
    }
}

/** Block 0 of a head writes the channel scales, even of an empty sequence. @returns the scale of the whole head, for kPerTensor. */
__device__ __forceinline__ float value_scales(const QuantizeRequest& request, int64_t head_at, bool write) {
    __shared__ float reduced[kWarps];
    const int channel = threadIdx.x;
    const float largest = channel < request.value.dim && request.statistics.maxima != nullptr ? request.statistics.maxima[head_at + channel] : 0.f;
    float tensor_scale = 1.f;
    if (request.mode == ValueMode::kPerTensor) {
        const float mine = row_max<32>(largest);
        if (channel % 32 == 0) reduced[channel / 32] = mine;
        __syncthreads();
        float all = 0.f;
        for (int i = 0; i < kWarps; ++i) all = fmaxf(all, reduced[i]);
        tensor_scale = fmaxf(__fdiv_rn(all, 127.f), kMinScale);
    }
    if (write && channel < request.padded)
        request.channel_scale[head_at + channel] =
            request.mode == ValueMode::kTokenLevel ? __fdiv_rn(largest == 0.f ? 1.f : largest, 127.f) : tensor_scale;
    return tensor_scale;
}

/**
 * INT8 values, transposed. A lane works on words of four neighbouring key positions for the channels of its pieces: finds the keys'
 * weights over the lanes of the row, encodes, and puts the words into shared memory, from where whole rows of the tile go out.
 * Word w of channel d lies at w ^ (d / kPiece) % 32: neither the writing nor the reading warps meet in a bank.
 */
template <class P> __device__ __forceinline__ void encode_values(const QuantizeRequest& request, const Place& at, int tile_index, float tensor_scale, uint32_t* staging, float* weights) {
    constexpr int kWords = 4 / P::kGroups, kBatch = kWords * P::kParts <= 2 ? kWords : 2 / P::kParts;  // words of a lane; of them in flight
    const LanePlace<P> lane;
    const Operand& value = request.value;
    const bool token_level = request.mode == ValueMode::kTokenLevel, aligned = aligned_rows(value);
    const int keys = min(kTileKeys, at.sequence.k_len - tile_index * kTileKeys);
    const int64_t first = row_offset(value, at.batch, at.head, at.sequence.k_start + int64_t{tile_index} * kTileKeys);
    const float* maxima = request.statistics.maxima + (static_cast<int64_t>(at.batch) * value.heads + at.head) * P::kD;
    Divisor by_channel[P::kParts][P::kPiece];
    bool tiny = false;  // some channel's maximum is so small that quotients need scaling up
#pragma unroll
    for (int part = 0; part < P::kParts; ++part)
#pragma unroll
        for (int e = 0; e < P::kPiece; ++e) {
            const int channel = lane.piece_channel(part) + e;
            const float c = channel < value.dim && token_level ? maxima[channel] : 0.f;
            tiny |= c != 0.f && c < kTinyDivisor;
            by_channel[part][e] = divisor(c == 0.f ? 1.f : c < kTinyDivisor ? c * kScaleUp : c);
        }
    if (!token_level) tiny = tensor_scale < kTinyDivisor;
    const Divisor by_tensor = divisor(tiny && !token_level ? tensor_scale * kScaleUp : tensor_scale);

#pragma unroll 1
    for (int from = 0; from < kWords; from += kBatch) {
        uint4 raw[kBatch][P::kParts][4];
#pragma unroll
        for (int i = 0; i < kBatch; ++i)
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const int word = lane.group * (32 / P::kGroups) + lane.warp * kWords + from + i;
                const int key = word_key(word, k);
#pragma unroll
                for (int part = 0; part < P::kParts; ++part) {
                    raw[i][part][k] = make_uint4(0, 0, 0, 0);
                    if (key < keys && lane.piece_channel(part) < value.dim)
                        raw[i][part][k] = load_piece<P::kWide>(value, first + key * value.strides.token + lane.piece_channel(part), aligned);
                }
            }
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            const int word = lane.group * (32 / P::kGroups) + lane.warp * kWords + from + i;
            uint32_t bits[P::kParts][P::kPiece][4];  // of the rounded quotients, by channel and key
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                float u[P::kParts][P::kPiece], w = kMinWeight;
#pragma unroll
                for (int part = 0; part < P::kParts; ++part) {
                    widen<P>(u[part], raw[i][part][k], value.type);
                    if (tiny) {
#pragma unroll
                        for (int e = 0; e < P::kPiece; ++e)
                            if (!token_level || maxima[lane.piece_channel(part) + e] < kTinyDivisor) u[part][e] *= kScaleUp;
                    }
                    if (token_level) {
#pragma unroll
                        for (int e = 0; e < P::kPiece; ++e) u[part][e] = divide(u[part][e], by_channel[part][e]);
                    }
                    w = fmaxf(w, magnitude(u[part]));
                }
                w = row_max<P::kLanes>(w);
                if (!token_level || word_key(word, k) >= keys) w = 1.f;
                if (lane.channel == 0) weights[word_key(word, k)] = w;
                const Divisor by = token_level ? divisor(__fdiv_rn(w, 127.f)) : by_tensor;
#pragma unroll
                for (int part = 0; part < P::kParts; ++part)
#pragma unroll
                    for (int e = 0; e < P::kPiece; ++e) bits[part][e][k] = rounded_bits(divide(u[part][e], by));
            }
#pragma unroll
            for (int part = 0; part < P::kParts; ++part)
#pragma unroll
                for (int e = 0; e < P::kPiece; ++e) {
                    const int channel = lane.piece_channel(part) + e;
                    staging[channel * 32 + (word ^ (channel / P::kPiece & 31))] = pack_codes(bits[part][e][0], bits[part][e][1], bits[part][e][2], bits[part][e][3]);
                }
        }
    }
    __syncthreads();

    uint8_t* tile = request.tiles + (at.tiles_at + tile_index) * tile_bytes(P::kD, false);
    if (threadIdx.x < kTileKeys) store_weight(tile, P::kD, threadIdx.x, static_cast<int>(threadIdx.x) < keys, weights[threadIdx.x]);
#pragma unroll
    for (int item = threadIdx.x; item < P::kD * (kTileKeys / 16); item += kThreads) {  // 16 bytes each, in the order they have in the tile
        const int channel = item / 8, chunk = (item % 8) ^ row_swizzle(channel, kTileKeys), twist = channel / P::kPiece & 31;
        uint4 words = *reinterpret_cast<const uint4*>(staging + channel * 32 + 4 * (chunk ^ (twist >> 2)));
        if (twist & 1) words = make_uint4(words.y, words.x, words.w, words.z);
        if (twist & 2) words = make_uint4(words.z, words.w, words.x, words.y);
        *reinterpret_cast<uint4*>(tile + value_offset(P::kD) + item * 16) = words;
    }
}

/** Blocks of a KV head: its tiles of V, its tiles of K, then 128 rows of each of its query heads. */
template <class P>
__global__ void __launch_bounds__(kThreads, 2) encode(const __grid_constant__ QuantizeRequest request, const SequenceTable table, int value_blocks, int key_blocks, int query_blocks) {
    __shared__ __align__(16) uint32_t staging[P::kD * 32];
    __shared__ float weights[kTileKeys];
    const Place at = place(table);
    int block = static_cast<int>(blockIdx.x);
    if (block < value_blocks) {
        if (block > 0 && block >= at.sequence.tiles) return;
        const float tensor_scale = value_scales(request, (static_cast<int64_t>(at.batch) * request.value.heads + at.head) * P::kD, block == 0);
        if (block >= at.sequence.tiles) return;
        if (request.mode == ValueMode::kHalf) round_values<P>(request, at, block);
        else encode_values<P>(request, at, block, tensor_scale, staging, weights);
        return;
    }
    block -= value_blocks;
    if (block < key_blocks) return encode_key<P>(request, at, block);
    block -= key_blocks;
    const int group = request.query.heads / static_cast<int>(gridDim.y);
    encode_query<P>(request, at, at.head * group + block / query_blocks, block % query_blocks);
}

}  // namespace

cudaError_t launch_encode(const QuantizeRequest& request, const SequenceTable& table, cudaStream_t stream) {
    const auto launch = [&](bool value, bool key, bool query) {
        const Operand& operand = value ? request.value : key ? request.key : request.query;
        return with_pieces(request.padded, operand.type == ElementType::kFloat32, [&](auto pieces) {
            using P = decltype(pieces);
            const int tiles = table.max_tiles > 0 ? table.max_tiles : 1, query_blocks = (table.max_q_len + kTileKeys - 1) / kTileKeys;
            const int value_blocks = value ? tiles : 0, key_blocks = key ? tiles : 0, group = query ? request.query.heads / operand.heads : 0;
            const int64_t blocks = int64_t{value_blocks} + key_blocks + int64_t{group} * query_blocks;
            encode<P><<<grid_of(blocks, operand.heads, table), kThreads, 0, stream>>>(request, table, value_blocks, key_blocks, query_blocks);
        });
    };
    const bool value = is_float(request.value), key = is_float(request.key), query = is_float(request.query);
    const auto wide = [](const Operand& operand) { return operand.type == ElementType::kFloat32; };
    // One launch where the operands' widths agree, as they nearly always do.
    const bool together = (!value || !key || wide(request.value) == wide(request.key)) && (!value || !query || wide(request.value) == wide(request.query)) &&
                          (!key || !query || wide(request.key) == wide(request.query));
    if (together) return value || key || query ? launch(value, key, query) : cudaSuccess;
    if (value)
        if (const cudaError_t status = launch(true, false, false)) return status;
    if (key)
        if (const cudaError_t status = launch(false, true, false)) return status;
    return query ? launch(false, false, true) : cudaSuccess;
}

}  // namespace intflash
