// See cache_attention.h. A tile's exponentials are taken against the tile's own maximum, so tiles do not depend on each other: each has
// a block, and the one that finishes last merges them in order. Nothing depends on which one that is.
//   §1 shared memory          §4 row sums and P·V
//   §2 loads                  §5 the merge
//   §3 scores to weights      §6 kernel and launch
#include <cuda_runtime.h>

#include "byte_transpose.cuh"
#include "cache_span.cuh"
#include "exact_math.cuh"
#include "grid_limits.h"
#include "int4_codes.cuh"
#include "ptx/copy_async.cuh"
#include "ptx/dot_bytes.cuh"

namespace intflash {
namespace {

// ── §1 ──
constexpr int kThreads = kCacheTile;  // a key each
constexpr int kPartRows = 8;
constexpr int kRunTiles = kCacheRun / kCacheTile;

template <int kD> struct alignas(16) Shared {
    static constexpr int kStride = kD + 16;  // an odd number of 16-byte chunks: rows of one chunk lie in different banks
    uint8_t keys[kCacheTile * kStride], values[kCacheTile * kStride];
    int8_t query[kPartRows * kD];
    int32_t sums[kPartRows * kD];
    float weights[kPartRows][kCacheTile];
    uint8_t codes[kPartRows][kCacheTile];
    float inverses[kCacheTile];
    float maxima[kThreads / 32][kPartRows];
    Rescale rescale[kPartRows][kRunTiles];
    Rescale run[kPartRows];
    float final_factor[kPartRows];
    bool last;
};

// ── §2 ──
/** 128 rows of codes, two pages; zeros for a page that is not there. One group of copies, which for INT4 is empty. */
template <int kD, bool kInt4> __device__ __forceinline__ void load_rows(const Span& s, bool values, uint8_t* target) {
    const int tile = blockIdx.x;
    constexpr int kRow = code_bytes(kD, kInt4), kChunks = kRow / 16;
    for (int item = threadIdx.x; item < kCacheTile * kChunks; item += kThreads) {
        const int row = item / kChunks, chunk = item % kChunks, page = tile * (kCacheTile / kPageTokens) + row / kPageTokens;
        const bool inside = page * kPageTokens < s.length;
        uint8_t* image = s.cache.image(inside ? page : 0, blockIdx.y);
        const uint8_t* from = (values ? value_row(image, row % kPageTokens, kRow) : key_row(image, row % kPageTokens, kRow)) + chunk * 16;
        uint8_t* to = target + row * Shared<kD>::kStride + chunk * (kInt4 ? 32 : 16);
        if constexpr (kInt4) {
            const uint4 packed = inside ? *reinterpret_cast<const uint4*>(from) : uint4{};
            const uint2 a = unpack_int4(packed.x), b = unpack_int4(packed.y), c = unpack_int4(packed.z), d = unpack_int4(packed.w);
            reinterpret_cast<uint4*>(to)[0] = make_uint4(a.x, a.y, b.x, b.y);
            reinterpret_cast<uint4*>(to)[1] = make_uint4(c.x, c.y, d.x, d.y);
        } else {
            copy_async<16>(shared_address_of(to), from, inside);
        }
    }
    commit_copies();
}

// ── §3 ──
/** Scores of this thread's key, and what follows from them up to weights and codes. Maxima come back in `top`. */
template <int kD, bool kInt4> __device__ __forceinline__ void weigh_key(const CacheAttention& args, const Span& s, Shared<kD>& shared, float (&top)[kPartRows]) {
    const int key = blockIdx.x * kCacheTile + threadIdx.x, group = args.heads / args.kv_heads;
    float key_scale = 0.f, tau = 0.f, inverse = 0.f;
    if (key < s.length) {
        uint8_t* image = s.cache.image(key / kPageTokens, blockIdx.y);
        constexpr int kRow = code_bytes(kD, kInt4);
        key_scale = key_scales(image, kRow)[key % kPageTokens];
        tau = value_taus(image, kRow)[key % kPageTokens];
        inverse = value_inverses(image, kRow)[key % kPageTokens];
    }
    shared.inverses[threadIdx.x] = inverse;
    int scores[kPartRows] = {};
    const int4* k = reinterpret_cast<const int4*>(shared.keys + threadIdx.x * Shared<kD>::kStride);
#pragma unroll 4
    for (int c = 0; c < kD / 16; ++c) {
        const int4 codes = k[c];
#pragma unroll
        for (int r = 0; r < kPartRows; ++r) {
            const int4 q = *reinterpret_cast<const int4*>(shared.query + r * kD + c * 16);
            scores[r] = __dp4a(codes.x, q.x, scores[r]);
            scores[r] = __dp4a(codes.y, q.y, scores[r]);
            scores[r] = __dp4a(codes.z, q.z, scores[r]);
            scores[r] = __dp4a(codes.w, q.w, scores[r]);
        }
    }
    float x[kPartRows];
#pragma unroll
    for (int r = 0; r < kPartRows; ++r) {
        x[r] = -INFINITY;
        if (r < s.row_count) {
            const int row = s.first_row + r, position = s.length - s.tokens + row / group;
            const float q_scale = args.query.scales[s.query_row(args) + r];
            const bool visible = key <= position && (args.window_left < 0 || key >= position - args.window_left);
            if (visible) {
                x[r] = __fmaf_rn(__fmul_rn(__int2float_rn(scores[r]), key_scale), __fmul_rn(__fmul_rn(q_scale, args.scale), kLog2E), tau);
                if (!(score_bound(args.head_dim, q_scale, key_scale, args.scale) <= 0x1p100f)) atomicOr(args.findings, kOverflow);
            }
        }
        const float largest = warp_max(x[r]);
        if (threadIdx.x % 32 == 0) shared.maxima[threadIdx.x / 32][r] = largest;
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kPartRows; ++r) {
        top[r] = fmaxf(fmaxf(shared.maxima[0][r], shared.maxima[1][r]), fmaxf(shared.maxima[2][r], shared.maxima[3][r]));
        const float p = x[r] == -INFINITY ? 0.f : exp2_polynomial(__fsub_rn(x[r], top[r]));
        shared.weights[r][threadIdx.x] = p;
        shared.codes[r][threadIdx.x] = static_cast<uint8_t>(weight_code(p));
    }
    __syncthreads();
}

// ── §4 ──
/** L of each row: 16 lanes, key j into sum j mod 16 in order, folded 8, 4, 2, 1. */
template <int kD> __device__ __forceinline__ void store_states(const Span& s, const Shared<kD>& shared, const float (&top)[kPartRows], float* states) {
    static_assert(kPartRows * 16 == kThreads, "16 lanes a row");
    const int r = threadIdx.x / 16, lane = threadIdx.x % 16;
    float sum = 0.f;
#pragma unroll
    for (int block = 0; block < kCacheTile; block += 16) sum = __fmaf_rn(shared.weights[r][block + lane], shared.inverses[block + lane], sum);
#pragma unroll
    for (int step = 8; step > 0; step /= 2) sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, step));
    if (lane == 0 && r < s.row_count) {
        float largest = top[0];
#pragma unroll
        for (int i = 1; i < kPartRows; ++i)
            if (i == r) largest = top[i];
        states[2 * r] = largest;
        states[2 * r + 1] = sum;
    }
}

