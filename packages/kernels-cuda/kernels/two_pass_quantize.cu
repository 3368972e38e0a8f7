// See two_pass_quantize.h. Bound by memory, in one launch: the blocks that gather what is needed of a head come a little before those that encode it, which
// find it still in L2. For one scale a tensor all blocks gather first; then they encode from the tensor's end, which L2 still holds. What gathers is not
// gather_channels.cuh: that brings K through shared memory with V beside it; here one tensor is read straight to registers.
//   §1 how the work is cut        and two_pass_job.cuh: which block does what
//   §2 first pass                 sums of tiles and their means; maxima
//   §3 second pass                codes by token, by channel, by tensor
//   §4 kernel and launch
#include <cuda_runtime.h>

#include <algorithm>
#include <cfloat>
#include <type_traits>

#include "ceil_div.h"
#include "ptx/shared_memory.cuh"
#include "two_pass_job.cuh"
#include "two_pass_rows.cuh"

namespace intflash {
namespace {

// ── §1 ──
constexpr int kThreads = kTwoPassThreads, kWarps = kThreads / 32;
constexpr int kResident = 4;  // blocks of a processor: 64 registers a thread
/**
 * Blocks between those that gather a head and those that encode it: a third more than run at a time on 132 processors, so that few wait
 * (quantize_floats.cu). Means take half as many again: a head's last tile and the sums of all, in order, come before the first code.
 */
template <Statistic kStatistic> constexpr int kBlocksAhead = (kStatistic == Statistic::kMeans ? 264 : 176) * kResident;
/** A lane sums a word's channels of a tile: so many warps a tile, and tiles a block. */
template <class P> constexpr int kTileWarps = P::kD / 32 / kWordChannels<P>;
template <class P> constexpr int kBlockTiles = kWarps / kTileWarps<P>;

/** Rows of a head from `first` on, no more than `most`. */
template <class P> __device__ __forceinline__ SourceRows<P> rows_of(const TwoPassJob& job, int head, int first, int most) {
    const Operand& tensor = job.request.tensor;
    const int batch = head / tensor.heads;
    return {tensor, row_offset(tensor, batch, head - batch * tensor.heads, first), min(most, job.request.tokens - first)};
}

// ── §2 ──
/** A head's means from the sums of its tiles, in order; 0 without tokens. */
template <class P> __device__ __forceinline__ void find_means(const TwoPassJob& job, int head) {
    constexpr int kStagedTiles = 32 * 1024 / (P::kD * 8), kLoads = kStagedTiles * P::kD / kThreads;
    __shared__ double staged[kStagedTiles * P::kD];
    const double* sums = job.request.sums + static_cast<int64_t>(head) * job.tiles * P::kD;
    double total = 0.;
#pragma unroll 1
    for (int first = 0; first < job.tiles; first += kStagedTiles) {
        const int count = min(kStagedTiles, job.tiles - first);
        const double* from = sums + static_cast<int64_t>(first) * P::kD + threadIdx.x;
        double next[kLoads];
#pragma unroll
        for (int i = 0; i < kLoads; ++i) next[i] = static_cast<int>(threadIdx.x) + i * kThreads < count * P::kD ? __ldcg(from + i * kThreads) : 0.;
        __syncthreads();  // what was staged before is added
#pragma unroll
        for (int i = 0; i < kLoads; ++i) staged[threadIdx.x + i * kThreads] = next[i];
        __syncthreads();
        if (threadIdx.x < P::kD)
#pragma unroll 8
            for (int tile = 0; tile < count; ++tile) total += staged[tile * P::kD + threadIdx.x];
    }
    const int dim = job.request.tensor.dim;
    if (static_cast<int>(threadIdx.x) < dim) job.request.means[static_cast<int64_t>(head) * dim + threadIdx.x] = job.request.tokens > 0 ? static_cast<float>(total / job.request.tokens) : 0.f;
}

/** Sums of a block's tiles, tokens in order (docs/arithmetic.md, Smooth-K); a head's last block finds the means. */
template <class P> __device__ __forceinline__ void gather_sums(const TwoPassJob& job, const Part& part) {
    constexpr int kBatch = P::kWide ? 32 : 16;  // what registers have room for
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, tile = part.item * kBlockTiles<P> + warp / kTileWarps<P>;
    const int first_channel = warp % kTileWarps<P> * 32 * kWordChannels<P>, channel = first_channel + lane * kWordChannels<P>;
    if (tile < job.tiles) {
        const SourceRows<P> rows = rows_of<P>(job, part.head, tile * kTileKeys, kTileKeys);
        const int count = channel < rows.operand.dim ? rows.count : 0;  // of a channel that is not there no row is
        double sums[kWordChannels<P>] = {};
        with_type<P>(rows.operand.type, [&](ElementType type) {
            const char* source = rows.address(0, channel);
            const int64_t step = rows.operand.strides.token * Blocks<P>::kSize;
            if (!rows.aligned) {
#pragma unroll 4
                for (int row = 0; row < count; ++row, source += step) add_word<P>(sums, load_word<P, false>(source), type);
                return;
            }
#pragma unroll 1
            for (int begin = 0; begin < count; begin += kBatch) {
                uint32_t words[kBatch];
#pragma unroll
                for (int i = 0; i < kBatch; ++i, source += step) words[i] = begin + i < count ? load_word<P, true>(source) : 0;
#pragma unroll
                for (int i = 0; i < kBatch; ++i) add_word<P>(sums, words[i], type);  // a sum that began with 0 is never -0, so that adding 0 changes nothing
            }
        });
        double* const target = job.request.sums + (static_cast<int64_t>(part.head) * job.tiles + tile) * P::kD + channel;
#pragma unroll
        for (int c = 0; c < kWordChannels<P>; ++c) target[c] = sums[c] * kGrow;
    }
    uint32_t* const arrivals = job.request.arrivals + part.head;
    if (arrive(arrivals) + 1 < static_cast<uint32_t>(job.gather)) return;
    find_means<P>(job, part.head);
    arrive(arrivals + job.heads);
}

/** Raises the largest magnitudes of a head's channels, or of the tensor, to those of a chunk. */
template <class P, Statistic kStatistic> __device__ __forceinline__ void gather_maxima(const TwoPassJob& job, const Part& part) {
    constexpr bool kChannels = kStatistic == Statistic::kChannelMaxima;
    __shared__ uint32_t largest[kChannels ? P::kD : kWarps];
    const TwoPassRequest& request = job.request;
    if (threadIdx.x < sizeof largest / 4) largest[threadIdx.x] = 0;
    const SourceRows<P> rows = rows_of<P>(job, part.head, part.item * kChunkRows<P>, kChunkRows<P>);
    uint32_t top[4] = {};
    each_row<P, 1, 8, false>(
        rows, [] { __syncthreads(); },
        [&](int, const uint4(&raw)[1]) {
            top[0] = raise_magnitude<P>(top[0], raw[0].x, 0), top[1] = raise_magnitude<P>(top[1], raw[0].y, 0);
            top[2] = raise_magnitude<P>(top[2], raw[0].z, 0), top[3] = raise_magnitude<P>(top[3], raw[0].w, 0);
        });
    const ElementType type = request.tensor.type;
    if constexpr (kChannels) {
        using Lanes = ChunkLanes<P, 1>;
#pragma unroll
        for (int step = Lanes::kPerRow; step < 32; step *= 2)
#pragma unroll
            for (int w = 0; w < 4; ++w) top[w] = raise_magnitude<P>(top[w], __shfl_xor_sync(~0u, top[w], step), 0);
        if (threadIdx.x % 32 < Lanes::kPerRow) {
            uint32_t* const own = largest + Lanes().channel(0);
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                if constexpr (P::kWide) {
                    atomicMax(own + w, top[w]);
                } else {
                    atomicMax(own + 2 * w, wide_magnitude<P>(top[w] & 0xffffu, type));
                    atomicMax(own + 2 * w + 1, wide_magnitude<P>(top[w] >> 16, type));
                }
            }
        }
        __syncthreads();
        if (threadIdx.x < P::kD) {
            const uint32_t bits = largest[threadIdx.x];
            note_nonfinite(bits, &request.findings->bad_query);
            if (bits != 0) atomicMax(request.maxima + static_cast<int64_t>(part.head) * P::kD + threadIdx.x, bits);
        }
        arrive(request.arrivals + part.head);
    } else {
        const uint32_t words = raise_magnitude<P>(raise_magnitude<P>(top[0], top[1], top[2]), top[3], 0);
        const uint32_t of_warp = __reduce_max_sync(~0u, wide_magnitude<P>(words, type));
        if (threadIdx.x % 32 == 0) largest[threadIdx.x / 32] = of_warp;
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t bits = 0;
            for (int warp = 0; warp < kWarps; ++warp) bits = max(bits, largest[warp]);
            note_nonfinite(bits, &request.findings->bad_query);
            if (bits > __ldcg(request.maxima)) atomicMax(request.maxima, bits);
        }
        arrive(request.arrivals);
    }
}

