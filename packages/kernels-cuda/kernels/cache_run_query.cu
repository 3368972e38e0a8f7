// See cache_attention.h. A block takes a run of 1,024 keys of one KV head and walks its tiles of 128: while one is computed the next is on
// its way into the other of two buffers, INT4 codes as they lie. What the tiles add up to stays in registers; the block that finishes last
// merges the runs. The bits are those of cache_short_query.cu, which has a block for each tile and merges them later, in the same order.
//   §1 shared memory, loads      §4 P·V and the running state
//   §2 scores                    §5 the merge
//   §3 scores to weights         §6 kernel and launch
#include <cuda_runtime.h>

#include "byte_transpose.cuh"
#include "cache_span.cuh"
#include "exact_math.cuh"
#include "ptx/copy_async.cuh"
#include "ptx/dot_bytes.cuh"

namespace intflash {
namespace {

// ── §1 ──
constexpr int kThreads = kCacheTile;  // a key each
constexpr int kWarps = kThreads / 32;
constexpr int kRunTiles = kCacheRun / kCacheTile;
constexpr uint32_t kNibbles = 0x0f0f0f0fu, kNibbleSigns = 0x88888888u;  // a nibble with its sign flipped is its code + 8
constexpr int kNibbleOffset = 8;

template <int kD, bool kInt4, int kRows> struct alignas(16) Shared {
    static constexpr int kRow = code_bytes(kD, kInt4), kStride = kRow + 16;  // an odd number of 16-byte chunks: rows of one chunk lie in different banks
    static constexpr int kParts = kThreads / (kD / 4);                       // keys of a tile are shared out to so many threads a column
    uint8_t keys[2][kCacheTile * kStride], values[2][kCacheTile * kStride];
    int32_t products[kParts][kRows * kD];
    uint32_t query[kRows * kD / 4];  // INT4: even codes of each eight in one word, odd ones in the next
    int query_sums[kRows];
    float weights[kRows][kCacheTile];
    uint8_t codes[kRows][kCacheTile];
    float inverses[kCacheTile];
    float maxima[kWarps][kRows];
    Rescale rescale[kRows];
    int code_sums[kRows];
    float factors[kRows];
    bool last;
};

/** What attention needs of a key besides its codes. */
struct KeyFacts {
    float scale, tau, inverse;
};

template <int kRow> __device__ __forceinline__ KeyFacts facts_of(const Span& s, int tile) {
    const int key = tile * kCacheTile + threadIdx.x;
    if (key >= s.length) return {0.f, 0.f, 0.f};
    uint8_t* image = s.cache.image(key / kPageTokens, blockIdx.y);
    return {key_scales(image, kRow)[key % kPageTokens], value_taus(image, kRow)[key % kPageTokens], value_inverses(image, kRow)[key % kPageTokens]};
}

/** A tile's keys, then its values, a group of copies each; zeros for a page that is not there. */
template <int kRow, int kStride> __device__ __forceinline__ void load_tile(const Span& s, int tile, uint8_t* keys, uint8_t* values) {
    constexpr int kChunks = kRow / 16, kPages = kCacheTile / kPageTokens, kRowsAtOnce = kThreads / kChunks;
    static_assert(kPageTokens % kRowsAtOnce == 0, "a step stays within a page");
    const int chunk = threadIdx.x % kChunks, first = threadIdx.x / kChunks;
    uint8_t* images[kPages];
    bool inside[kPages];
#pragma unroll
    for (int page = 0; page < kPages; ++page) {
        inside[page] = (tile * kPages + page) * kPageTokens < s.length;
        images[page] = s.cache.image(inside[page] ? tile * kPages + page : 0, blockIdx.y);
    }
#pragma unroll
    for (int part = 0; part < 2; ++part) {
#pragma unroll
        for (int page = 0; page < kPages; ++page) {
            const uint8_t* from = part == 0 ? key_row(images[page], first, kRow) : value_row(images[page], first, kRow);
            uint8_t* to = (part == 0 ? keys : values) + (page * kPageTokens + first) * kStride;
#pragma unroll
            for (int row = 0; row < kPageTokens; row += kRowsAtOnce)
                copy_async_16(shared_address_of(to + row * kStride + chunk * 16), from + row * kRow + chunk * 16, inside[page]);
        }
        commit_copies();
    }
}

template <class S, int kD, bool kInt4, int kRows> __device__ __forceinline__ void load_query(const CacheAttention& args, const Span& s, S& shared) {
    const auto* codes = reinterpret_cast<const uint32_t*>(args.query.codes + (s.query_row + s.first_row) * kD);
    for (int i = threadIdx.x; i < kRows * kD / 8; i += kThreads) {
        const bool there = i / (kD / 8) < s.row_count;
        const uint32_t a = there ? codes[2 * i] : 0, b = there ? codes[2 * i + 1] : 0;
        shared.query[2 * i] = kInt4 ? __byte_perm(a, b, 0x6420) : a;
        shared.query[2 * i + 1] = kInt4 ? __byte_perm(a, b, 0x7531) : b;
    }
    if constexpr (kInt4) {
        __syncthreads();
        if (threadIdx.x < kRows) {
            int sum = 0;
            for (int i = 0; i < kD / 4; ++i) sum = dot_u8_s8(0x01010101u, shared.query[threadIdx.x * (kD / 4) + i], sum);
            shared.query_sums[threadIdx.x] = sum;
        }
    }
}

// ── §2 ──
/** Σ q·k of this thread's key, for each row. */
template <class S, int kD, bool kInt4, int kRows> __device__ __forceinline__ void score_key(const S& shared, const uint8_t* keys, int (&scores)[kRows]) {
    const uint4* k = reinterpret_cast<const uint4*>(keys + threadIdx.x * S::kStride);
#pragma unroll
    for (int r = 0; r < kRows; ++r) scores[r] = kInt4 ? -kNibbleOffset * shared.query_sums[r] : 0;
#pragma unroll 4
    for (int c = 0; c < S::kRow / 16; ++c) {
        const uint4 codes = k[c];
        if constexpr (kInt4) {
            const uint32_t words[4] = {codes.x ^ kNibbleSigns, codes.y ^ kNibbleSigns, codes.z ^ kNibbleSigns, codes.w ^ kNibbleSigns};
#pragma unroll
            for (int w = 0; w < 4; w += 2)
#pragma unroll
                for (int r = 0; r < kRows; ++r) {
                    const uint4 q = *reinterpret_cast<const uint4*>(shared.query + r * (kD / 4) + (c * 4 + w) * 2);
                    scores[r] = dot_u8_s8(words[w] & kNibbles, q.x, scores[r]);
                    scores[r] = dot_u8_s8(words[w] >> 4 & kNibbles, q.y, scores[r]);
                    scores[r] = dot_u8_s8(words[w + 1] & kNibbles, q.z, scores[r]);
                    scores[r] = dot_u8_s8(words[w + 1] >> 4 & kNibbles, q.w, scores[r]);
                }
        } else {
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                const uint4 q = *reinterpret_cast<const uint4*>(shared.query + r * (kD / 4) + c * 4);
                scores[r] = dot_s8(codes.x, q.x, scores[r]);
                scores[r] = dot_s8(codes.y, q.y, scores[r]);
                scores[r] = dot_s8(codes.z, q.z, scores[r]);
                scores[r] = dot_s8(codes.w, q.w, scores[r]);
            }
        }
    }
}

// ── §3 ──
/** A row's facts that do not change with the tile. */
struct RowFacts {
    int begin, end;  // visible keys
    float factor;    // f32(f32(sQ · scale) · log2 e)
};

/** Weights and their codes into shared memory; `top`: the tile's maximum of each row, -Infinity where none of its keys is visible. */
template <class S, int kRows>
__device__ __forceinline__ void weigh_key(const CacheAttention& args, S& shared, const RowFacts (&rows)[kRows], float largest_query, const KeyFacts& key, int tile, const int (&scores)[kRows],
                                          float (&top)[kRows]) {
    const int at = tile * kCacheTile + threadIdx.x;
    shared.inverses[threadIdx.x] = key.inverse;
    float x[kRows];
    bool seen = false;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        const bool visible = at >= rows[r].begin && at < rows[r].end;
        seen |= visible;
        x[r] = visible ? __fmaf_rn(__fmul_rn(__int2float_rn(scores[r]), key.scale), rows[r].factor, key.tau) : -INFINITY;
        const float largest = warp_max(x[r]);
        if (threadIdx.x % 32 == 0) shared.maxima[threadIdx.x / 32][r] = largest;
    }
    if (seen && !(score_bound(args.head_dim, largest_query, key.scale, args.scale) <= 0x1p100f)) atomicOr(args.findings, kOverflow);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        top[r] = fmaxf(fmaxf(shared.maxima[0][r], shared.maxima[1][r]), fmaxf(shared.maxima[2][r], shared.maxima[3][r]));
        const float p = x[r] == -INFINITY ? 0.f : exp2_polynomial(__fsub_rn(x[r], top[r]));
        shared.weights[r][threadIdx.x] = p;
        shared.codes[r][threadIdx.x] = static_cast<uint8_t>(weight_code(p));
    }
}

