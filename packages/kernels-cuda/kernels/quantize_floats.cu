// See quantize.h, sorted_quantize.h and the two layouts. Bound by memory, in one launch: the blocks of a head that gather what its channels need of all
// tokens come a little before the blocks that encode its tiles, so that these find K and V still in L2.
#include <cuda_runtime.h>

#include <algorithm>

#include "ceil_div.h"
#include "gather_channels.cuh"
#include "plain_encode_tile.cuh"
#include "ptx/grid_dependency.cuh"
#include "sorted_encode_tile.cuh"

namespace intflash {
namespace {

/** Blocks between the last that gathers of a head and the first that encodes it: a third more than run at a time on 132 processors, so that few wait. With many more K and V would have left L2. */
template <class P> constexpr int kBlocksAhead = 176 * Blocks<P>::kResident;
/** Blocks that encode queries wait for nobody and come last, while the last others run: half as many as run at a time. */
template <class P> constexpr int kLastBlocks = 66 * Blocks<P>::kResident;

/**
 * The nearest codes of x / scale, rounded to float32 in between. Numbers of 16 bits have at most 11 significant ones: where the quotient of two, the
 * divisor a 127th or a seventh of one, is near a border between codes it is the border, which two operations find as well as four. Of all pairs of such
 * numbers, `scale` within 2^±60 and its reciprocal off by up to two units in the last place.
 */
template <class P> __device__ __forceinline__ void encode_queries(PieceCodes<P> (&codes)[2], float (&x)[2][P::kPiece], float scale) {
    if constexpr (P::kWide) return encode_pieces<P>(codes, x, scale);
    bring_near<P>(x, scale);
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(scale));
    const float rest = fmaf(-scale, inverse, 1.f) * inverse;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
#pragma unroll
        for (int e = 0; e < P::kPiece; ++e) x[part][e] = fmaf(x[part][e], inverse, x[part][e] * rest);
        codes[part] = nearest_piece<P>(x[part]);
    }
}

/** A block's queries of a head: per-token codes, the bits of quant's quantizePerTokenInt8. Plain: rows one after the other; else whole blocks of the image, which ends with zeros. */
template <class P, TileFormat kFormat> __device__ __forceinline__ void encode_query_rows(const QuantizeJob& job, const HeadPlace& at, int head, int chunk) {
    constexpr int kRows = Blocks<P>::kQueryRows;
    constexpr bool kPlain = kIsPlain<kFormat>;
    using Lanes = RowLanes<P, kRows>;
    constexpr int kBatch = Lanes::kRounds < 4 ? Lanes::kRounds : 4;
    const Operand& query = job.request.query;
    const SortedSequence& sequence = at.sequence;
    const int first = chunk * kRows;
    if (first >= sequence.q_len) return;
    const Lanes lanes;
    // A warp's rows are all of one block of the image.
    const int own_block = first / kQueryBlock + lanes.first_row / kQueryBlock, in_block = lanes.first_row % kQueryBlock;
    if (!kPlain && own_block >= sequence.q_blocks) return;
    const int64_t row_at = kPlain ? sequence.q_block_base + static_cast<int64_t>(head) * sequence.q_len + first + lanes.first_row
                                  : (sequence.q_block_base + static_cast<int64_t>(head) * sequence.q_blocks + own_block) * kQueryBlock + in_block;
    int8_t* target = job.query_codes + (kPlain ? row_at : row_at - in_block) * P::kD;
    float* scales = job.query_scales + row_at;
    const Divisor by_levels = divisor(kPlain ? job.request.levels : 127.f);
    const SourceRows<P> rows(query, row_offset(query, at.batch, head, sequence.q_start + first), sequence.q_len - first);
    uint32_t top = 0;
    const auto encode = [&](int round, const uint4& low, const uint4& high, ElementType type) {
        uint32_t bits = wide_magnitude<P>(raise_magnitude<P>(raise_magnitude<P>(0, low), high), type);
#pragma unroll
        for (int step = 1; step < Lanes::kLanes; step *= 2) bits = max(bits, __shfl_xor_sync(~0u, bits, step));
        top = max(top, bits);
        const float scale = row_scale(__uint_as_float(bits), by_levels);
        if (kPlain && lanes.row(round) >= rows.count) return;
        if (lanes.lane == 0) scales[round * Lanes::kGroups] = scale;
        float x[2][P::kPiece];
        widen<P>(x[0], low, type), widen<P>(x[1], high, type);
        PieceCodes<P> codes[2];
        encode_queries<P>(codes, x, scale);
        const int offset = kPlain ? round * Lanes::kGroups * P::kD + lanes.channel(0) : panel_offset(in_block + round * Lanes::kGroups, lanes.channel(0), kQueryBlock, P::kD);
        codes[0].store_once(target + offset), codes[1].store_once(target + (kPlain ? offset + P::kD / 2 : Lanes::second_part(offset, kQueryBlock)));
    };
    if (rows.template whole<kRows>()) {
        with_type<P>(query.type, [&](ElementType type) {
            const char* source = rows.address(lanes.first_row, lanes.channel(0));
            const int64_t step = Lanes::kGroups * query.strides.token * Blocks<P>::kSize;
#pragma unroll 1
            for (int begin = 0; begin < Lanes::kRounds; begin += kBatch) {
                uint4 raw[kBatch][2];
#pragma unroll
                for (int i = 0; i < kBatch; ++i, source += step)
#pragma unroll
                    for (int part = 0; part < 2; ++part) raw[i][part] = load_once(source + part * Lanes::kLanes * 16);
#pragma unroll
                for (int i = 0; i < kBatch; ++i) encode(begin + i, raw[i][0], raw[i][1], type);
            }
        });
    } else {
#pragma unroll 1
        for (int round = 0; round < Lanes::kRounds; ++round) encode(round, rows.piece(lanes.row(round), lanes.channel(0)), rows.piece(lanes.row(round), lanes.channel(1)), query.type);
    }
    note_nonfinite(top, &job.request.findings->bad_query);
    note_max(job.request.head_maxima.query + static_cast<int64_t>(at.batch) * query.heads + head, lanes.first_row < rows.count ? row_scale(__uint_as_float(top), by_levels) : 0.f);
}