/** T[d] = Σ code · value, in shared.sums: a thread takes four channels and every so-manieth group of four keys. */
template <int kD> __device__ __forceinline__ void multiply_values(Shared<kD>& shared) {
    constexpr int kColumns = kD / 4, kParts = kThreads / kColumns;
    const int column = threadIdx.x % kColumns, part = threadIdx.x / kColumns;
    int sums[kPartRows][4] = {};
    for (int quad = part; quad < kCacheTile / 4; quad += kParts) {
        uint32_t w[4], channels[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) w[i] = *reinterpret_cast<const uint32_t*>(shared.values + (quad * 4 + i) * Shared<kD>::kStride + column * 4);
        transpose_bytes(w, channels);
#pragma unroll
        for (int r = 0; r < kPartRows; ++r) {
            const uint32_t codes = *reinterpret_cast<const uint32_t*>(&shared.codes[r][quad * 4]);
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[r][i] = dot_u8_s8(codes, channels[i], sums[r][i]);
        }
    }
#pragma unroll
    for (int r = 0; r < kPartRows; ++r)
#pragma unroll
        for (int i = 0; i < 4; ++i) atomicAdd(&shared.sums[r * kD + column * 4 + i], sums[r][i]);  // integers: the order does not show
}

// ── §5 ──
/** By the block that finishes last: tiles into runs, runs into the answer, each in order. */
template <int kD> __device__ void merge(const CacheAttention& args, const Span& s, Shared<kD>& shared, const ShortQueryScratch& scratch, int64_t tile_stride, int64_t base) {
    constexpr int kElements = kPartRows * kD / kThreads;  // of a thread: element e is row (thread + e · kThreads) / kD
    float total[kElements] = {};
    float m = -INFINITY, l = 0.f;  // of row threadIdx.x
    for (int run = s.first_tile / kRunTiles; run * kRunTiles < s.tiles; ++run) {
        const int from = max(run * kRunTiles, s.first_tile), to = min((run + 1) * kRunTiles, s.tiles);
        __syncthreads();  // the last run's factors have been read
        if (static_cast<int>(threadIdx.x) < s.row_count) {
            float run_m = -INFINITY, run_l = 0.f;
            for (int tile = from; tile < to; ++tile) {
                const float* state = scratch.states + 2 * (base + tile * tile_stride + threadIdx.x);
                shared.rescale[threadIdx.x][tile - from] = absorb(__ldcg(state), __ldcg(state + 1), run_m, run_l);
            }
            shared.run[threadIdx.x] = absorb(run_m, run_l, m, l);
        }
        __syncthreads();
#pragma unroll
        for (int e = 0; e < kElements; ++e) {
            const int r = (threadIdx.x + e * kThreads) / kD, d = (threadIdx.x + e * kThreads) % kD;
            if (r >= s.row_count) continue;
            float sum = 0.f;
            for (int tile = from; tile < to; ++tile) {
                const Rescale by = shared.rescale[r][tile - from];
                sum = __fmaf_rn(__int2float_rn(__ldcg(scratch.sums + (base + tile * tile_stride + r) * kD + d)), by.beta, __fmul_rn(sum, by.alpha));
            }
            total[e] = __fmaf_rn(sum, shared.run[r].beta, __fmul_rn(total[e], shared.run[r].alpha));
        }
    }
    if (static_cast<int>(threadIdx.x) < s.row_count) shared.final_factor[threadIdx.x] = m == -INFINITY ? 0.f : __fdiv_rn(1.f / 255.f, l);
    __syncthreads();
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
        const int r = (threadIdx.x + e * kThreads) / kD, d = (threadIdx.x + e * kThreads) % kD;
        if (r < s.row_count && d < args.head_dim) out_row(args, s, r)[d] = __fmul_rn(total[e], shared.final_factor[r]);
    }
}