// ── §4 ──
/** Maximum and row sum of a run so far; in thread 16 · r for row r. */
struct RunState {
    float m = -INFINITY, l = 0.f;
};

/** Adds the tile's row sums (16 lanes a row: key j into sum j mod 16 in order, folded 8, 4, 2, 1) to the run's, and says how to rescale. */
template <class S, bool kInt4, int kRows> __device__ __forceinline__ void absorb_rows(S& shared, const float (&top)[kRows], RunState& state) {
    const int r = threadIdx.x / 16, lane = threadIdx.x % 16;
    if (threadIdx.x / 32 * 2 >= kRows) return;  // whole warps: the shuffles below want all lanes
    float sum = 0.f;
#pragma unroll
    for (int block = 0; block < kCacheTile; block += 16) sum = __fmaf_rn(shared.weights[r][block + lane], shared.inverses[block + lane], sum);
#pragma unroll
    for (int step = 8; step > 0; step /= 2) sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, step));
    int codes = 0;
    if constexpr (kInt4) {
        const uint2 eight = *reinterpret_cast<const uint2*>(&shared.codes[r][lane * 8]);
        codes = static_cast<int>(__dp4a(eight.x, 0x01010101u, __dp4a(eight.y, 0x01010101u, 0u)));
#pragma unroll
        for (int step = 8; step > 0; step /= 2) codes += __shfl_xor_sync(~0u, codes, step);
    }
    if (lane != 0) return;
    float largest = top[0];