// ── §3 ──
/** Where a chunk's codes go. */
template <class P> __device__ __forceinline__ int8_t* codes_of(const TwoPassJob& job, int head, int first) {
    return job.request.codes + (static_cast<int64_t>(head) * job.request.tokens + first) * P::kD;
}

/** Tokens less their channels' means, each with a scale of its own: quant's smoothK, then its quantizePerTokenInt8. */
template <class P> __device__ __forceinline__ void encode_tokens(const TwoPassJob& job, const Part& part) {
    using Lanes = ChunkLanes<P, 2>;
    __shared__ __align__(16) float mean[P::kD];
    const TwoPassRequest& request = job.request;
    const int first = part.item * kChunkRows<P>, thread = threadIdx.x;
    const SourceRows<P> rows = rows_of<P>(job, part.head, first, kChunkRows<P>);
    const Lanes lanes;
    const Divisor by_levels = divisor(request.levels);
    int8_t* const codes_at = codes_of<P>(job, part.head, first);
    float* const scales = request.scales + static_cast<int64_t>(part.head) * request.tokens + first;
    const uint32_t own = shared_address_of(mean) + 4 * lanes.channel(0);  // asked for with each row: registers are few
    uint32_t top = 0;
    float most = 0.f;
    const auto ready = [&] {
        wait_until(request.arrivals + job.heads + part.head, 1);
        const int dim = request.tensor.dim;
        if (thread < P::kD) mean[thread] = thread < dim ? __ldcg(request.means + static_cast<int64_t>(part.head) * dim + thread) : 0.f;
        __syncthreads();
    };
    with_type<P>(request.tensor.type, [&](ElementType type) {
        each_row<P, 2, 2, true>(rows, ready, [&](int row, const uint4(&raw)[2]) {
            top = raise_magnitude<P>(raise_magnitude<P>(top, raw[0]), raw[1]);
            float x[2][P::kPiece];
#pragma unroll
            for (int p = 0; p < 2; ++p) {
                widen<P>(x[p], raw[p], type);
#pragma unroll
                for (int e = 0; e < P::kPiece; e += 4) {
                    const float4 less = load_shared_floats(own + 4 * (p * Lanes::kPerRow * P::kPiece + e));
#pragma unroll
                    for (int i = 0; i < 4; ++i) x[p][e + i] = x[p][e + i] - at(less, i);
                }
            }
            const float largest = row_max<Lanes::kPerRow>(fmaxf(magnitude(x[0]), magnitude(x[1])));
            if (row >= rows.count) return;
            most = fmaxf(most, largest);
            const float scale = row_scale(largest, by_levels);
            if (lanes.lane == 0) scales[row] = scale;
            PieceCodes<P> codes[2];
            encode_pieces<P>(codes, x, scale);
#pragma unroll
            for (int p = 0; p < 2; ++p) codes[p].store_once(codes_at + row * P::kD + lanes.channel(p));
        });
    });
    note_nonfinite(wide_magnitude<P>(top, request.tensor.type), &request.findings->bad_query);
    if (!(most <= FLT_MAX)) atomicMax(&request.findings->large_query, __float_as_uint(most));
}

