// See cache_attention.h. A block owns 64 query rows of one KV head, a warp 16 of them, and walks the visible tiles of 128 keys in order, on
// tensor cores (mma.sync); a row's state stays in the registers of the four lanes that share it (ptx/mma.cuh). The next tile comes while one is
// worked on. Bound by the exact arithmetic between the products: some twenty instructions a score.
//   §1 shared memory and loads     §3 P·V
//   §2 scores to weights           §4 kernel and launch
#include <cuda_runtime.h>

#include "biased_sums.cuh"
#include "cache_attention.h"
#include "exact_math.cuh"
#include "int4_codes.cuh"
#include "ptx/copy_async.cuh"
#include "ptx/mma.cuh"
#include "shared_limit.h"
#include "warp_reductions.cuh"

namespace intflash {
namespace {

// ── §1 ──
constexpr int kWarps = 4, kThreads = kWarps * 32, kBlockRows = kWarps * 16;
constexpr int kScoreTiles = kCacheTile / 8;
static_assert(kThreads == kCacheTile, "a thread a key's facts");

template <int kD_, bool kInt4_, int kStages_> struct LongTile {
    static constexpr int kD = kD_, kStages = kStages_, kRow = code_bytes(kD_, kInt4_);
    static constexpr bool kInt4 = kInt4_;
    using Biased = BiasedSums<kInt4>;
    /** Blocks on a processor of Hopper, by registers and shared memory. */
    static constexpr int kBlocks = kD <= 64 ? 3 : kD <= 128 ? 2 : 1;

    struct alignas(128) Stage {
        uint8_t keys[kCacheTile * kRow], values[kCacheTile * kRow];
        float key_scales[kCacheTile], taus[kCacheTile], inverses[kCacheTile];
    };
    struct Shared {
        Stage stages[kStages];
        alignas(128) uint8_t queries[kBlockRows * kD];
    };

    static __device__ __forceinline__ constexpr int query_place(int row, int chunk) { return row * kD + (chunk ^ chunk_swizzle(row, kD)) * 16; }
};

/** Keys and values of two pages; zeros for a page that is not there. */
template <class T> __device__ __forceinline__ void fetch_codes(const CacheView& cache, int tile, int length, typename T::Stage& stage) {
    constexpr int kChunks = T::kRow / 16, kAtOnce = kThreads / kChunks;  // rows
    static_assert(kPageTokens % kAtOnce == 0 && kAtOnce % 8 == 0, "a thread's rows lie alike");
    const int row = threadIdx.x / kChunks, place = row * T::kRow + (threadIdx.x % kChunks ^ chunk_swizzle(row, T::kRow)) * 16;
#pragma unroll
    for (int i = 0; i < kCacheTile / kPageTokens; ++i) {
        const int page = tile * (kCacheTile / kPageTokens) + i;
        const bool inside = page * kPageTokens < length;
        const uint8_t* image = cache.image(inside ? page : 0, blockIdx.y) + threadIdx.x * 16;
        const uint32_t keys = shared_address_of(stage.keys + i * kPageTokens * T::kRow) + place, values = shared_address_of(stage.values + i * kPageTokens * T::kRow) + place;
#pragma unroll
        for (int n = 0; n < kPageTokens * T::kRow; n += kAtOnce * T::kRow) {
            copy_async<16>(keys + n, image + n, inside);
            copy_async<16>(values + n, image + kPageTokens * T::kRow + n, inside);
        }
    }
}

/** What attention needs of this thread's key of a tile besides codes; zeros where there is no key. */
template <class T> __device__ __forceinline__ void fetch_facts(const CacheView& cache, int tile, int length, typename T::Stage& stage) {
    const int key = tile * kCacheTile + threadIdx.x;
    const bool inside = key < length;
    uint8_t* image = cache.image(inside ? key / kPageTokens : 0, blockIdx.y);
    const float* from = key_scales(image, T::kRow) + key % kPageTokens;  // taus and inverses lie a page's tokens further on
    const uint32_t to = shared_address_of(stage.key_scales + threadIdx.x);
#pragma unroll
    for (int i = 0; i < 3; ++i) copy_async<4>(to + i * kCacheTile * 4, from + i * kPageTokens, inside);
}

/** One of the two query rows that a lane shares: of a product's four elements, 0 and 1 or 2 and 3. */
struct Row {
    float factor;  // f32(f32(sQ · scale) · log2 e)
    float m, l;
    int begin, end;  // visible keys
};

struct Visible {
    int begin, end;
};

/** The block's rows, and where they lie. */
struct BlockRows {
    int start, group, rows, warp_row;  // of the sequence's tokens, query heads a KV head, rows of all, the warp's first
    int64_t window_left;

