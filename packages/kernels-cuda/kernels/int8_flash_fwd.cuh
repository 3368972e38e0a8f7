// O = softmax(Q·Kᵀ·scale)·V on INT8 Q and K, with V as INT8 (full-int8, paper-int8, int4-qk) or float16 (half-int8).
// INT-FlashAttention, arXiv:2409.16997; the arithmetic, operation by operation: docs/arithmetic.md. Tensor cores by mma.sync: sm_80 and up.
// One story: the kernel reads from top to bottom.
//
// One warp owns 16 queries of one head and walks the keys in tiles of 128; the warps of a block share the tiles.
// Warps run independently: a tile's "full" barrier says that it has landed, its "empty" barrier that every warp has left it.
//   §1 traits                 §2 the rows a warp owns     §3 scores: S = Q·Kᵀ → x, in log2 units
//   §4 softmax: x → P         §5 values: O += P·V         §6 the kernel: pipeline, loop, epilogue      §7 launch
#pragma once
#include <cuda_runtime.h>

#include "forward_args.h"
#include "int8_flash_fwd.h"
#include "ptx/mma.cuh"
#include "ptx/shared_memory.cuh"
#include "ptx/tile_copy.cuh"
#include "tile_layout.h"

namespace intflash {

// ── §1 ──
/** kGeneral: softcap or a mask over scores. */
template <int kD_, bool kHalf_, bool kGeneral_> struct ForwardTraits {
    static constexpr int kD = kD_;
    static constexpr bool kHalf = kHalf_, kGeneral = kGeneral_;
    static constexpr int kMaxWarps = kD == 64 && !kGeneral ? 12 : 8;  // measured: docs/results/h200/log.md
    static constexpr int kTogether = 4;  // independent chains of products side by side, to hide their latency
    static constexpr int kScoreBlocks = kTileKeys / 8, kOutBlocks = kD / 8, kSteps = kD / 32;
    static constexpr bool kQueryInShared = kD <= 128;  // registers are taken; at D = 256 so is shared memory on sm_86 and sm_120
    static constexpr int kQueryBytes = kQueryInShared ? 16 * kD : 0;  // a warp's Q, as operand registers lie in its lanes
    static constexpr int kTileBytes = kTileKeys * kD * (kHalf ? 3 : 2) + 3 * kTileKeys * 4;
    static_assert(kD == 64 || kD == 128 || kD == 256, "tile_layout.h swizzles these row lengths");
    static_assert(127 * 127 * kD < (1 << 22), "scores stay exact beside the float bias kBias");
    static_assert(255 * 255 * kTileKeys < (1 << 23), "P·(V + 128) read as the bits of a subnormal float is that integer · 2^-149");
};

/** 1.5·2^23: an integer below 2^22 in magnitude, added to these bits, is the float kBias + integer. Saves the conversion. */
constexpr int kBiasBits = 0x4b400000;
constexpr float kBias = 12582912.f;
constexpr float kLargest = 3.40282347e38f;
constexpr float kExactOffset = 4096.f;  // up to here x + (level_bits - maximum) loses less than 2^-12
constexpr float kValueUnit = 0x1p100f, kValueOut = 0x1p49f;  // P·(V + 128) comes in units of 2^-149; so weighted, O is in units of 2^-49

// ── §2 ──
/** Which keys a query may attend: [first(row), end(row)). Worked out anew for each tile: registers are dearer than additions. */
struct Band {
    int left, right, keys;  // row + left is the first key, row + right one past the last, both cut to [0, keys]
    __device__ __forceinline__ int first(int row) const { return min(max(row + left, 0), keys); }
    __device__ __forceinline__ int end(int row) const { return min(max(row + right, 0), keys); }
};

/** Tiles [begin, end) that some row of a warp sees; of these, every row sees all of [clear_begin, clear_end). In shared memory, for registers are dear. */
struct alignas(16) TileRange {
    int32_t begin, clear_begin, clear_end, end;
};

/** What the loop asks for rarely. */
template <int kWarps> struct Plan {
    uint64_t full[kMaxStages], empty[kMaxStages];  // barriers
    TileRange ranges[kWarps];
    Band band;
    const uint8_t* tiles;  // of the head
};

/** Of the two rows a lane works on (r and r + 8): scales, running state. */
struct Rows {
    float scale[2];     // r[i] of docs/arithmetic.md, or sQ·scale for kGeneral
    float reference[2]; // O and sum are in units of 2^reference; follows the maximum, lazily unless paper-int8; -kLargest: no key yet, as no score is lower
    float sum[2];       // of this lane's columns
    float excess[2];    // what V's offset of 128 has added to every channel of O
};

// ── §3 ──
/** One k-step of Q's A operand. At D = 256 these are read anew every tile (from L1). */
__device__ __forceinline__ void load_query(uint32_t (&a)[4], const int8_t* row0, const int8_t* row1, int step) {
    const int8_t *p0 = row0 + step * 32, *p1 = row1 + step * 32;
    a[0] = load_word(p0);
    a[1] = load_word(p1);
    a[2] = load_word(p0 + 16);
    a[3] = load_word(p1 + 16);
}

/** `query`, `base`: this lane's address of Q's operands, of the rows that it names to ldmatrix. */
template <class T>
__device__ __forceinline__ void score_products(int (&s)[T::kScoreBlocks][4], uint32_t query, const int8_t* row0, const int8_t* row1, uint32_t base) {
#pragma unroll
    for (int pair = 0; pair < T::kSteps / 2; ++pair) {  // 64 channels: two k-steps from one ldmatrix
        uint32_t a0[4], a1[4];
        if constexpr (T::kQueryInShared) {
            load_shared_words(a0, query + 2 * pair * 512);
            load_shared_words(a1, query + (2 * pair + 1) * 512);
        } else {
            load_query(a0, row0, row1, 2 * pair);
            load_query(a1, row0, row1, 2 * pair + 1);
        }
        const uint32_t address = (base ^ ((pair & 1) * 64)) + (pair >> 1) * 128;
#pragma unroll
        for (int first = 0; first < T::kScoreBlocks; first += T::kTogether) {
            uint32_t b[T::kTogether][4];
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) ldmatrix_x4(b[j], address + (first + j) * 8 * T::kD);
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) {
                if (pair == 0) mma_s8_onto(s[first + j], a0, b[j][0], b[j][1], kBiasBits);
                else mma_s8(s[first + j], a0, b[j][0], b[j][1]);
            }
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) mma_s8(s[first + j], a1, b[j][2], b[j][3]);
        }
    }
}