/** The codes of a chunk with a scale that `divide` is not made for, one number after the other. */
template <class P, class Scale> __device__ __noinline__ void encode_slowly(const SourceRows<P>& rows, int8_t* codes, Scale scale_of) {
    for (int i = threadIdx.x; i < rows.count * P::kD; i += kThreads) {
        const int row = i / P::kD, channel = i % P::kD;
        const float x = channel < rows.operand.dim ? load_one(rows.operand, rows.first + row * rows.operand.strides.token + channel) : 0.f;
        codes[i] = static_cast<int8_t>(__float2int_rn(__fdiv_rn(x, scale_of(channel))));
    }
}

/** Whether quotients or remainders by a scale could leave the normal numbers. Zeros have the smallest scale and no remainders. */
__device__ __forceinline__ bool is_odd_scale(float scale, float largest) { return largest != 0.f && !(scale >= kTinyDivisor && scale <= 1.f / kTinyDivisor); }

/** Scales as divisors, of a head's channels or of everything. */
template <int kCount> struct SharedDivisors {
    alignas(16) float value[kCount], inverse[kCount], rest[kCount];
};

/** Numbers with a scale that their channel, or the whole tensor, has: quant's quantizePerChannelInt8 and quantizePerTensorInt8. */
template <class P, Statistic kStatistic> __device__ __forceinline__ void encode_channels(const TwoPassJob& job, const Part& part) {
    constexpr bool kChannels = kStatistic == Statistic::kChannelMaxima;
    constexpr int kScales = kChannels ? P::kD : 1, kOwn = kChannels ? P::kPiece : 1;
    __shared__ SharedDivisors<kScales> scales;
    const TwoPassRequest& request = job.request;
    const int first = part.item * kChunkRows<P>, thread = threadIdx.x, dim = request.tensor.dim;
    const SourceRows<P> rows = rows_of<P>(job, part.head, first, kChunkRows<P>);
    const ChunkLanes<P, 1> lanes;
    int8_t* const codes_at = codes_of<P>(job, part.head, first);
    Divisor own[kOwn];
    bool is_odd = false;
    const auto ready = [&] {
        if constexpr (kChannels) wait_until(request.arrivals + part.head, static_cast<uint32_t>(job.gather));
        else wait_until(request.arrivals, static_cast<uint32_t>(job.gather) * static_cast<uint32_t>(job.heads));
        bool odd = false;
        if (thread < kScales) {
            const float largest = __uint_as_float(__ldcg(request.maxima + (kChannels ? static_cast<int64_t>(part.head) * P::kD + thread : 0)));
            const float scale = row_scale(largest, divisor(request.levels));
            const Divisor by = divisor(scale);
            scales.value[thread] = scale, scales.inverse[thread] = by.inverse, scales.rest[thread] = by.rest;
            odd = is_odd_scale(scale, largest);
            if (first == 0 && (kChannels ? thread < dim : part.head == 0)) request.scales[kChannels ? static_cast<int64_t>(part.head) * dim + thread : 0] = scale;
        }
        is_odd = __syncthreads_or(odd) != 0;
        if constexpr (kChannels) {
            const uint32_t from = shared_address_of(&scales) + 4 * lanes.channel(0);
#pragma unroll
            for (int e = 0; e < P::kPiece; e += 4) {
                const float4 value = load_shared_floats(from + 4 * e), inverse = load_shared_floats(from + 4 * (P::kD + e)), rest = load_shared_floats(from + 4 * (2 * P::kD + e));
#pragma unroll
                for (int i = 0; i < 4; ++i) own[e + i] = {at(value, i), at(inverse, i), at(rest, i)};
            }
        } else {
            own[0] = {scales.value[0], scales.inverse[0], scales.rest[0]};
        }
    };
    with_type<P>(request.tensor.type, [&](ElementType type) {
        each_row<P, 1, 4, true>(rows, ready, [&](int row, const uint4(&raw)[1]) {
            if (is_odd || row >= rows.count) return;
            float x[P::kPiece];
            widen<P>(x, raw[0], type);
#pragma unroll
            for (int e = 0; e < P::kPiece; ++e) {
                const Divisor& by = own[kChannels ? e : 0];
                // Of 16-bit numbers, by a 127th of one, two operations find the code that four do: quantize_floats.cu, encode_queries.
                if constexpr (P::kWide) x[e] = divide(x[e], by);
                else x[e] = fmaf(x[e], by.inverse, x[e] * by.rest);
            }
            nearest_piece<P>(x).store_once(codes_at + row * P::kD + lanes.channel(0));
        });
    });
    if (is_odd) encode_slowly<P>(rows, codes_at, [&](int channel) { return scales.value[kChannels ? channel : 0]; });
}