    /** The lane's row in `half`. Rows past the last repeat it, and are not written. */
    __device__ __forceinline__ int row(int half) const { return min(warp_row + half * 8 + static_cast<int>(threadIdx.x % 32 / 4), rows - 1); }
    __device__ __forceinline__ Visible visible(int row) const {
        const int position = start + row / group;
        return {window_left < 0 ? 0 : static_cast<int>(max(int64_t{0}, position - window_left)), position + 1};
    }
};

/** Sixteen bytes of a query row, the chunk'th, to shared memory; of INT4, whose keys come apart so, the even codes of each 32 in the first of two chunks, the odd ones in the other. */
template <class T> __device__ __forceinline__ void place_query(const int8_t* row, int chunk, uint8_t* queries, int r) {
    if constexpr (T::kInt4) {
        const uint4* pair = reinterpret_cast<const uint4*>(row) + chunk / 2 * 2;
        const uint4 a = pair[0], b = pair[1];
        const uint32_t which = chunk % 2 == 0 ? 0x6420 : 0x7531;
        *reinterpret_cast<uint4*>(queries + T::query_place(r, chunk)) = make_uint4(__byte_perm(a.x, a.y, which), __byte_perm(a.z, a.w, which), __byte_perm(b.x, b.y, which), __byte_perm(b.z, b.w, which));
    } else {
        copy_async<16>(shared_address_of(queries + T::query_place(r, chunk)), row + chunk * 16);
    }
}

// ── §2 ──
template <class T> __device__ __forceinline__ void score_keys(const typename T::Shared& shared, const typename T::Stage& stage, int (&scores)[kScoreTiles][4]) {
    constexpr int kSteps = T::kInt4 ? 2 : 1;  // of 32 channels, that two chunks of a key hold
    const int lane = threadIdx.x % 32, row = lane / 16 * 8 + lane % 8, warp_row = threadIdx.x / 32 * 16 + lane % 16;
    const uint32_t keys = shared_address_of(stage.keys) + row * T::kRow, queries = shared_address_of(shared.queries) + warp_row * T::kD;
    const auto multiply = [&](bool is_first, int (&sums)[4], const uint32_t (&q)[4], uint32_t b0, uint32_t b1) {
        if (is_first) mma_s8_onto(sums, q, b0, b1, T::Biased::kBits);
        else mma_s8(sums, q, b0, b1);
    };
#pragma unroll
    for (int k = 0; k < T::kRow / 32; ++k) {
        uint32_t q[kSteps][4];  // rows 0-7 and 8-15 of bytes 0-15, then of bytes 16-31
#pragma unroll
        for (int i = 0; i < kSteps; ++i) ldmatrix_x4(q[i], queries + (((k * kSteps + i) * 2 + lane / 16) ^ chunk_swizzle(warp_row, T::kD)) * 16);
        const uint32_t at = keys + ((k * 2 + lane / 8 % 2) ^ chunk_swizzle(row, T::kRow)) * 16;
#pragma unroll
        for (int t = 0; t < kScoreTiles; t += 2) {
            uint32_t b[4];  // two chunks of eight keys, then of the next eight
            ldmatrix_x4(b, at + t * 8 * T::kRow);
#pragma unroll
            for (int next = 0; next < 2; ++next) {
                const uint32_t first = b[2 * next], second = b[2 * next + 1];
                if constexpr (T::kInt4) {
                    multiply(k == 0, scores[t + next], q[0], even_codes(first), odd_codes(first));
                    multiply(false, scores[t + next], q[1], even_codes(second), odd_codes(second));
                } else {
                    multiply(k == 0, scores[t + next], q[0], first, second);
                }
            }
        }
    }
}

/** Whether a visible score could reach 2^100. Asked only where the block's largest query scale and a key's say that one might. */
template <class T> __device__ __noinline__ bool goes_beyond(const CacheAttention& args, const typename T::Stage& stage, int first_key, const Visible& seen, float q_scale) {
    bool beyond = false;
    for (int j = threadIdx.x % 4; j < kCacheTile; j += 4)
        beyond |= first_key + j >= seen.begin && first_key + j < seen.end && !(score_bound(args.head_dim, q_scale, stage.key_scales[j], args.scale) <= 0x1p100f);
    return beyond;
}

/** Two keys' worth: codes 2c, 2c + 1 of eight keys for the row. */
__device__ __forceinline__ uint32_t join_codes(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x0040); }

/**
 * Codes of P as the first operand of P·V (a lane's own keys fill its places), row sums and maxima into the rows' state; `by`: how output and
 * product are rescaled. `kMasked`: of the tile's keys those in `seen` are visible, else all.
 */
template <class T, bool kMasked>
__device__ __forceinline__ void weigh_rows(const typename T::Stage& stage, int (&scores)[kScoreTiles][4], uint32_t (&p)[kCacheTile / 32][4], const Visible (&seen)[2], Row (&rows)[2],
                                           Rescale (&by)[2]) {
    const int first = threadIdx.x % 4 * 2;
    float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int t = 0; t < kScoreTiles; ++t) {
        const float2 key_scale = *reinterpret_cast<const float2*>(stage.key_scales + t * 8 + first), tau = *reinterpret_cast<const float2*>(stage.taus + t * 8 + first);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int half = e / 2, i = e % 2;
            float x = __fmaf_rn(__fmul_rn(T::Biased::value(scores[t][e]), i == 0 ? key_scale.x : key_scale.y), rows[half].factor, i == 0 ? tau.x : tau.y);
            if constexpr (kMasked) {
                const int key = t * 8 + first + i;
                if (key < seen[half].begin || key >= seen[half].end) x = -INFINITY;
            }
            scores[t][e] = __float_as_int(x);
            top[half] = fmaxf(top[half], x);
        }
    }
    top[0] = quad_max(top[0]);
    top[1] = quad_max(top[1]);
    float sums[2][4] = {};  // [row][keys first, first + 1, first + 8, first + 9 of every 16]