/** softcap and mask, in natural units; a masked key becomes -infinity. */
template <class T>
__device__ __forceinline__ float general_score(float s, float k_scale, float row_scale, float tau, const ForwardArgs& args, int64_t mask_at, bool inside) {
    float natural = (s * k_scale) * row_scale;
    if (args.softcap > 0.f) natural = args.softcap * tanhf(natural / args.softcap);
    if (args.mask.data != nullptr && inside) {
        if (args.mask.is_float) {
            const float bias = __ldg(static_cast<const float*>(args.mask.data) + mask_at);
            if (bias == -INFINITY) return -INFINITY;
            natural += bias;
        } else if (__ldg(static_cast<const uint8_t*>(args.mask.data) + mask_at) == 0) {
            return -INFINITY;
        }
    }
    return fminf(fmaxf(fmaf(natural, 1.44269504f, tau), -kLargest), kLargest);  // a mask of -FLT_MAX is no exclusion
}

__device__ __forceinline__ constexpr float at(const float4& four, int i) { return i == 0 ? four.x : i == 1 ? four.y : i == 2 ? four.z : four.w; }

template <class T> __device__ __forceinline__ void float_maxima(float (&top)[2], const int (&s)[T::kScoreBlocks][4]) {
#pragma unroll
    for (int block = 0; block < T::kScoreBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) top[i >> 1] = block == 0 && (i & 1) == 0 ? __int_as_float(s[block][i]) : fmaxf(top[i >> 1], __int_as_float(s[block][i]));
}

