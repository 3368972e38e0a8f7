// A tile of 128 keys in one warp of cache_run_query.cu: codes come through a ring of slots in shared memory that no other warp touches (cache_run_loads.cuh), and
// both products run on tensor cores (mma.sync). What comes out are the tile's T, maximum and row sum of docs/arithmetic.md, step 1 to 5.
//   §1 what a warp is told      §2 scores              §4 P·V
//                               §3 scores to weights   §5 the tile
#pragma once
#include "cache_run_loads.cuh"
#include "exact_math.cuh"
#include "int4_codes.cuh"
#include "ptx/grid_dependency.cuh"
#include "ptx/mma.cuh"

namespace intflash {

// ── §1 ──
/** What a warp is to do. */
struct TileTask {
    TileSource source, next;  // next: without keys where there is none
    bool whole;               // all rows see all keys
    bool early;               // the next launch may begin
    int begin, end;           // keys that some row sees
};

/** A query row as a lane sees it. */
struct TileRow {
    int begin, end;       // visible keys, counted from the tile's first
    float scale, factor;  // factor: f32(f32(sQ · scale) · log2 e)
};
constexpr int kLaneRows = 2;  // rows whose scores a lane has

/** Maximum and row sum. */
struct RowState {
    float m, l;
};

// ── §2 ──
// Keys are rows of the first operand, query rows columns of the second: a lane r · 4 + c gets the scores of keys r and r + 8 of each 16 with rows 2c
// and 2c + 1. With four rows, columns 4 to 7 hold them once more, and lanes with c above 1 take key r + 8, the others key r.
/** The first of a lane's rows. */
template <class S> __device__ __forceinline__ int row_of() { return threadIdx.x % 4 * kLaneRows % S::kRows; }
/** Of scores `score` and `score` + 1, one for each of the rows; `score` is even. */
template <class S> __device__ __forceinline__ int key_of(int score) {
    const int lane = threadIdx.x % 32;
    return S::kRows == 8 ? score / 2 * 8 + lane / 4 : score / 2 * 16 + lane % 4 / 2 * 8 + lane / 4;
}

/** The query as the second operand; in INT4 even codes of each eight, then odd ones. */
template <class S> __device__ __forceinline__ void load_query(const int8_t* row, uint32_t (&q)[S::kD / 32][2]) {
    const int c = threadIdx.x % 4;
#pragma unroll
    for (int k = 0; k < S::kD / 32; ++k) {
        if constexpr (S::kInt4) {
            const uint2 eight = *reinterpret_cast<const uint2*>(row + k * 32 + c * 8);
            q[k][0] = __byte_perm(eight.x, eight.y, 0x6420);
            q[k][1] = __byte_perm(eight.x, eight.y, 0x7531);
        } else {
            q[k][0] = *reinterpret_cast<const uint32_t*>(row + k * 32 + c * 4);
            q[k][1] = *reinterpret_cast<const uint32_t*>(row + k * 32 + 16 + c * 4);
        }
    }
}

/** The lane's place in the ring: a matrix is eight keys' chunk of one number, and two chunks of 16 keys come at once. */
template <class S> __device__ __forceinline__ uint32_t key_place(uint32_t ring) {
    const int row = threadIdx.x % 16, chunk = threadIdx.x % 32 / 16;
    return ring + row * S::kRow + (chunk ^ chunk_swizzle(row, S::kRow)) * 16;
}

/** Biased products of 16 keys with all rows; `at`: the lane's place among them. */
template <class S> __device__ __forceinline__ void multiply_keys(const uint32_t (&q)[S::kD / 32][2], uint32_t at, int offset, int (&sums)[4]) {
#pragma unroll
    for (int chunk = 0; chunk < S::kChunks; chunk += 2) {
        uint32_t m[4];  // of eight keys and eight more, then the same of the next chunk
        ldmatrix_x4(m, (at ^ (chunk * 16)) + offset);
        const auto multiply = [&](int k, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3) {
            if (k == 0) mma_s8_onto(sums, {a0, a1, a2, a3}, q[k][0], q[k][1], S::Biased::kBits);
            else mma_s8(sums, {a0, a1, a2, a3}, q[k][0], q[k][1]);
        };
        if constexpr (S::kInt4) {
            multiply(chunk, even_codes(m[0]), even_codes(m[1]), odd_codes(m[0]), odd_codes(m[1]));
            multiply(chunk + 1, even_codes(m[2]), even_codes(m[3]), odd_codes(m[2]), odd_codes(m[3]));
        } else {
            multiply(chunk / 2, m[0], m[1], m[2], m[3]);
        }
    }
}

/** x of the 32 keys of a step. */
template <class S>
__device__ __forceinline__ void score_slot(const uint32_t (&q)[S::kD / 32][2], uint32_t at, const float* facts, const TileRow (&rows)[kLaneRows], int step, float (&x)[S::kScores]) {
    const bool upper = S::kRows == 4 && threadIdx.x % 4 >= 2;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
        int sums[4];
        multiply_keys<S>(q, at, S::place_of(step) * S::kSlotBytes + part * 16 * S::kRow, sums);
#pragma unroll
        for (int half = 0; half < S::kRows / 4; ++half) {
            const int score = (step * 2 + part) * (S::kRows / 2) + half * 2, key = key_of<S>(score);
            const float key_scale = facts[key], tau = facts[kCacheTile + key];
#pragma unroll
            for (int i = 0; i < kLaneRows; ++i) {
                const float product = S::Biased::value(upper || half != 0 ? sums[2 + i] : sums[i]);
                x[score + i] = __fmaf_rn(__fmul_rn(product, key_scale), rows[i].factor, tau);
            }
        }
    }
}