// ── §4 ──
template <class P, Statistic kStatistic> __global__ void __launch_bounds__(kThreads, kResident) quantize_two_pass(const __grid_constant__ TwoPassJob job) {
    const Part part = part_of<kStatistic>(job, static_cast<int>(blockIdx.x));
    if constexpr (kStatistic == Statistic::kMeans) part.gathers ? gather_sums<P>(job, part) : encode_tokens<P>(job, part);
    else part.gathers ? gather_maxima<P, kStatistic>(job, part) : encode_channels<P, kStatistic>(job, part);
}

/** Merges axes where the strides allow: whose rows they are does not matter to one number, and blocks should be full. */
void merge_axes(TwoPassRequest& request) {
    Operand& tensor = request.tensor;
    if (request.batch == 0 || tensor.heads == 0) request.tokens = 0;
    if (request.tokens == 0) request.batch = tensor.heads = 1;
    for (int axis = 0; axis < 2; ++axis) {
        const int64_t rows = int64_t{request.tokens} * tensor.heads;
        if (tensor.heads > 1 && request.tokens > 1 && tensor.strides.head != request.tokens * tensor.strides.token) return;
        if (rows > 1 << 30) return;
        if (tensor.heads > 1 && request.tokens <= 1) tensor.strides.token = tensor.strides.head;
        request.tokens = static_cast<int32_t>(rows);
        tensor.heads = request.batch, tensor.strides.head = tensor.strides.batch;
        request.batch = 1, tensor.strides.batch = 0;
    }
}