#pragma unroll
    for (int i = 1; i < kRows; ++i)
        if (i == r) largest = top[i];
    shared.rescale[r] = absorb(largest, sum, state.m, state.l);
    shared.code_sums[r] = codes;
}

/** Σ code · value of four channels and every so-manieth group of four keys, into shared.products. INT4: of value + 8. */
template <class S, int kD, bool kInt4, int kRows> __device__ __forceinline__ void multiply_values(S& shared, const uint8_t* values) {
    constexpr int kColumns = kD / 4;
    const int column = threadIdx.x % kColumns, part = threadIdx.x / kColumns;
    int sums[kRows][4] = {};
#pragma unroll 2
    for (int quad = part; quad < kCacheTile / 4; quad += S::kParts) {
        uint32_t w[4], channels[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint8_t* row = values + (quad * 4 + i) * S::kStride;
            if constexpr (kInt4) {
                const uint32_t packed = *reinterpret_cast<const uint16_t*>(row + column * 2) ^ (kNibbleSigns & 0xffffu);
                const uint32_t bytes = (packed | packed << 8) & 0x00ff00ffu;
                w[i] = (bytes | bytes << 4) & kNibbles;
            } else {
                w[i] = *reinterpret_cast<const uint32_t*>(row + column * 4);
            }
        }
        transpose_bytes(w, channels);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const uint32_t codes = *reinterpret_cast<const uint32_t*>(&shared.codes[r][quad * 4]);
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[r][i] = dot_u8_s8(codes, channels[i], sums[r][i]);
        }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) *reinterpret_cast<int4*>(&shared.products[part][r * kD + column * 4]) = make_int4(sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
}

/** Element e of a thread is row (thread + e · kThreads) / kD, channel (thread + e · kThreads) % kD. */
template <class S, int kD, bool kInt4, int kElements> __device__ __forceinline__ void accumulate(const S& shared, float (&out)[kElements]) {
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
        const int i = threadIdx.x + e * kThreads, r = i / kD;
        int sum = kInt4 ? -kNibbleOffset * shared.code_sums[r] : 0;
#pragma unroll
        for (int part = 0; part < S::kParts; ++part) sum += shared.products[part][i];
        out[e] = __fmaf_rn(__int2float_rn(sum), shared.rescale[r].beta, __fmul_rn(out[e], shared.rescale[r].alpha));
    }
}