// ── §6 ──
template <int kD, bool kInt4> __global__ void __launch_bounds__(kThreads) cache_short_query(const CacheAttention args, const ShortQueryScratch scratch, int most_rows) {
    extern __shared__ __align__(16) uint8_t memory[];
    Shared<kD>& shared = *reinterpret_cast<Shared<kD>*>(memory);
    const Span s = span_of(args, kPartRows);
    const int tile = blockIdx.x;
    if (s.tokens > kShortQuery || s.row_count <= 0 || tile < s.first_tile || tile >= s.tiles) return;
    load_rows<kD, kInt4>(s, false, shared.keys);
    load_rows<kD, kInt4>(s, true, shared.values);
    const int64_t first = s.query_row(args);
    for (int i = threadIdx.x; i < kPartRows * kD / 4; i += kThreads) {
        const bool there = i / (kD / 4) < s.row_count;
        reinterpret_cast<uint32_t*>(shared.query)[i] = there ? reinterpret_cast<const uint32_t*>(args.query.codes + first * kD)[i] : 0;
    }
    for (int i = threadIdx.x; i < kPartRows * kD; i += kThreads) shared.sums[i] = 0;
    wait_for_copies<1>();
    __syncthreads();
    float top[kPartRows];
    weigh_key<kD, kInt4>(args, s, shared, top);

    const int64_t head = static_cast<int64_t>(s.sequence) * args.kv_heads + blockIdx.y;
    const int64_t tile_stride = most_rows, base = head * gridDim.x * most_rows + s.first_row, place = base + tile * tile_stride;
    store_states<kD>(s, shared, top, scratch.states + 2 * place);
    wait_for_copies<0>();
    __syncthreads();
    multiply_values<kD>(shared);
    __syncthreads();
    for (int i = threadIdx.x; i < s.row_count * kD; i += kThreads) scratch.sums[place * kD + i] = shared.sums[i];

    __threadfence();  // this block's part is there for whoever sees its ticket
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t* tickets = scratch.tickets + head * (gridDim.z / args.step.count) + blockIdx.z / args.step.count;
        shared.last = atomicAdd(tickets, 1u) == static_cast<uint32_t>(s.tiles - s.first_tile - 1);
        if (shared.last) *tickets = 0;
    }
    __syncthreads();
    if (!shared.last) return;
    __threadfence();
    merge<kD>(args, s, shared, scratch, tile_stride, base);
}

template <int kD, bool kInt4> cudaError_t launch(const CacheAttention& args, const ShortQueryScratch& scratch, int tiles, int rows, cudaStream_t stream) {
    constexpr int kBytes = sizeof(Shared<kD>);
    if constexpr (kBytes > 48 * 1024) {
        const cudaError_t status = cudaFuncSetAttribute(cache_short_query<kD, kInt4>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
        if (status != cudaSuccess) return status;
    }
    const dim3 grid(tiles, args.kv_heads, short_query_parts(rows) * args.step.count);
    if (grid.z > kMaxGridZ) return cudaErrorInvalidConfiguration;
    cache_short_query<kD, kInt4><<<grid, kThreads, kBytes, stream>>>(args, scratch, rows);
    return cudaGetLastError();
}

}  // namespace

int short_query_parts(int rows) { return (rows + kPartRows - 1) / kPartRows; }

cudaError_t launch_short_query(const CacheAttention& args, const ShortQueryScratch& scratch, int tiles, int rows, cudaStream_t stream) {
    const bool int4 = args.cache.int4;
    switch (args.cache.padded) {
        case 64: return int4 ? launch<64, true>(args, scratch, tiles, rows, stream) : launch<64, false>(args, scratch, tiles, rows, stream);
        case 128: return int4 ? launch<128, true>(args, scratch, tiles, rows, stream) : launch<128, false>(args, scratch, tiles, rows, stream);
        default: return int4 ? launch<256, true>(args, scratch, tiles, rows, stream) : launch<256, false>(args, scratch, tiles, rows, stream);
    }
}

}  // namespace intflash