/** Raw sums → x, in place (half-int8 without softcap and mask: x / scale[row]), and the rows' maxima of that over this lane's columns. `columns`: this lane's kScale; + 512 tau. */
template <class T>
__device__ __forceinline__ void scores_to_log2(int (&s)[T::kScoreBlocks][4], float (&top)[2], const Rows& rows, uint32_t columns, int first_key, int c, const Band& band,
                                               int first_row, const ForwardArgs& args, const int64_t (&mask_row)[2]) {
    int most[2];
#pragma unroll
    for (int group = 0; group < T::kScoreBlocks / 2; ++group) {  // 16 keys
        const float4 scale = load_shared_floats(columns + 64 * group);
        float4 tau = make_float4(0.f, 0.f, 0.f, 0.f);
        if constexpr (!T::kHalf) tau = load_shared_floats(columns + 512 + 64 * group);
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int row = i >> 1, column = half * 2 + (i & 1);
                int& score = s[2 * group + half][i];
                const float sum = __int_as_float(score) - kBias;
                float x;
                if constexpr (T::kGeneral) {
                    const int key = first_key + group * 16 + half * 8 + 2 * c + (i & 1);
                    const bool inside = key >= band.first(first_row + 8 * row) && key < band.end(first_row + 8 * row);
                    x = general_score<T>(sum, at(scale, column), rows.scale[row], at(tau, column), args, mask_row[row] + key * args.mask.key, inside);
                } else if constexpr (T::kHalf) {
                    x = sum * at(scale, column);
                } else {
                    x = fmaf(sum * at(scale, column), rows.scale[row], at(tau, column));
                }
                score = __float_as_int(x);
                const bool first = group == 0 && half == 0;
                if (i & 1) most[row] = first ? max(s[0][i - 1], score) : max(max(most[row], s[2 * group + half][i - 1]), score);
            }
    }
    // Float bits order as integers from +0 on. A row without a score above 0 is rare, and is gone over again.
    top[0] = __int_as_float(most[0]), top[1] = __int_as_float(most[1]);
    if (__any_sync(~0u, min(most[0], most[1]) < 0)) float_maxima<T>(top, s);
}

/** Scores that the band excludes become -infinity. */
template <class T> __device__ __forceinline__ void mask_scores(int (&s)[T::kScoreBlocks][4], float (&top)[2], const Band& band, int first_row, int first_key, int c) {
    const int from = first_key + 2 * c;
    const int lo[2] = {band.first(first_row) - from, band.first(first_row + 8) - from}, hi[2] = {band.end(first_row) - from, band.end(first_row + 8) - from};
#pragma unroll
    for (int block = 0; block < T::kScoreBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int key = 8 * block + (i & 1);
            if (key < lo[i >> 1] || key >= hi[i >> 1]) s[block][i] = __float_as_int(-INFINITY);
        }
    float_maxima<T>(top, s);
}

// ── §4 ──
/** Maximum over the four lanes that share a row. */
__device__ __forceinline__ float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
    return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}

__device__ __forceinline__ float quad_sum(float value) {
    value += __shfl_xor_sync(~0u, value, 1);
    return value + __shfl_xor_sync(~0u, value, 2);
}

/**
 * Raises the reference of rows whose maximum has outgrown it by 2^slack, scaling what was accumulated. Any reference gives the same
 * quotient O / sum; following lazily makes this rare.
 */
template <class T> __device__ __forceinline__ void follow_maximum(Rows& rows, float (&out)[T::kOutBlocks][4], const float (&top)[2], float slack) {
    if (!__any_sync(~0u, top[0] > rows.reference[0] + slack || top[1] > rows.reference[1] + slack)) return;
    float shrink[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        const float raised = fmaxf(rows.reference[row], top[row]);
        shrink[row] = exp2_fast(rows.reference[row] - raised);
        rows.reference[row] = raised;
        rows.sum[row] *= shrink[row];
        rows.excess[row] *= shrink[row];
    }
#pragma unroll
    for (int block = 0; block < T::kOutBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) out[block][i] *= shrink[i >> 1];
}

/**
 * p = 2^(s·factor + offset) = 2^(level_bits + x - base): one operation a score, or two where the base is so large that it would swallow
 * level_bits. The factor is 1 where s holds x.
 */
template <class T>
__device__ __forceinline__ void scores_to_exponents(int (&s)[T::kScoreBlocks][4], const float (&base)[2], float (&factor)[2], float (&offset)[2], float level_bits) {
    offset[0] = level_bits - base[0];
    offset[1] = level_bits - base[1];
    if (!__any_sync(~0u, fabsf(base[0]) > kExactOffset || fabsf(base[1]) > kExactOffset)) return;
#pragma unroll
    for (int block = 0; block < T::kScoreBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float x = __int_as_float(s[block][i]), from = base[i >> 1];
            // The product is rounded as the maximum's was: none comes out above it.
            s[block][i] = __float_as_int((T::kHalf && !T::kGeneral ? __fmul_rn(x, factor[i >> 1]) : x) - from);
        }
    factor[0] = factor[1] = 1.f;
    offset[0] = offset[1] = level_bits;
}