// ── §5 ──
template <class S, int kD, int kElements> __device__ __forceinline__ void write_answer(const CacheAttention& args, const Span& s, const S& shared, const float (&total)[kElements]) {
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
        const int i = threadIdx.x + e * kThreads, r = i / kD, d = i % kD;
        if (r < s.row_count && d < args.head_dim) out_row(args, s, r)[d] = __fmul_rn(total[e], shared.factors[r]);
    }
}

__device__ __forceinline__ float final_factor(float m, float l) { return m == -INFINITY ? 0.f : __fdiv_rn(1.f / 255.f, l); }

/** By the block that finishes last: runs into the answer, in order. `base`: the place of row 0 of run 0. */
template <class S, int kD, int kElements>
__device__ void merge(const CacheAttention& args, const Span& s, S& shared, const ShortQueryScratch& scratch, int first_run, int runs, int64_t run_stride, int64_t base) {
    float total[kElements] = {};
    RunState state;  // of row threadIdx.x
    const auto* sums = reinterpret_cast<const float*>(scratch.sums);
    for (int run = first_run; run < runs; ++run) {
        __syncthreads();  // the last run's factors have been read
        if (static_cast<int>(threadIdx.x) < s.row_count) {
            const float* part = scratch.states + 2 * (base + run * run_stride + threadIdx.x);
            shared.rescale[threadIdx.x] = absorb(__ldcg(part), __ldcg(part + 1), state.m, state.l);
        }
        __syncthreads();
#pragma unroll
        for (int e = 0; e < kElements; ++e) {
            const int i = threadIdx.x + e * kThreads, r = i / kD;
            if (r >= s.row_count) continue;
            total[e] = __fmaf_rn(__ldcg(sums + (base + run * run_stride) * kD + i), shared.rescale[r].beta, __fmul_rn(total[e], shared.rescale[r].alpha));
        }
    }
    if (static_cast<int>(threadIdx.x) < s.row_count) shared.factors[threadIdx.x] = final_factor(state.m, state.l);
    __syncthreads();
    write_answer<S, kD>(args, s, shared, total);
}

// ── §6 ──
template <int kD, bool kInt4, int kRows>
__global__ void __launch_bounds__(kThreads) cache_run_query(const CacheAttention args, const ShortQueryScratch scratch, int most_rows) {
    using S = Shared<kD, kInt4, kRows>;
    constexpr int kElements = kRows * kD / kThreads;
    extern __shared__ __align__(16) uint8_t memory[];
    S& shared = *reinterpret_cast<S*>(memory);
    const Span s = span_of(args, kRows);
    const int run = blockIdx.x, first_run = s.first_tile / kRunTiles, runs = (s.tiles + kRunTiles - 1) / kRunTiles;
    if (s.tokens > kShortQuery || s.row_count <= 0 || run < first_run || run >= runs) return;
    const int from = max(run * kRunTiles, s.first_tile), to = min((run + 1) * kRunTiles, s.tiles);
    load_tile<S::kRow, S::kStride>(s, from, shared.keys[0], shared.values[0]);
    KeyFacts key = facts_of<S::kRow>(s, from);
    load_query<S, kD, kInt4, kRows>(args, s, shared);
    RowFacts rows[kRows];
    float largest_query = 0.f;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        const bool there = r < s.row_count;
        const int position = s.length - s.tokens + (s.first_row + r) / (args.heads / args.kv_heads);
        const float scale = there ? args.query.scales[s.query_row + s.first_row + r] : 0.f;
        largest_query = fmaxf(largest_query, scale);
        rows[r].begin = args.window_left < 0 ? 0 : static_cast<int>(max(int64_t{0}, position - args.window_left));
        rows[r].end = there ? position + 1 : 0;
        rows[r].factor = __fmul_rn(__fmul_rn(scale, args.scale), kLog2E);
    }
    float out[kElements] = {};
    RunState state;
    for (int tile = from; tile < to; ++tile) {
        const int buffer = (tile - from) % 2;
        KeyFacts next{};
        if (tile + 1 < to) {
            load_tile<S::kRow, S::kStride>(s, tile + 1, shared.keys[1 - buffer], shared.values[1 - buffer]);
            next = facts_of<S::kRow>(s, tile + 1);
        } else {
            commit_copies();
            commit_copies();
        }
        wait_for_copies<3>();
        __syncthreads();  // the keys are there for all; before the first tile, the query too
        int scores[kRows];
        score_key<S, kD, kInt4, kRows>(shared, shared.keys[buffer], scores);
        float top[kRows];
        weigh_key<S, kRows>(args, shared, rows, largest_query, key, tile, scores, top);
        wait_for_copies<2>();
        __syncthreads();  // values, weights and codes
        absorb_rows<S, kInt4, kRows>(shared, top, state);
        multiply_values<S, kD, kInt4, kRows>(shared, shared.values[buffer]);
        __syncthreads();  // products and factors; and nobody reads this buffer any more
        accumulate<S, kD, kInt4, kElements>(shared, out);
        key = next;
    }
    if (runs - first_run == 1) {  // merging with nothing changes no bit
        if (threadIdx.x % 16 == 0 && threadIdx.x / 16 < kRows) shared.factors[threadIdx.x / 16] = final_factor(state.m, state.l);
        __syncthreads();
        write_answer<S, kD>(args, s, shared, out);
        return;
    }
    const int64_t head = static_cast<int64_t>(s.sequence) * args.kv_heads + blockIdx.y;
    const int64_t base = head * gridDim.x * most_rows + s.first_row, place = base + static_cast<int64_t>(run) * most_rows;
    auto* sums = reinterpret_cast<float*>(scratch.sums);
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
        const int i = threadIdx.x + e * kThreads;
        if (i / kD < s.row_count) sums[place * kD + i] = out[e];
    }
    if (threadIdx.x % 16 == 0 && static_cast<int>(threadIdx.x / 16) < s.row_count) {
        scratch.states[2 * (place + threadIdx.x / 16)] = state.m;
        scratch.states[2 * (place + threadIdx.x / 16) + 1] = state.l;
    }
    __threadfence();  // this block's part is there for whoever sees its ticket
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t* ticket = scratch.tickets + head * (gridDim.z / args.step.count) + blockIdx.z / args.step.count;
        shared.last = atomicAdd(ticket, 1u) == static_cast<uint32_t>(runs - first_run - 1);
        if (shared.last) *ticket = 0;
    }
    __syncthreads();
    if (!shared.last) return;
    __threadfence();
    merge<S, kD, kElements>(args, s, shared, scratch, first_run, runs, most_rows, base);
}