#pragma unroll
    for (int t = 0; t < kScoreTiles; t += 2) {
        uint32_t codes[2][2];  // [row][odd]
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            const float2 inverse = *reinterpret_cast<const float2*>(stage.inverses + (t + odd) * 8 + first);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                uint32_t bits[2];
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const float x = __int_as_float(scores[t + odd][half * 2 + i]);
                    float weight = exp2_polynomial(__fsub_rn(x, top[half]));
                    if constexpr (kMasked) weight = x == -INFINITY ? 0.f : weight;
                    sums[half][odd * 2 + i] = __fmaf_rn(weight, i == 0 ? inverse.x : inverse.y, sums[half][odd * 2 + i]);
                    bits[i] = weight_bits(weight);
                }
                codes[half][odd] = join_codes(bits[0], bits[1]);
            }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) p[t / 4][t / 2 % 2 * 2 + half] = __byte_perm(codes[half][0], codes[half][1], 0x5410);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        // a[l] + a[l + 8] lie in one lane, + 4 two lanes on, + 2 one lane on, + 1 in one lane.
        float low = __fadd_rn(sums[half][0], sums[half][2]), high = __fadd_rn(sums[half][1], sums[half][3]);
#pragma unroll
        for (int step = 2; step > 0; step /= 2) {
            low = __fadd_rn(low, __shfl_xor_sync(~0u, low, step));
            high = __fadd_rn(high, __shfl_xor_sync(~0u, high, step));
        }
        by[half] = absorb(top[half], __fadd_rn(low, high), rows[half].m, rows[half].l);
    }
}

// ── §3 ──
/**
 * Channels of a lane's sums, in accumulators of a product: number j of chunk g has, at element i, channel 16g + 4c + 2(i % 2) + j of row r or (i above 1) r + 8; in
 * INT4 32g + 8c + 4(i % 2) + j. A matrix of pairs of bytes, turned, gives a lane two bytes of its two keys; taken apart they are the second operand
 * of products of even and of odd bytes, and these of even and of odd codes.
 */
template <class T> struct Sums {
    static constexpr int kEach = T::kInt4 ? 4 : 2, kChunks = T::kRow / 16;
    float at[kChunks][kEach][4];
};