/** Some tiles' statistics, some queries or a tile a block, in the order of heads. */
template <class P, TileFormat kFormat> __global__ void __launch_bounds__(Blocks<P>::kThreads, Blocks<P>::kResident) quantize_all(const __grid_constant__ QuantizeJob job) {
    extern __shared__ __align__(128) uint8_t memory[];
    launch_dependents();  // the judge of the scores, which waits for the end
    const int per_head = job.gather + job.encode_queries + job.encode_tiles;
    const int step = blockIdx.x / per_head;
    int item = blockIdx.x - step * per_head;
    if (item < job.gather) {
        if (step < job.heads) gather_channels<P>(job, head_place<kFormat>(job, step), step, item, memory);
        return;
    }
    item -= job.gather;
    const bool queries = item < job.encode_queries;
    const int head = step - (queries ? job.query_lag : job.lag);
    if (head < 0 || head >= job.heads) return;
    const HeadPlace at = head_place<kFormat>(job, head);
    if (queries) {
        const int group = job.request.query.heads / job.request.key.heads, chunks = job.encode_queries / group;
        encode_query_rows<P, kFormat>(job, at, at.head * group + item / chunks, item % chunks);
        return;
    }
    item -= job.encode_queries;
    // Plain tiles are two blocks' work: their keys' and their values' rows have nothing to do with each other.
    const int tile = kIsPlain<kFormat> ? item / 2 * kPlainTiles<P> : item;
    if (tile > 0 && tile >= at.sequence.tiles) return;  // the first also sees to an empty sequence
    if constexpr (kIsPlain<kFormat>) encode_plain_tiles<P, kIsHalf<kFormat>>(job, at, head, tile, item % 2 == 0, memory);
    else encode_tile<P, kIsHalf<kFormat>>(job, at, head, tile, memory);
}

template <class P, TileFormat kFormat> constexpr int kSharedBytes = std::max(kGatherBytes<P>, kIsPlain<kFormat> ? kPlainBytes<P> : Blocks<P>::kKeptBytes);

/** Of a head `sums` tiles are gathered, `tiles` encoded (0: neither K nor V), and up to `queries` rows of each query head. */
template <class P, TileFormat kFormat> cudaError_t launch_all(QuantizeJob job, int sums, int tiles, int queries, cudaStream_t stream) {
    if (const cudaError_t status = cudaFuncSetAttribute(quantize_all<P, kFormat>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes<P, kFormat>)) return status;
    job.encode_tiles = kIsPlain<kFormat> ? 2 * ceil_div(tiles, kPlainTiles<P>) : tiles;
    job.gather = job.gathers_key || job.gathers_value ? ceil_div(sums, Blocks<P>::kGatherTiles) : 0;
    job.encode_queries = job.request.query.heads / job.request.key.heads * ceil_div(queries, Blocks<P>::kQueryRows);
    const int64_t per_head = int64_t{job.gather} + job.encode_tiles + job.encode_queries;
    if (per_head == 0) return cudaSuccess;
    // In whole heads, as near as that comes; plain tiles' blocks are short, so rather more. The queries of one lie between as well.
    const int64_t more = kIsPlain<kFormat> ? per_head - 1 : per_head / 2;
    job.lag = job.gather == 0 ? 0 : static_cast<int32_t>(std::min<int64_t>(job.heads, (std::max(kBlocksAhead<P> - job.encode_queries, 0) + more) / per_head));
    job.query_lag = std::min(job.heads, job.lag + (job.encode_queries == 0 || job.encode_tiles == 0 ? 0 : ceil_div(kLastBlocks<P>, job.encode_queries)));
    const int64_t blocks = per_head * (job.heads + job.query_lag);
    if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
    const int bytes = job.gather + job.encode_tiles == 0 ? 0 : kSharedBytes<P, kFormat>;  // queries need none, and what is left is L1
    quantize_all<P, kFormat><<<static_cast<unsigned>(blocks), Blocks<P>::kThreads, bytes, stream>>>(job);
    return cudaGetLastError();
}