/** Rows that a block takes: a part of four wastes nothing on groups of up to four. */
constexpr int part_rows(int rows) { return rows <= 4 ? 4 : 8; }

template <int kD, bool kInt4, int kRows> cudaError_t launch(const CacheAttention& args, const ShortQueryScratch& scratch, int tiles, int rows, cudaStream_t stream) {
    constexpr int kBytes = sizeof(Shared<kD, kInt4, kRows>);
    const cudaError_t status = cudaFuncSetAttribute(cache_run_query<kD, kInt4, kRows>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
    if (status != cudaSuccess) return status;
    const dim3 grid((tiles + kRunTiles - 1) / kRunTiles, args.kv_heads, (rows + kRows - 1) / kRows * args.step.count);
    if (grid.z > kMaxGridZ) return cudaErrorInvalidConfiguration;
    cache_run_query<kD, kInt4, kRows><<<grid, kThreads, kBytes, stream>>>(args, scratch, rows);
    return cudaGetLastError();
}

/** Calls f(kD, kInt4, kRows) as constants. */
template <class F> auto with_shape(int padded, bool int4, int rows, F f) {
    const auto with_rows = [&](auto dim, auto packed) {
        return part_rows(rows) == 4 ? f(dim, packed, std::integral_constant<int, 4>()) : f(dim, packed, std::integral_constant<int, 8>());
    };
    const auto with_packing = [&](auto dim) { return int4 ? with_rows(dim, std::true_type()) : with_rows(dim, std::false_type()); };
    switch (padded) {
        case 64: return with_packing(std::integral_constant<int, 64>());
        case 128: return with_packing(std::integral_constant<int, 128>());
        default: return with_packing(std::integral_constant<int, 256>());
    }
}

}  // namespace

bool run_query_fits(int padded, bool int4, int rows, int shared_bytes) {
    return with_shape(padded, int4, rows, [&](auto dim, auto packed, auto part) { return static_cast<int>(sizeof(Shared<dim.value, packed.value, part.value>)) <= shared_bytes; });
}

cudaError_t launch_run_query(const CacheAttention& args, const ShortQueryScratch& scratch, int tiles, int rows, cudaStream_t stream) {
    return with_shape(args.cache.padded, args.cache.int4, rows,
                      [&](auto dim, auto packed, auto part) { return launch<dim.value, packed.value, part.value>(args, scratch, tiles, rows, stream); });
}

}  // namespace intflash