// ── §5 ──
/**
 * INT8 values: P as u8 codes; the integer product of the tile is scaled into O by 2^(tile's reference - O's). The products start from 128 · Σ codes,
 * as if V's codes were 128 larger: sums of what is not negative are below 2^23, and such bits, read as a float, are the number itself times 2^-149.
 */
template <class T>
__device__ __forceinline__ void absorb_int8(float (&out)[T::kOutBlocks][4], int (&s)[T::kScoreBlocks][4], Rows& rows, const float (&top)[2],
                                            uint32_t columns, uint32_t base, const ForwardArgs& args) {
    float beta[2], base_of[2], sum[2] = {0.f, 0.f};
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        const float against = args.running_max ? rows.reference[row] : top[row];
        beta[row] = exp2_fast(against - rows.reference[row]);
        base_of[row] = against == -INFINITY ? 0.f : against;
    }
    float offset[2], factor[2] = {1.f, 1.f};
    scores_to_exponents<T>(s, base_of, factor, offset, args.level_bits);
    uint32_t p[T::kScoreBlocks / 2][2];
#pragma unroll
    for (int group = 0; group < T::kScoreBlocks / 2; ++group) {
        const float4 inverse_weight = load_shared_floats(columns + 1024 + 64 * group);
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            float e[4];
#pragma unroll
            for (int column = 0; column < 4; ++column) {
                e[column] = exp2_fast(__int_as_float(s[2 * group + (column >> 1)][2 * row + (column & 1)]) + offset[row]);
                sum[row] = fmaf(e[column], at(inverse_weight, column), sum[row]);
            }
            p[group][row] = pack_u8(e[0], e[1], e[2], e[3]);
        }
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        rows.sum[row] = fmaf(sum[row], beta[row], rows.sum[row]);
        beta[row] *= kValueUnit;
    }
    // All signs are 0. Unless V's addresses depend on them, ptxas puts the sums off behind the products, and with them 64 exponentials.
    base += (__float_as_uint(rows.sum[0]) | __float_as_uint(rows.sum[1]) | __float_as_uint(beta[0]) | __float_as_uint(beta[1])) >> 31;
    int excess[4];  // 128 · Σ codes: of row r twice, of row r + 8 twice
#pragma unroll
    for (int step = 0; step < 4; ++step) {
        if (step == 0) mma_u8_u8_onto(excess, {p[0][0], p[0][1], p[1][0], p[1][1]}, 0x80808080u, 0x80808080u, 0);
        else mma_u8_u8(excess, {p[2 * step][0], p[2 * step][1], p[2 * step + 1][0], p[2 * step + 1][1]}, 0x80808080u, 0x80808080u);
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) rows.excess[row] = fmaf(__int_as_float(excess[2 * row]), beta[row], rows.excess[row]);
#pragma unroll
    for (int first = 0; first < T::kOutBlocks; first += T::kTogether) {
        int t[T::kTogether][4];
        uint32_t next = base;
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {  // 64 keys
            uint32_t b[T::kTogether][4];
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) ldmatrix_x4(b[j], (base ^ (pair * 64)) + (first + j) * 8 * kTileKeys);
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) {
                if (pair == 0) mma_u8_s8_from(t[j], {p[0][0], p[0][1], p[1][0], p[1][1]}, b[j][0], b[j][1], excess);
                else mma_u8_s8(t[j], {p[4][0], p[4][1], p[5][0], p[5][1]}, b[j][0], b[j][1]);
            }
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) mma_u8_s8(t[j], {p[4 * pair + 2][0], p[4 * pair + 2][1], p[4 * pair + 3][0], p[4 * pair + 3][1]}, b[j][2], b[j][3]);
            if (pair == 0) next += static_cast<uint32_t>(t[T::kTogether - 1][3]) >> 31;
        }
#pragma unroll
        for (int j = 0; j < T::kTogether; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) out[first + j][i] = fmaf(__int_as_float(t[j][i]), beta[i >> 1], out[first + j][i]);
        base = next;
    }
}

/**
 * float16 values: P as float16 in units of 2^(reference - level_bits), added to O in the tensor core. With level_bits = 7 and the
 * reference's slack of 2^8, P stays below 2^15 < 65504, and weights down to 2^-21 of the reference keep all 11 bits.
 */