/** Reports a key that some row sees and whose scale could make scores leave float32; a lane judges four. */
__device__ __forceinline__ void judge_scales(const CacheAttention& args, const float* facts, const TileRow (&rows)[kLaneRows], int begin, int end) {
    float query_scale = fmaxf(rows[0].scale, rows[1].scale);
#pragma unroll
    for (int step = 1; step < 4; step *= 2) query_scale = fmaxf(query_scale, __shfl_xor_sync(~0u, query_scale, step));
    const int key = threadIdx.x % 32 * 4;
    const float4 scales = *reinterpret_cast<const float4*>(facts + key);
    const float four[4] = {scales.x, scales.y, scales.z, scales.w};
    float key_scale = 0.f;
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (key + i >= begin && key + i < end) key_scale = fmaxf(key_scale, four[i]);
    if (!(score_bound(args.head_dim, query_scale, key_scale, args.scale) <= 0x1p100f)) atomicOr(args.findings, kOverflow);
}

// ── §3 ──
/** Puts `hidden` in place of what belongs to keys that the row does not see. */
template <class S> __device__ __forceinline__ void hide(const TileRow (&rows)[kLaneRows], float hidden, float (&x)[S::kScores]) {
#pragma unroll
    for (int i = 0; i < S::kScores; ++i) {
        const int key = key_of<S>(i & ~1);
        if (key < rows[i % 2].begin || key >= rows[i % 2].end) x[i] = hidden;
    }
}

/** Of two numbers a row's lanes have: one for each row, the first in lanes below 16, the second in the others. `join` them in the order of steps 16, 8, 4. */
template <class Join> __device__ __forceinline__ float join_rows(float first, float second, const Join& join) {
    const bool upper = threadIdx.x % 32 >= 16;
    float mine = join(upper ? second : first, __shfl_xor_sync(~0u, upper ? first : second, 16));
#pragma unroll
    for (int step = 8; step >= 4; step /= 2) mine = join(mine, __shfl_xor_sync(~0u, mine, step));
    return mine;
}

