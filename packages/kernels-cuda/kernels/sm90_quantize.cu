// See sm90_quantize.h and sm90_layout.h. Bound by memory, in one launch: the blocks of a head that gather what its channels need of all
// tokens come a little before the blocks that encode its tiles, so that these find K and V still in L2.
#include <cuda_runtime.h>

#include <algorithm>

#include "ptx/grid_dependency.cuh"
#include "sm90_encode_tile.cuh"
#include "sm90_gather_channels.cuh"

namespace intflash {
namespace {

/** Blocks between the last that gathers of a head and the first that encodes it: a third more than run at a time on 132 processors, so that few wait. With many more K and V would have left L2. */
template <class P> constexpr int kBlocksAhead = 176 * Blocks<P>::kResident;
/** Blocks that encode queries wait for nobody and come last, while the last others run: half as many as run at a time. */
template <class P> constexpr int kLastBlocks = 66 * Blocks<P>::kResident;

/** f32(largest / 127), at least 2^-126. */
__device__ __forceinline__ float query_scale(float largest) {
    constexpr float kInverse = 1.f / 127.f;
    constexpr Divisor kBy127 = {127.f, kInverse, static_cast<float>((1. - 127. * kInverse) * kInverse)};
    float scale = divide(largest, kBy127);
    if (!(largest >= 0x1p-80f)) scale = __fdiv_rn(largest, 127.f);  // divide's remainder would not be exact
    return fmaxf(scale, kMinScale);
}

/**
 * The nearest codes of x / scale, rounded to float32 in between. Numbers of 16 bits have at most 11 significant ones: where the quotient of two is
 * near a border between codes it is the border, which two operations find as well as four. Of all pairs of such numbers, `scale` within 2^±60
 * and its reciprocal off by up to two units in the last place.
 */
template <class P> __device__ __forceinline__ void encode_queries(PieceCodes<P> (&codes)[2], float (&x)[2][P::kPiece], float scale) {
    if (scale < kTinyDivisor || scale > 1.f / kTinyDivisor) {
        const float factor = scale < kTinyDivisor ? kScaleUp : 1.f / kScaleUp;
        scale *= factor;
#pragma unroll
        for (int part = 0; part < 2; ++part)
#pragma unroll
            for (int e = 0; e < P::kPiece; ++e) x[part][e] *= factor;
    }
    if constexpr (P::kWide) {
        const Divisor by = divisor(scale);
#pragma unroll
        for (int part = 0; part < 2; ++part) codes[part] = encode_piece<P>(x[part], by);
    } else {
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
}

/** A block's queries of a head, whole blocks of the image: per-token codes, the bits of quant's quantizePerTokenInt8. */
template <class P> __device__ __forceinline__ void encode_query_rows(const QuantizeJob& job, const HeadPlace& at, int head, int chunk) {
    constexpr int kRows = Blocks<P>::kQueryRows;
    using Lanes = RowLanes<P, kRows>;
    constexpr int kBatch = Lanes::kRounds < 4 ? Lanes::kRounds : 4;
    const Operand& query = job.request.query;
    const Sm90Sequence& sequence = at.sequence;
    const int first = chunk * kRows;
    if (first >= sequence.q_len) return;
    const Lanes lanes;
    // A warp's rows are all of one block of the image, which ends with zeros.
    const int own_block = first / kQueryBlock + lanes.first_row / kQueryBlock, in_block = lanes.first_row % kQueryBlock;
    if (own_block >= sequence.q_blocks) return;
    const int64_t block = sequence.q_block_base + static_cast<int64_t>(head) * sequence.q_blocks + own_block;
    int8_t* image = job.query_codes + block * (kQueryBlock * P::kD);
    float* scales = job.query_scales + block * kQueryBlock + in_block;
    const SourceRows<P> rows(query, row_offset(query, at.batch, head, sequence.q_start + first), sequence.q_len - first);
    uint32_t top = 0;
    const auto encode = [&](int round, const uint4& low, const uint4& high, ElementType type) {
        uint32_t bits = wide_magnitude<P>(raise_magnitude<P>(raise_magnitude<P>(0, low), high), type);
#pragma unroll
        for (int step = 1; step < Lanes::kLanes; step *= 2) bits = max(bits, __shfl_xor_sync(~0u, bits, step));
        top = max(top, bits);
        const float scale = query_scale(__uint_as_float(bits));
        if (lanes.lane == 0) scales[round * Lanes::kGroups] = scale;
        float x[2][P::kPiece];
        widen<P>(x[0], low, type), widen<P>(x[1], high, type);
        PieceCodes<P> codes[2];
        encode_queries<P>(codes, x, scale);
        const int offset = panel_offset(in_block + round * Lanes::kGroups, lanes.channel(0), kQueryBlock, P::kD);
        codes[0].store_once(image + offset), codes[1].store_once(image + Lanes::second_part(offset, kQueryBlock));
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
    if (top > 0x7f7fffffu) atomicOr(&job.request.findings->bad_query, 1u);
    note_max(job.request.head_maxima.query + static_cast<int64_t>(at.batch) * query.heads + head, lanes.first_row < rows.count ? query_scale(__uint_as_float(top)) : 0.f);
}

/** One image or some tiles' statistics a block, in the order of heads. */
template <class P, bool kHalf> __global__ void __launch_bounds__(Blocks<P>::kThreads, Blocks<P>::kResident) quantize_all(const __grid_constant__ QuantizeJob job) {
    extern __shared__ __align__(128) uint8_t memory[];
    launch_dependents();  // the judge of the scores, which waits for the end
    const int per_head = job.gather + job.encode_queries + job.encode_tiles;
    const int step = blockIdx.x / per_head;
    int item = blockIdx.x - step * per_head;
    if (item < job.gather) {
        if (step < job.heads) gather_channels<P>(job, HeadPlace(job, step), step, item, memory);
        return;
    }
    item -= job.gather;
    const bool queries = item < job.encode_queries;
    const int head = step - (queries ? job.query_lag : job.lag);
    if (head < 0 || head >= job.heads) return;
    const HeadPlace at(job, head);
    if (queries) {
        const int group = job.request.query.heads / job.request.key.heads, chunks = job.encode_queries / group;
        encode_query_rows<P>(job, at, at.head * group + item / chunks, item % chunks);
        return;
    }
    item -= job.encode_queries;
    if (item == 0 || item < at.sequence.tiles) encode_tile<P, kHalf>(job, at, head, item, memory);
}

template <class P, bool kHalf> cudaError_t launch_all(QuantizeJob job, int sums, int tiles, int query_blocks, cudaStream_t stream) {
    constexpr int bytes = std::max(kGatherBytes<P>, Blocks<P>::kKeptBytes);
    if (const cudaError_t status = cudaFuncSetAttribute(quantize_all<P, kHalf>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return status;
    const auto rounded_up = [](int64_t count, int64_t by) { return static_cast<int32_t>((count + by - 1) / by); };
    job.encode_tiles = tiles;
    job.gather = job.gathers_key || job.gathers_value ? rounded_up(sums, Blocks<P>::kGatherTiles) : 0;
    job.encode_queries = job.request.query.heads / job.request.key.heads * rounded_up(query_blocks, Blocks<P>::kQueryRows / kQueryBlock);
    const int64_t per_head = int64_t{job.gather} + job.encode_tiles + job.encode_queries;
    // In whole heads, as near as that comes: the queries of one lie between as well.
    job.lag = job.gather == 0 ? 0 : static_cast<int32_t>(std::min<int64_t>(job.heads, (std::max(kBlocksAhead<P> - job.encode_queries, 0) + per_head / 2) / per_head));
    job.query_lag = std::min(job.heads, job.lag + (job.encode_queries == 0 ? 0 : rounded_up(kLastBlocks<P>, job.encode_queries)));
    const int64_t blocks = per_head * (job.heads + job.query_lag);
    if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
    quantize_all<P, kHalf><<<static_cast<unsigned>(blocks), Blocks<P>::kThreads, bytes, stream>>>(job);
    return cudaGetLastError();
}

}  // namespace

cudaError_t launch_sm90_quantize(const QuantizeRequest& request, const Sm90Table& table, const Sm90Images& images, cudaStream_t stream) {
    const QuantizeJob job{request, table, images.query_codes, images.query_scales, images.tiles, images.channel_scale, table.count * request.key.heads,
                          0, 0, 0, request.statistics.means != nullptr, request.mode != ValueMode::kHalf, 0, 0};
    const int sums = std::max(table.max_sums, 1), tiles = std::max(table.max_tiles, 1);
    if (job.heads == 0) return cudaSuccess;
    cudaError_t status = cudaSuccess;
    const cudaError_t launched = with_pieces(request.padded, request.key.type == ElementType::kFloat32, [&](auto pieces) {
        using P = decltype(pieces);
        status = request.mode == ValueMode::kHalf ? launch_all<P, true>(job, sums, tiles, table.max_q_blocks, stream) : launch_all<P, false>(job, sums, tiles, table.max_q_blocks, stream);
    });
    return status != cudaSuccess ? status : launched;
}

}  // namespace intflash