template <class T>
__device__ __forceinline__ void absorb_half(float (&out)[T::kOutBlocks][4], int (&s)[T::kScoreBlocks][4], Rows& rows, uint32_t values, int lane,
                                            const ForwardArgs& args) {
    const float base_of[2] = {rows.reference[0], rows.reference[1]};
    float offset[2], factor[2] = {T::kGeneral ? 1.f : rows.scale[0], T::kGeneral ? 1.f : rows.scale[1]};
    scores_to_exponents<T>(s, base_of, factor, offset, args.level_bits);
    const int row_in_tile = (lane & 7) + ((lane >> 3) & 1) * 8;
    const uint32_t base = values + row_in_tile * 2 * T::kD;
    const int swizzle = lane & 7, chunk = lane >> 4;
#pragma unroll
    for (int group = 0; group < T::kScoreBlocks / 2; ++group) {
        float e[2][4];
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float x = __int_as_float(s[2 * group + half][i]);
                e[half][i] = exp2_fast(T::kGeneral ? x + offset[i >> 1] : fmaf(x, factor[i >> 1], offset[i >> 1]));
                rows.sum[i >> 1] += e[half][i];
            }
        const uint32_t a0 = pack_f16(e[0][0], e[0][1]), a1 = pack_f16(e[0][2], e[0][3]), a2 = pack_f16(e[1][0], e[1][1]), a3 = pack_f16(e[1][2], e[1][3]);
#pragma unroll
        for (int pair = 0; pair < T::kOutBlocks / 2; ++pair) {  // 16 channels
            uint32_t b[4];
            ldmatrix_x4_transposed(b, base + group * 32 * T::kD + (((2 * pair + chunk) ^ swizzle) << 4));
            mma_f16(out[2 * pair], {a0, a1, a2, a3}, b[0], b[1]);
            mma_f16(out[2 * pair + 1], {a0, a1, a2, a3}, b[2], b[3]);
        }
    }
}