/** Scores to codes of weights, four a word in the order in which values come. kWhole: all rows see all keys. Lanes below 16 get the first row's state, the others the second's. */
template <class S, bool kWhole> __device__ __forceinline__ RowState weigh(const TileRow (&rows)[kLaneRows], const float* inverses, float (&x)[S::kScores], uint32_t (&codes)[S::kCodeWords]) {
    if constexpr (!kWhole) hide<S>(rows, -INFINITY, x);
    float top[kLaneRows] = {x[0], x[1]};
#pragma unroll
    for (int i = 2; i < S::kScores; ++i) top[i % 2] = fmaxf(top[i % 2], x[i]);
    float mine = join_rows(top[0], top[1], [](float a, float b) { return fmaxf(a, b); });
    if constexpr (S::kRows == 4) mine = fmaxf(mine, __shfl_xor_sync(~0u, mine, 2));
    const float other = __shfl_xor_sync(~0u, mine, 16);
    const bool upper = threadIdx.x % 32 >= 16;
    top[0] = upper ? other : mine;
    top[1] = upper ? mine : other;
#pragma unroll
    for (int i = 0; i < S::kScores; ++i) x[i] = exp2_polynomial(__fsub_rn(x[i], top[i % 2]));
    if constexpr (!kWhole) hide<S>(rows, 0.f, x);
    // Key j goes into sum j mod 16, in order: of the first row into sums[0] and, where a lane has both halves of each 16, sums[2].
    float sums[4] = {};
#pragma unroll
    for (int i = 0; i < S::kScores; i += 2) {
        const float inverse = inverses[key_of<S>(i)];
        float* sum = sums + (S::kRows == 8 ? i % 4 : 0);
        sum[0] = __fmaf_rn(x[i], inverse, sum[0]);
        sum[1] = __fmaf_rn(x[i + 1], inverse, sum[1]);
    }
    // A word's halves are the two rows', each of two keys; after the transposition a lane r · 4 + c has row r's of keys 2c and 2c + 1.
#pragma unroll
    for (int i = 0; i < S::kCodeWords; ++i) {
        const uint32_t a = __byte_perm(weight_bits(x[4 * i]), weight_bits(x[4 * i + 2]), 0x0040), b = __byte_perm(weight_bits(x[4 * i + 1]), weight_bits(x[4 * i + 3]), 0x0040);
        codes[i] = transpose_matrix(__byte_perm(a, b, 0x5410));
    }
    // a[l] + a[l + 8] lie in one lane (with four rows two lanes apart), + 4 16 lanes on, + 2 eight on, + 1 four on.
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) sums[i] = __fadd_rn(sums[i], S::kRows == 8 ? sums[2 + i] : __shfl_xor_sync(~0u, sums[i], 2));
    return {mine, join_rows(sums[0], sums[1], [](float a, float b) { return __fadd_rn(a, b); })};
}

// ── §4 ──
// Transposed: channels are rows of the first operand, which comes from ldmatrix with pairs of bytes turned; query rows are columns of the second.
// With four rows, columns 4 to 7 take the keys of the upper lanes, and tile_product adds up both halves.
/** The lane's place in the ring: row `lane` of a slot. */
template <class S> __device__ __forceinline__ uint32_t value_place(uint32_t ring) { return ring + threadIdx.x % 32 * S::kRow + chunk_swizzle(threadIdx.x % 32, S::kRow) * 16; }

template <class S> __device__ __forceinline__ void multiply_slot(uint32_t at, const uint32_t (&codes)[S::kCodeWords], int step, int (&sums)[S::kSums][4]) {
    const int group = step % kTileSlots;
    const bool upper = threadIdx.x % 32 >= 16;
    const uint32_t b0 = S::kRows == 8 ? codes[2 * group] : upper ? 0 : codes[group], b1 = S::kRows == 8 ? codes[2 * group + 1] : upper ? codes[group] : 0;
    const auto multiply = [&](int (&sum)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3) {
        if (group == 0) mma_s8_u8_onto(sum, {a0, a1, a2, a3}, b0, b1, S::Biased::kBits);
        else mma_s8_u8(sum, {a0, a1, a2, a3}, b0, b1);
    };
    constexpr int kSecond = S::kRows == 8 ? 1 : 2, kThird = 3 - kSecond;  // eights of keys that share an operand register: the first and kSecond
#pragma unroll
    for (int chunk = 0; chunk < S::kChunks; ++chunk) {
        uint32_t m[4];
        ldmatrix_x4_transposed(m, (at ^ (chunk * 16)) + S::place_of(step) * S::kSlotBytes);
        const uint32_t even = __byte_perm(m[0], m[kSecond], 0x6240), odd = __byte_perm(m[0], m[kSecond], 0x7351);
        const uint32_t next_even = __byte_perm(m[kThird], m[3], 0x6240), next_odd = __byte_perm(m[kThird], m[3], 0x7351);
        if constexpr (S::kInt4) {
            multiply(sums[2 * chunk], even_codes(even), odd_codes(even), even_codes(next_even), odd_codes(next_even));
            multiply(sums[2 * chunk + 1], even_codes(odd), odd_codes(odd), even_codes(next_odd), odd_codes(next_odd));
        } else {
            multiply(sums[chunk], even, odd, next_even, next_odd);
        }
    }
}