/** Which operands a launch encodes. */
struct Encoded {
    bool query, key, value;
};

cudaError_t launch_plain(const QuantizeRequest& request, const SequenceTable& table, Encoded encoded, cudaStream_t stream) {
    const QuantizeJob job{request, table.sequences, nullptr, request.rows.codes, request.rows.scales, request.tiles, request.channel_scale, table.count * request.key.heads, 0, 0, 0,
                          encoded.key && request.statistics.means != nullptr, encoded.value && request.statistics.maxima != nullptr, encoded.key, encoded.value, 0, 0};
    const int tiles = std::max(table.max_tiles, 1);
    const Operand& any = encoded.query ? request.query : encoded.key ? request.key : request.value;
    return with_pieces(request.padded, any.type, [&](auto pieces) {
        using P = decltype(pieces);
        const int encode = encoded.key || encoded.value ? tiles : 0, queries = encoded.query ? table.max_q_len : 0;
        return request.mode == ValueMode::kHalf ? launch_all<P, TileFormat::kPlainHalf>(job, tiles, encode, queries, stream) : launch_all<P, TileFormat::kPlain>(job, tiles, encode, queries, stream);
    });
}

}  // namespace

cudaError_t launch_encode(const QuantizeRequest& request, const SequenceTable& table, cudaStream_t stream) {
    const Encoded all{is_float(request.query), is_float(request.key), is_float(request.value)};
    if (table.count == 0 || request.key.heads == 0 || !(all.query || all.key || all.value)) return cudaSuccess;
    const auto wide = [](const Operand& operand) { return operand.type == ElementType::kFloat32; };
    const auto agree = [&](bool has_a, const Operand& a, bool has_b, const Operand& b) { return !has_a || !has_b || wide(a) == wide(b); };
    // One launch where the operands' widths agree, as they nearly always do.
    if (agree(all.query, request.query, all.key, request.key) && agree(all.key, request.key, all.value, request.value) && agree(all.query, request.query, all.value, request.value))
        return launch_plain(request, table, all, stream);
    cudaError_t status = cudaSuccess;
    for (const Encoded& one : {Encoded{false, all.key, false}, Encoded{false, false, all.value}, Encoded{all.query, false, false}}) {
        // Each begins to count anew.
        if (status == cudaSuccess && request.statistics.arrivals != nullptr)
            status = cudaMemsetAsync(request.statistics.arrivals, 0, 2 * sizeof(uint32_t) * static_cast<size_t>(table.count) * static_cast<size_t>(request.key.heads), stream);
        if (status == cudaSuccess && (one.query || one.key || one.value)) status = launch_plain(request, table, one, stream);
    }
    return status;
}

cudaError_t launch_sorted_quantize(const QuantizeRequest& request, const SortedTable& table, const SortedImages& images, cudaStream_t stream) {
    const QuantizeJob job{request, nullptr, table.sequences, images.query_codes, images.query_scales, images.tiles, images.channel_scale, table.count * request.key.heads,
                          0, 0, 0, request.statistics.means != nullptr, request.mode != ValueMode::kHalf, true, true, 0, 0};
    const int sums = std::max(table.max_sums, 1), tiles = std::max(table.max_tiles, 1), queries = table.max_q_blocks * kQueryBlock;
    if (job.heads == 0) return cudaSuccess;
    return with_pieces(request.padded, request.key.type, [&](auto pieces) {
        using P = decltype(pieces);
        return request.mode == ValueMode::kHalf ? launch_all<P, TileFormat::kSortedHalf>(job, sums, tiles, queries, stream) : launch_all<P, TileFormat::kSorted>(job, sums, tiles, queries, stream);
    });
}

}  // namespace intflash