// ── §6 ──
template <class T> __global__ void __launch_bounds__(T::kMaxWarps * 32, 1) int8_flash_fwd(const __grid_constant__ ForwardArgs args) {
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ __align__(16) Plan<T::kMaxWarps> plan;
    const auto uniform = [](int x) { return __shfl_sync(~0u, x, 0); };  // known to be one number a warp, and not worked out anew in every iteration
    const int lane = threadIdx.x & 31, warp = uniform(threadIdx.x >> 5), r = lane >> 2, c = lane & 3;
    const int block_rows = blockDim.x / 2, q_blocks = (args.max_q_len + block_rows - 1) / block_rows;
    // Neighbouring blocks work on one head, whose keys then stay in L2; with a causal mask the longest rows start first.
    const int from_end = static_cast<int>(blockIdx.x % q_blocks), head = static_cast<int>(blockIdx.x / q_blocks % args.heads);
    const int batch = static_cast<int>(blockIdx.x / (static_cast<unsigned>(q_blocks) * args.heads));
    const Sequence sequence = args.sequences[batch];
    const int block_row = (q_blocks - 1 - from_end) * block_rows;
    if (block_row >= sequence.q_len) return;

    const int64_t diagonal = args.bottom_right ? static_cast<int64_t>(sequence.k_len) - sequence.q_len : 0;
    constexpr int64_t kFar = int64_t{1} << 30;  // no sequence is longer, so nothing overflows
    const Band band{static_cast<int>(max(diagonal - args.window_left, -kFar)), static_cast<int>(min(diagonal + args.window_right + 1, kFar)), sequence.k_len};
    const int last_row = min(block_row + block_rows, sequence.q_len) - 1;
    const int tile_begin = uniform(band.first(block_row) / kTileKeys), tile_end = uniform((band.end(last_row) + kTileKeys - 1) / kTileKeys);
    const int kv_head = head / (args.heads / args.kv_heads), warp_row = block_row + warp * 16;

    if (lane == 0) {
        const int warp_last = min(warp_row + 15, last_row);
        TileRange own{0, 0, 0, 0};
        if (warp_row < sequence.q_len)
            own = {band.first(warp_row) / kTileKeys, (band.first(warp_last) + kTileKeys - 1) / kTileKeys, band.end(warp_row) / kTileKeys, (band.end(warp_last) + kTileKeys - 1) / kTileKeys};
        plan.ranges[warp] = own;
    }
    const uint32_t full = uniform(shared_address(plan.full)), stage_base = uniform(shared_address(shared));
    constexpr uint32_t kEmpty = 8 * kMaxStages;  // from full
    if (threadIdx.x == 0) {
        plan.band = band;
        plan.tiles = args.tiles + (sequence.tile_base + static_cast<int64_t>(kv_head) * sequence.tiles) * T::kTileBytes;
        for (int stage = 0; stage < args.stages; ++stage) {
            barrier_init(full + 8 * stage, copy_arrivals());
            barrier_init(full + kEmpty + 8 * stage, blockDim.x / 32);
        }
        publish_barriers();
    }
    __syncthreads();

    const auto copy = [&](int tile, int stage) { copy_tile(stage_base + stage * T::kTileBytes, plan.tiles + static_cast<int64_t>(tile) * T::kTileBytes, T::kTileBytes, full + 8 * stage); };
    // With 3 stages or more the copy trails by one more tile, so that this warp need not wait for the slowest of the others.
    const int ahead = args.stages >= 3 ? args.stages - 2 : args.stages - 1;
    if (copies())
        for (int i = 0; i < min(ahead, tile_end - tile_begin); ++i) copy(tile_begin + i, i);

    Rows rows;
    const int64_t row_base = sequence.q_row_base + static_cast<int64_t>(head) * sequence.q_len;
    const int8_t* query_row[2];
    int64_t mask_row[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        // Rows past the end repeat the last one; they are never stored.
        const int row = min(warp_row + r + 8 * i, sequence.q_len - 1);
        const float natural = args.q_scales[row_base + row] * args.scale;
        rows.scale[i] = T::kGeneral ? natural : fmaxf(natural * 1.44269504f, 1.4013e-45f);  // never 0: a masked score times it is to stay -infinity
        rows.reference[i] = -kLargest;
        rows.sum[i] = rows.excess[i] = 0.f;
        query_row[i] = args.q_codes + (row_base + row) * T::kD + 4 * c;
        if constexpr (T::kGeneral) mask_row[i] = batch * args.mask.batch + head * args.mask.head + row * args.mask.query;
    }
    const uint32_t query = stage_base + args.stages * T::kTileBytes + warp * T::kQueryBytes + lane * 16;
    if constexpr (T::kQueryInShared) {
#pragma unroll
        for (int step = 0; step < T::kSteps; ++step) {
            uint32_t a[4];
            load_query(a, query_row[0], query_row[1], step);
            store_shared_words(query + step * 512, a);  // read back by this lane alone
        }
    }

    float out[T::kOutBlocks][4];
#pragma unroll
    for (int block = 0; block < T::kOutBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) out[block][i] = 0.f;

    // Rows that this lane names to ldmatrix, from a tile's beginning and from its values'.
    const uint32_t key_at = (lane & 7) * T::kD + (((lane >> 3) ^ row_swizzle(lane & 7, T::kD)) << 4), value_at = (lane & 7) * kTileKeys + (((lane >> 3) ^ (lane & 7)) << 4);
    int stage = 0;
    uint32_t parity = 0;
#pragma unroll 1
    for (int tile = tile_begin; tile < tile_end; ++tile) {
        if (copies() && tile + ahead < tile_end) {
            const bool wraps = stage + ahead >= args.stages;
            const int next = stage + ahead - (wraps ? args.stages : 0);
            barrier_wait(full + kEmpty + 8 * next, parity ^ wraps ^ 1);  // a fresh barrier counts as having passed the phase before the first
            copy(tile + ahead, next);
        }
        const TileRange own = plan.ranges[warp];
        const uint32_t base = stage_base + stage * T::kTileBytes, values = base + kTileKeys * T::kD, columns = base + T::kTileBytes - 3 * kTileKeys * 4 + 16 * c;
        barrier_wait(full + 8 * stage, parity);
        if (__any_sync(~0u, tile >= own.begin && tile < own.end)) {  // some row sees some key
            int s[T::kScoreBlocks][4];
            score_products<T>(s, query, query_row[0], query_row[1], base + key_at);
            float top[2];
            scores_to_log2<T>(s, top, rows, columns, tile * kTileKeys, c, plan.band, warp_row + r, args, mask_row);
            if (__any_sync(~0u, tile < own.clear_begin || tile >= own.clear_end)) mask_scores<T>(s, top, plan.band, warp_row + r, tile * kTileKeys, c);
#pragma unroll
            for (int row = 0; row < 2; ++row) top[row] = quad_max(T::kHalf && !T::kGeneral ? top[row] * rows.scale[row] : top[row]);  // -infinity: no key
            follow_maximum<T>(rows, out, top, args.running_max ? 0.f : 8.f);
            if constexpr (T::kHalf) absorb_half<T>(out, s, rows, values, lane, args);
            else absorb_int8<T>(out, s, rows, top, columns, values + value_at, args);
        }
        __syncwarp();  // all lanes' reads are above
        if (lane == 0) barrier_arrive(full + kEmpty + 8 * stage);
        if (++stage == args.stages) stage = 0, parity ^= 1;
    }

    const float* channel = args.channel_scale + (static_cast<int64_t>(batch) * args.kv_heads + kv_head) * T::kD;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float sum = quad_sum(rows.sum[i]);
        const int row = warp_row + r + 8 * i;
        if (row >= sequence.q_len) continue;
        const float inverse = sum > 0.f ? 1.f / sum : 0.f;  // no visible key: zeros
        float* target = args.out + batch * args.out_strides.batch + head * args.out_strides.head + (sequence.q_start + row) * args.out_strides.token;
#pragma unroll
        for (int block = 0; block < T::kOutBlocks; ++block) {
            const int at = block * 8 + 2 * c;
            if (at >= args.head_dim_v) continue;
            const float2 factor = __ldg(reinterpret_cast<const float2*>(channel + at));
            const float unit = T::kHalf ? 1.f : kValueOut;
            *reinterpret_cast<float2*>(target + at) = make_float2((out[block][2 * i] - rows.excess[i]) * unit * (factor.x * inverse), (out[block][2 * i + 1] - rows.excess[i]) * unit * (factor.y * inverse));
        }
        if (args.lse != nullptr && c == 0) {
            float* lse = args.lse + batch * args.lse_strides.batch + head * args.lse_strides.head + (sequence.q_start + row) * args.lse_strides.token;
            *lse = sum > 0.f ? (rows.reference[i] - args.level_bits + log2f(sum)) * 0.693147181f : -INFINITY;
        }
    }
}

