// See sm90_quantize.h and sm90_layout.h. Bound by memory, in one launch: the blocks of a head that gather what its channels need of all
// tokens come a little before the blocks that encode its tiles, so that these find K and V still in L2.
#include <cuda_runtime.h>

#include <algorithm>

#include "sm90_encode_tile.cuh"
#include "sm90_gather_channels.cuh"

namespace intflash {
namespace {

constexpr int kBlocksAhead = 420;  // between a head's two kinds of blocks: as many as run at a time; with more of them K and V would have left L2

/** load_piece of what nobody reads again: it is the first to leave L2. */
template <class P> __device__ __forceinline__ uint4 load_once(const Operand& operand, int64_t at, bool aligned) {
    if (aligned) return __ldcs(reinterpret_cast<const uint4*>(static_cast<const char*>(operand.data) + at * (P::kWide ? 4 : 2)));
    return load_piece<P::kWide>(operand, at, false);
}

/** 128 queries of a head, two blocks of the image: per-token codes, the bits of quant's quantizePerTokenInt8. */
template <class P> __device__ __forceinline__ void encode_queries(const QuantizeJob& job, const HeadPlace& at, int head, int chunk) {
    using Lanes = RowLanes<P>;
    constexpr int kBatch = Lanes::kRounds < 4 ? Lanes::kRounds : 4;
    const Operand& query = job.request.query;
    const Sm90Sequence& sequence = at.sequence;
    const int first = chunk * kTileKeys, rows = sequence.q_blocks * kQueryBlock;
    if (first >= rows) return;
    const int64_t block = sequence.q_block_base + static_cast<int64_t>(head) * sequence.q_blocks + chunk * (kTileKeys / kQueryBlock);
    const int64_t from = row_offset(query, at.batch, head, sequence.q_start + first);
    const bool aligned = aligned_rows(query);
    const Lanes lanes;
    float largest_scale = 0.f;
#pragma unroll 1
    for (int begin = 0; begin < Lanes::kRounds; begin += kBatch) {
        uint4 raw[kBatch][2];
#pragma unroll
        for (int i = 0; i < kBatch; ++i)
#pragma unroll
            for (int part = 0; part < 2; ++part) {
                const int row = lanes.row(begin + i), channel = lanes.channel(part);
                raw[i][part] = first + row < sequence.q_len && channel < query.dim ? load_once<P>(query, from + row * query.strides.token + channel, aligned) : make_uint4(0, 0, 0, 0);
            }
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            const int row = lanes.row(begin + i);
            uint32_t top = 0;  // bits of the largest magnitude, NaN above all
#pragma unroll
            for (int part = 0; part < 2; ++part) {
                const uint32_t words[4] = {raw[i][part].x, raw[i][part].y, raw[i][part].z, raw[i][part].w};
#pragma unroll
                for (int w = 0; w < 4; ++w) top = P::kWide ? max(top, words[w] & 0x7fffffffu) : __vmaxu2(top, words[w] & 0x7fff7fffu);
            }
            float x[2][P::kPiece];
            float largest;
            if constexpr (P::kWide) {
                largest = __uint_as_float(top);
            } else {
                const uint32_t most = max(top & 0xffffu, top >> 16);
                largest = query.type == ElementType::kFloat16 ? __half2float(__ushort_as_half(static_cast<unsigned short>(most))) : __uint_as_float(most << 16);
            }
            uint32_t bits = __float_as_uint(largest);
#pragma unroll
            for (int step = 1; step < Lanes::kLanes; step *= 2) bits = max(bits, __shfl_xor_sync(~0u, bits, step));
            largest = __uint_as_float(bits);
            if (!(largest <= FLT_MAX)) atomicOr(&job.request.findings->bad_query, 1u);
            float scale = fmaxf(__fdiv_rn(largest, 127.f), kMinScale);
            if (first + row < sequence.q_len) largest_scale = fmaxf(largest_scale, scale);
            const int in_block = row % kQueryBlock;
            const int64_t own_block = block + row / kQueryBlock;
            const bool stored = first + row < rows;
            if (stored && lanes.lane == 0) job.query_scales[own_block * kQueryBlock + in_block] = scale;
#pragma unroll
            for (int part = 0; part < 2; ++part) widen<P>(x[part], raw[i][part], query.type);
            if (scale < kTinyDivisor) {
                scale *= kScaleUp;
#pragma unroll
                for (int part = 0; part < 2; ++part)
#pragma unroll
                    for (int e = 0; e < P::kPiece; ++e) x[part][e] *= kScaleUp;
            }
            const Divisor by = divisor(scale);
            int8_t* image = job.query_codes + own_block * (kQueryBlock * P::kD);
#pragma unroll
            for (int part = 0; part < 2; ++part)
                if (stored) encode_piece<P>(x[part], by).store(image + panel_offset(in_block, lanes.channel(part), kQueryBlock, P::kD));
        }
    }
    note_max(job.request.head_maxima.query + static_cast<int64_t>(at.batch) * query.heads + head, largest_scale);
}

/** One image or one tile's statistics a block, in the order of heads. */
template <class P, bool kHalf> __global__ void __launch_bounds__(kQuantizeThreads, 3) quantize_all(const __grid_constant__ QuantizeJob job) {
    extern __shared__ __align__(128) uint8_t memory[];
    const int gathering = job.gather_key + job.gather_value, encoding = job.encode_tiles + job.encode_queries;
    const int step = blockIdx.x / (gathering + encoding), within = blockIdx.x - step * (gathering + encoding);
    if (within < gathering) {
        if (step >= job.heads) return;
        const HeadPlace at(job, step);
        if (within < job.gather_key) gather_key<P>(job, at, step, within, memory);
        else gather_value<P>(job, at, step, within - job.gather_key, memory);
        return;
    }
    const int head = step - job.lag, item = within - gathering;
    if (head < 0) return;
    const HeadPlace at(job, head);
    if (item < job.encode_tiles) {
        if (item == 0 || item < at.sequence.tiles) encode_tile<P, kHalf>(job, at, head, item, memory);
        return;
    }
    const int group = job.request.query.heads / job.request.key.heads, chunks = job.encode_queries / group, query = item - job.encode_tiles;
    encode_queries<P>(job, at, at.head * group + query / chunks, query % chunks);
}

template <class P, bool kHalf> cudaError_t launch_all(QuantizeJob job, cudaStream_t stream) {
    constexpr int bytes = kDynamicBytes<P, kHalf>;
    if (const cudaError_t status = cudaFuncSetAttribute(quantize_all<P, kHalf>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return status;
    const int64_t per_head = int64_t{job.gather_key} + job.gather_value + job.encode_tiles + job.encode_queries;
    job.lag = job.gather_key + job.gather_value == 0 ? 0 : static_cast<int32_t>(std::min<int64_t>(job.heads, (kBlocksAhead + per_head - 1) / per_head));
    const int64_t blocks = per_head * (job.heads + job.lag);
    if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
    quantize_all<P, kHalf><<<static_cast<unsigned>(blocks), kQuantizeThreads, bytes, stream>>>(job);
    return cudaGetLastError();
}

}  // namespace

cudaError_t launch_sm90_quantize(const QuantizeRequest& request, const Sm90Table& table, const Sm90Images& images, cudaStream_t stream) {
    const int tiles = std::max(table.max_tiles, 1), chunks = (table.max_q_blocks * kQueryBlock + kTileKeys - 1) / kTileKeys;
    const QuantizeJob job{request, table, images.query_codes, images.query_scales, images.tiles, images.channel_scale, table.count * request.key.heads,
                  request.statistics.means != nullptr ? tiles : 0, request.mode == ValueMode::kHalf ? 0 : table.max_tiles, tiles, request.query.heads / request.key.heads * chunks, 0};
    if (job.heads == 0) return cudaSuccess;
    cudaError_t status = cudaSuccess;
    const cudaError_t launched = with_pieces(request.padded, request.key.type == ElementType::kFloat32, [&](auto pieces) {
        using P = decltype(pieces);
        status = request.mode == ValueMode::kHalf ? launch_all<P, true>(job, stream) : launch_all<P, false>(job, stream);
    });
    return status != cudaSuccess ? status : launched;
}

}  // namespace intflash