template <class T> __device__ __forceinline__ void accumulate_values(const typename T::Stage& stage, const uint32_t (&p)[kCacheTile / 32][4], const Rescale (&by)[2], Sums<T>& out) {
    constexpr int kEach = Sums<T>::kEach;
    const int lane = threadIdx.x % 32;
    const uint32_t values = shared_address_of(stage.values) + lane * T::kRow;
    if (__any_sync(~0u, by[0].alpha != 1.f || by[1].alpha != 1.f)) {
#pragma unroll
        for (int g = 0; g < Sums<T>::kChunks; ++g)
#pragma unroll
            for (int i = 0; i < kEach * 4; ++i) out.at[g][i / 4][i % 4] = __fmul_rn(out.at[g][i / 4][i % 4], by[i / 2 % 2].alpha);
    }
#pragma unroll
    for (int g = 0; g < Sums<T>::kChunks; ++g) {
        int sums[kEach][4];
#pragma unroll
        for (int k = 0; k < kCacheTile / 32; ++k) {
            uint32_t m[4];
            ldmatrix_x4_transposed(m, values + k * 32 * T::kRow + (g ^ chunk_swizzle(lane, T::kRow)) * 16);
            const auto multiply = [&](int (&sum)[4], uint32_t b0, uint32_t b1) {
                if (k == 0) mma_u8_s8_onto(sum, p[k], b0, b1, T::Biased::kBits);
                else mma_u8_s8(sum, p[k], b0, b1);
            };
#pragma unroll
            for (int odd = 0; odd < 2; ++odd) {
                const uint32_t which = odd == 0 ? 0x6420 : 0x7531, first = __byte_perm(m[0], m[1], which), second = __byte_perm(m[2], m[3], which);
                if constexpr (T::kInt4) {
                    multiply(sums[2 * odd], even_codes(first), even_codes(second));
                    multiply(sums[2 * odd + 1], odd_codes(first), odd_codes(second));
                } else {
                    multiply(sums[odd], first, second);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < kEach * 4; ++i) out.at[g][i / 4][i % 4] = __fmaf_rn(T::Biased::value(sums[i / 4][i % 4]), by[i / 2 % 2].beta, out.at[g][i / 4][i % 4]);
    }
}

template <class T, bool kMasked>
__device__ __forceinline__ void take_tile(const typename T::Shared& shared, const typename T::Stage& stage, int first_key, Row (&rows)[2], Sums<T>& out) {
    int scores[kScoreTiles][4];
    score_keys<T>(shared, stage, scores);
    uint32_t p[kCacheTile / 32][4];
    Rescale by[2];
    Visible seen[2] = {};
    if constexpr (kMasked) {
#pragma unroll
        for (int half = 0; half < 2; ++half) seen[half] = {rows[half].begin - first_key, rows[half].end - first_key};
    }
    weigh_rows<T, kMasked>(stage, scores, p, seen, rows, by);
    accumulate_values<T>(stage, p, by, out);
}

// ── §4 ──
template <class T> __global__ void __launch_bounds__(kThreads, T::kBlocks) cache_long_query(const CacheAttention args) {
    extern __shared__ __align__(128) uint8_t memory[];
    typename T::Shared& shared = *reinterpret_cast<typename T::Shared*>(memory);
    const StepSequence& sequence = args.step.sequences[blockIdx.z];
    const CacheView cache = view_of(sequence, args.cache);
    const int start = sequence.start, length = start + sequence.tokens, group = args.heads / args.kv_heads, rows = sequence.tokens * group;
    const int first_row = (gridDim.x - 1 - blockIdx.x) * kBlockRows;  // the last rows see most: they begin first
    if (sequence.tokens <= kShortQuery || first_row >= rows) return;
    const BlockRows block{start, group, rows, first_row + static_cast<int>(threadIdx.x / 32) * 16, args.window_left};
    const int64_t head_rows = static_cast<int64_t>(sequence.first) * args.heads + static_cast<int64_t>(blockIdx.y) * rows;
    const auto q_scale_of = [&](int half) { return args.query.scales[head_rows + block.row(half)]; };
    Row row[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const Visible seen = block.visible(block.row(half));
        row[half] = {__fmul_rn(__fmul_rn(q_scale_of(half), args.scale), kLog2E), -INFINITY, 0.f, seen.begin, seen.end};
    }
    constexpr int kQueryChunks = T::kD / 16;
    for (int item = threadIdx.x; item < kBlockRows * kQueryChunks; item += kThreads) {
        const int r = item / kQueryChunks;
        place_query<T>(args.query.codes + (head_rows + min(first_row + r, rows - 1)) * T::kD, item % kQueryChunks, shared.queries, r);
    }
    __shared__ float largest_scale;
    if (threadIdx.x < 32) {
        float largest = 0.f;
        for (int i = threadIdx.x; i < kBlockRows; i += 32) largest = fmaxf(largest, args.query.scales[head_rows + min(first_row + i, rows - 1)]);
        largest = __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(largest)));
        if (threadIdx.x == 0) largest_scale = largest;
    }
    __syncthreads();

    // What the warp's rows see: [first_seen, end_seen) some of them, [all_begin, all_end) all.
    const int end_seen = block.visible(min(block.warp_row + 15, rows - 1)).end, all_end = block.visible(min(block.warp_row, rows - 1)).end;
    const int all_begin = block.visible(min(block.warp_row + 15, rows - 1)).begin, first_seen = block.visible(min(block.warp_row, rows - 1)).begin;
    Sums<T> out = {};
    int tile = block.visible(first_row).begin / kCacheTile, stage = 0;
    const int last_tile = (block.visible(min(first_row + kBlockRows, rows) - 1).end - 1) / kCacheTile;
    const auto fetch = [&](int which, int into) {
        fetch_codes<T>(cache, which, length, shared.stages[into]);
        fetch_facts<T>(cache, which, length, shared.stages[into]);
        commit_copies();
    };
    fetch(tile, 0);
#pragma unroll 1
    for (; tile <= last_tile; ++tile) {
        wait_for_copies<0>();
        const typename T::Stage& now = shared.stages[stage];
        const int first_key = tile * kCacheTile;
        const bool is_suspicious = __syncthreads_or(!(score_bound(args.head_dim, largest_scale, now.key_scales[threadIdx.x], args.scale) <= 0x1p100f));
        if (T::kStages > 1 && tile < last_tile) fetch(tile + 1, stage ^ 1);
        if (is_suspicious)
            for (int half = 0; half < 2; ++half)
                if (goes_beyond<T>(args, now, first_key, {row[half].begin, row[half].end}, q_scale_of(half))) atomicOr(args.findings, kOverflow);
        if (first_key < end_seen && first_key + kCacheTile > first_seen) {
            if (first_key >= all_begin && first_key + kCacheTile <= all_end) take_tile<T, false>(shared, now, first_key, row, out);
            else take_tile<T, true>(shared, now, first_key, row, out);
        }
        if (tile == last_tile) break;
        if constexpr (T::kStages > 1) {
            stage ^= 1;
        } else {
            __syncthreads();
            fetch(tile + 1, 0);
        }
    }
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int i = block.warp_row + half * 8 + lane / 4;
        if (i >= rows) continue;
        const float factor = row[half].m == -INFINITY ? 0.f : __fdiv_rn(1.f / 255.f, row[half].l);
        float* target = args.out + (sequence.first + i / group) * args.out_stride + (blockIdx.y * group + i % group) * args.head_dim;
#pragma unroll
        for (int g = 0; g < Sums<T>::kChunks; ++g)
#pragma unroll
            for (int e = 0; e < 2 * Sums<T>::kEach; ++e) {
                const int column = e / Sums<T>::kEach, j = e % Sums<T>::kEach, d = (g * 4 + lane % 4) * 2 * Sums<T>::kEach + e;
                if (d < args.head_dim) target[d] = __fmul_rn(out.at[g][j][half * 2 + column], factor);
            }
    }
}