// ── §7 ──
template <int kD, bool kHalf, bool kGeneral> cudaError_t launch_traits(ForwardArgs args, const LaunchLimits& limits, cudaStream_t stream) {
    using T = ForwardTraits<kD, kHalf, kGeneral>;
    const int stages = min(kMaxStages, (limits.shared_bytes - T::kMaxWarps * T::kQueryBytes - static_cast<int>(sizeof(Plan<T::kMaxWarps>) + 127) / 128 * 128) / T::kTileBytes);
    if (stages < 1) return cudaErrorInvalidConfiguration;
    // Few warps a block when there are few rows: more blocks then, on more processors.
    int warps = T::kMaxWarps;
    const int64_t heads = static_cast<int64_t>(args.heads) * args.sequence_count;
    while (warps > 4 && (args.max_q_len <= (warps - 4) * 16 || heads * ((args.max_q_len + warps * 16 - 1) / (warps * 16)) < limits.processors)) warps -= 4;
    const int64_t blocks = heads * ((args.max_q_len + warps * 16 - 1) / (warps * 16));
    if (blocks == 0) return cudaSuccess;
    if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
    args.stages = stages;
    const int bytes = stages * T::kTileBytes + warps * T::kQueryBytes;
    if (const cudaError_t status = cudaFuncSetAttribute(int8_flash_fwd<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return status;
    int8_flash_fwd<T><<<static_cast<unsigned>(blocks), warps * 32, bytes, stream>>>(args);
    return cudaGetLastError();
}

template <int kD> cudaError_t launch_dim(const ForwardArgs& args, bool half_values, const LaunchLimits& limits, cudaStream_t stream) {
    const bool general = args.softcap > 0.f || args.mask.data != nullptr;
    if (half_values) return general ? launch_traits<kD, true, true>(args, limits, stream) : launch_traits<kD, true, false>(args, limits, stream);
    return general ? launch_traits<kD, false, true>(args, limits, stream) : launch_traits<kD, false, false>(args, limits, stream);
}

}  // namespace intflash