/** Two blocks a head at least, in one launch: `blocks` is more than that has where there are 2^30 heads. */
struct TwoPassPlan {
    TwoPassJob job;
    int64_t blocks;
    bool fits() const { return blocks <= INT32_MAX; }
};

template <class P, Statistic kStatistic> TwoPassPlan plan(TwoPassRequest request) {
    if (kStatistic == Statistic::kMaximum) merge_axes(request);
    TwoPassJob job{request, request.batch * request.tensor.heads, ceil_div(request.tokens, kTileKeys), 0, 0, 0, false};
    job.encode = std::max(ceil_div(request.tokens, kChunkRows<P>), 1);  // the first also sees to an empty head
    job.gather = kStatistic == Statistic::kMeans ? std::max(ceil_div(job.tiles, kBlockTiles<P>), 1) : job.encode;
    const int64_t per_head = int64_t{job.gather} + job.encode;
    job.lag = kStatistic == Statistic::kMaximum ? job.heads : std::min(job.heads, ceil_div(kBlocksAhead<kStatistic>, per_head));
    job.backwards = kStatistic == Statistic::kMaximum || job.lag == 1;  // longer than what lies between two passes
    return {job, per_head * job.heads};
}

/** Calls run(Pieces, Statistic) with what the request's kernel is made for. @returns what it returns */
template <class F> auto with_kernel(const TwoPassRequest& request, F run) {
    return with_pieces(request.padded, request.tensor.type, [&](auto pieces) {
        switch (request.statistic) {
            case Statistic::kMeans: return run(pieces, std::integral_constant<Statistic, Statistic::kMeans>());
            case Statistic::kChannelMaxima: return run(pieces, std::integral_constant<Statistic, Statistic::kChannelMaxima>());
            default: return run(pieces, std::integral_constant<Statistic, Statistic::kMaximum>());
        }
    });
}

/** Words and bytes of the workspace's parts. */
struct Workspace {
    size_t arrivals, maxima, cleared_bytes, sums_at, bytes;
    explicit Workspace(const TwoPassRequest& request) {
        const size_t heads = static_cast<size_t>(request.batch) * static_cast<size_t>(request.tensor.heads), padded = static_cast<size_t>(request.padded);
        const bool has_means = request.statistic == Statistic::kMeans, has_one = request.statistic == Statistic::kMaximum;
        arrivals = has_one ? 1 : has_means ? 2 * heads : heads;
        maxima = has_one ? 1 : has_means ? 0 : heads * padded;
        cleared_bytes = (arrivals + maxima) * sizeof(uint32_t);
        sums_at = (cleared_bytes + 15) / 16 * 16;
        bytes = sums_at + (has_means ? heads * static_cast<size_t>(ceil_div(request.tokens, kTileKeys)) * padded * sizeof(double) : 0);
    }
};

}  // namespace

size_t two_pass_bytes(const TwoPassRequest& request) { return Workspace(request).bytes; }

void place_two_pass(TwoPassRequest& request, uint8_t* memory) {
    const Workspace parts(request);
    request.cleared_bytes = parts.cleared_bytes;
    request.arrivals = reinterpret_cast<uint32_t*>(memory);
    request.maxima = request.arrivals + parts.arrivals;
    request.sums = reinterpret_cast<double*>(memory + parts.sums_at);
}

bool fits_two_pass(const TwoPassRequest& request) {
    return with_kernel(request, [&](auto pieces, auto statistic) { return plan<decltype(pieces), statistic()>(request).fits(); });
}

cudaError_t launch_two_pass(const TwoPassRequest& request, cudaStream_t stream) {
    if (request.cleared_bytes > 0)
        if (const cudaError_t status = cudaMemsetAsync(request.arrivals, 0, request.cleared_bytes, stream)) return status;
    return with_kernel(request, [&](auto pieces, auto statistic) {
        using P = decltype(pieces);
        const TwoPassPlan planned = plan<P, statistic()>(request);
        if (planned.blocks == 0) return cudaSuccess;
        if (!planned.fits()) return cudaErrorInvalidConfiguration;
        quantize_two_pass<P, statistic()><<<static_cast<unsigned>(planned.blocks), kThreads, 0, stream>>>(planned.job);
        return cudaGetLastError();
    });
}

}  // namespace intflash