/** [8][kProductStride], biased. */
template <class S> __device__ __forceinline__ void store_products(uint8_t* warp_memory, const int (&sums)[S::kSums][4]) {
    int* const first = reinterpret_cast<int*>(warp_memory + S::kProductsAt) + threadIdx.x % 4 * 2 * S::kProductStride + threadIdx.x % 32 / 4 * (S::kInt4 ? 4 : 2);
#pragma unroll
    for (int chunk = 0; chunk < S::kChunks; ++chunk)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            int* to = first + i * S::kProductStride + chunk * (S::kInt4 ? 32 : 16);
            if constexpr (S::kInt4) *reinterpret_cast<int4*>(to) = make_int4(sums[2 * chunk][i], sums[2 * chunk][i + 2], sums[2 * chunk + 1][i], sums[2 * chunk + 1][i + 2]);
            else *reinterpret_cast<int2*>(to) = make_int2(sums[chunk][i], sums[chunk][i + 2]);
        }
}

/** kWidth numbers that are read or written at once. */
template <class T, int kWidth> struct alignas(sizeof(T) * kWidth) Pack {
    T at[kWidth];
};

/** T of channels `channel` on. */
template <class S, int kWidth> __device__ __forceinline__ Pack<float, kWidth> tile_product(const uint8_t* warp_memory, int row, int channel) {
    using Ints = Pack<int, kWidth>;
    const int* from = reinterpret_cast<const int*>(warp_memory + S::kProductsAt) + row * S::kProductStride + channel;
    const Ints low = *reinterpret_cast<const Ints*>(from), high = S::kRows == 4 ? *reinterpret_cast<const Ints*>(from + 4 * S::kProductStride) : Ints{};
    Pack<float, kWidth> product;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) product.at[i] = S::Biased::value(S::kRows == 4 ? low.at[i] + high.at[i] - S::Biased::kBits : low.at[i]);
    return product;
}

// ── §5 ──
/**
 * The rest, once the tile's first slots and facts are there or on their way: P·V into `sums`, maximum and row sum as `weigh` has them. In the end as
 * much of the next tile is on its way. The next launch may begin as soon as nearly all loads are under way.
 */
template <class S>
__device__ __forceinline__ RowState finish_tile(const CacheAttention& args, const TileTask& task, uint8_t* memory, const int8_t* query, const TileRow (&rows)[kLaneRows], const HeldSlot<S>& held, int (&sums)[S::kSums][4]) {
    const uint32_t ring = shared_address_of(memory), place = slot_place<S>(ring), keys = key_place<S>(ring), values = value_place<S>(ring);
    uint8_t* const own_facts = memory + S::kRingBytes;
    const float* facts = reinterpret_cast<const float*>(own_facts);
    const bool goes_on = S::kSeveral && task.next.keys > 0;
    const auto refill = [&](int step) {
        __syncwarp();  // all lanes have read the slot
        if (S::kHolds && step == S::kDepth - 1) held.place(task.source, place);
        else if (S::after(step) < kTileSteps) load_slot<S>(task.source, S::after(step), place);
        else if (goes_on) load_slot<S>(task.next, S::after(step) - kTileSteps, place);
        commit_copies();
    };
    constexpr int kBegins = S::kInt4 && S::kD == 64 ? -1 : kTileSlots - 2;  // after this step
    if (kBegins < 0 && task.early) launch_dependents();
    uint32_t q[S::kD / 32][2];
    load_query<S>(query, q);
    float x[S::kScores];
#pragma unroll
    for (int step = 0; step < kTileSlots; ++step) {
        wait_for_slot<S>(step);
        if (step == 0) judge_scales(args, facts, rows, task.begin, task.end);
        score_slot<S>(q, keys, facts, rows, step, x);
        refill(step);
        if (step == kBegins && task.early) launch_dependents();
    }
    KeyFacts next_facts;
    if (goes_on) next_facts = KeyFacts::of<S>(task.next);
    uint32_t codes[S::kCodeWords];
    const float* inverses = facts + 2 * kCacheTile;
    const RowState state = task.whole ? weigh<S, true>(rows, inverses, x, codes) : weigh<S, false>(rows, inverses, x, codes);
    if (goes_on) {
        __syncwarp();  // all lanes have read the facts
        next_facts.place(own_facts);
    }
#pragma unroll
    for (int step = kTileSlots; step < kTileSteps; ++step) {
        wait_for_slot<S>(step);
        multiply_slot<S>(values, codes, step, sums);
        refill(step);
    }
    return state;
}

}  // namespace intflash