template <class T> cudaError_t launch(const CacheAttention& args, cudaStream_t stream) {
    constexpr int kBytes = sizeof(typename T::Shared);
    if (const cudaError_t status = cudaFuncSetAttribute(cache_long_query<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes)) return status;
    const int rows = args.step.most * (args.heads / args.kv_heads);
    cache_long_query<T><<<dim3((rows + kBlockRows - 1) / kBlockRows, args.kv_heads, args.step.count), kThreads, kBytes, stream>>>(args);
    return cudaGetLastError();
}

template <int kD, bool kInt4> cudaError_t launch_deepest(const CacheAttention& args, int shared_bytes, cudaStream_t stream) {
    using Two = LongTile<kD, kInt4, 2>;
    if (static_cast<int>(sizeof(typename Two::Shared)) <= shared_bytes) return launch<Two>(args, stream);
    if constexpr (kD == 256 && !kInt4) return launch<LongTile<kD, kInt4, 1>>(args, stream);
    return cudaErrorInvalidConfiguration;
}

}  // namespace

cudaError_t launch_long_query(const CacheAttention& args, cudaStream_t stream) {
    int shared_bytes = 0;
    if (const cudaError_t status = most_shared_bytes(shared_bytes)) return status;
    const bool int4 = args.cache.int4;
    switch (args.cache.padded) {
        case 64: return int4 ? launch_deepest<64, true>(args, shared_bytes, stream) : launch_deepest<64, false>(args, shared_bytes, stream);
        case 128: return int4 ? launch_deepest<128, true>(args, shared_bytes, stream) : launch_deepest<128, false>(args, shared_bytes, stream);
        default: return int4 ? launch_deepest<256, true>(args, shared_bytes, stream) : launch_deepest<256, false>(args, shared_bytes, stream);
    }
}

}  // namespace intflash
