// O = softmax(Q·Kᵀ·scale)·V on INT8 Q and K, with V as INT8 (full-int8, paper-int8, int4-qk) or float16 (half-int8).
// INT-FlashAttention, arXiv:2409.16997; the arithmetic, operation by operation: docs/arithmetic.md. Tensor cores by mma.sync: sm_80 and up.
// One story: the kernel reads from top to bottom.
//
// One warp owns 16 queries of one head and walks the keys in tiles of 128; up to 8 warps of a block share the tiles.
// Warps run independently: a tile's "full" barrier says that it has landed, its "empty" barrier that every warp has left it.
//   §1 traits                 §2 the rows a warp owns     §3 scores: S = Q·Kᵀ → x, in log2 units
//   §4 softmax: x → P         §5 values: O += P·V         §6 the kernel: pipeline, loop, epilogue      §7 launch
#pragma once
#include <cuda_runtime.h>

#include "forward_args.h"
#include "int8_flash_fwd.h"
#include "ptx/mma.cuh"
#include "ptx/tile_copy.cuh"
#include "tile_layout.h"

namespace intflash {

// ── §1 ──
/** kGeneral: softcap or a mask over scores; without them the score needs two operations less. */
template <int kD_, bool kHalf_, bool kGeneral_> struct ForwardTraits {
    static constexpr int kD = kD_;
    static constexpr bool kHalf = kHalf_, kGeneral = kGeneral_;
    static constexpr int kMaxWarps = 8;  // 255 registers a thread: 12 warps of 168 ran 10% slower, as they spill
    static constexpr int kTogether = 4;  // independent chains of products side by side, to hide their latency
    static constexpr int kScoreBlocks = kTileKeys / 8, kOutBlocks = kD / 8, kSteps = kD / 32;
    static constexpr bool kQueryInShared = kD <= 128;  // registers are taken; at D = 256 so is shared memory on sm_86 and sm_120
    static constexpr int kQueryBytes = kQueryInShared ? 16 * kD : 0;  // a warp's Q, as operand registers lie in its lanes
    static constexpr int kTileBytes = kTileKeys * kD * (kHalf ? 3 : 2) + 3 * kTileKeys * 4;
    static_assert(kD == 64 || kD == 128 || kD == 256, "tile_layout.h swizzles these row lengths");
    static_assert(255 * 127 * kTileKeys < (1 << 22) && 127 * 127 * kD < (1 << 22), "sums stay exact beside the float bias kBias");
};

/** 1.5·2^23: an integer below 2^22 in magnitude, added to these bits, is the float kBias + integer. Saves the conversion. */
constexpr int kBiasBits = 0x4b400000;
constexpr float kBias = 12582912.f;
constexpr float kLargest = 3.40282347e38f;
constexpr float kExactOffset = 4096.f;  // up to here x + (level_bits - maximum) loses less than 2^-12

// ── §2 ──
/** Which keys a query may attend: [first(row), end(row)). Worked out anew for each tile: registers are dearer than additions. */
struct Band {
    int left, right, keys;  // row + left is the first key, row + right one past the last, both cut to [0, keys]
    __device__ __forceinline__ int first(int row) const { return min(max(row + left, 0), keys); }
    __device__ __forceinline__ int end(int row) const { return min(max(row + right, 0), keys); }
};

/** Of the two rows a lane works on (r and r + 8): scales, running state. */
struct Rows {
    float scale[2];     // r[i] of docs/arithmetic.md, or sQ·scale for kGeneral
    float reference[2]; // O and sum are in units of 2^reference; follows the maximum, lazily unless paper-int8; -infinity: no key yet
    float sum[2];       // of this lane's columns
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

template <class T>
__device__ __forceinline__ void score_products(int (&s)[T::kScoreBlocks][4], const uint4* query, const int8_t* row0, const int8_t* row1, uint32_t keys, int lane) {
    const int key = lane & 7;
    const uint32_t base = keys + key * T::kD + (((lane >> 3) ^ row_swizzle(key, T::kD)) << 4);
#pragma unroll
    for (int pair = 0; pair < T::kSteps / 2; ++pair) {  // 64 channels: two k-steps from one ldmatrix
        uint32_t a0[4], a1[4];
        if constexpr (T::kQueryInShared) {
            const uint4 q0 = query[2 * pair * 32 + lane], q1 = query[(2 * pair + 1) * 32 + lane];
            a0[0] = q0.x, a0[1] = q0.y, a0[2] = q0.z, a0[3] = q0.w;
            a1[0] = q1.x, a1[1] = q1.y, a1[2] = q1.z, a1[3] = q1.w;
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

/** Raw sums → x, in place. @returns the two rows' maxima over this lane's columns. */
template <class T, bool kMasked>
__device__ __forceinline__ float2 scores_to_log2(int (&s)[T::kScoreBlocks][4], const Rows& rows, const Band& band, int first_row, const float* scales, int first_key,
                                                 int c, const ForwardArgs& args, const int64_t (&mask_row)[2]) {
    float2 top = make_float2(-INFINITY, -INFINITY);
    const int lo[2] = {band.first(first_row), band.first(first_row + 8)}, hi[2] = {band.end(first_row), band.end(first_row + 8)};
#pragma unroll
    for (int group = 0; group < T::kScoreBlocks / 2; ++group) {  // 16 keys
        const float4 k_scale = reinterpret_cast<const float4*>(scales)[group * 4 + c];
        float4 tau = make_float4(0.f, 0.f, 0.f, 0.f);
        if constexpr (!T::kHalf) tau = reinterpret_cast<const float4*>(scales + kTileKeys)[group * 4 + c];
        const float ks[4] = {k_scale.x, k_scale.y, k_scale.z, k_scale.w}, ts[4] = {tau.x, tau.y, tau.z, tau.w};
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int row = i >> 1, column = half * 2 + (i & 1);
                const float sum = __int_as_float(s[2 * group + half][i]) - kBias;
                const int key = first_key + group * 16 + half * 8 + 2 * c + (i & 1);
                const bool visible = !kMasked || (key >= lo[row] && key < hi[row]);
                float x;
                if constexpr (T::kGeneral) x = general_score<T>(sum, ks[column], rows.scale[row], ts[column], args, mask_row[row] + key * args.mask.key, visible);
                else x = fmaf(sum * ks[column], rows.scale[row], ts[column]);
                if constexpr (kMasked) x = visible ? x : -INFINITY;
                s[2 * group + half][i] = __float_as_int(x);
                if (row == 0) top.x = fmaxf(top.x, x);
                else top.y = fmaxf(top.y, x);
            }
    }
    return top;
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
        shrink[row] = raised == rows.reference[row] ? 1.f : exp2_fast(rows.reference[row] - raised);  // -infinity stays until a key is seen
        rows.reference[row] = raised;
        rows.sum[row] *= shrink[row];
    }
#pragma unroll
    for (int block = 0; block < T::kOutBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) out[block][i] *= shrink[i >> 1];
}

/** p = 2^(x + offset) = 2^(level_bits + x - base), in one addition a score; in two where the base is so large that it would swallow level_bits. */
template <class T>
__device__ __forceinline__ void scores_to_exponents(int (&s)[T::kScoreBlocks][4], const float (&base)[2], float (&offset)[2], float level_bits) {
    offset[0] = level_bits - base[0];
    offset[1] = level_bits - base[1];
    if (!__any_sync(~0u, fabsf(base[0]) > kExactOffset || fabsf(base[1]) > kExactOffset)) return;
#pragma unroll
    for (int block = 0; block < T::kScoreBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) s[block][i] = __float_as_int(__int_as_float(s[block][i]) - base[i >> 1]);
    offset[0] = offset[1] = level_bits;
}

// ── §5 ──
/** INT8 values: P as u8 codes; the integer product of the tile is scaled into O by 2^(tile's reference - O's). */
template <class T>
__device__ __forceinline__ void absorb_int8(float (&out)[T::kOutBlocks][4], int (&s)[T::kScoreBlocks][4], Rows& rows, const float (&top)[2],
                                            const float* scales, uint32_t values, int lane, const ForwardArgs& args) {
    const int c = lane & 3;
    float beta[2], base_of[2], sum[2] = {0.f, 0.f};
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        const float against = args.running_max ? rows.reference[row] : top[row];
        const bool seen = against != -INFINITY;
        beta[row] = seen ? exp2_fast(against - rows.reference[row]) : 0.f;
        base_of[row] = seen ? against : 0.f;
    }
    float offset[2];
    scores_to_exponents<T>(s, base_of, offset, args.level_bits);
    uint32_t p[T::kScoreBlocks / 2][2];
#pragma unroll
    for (int group = 0; group < T::kScoreBlocks / 2; ++group) {
        const float4 inverse_weight = reinterpret_cast<const float4*>(scales + 2 * kTileKeys)[group * 4 + c];
        const float w[4] = {inverse_weight.x, inverse_weight.y, inverse_weight.z, inverse_weight.w};
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            float e[4];
#pragma unroll
            for (int column = 0; column < 4; ++column) {
                e[column] = exp2_fast(__int_as_float(s[2 * group + (column >> 1)][2 * row + (column & 1)]) + offset[row]);
                sum[row] = fmaf(e[column], w[column], sum[row]);
            }
            p[group][row] = pack_u8(e[0], e[1], e[2], e[3]);
        }
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) rows.sum[row] = fmaf(sum[row], beta[row], rows.sum[row]);

    const int channel = lane & 7;
    const uint32_t base = values + channel * kTileKeys + (((lane >> 3) ^ channel) << 4);
#pragma unroll
    for (int first = 0; first < T::kOutBlocks; first += T::kTogether) {
        int t[T::kTogether][4];
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {  // 64 keys
            uint32_t b[T::kTogether][4];
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) ldmatrix_x4(b[j], (base ^ (pair * 64)) + (first + j) * 8 * kTileKeys);
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) {
                if (pair == 0) mma_u8_s8_onto(t[j], p[0][0], p[0][1], p[1][0], p[1][1], b[j][0], b[j][1], kBiasBits);
                else mma_u8_s8(t[j], p[4][0], p[4][1], p[5][0], p[5][1], b[j][0], b[j][1]);
            }
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) mma_u8_s8(t[j], p[4 * pair + 2][0], p[4 * pair + 2][1], p[4 * pair + 3][0], p[4 * pair + 3][1], b[j][2], b[j][3]);
        }
#pragma unroll
        for (int j = 0; j < T::kTogether; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) out[first + j][i] = fmaf(__int_as_float(t[j][i]) - kBias, beta[i >> 1], out[first + j][i]);
    }
}

/**
 * float16 values: P as float16 in units of 2^(reference - level_bits), added to O in the tensor core. With level_bits = 7 and the
 * reference's slack of 2^8, P stays below 2^15 < 65504, and weights down to 2^-21 of the reference keep all 11 bits.
 */
template <class T>
__device__ __forceinline__ void absorb_half(float (&out)[T::kOutBlocks][4], int (&s)[T::kScoreBlocks][4], Rows& rows, uint32_t values, int lane,
                                            const ForwardArgs& args) {
    const float base_of[2] = {rows.reference[0] == -INFINITY ? 0.f : rows.reference[0], rows.reference[1] == -INFINITY ? 0.f : rows.reference[1]};
    float offset[2];
    scores_to_exponents<T>(s, base_of, offset, args.level_bits);
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
                e[half][i] = exp2_fast(__int_as_float(s[2 * group + half][i]) + offset[i >> 1]);
                rows.sum[i >> 1] += e[half][i];
            }
        const uint32_t a0 = pack_f16(e[0][0], e[0][1]), a1 = pack_f16(e[0][2], e[0][3]), a2 = pack_f16(e[1][0], e[1][1]), a3 = pack_f16(e[1][2], e[1][3]);
#pragma unroll
        for (int pair = 0; pair < T::kOutBlocks / 2; ++pair) {  // 16 channels
            uint32_t b[4];
            ldmatrix_x4_transposed(b, base + group * 32 * T::kD + (((2 * pair + chunk) ^ swizzle) << 4));
            mma_f16(out[2 * pair], a0, a1, a2, a3, b[0], b[1]);
            mma_f16(out[2 * pair + 1], a0, a1, a2, a3, b[2], b[3]);
        }
    }
}

// ── §6 ──
template <class T> __global__ void __launch_bounds__(T::kMaxWarps * 32, 1) int8_flash_fwd(const __grid_constant__ ForwardArgs args) {
    extern __shared__ __align__(1024) uint8_t shared[];
    __shared__ __align__(8) uint64_t barriers[2 * kMaxStages];
    const int lane = threadIdx.x & 31, warp = __shfl_sync(~0u, threadIdx.x >> 5, 0), r = lane >> 2, c = lane & 3;
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
    const int tile_begin = band.first(block_row) / kTileKeys, tile_end = (band.end(last_row) + kTileKeys - 1) / kTileKeys;

    const uint32_t full = shared_address(barriers), empty = full + 8 * kMaxStages, stage_base = shared_address(shared);
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < args.stages; ++stage) {
            barrier_init(full + 8 * stage, copy_arrivals());
            barrier_init(empty + 8 * stage, blockDim.x);
        }
        publish_barriers();
    }
    __syncthreads();

    const int kv_head = head / (args.heads / args.kv_heads);
    const uint8_t* tiles = args.tiles + (sequence.tile_base + static_cast<int64_t>(kv_head) * sequence.tiles) * T::kTileBytes;
    int copy_tile_index = tile_begin, copy_stage = 0;
    uint32_t copy_parity = 1;  // a fresh barrier counts as having passed the phase before the first
    const auto copy_next = [&] {
        if (copy_tile_index >= tile_end) return;
        if (copies()) {
            barrier_wait(empty + 8 * copy_stage, copy_parity);
            copy_tile(stage_base + copy_stage * T::kTileBytes, tiles + static_cast<int64_t>(copy_tile_index) * T::kTileBytes, T::kTileBytes, full + 8 * copy_stage);
        }
        ++copy_tile_index;
        if (++copy_stage == args.stages) copy_stage = 0, copy_parity ^= 1;
    };
    // With 3 stages or more the copy trails by one more tile, so that this warp need not wait for the slowest of the others.
    const int ahead = args.stages >= 3 ? args.stages - 2 : args.stages - 1;
    for (int i = 0; i < ahead; ++i) copy_next();

    const int warp_row = block_row + warp * 16, warp_last = min(warp_row + 15, last_row);
    Rows rows;
    const int64_t row_base = sequence.q_row_base + static_cast<int64_t>(head) * sequence.q_len;
    const int8_t* query_row[2];
    int64_t mask_row[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        // Rows past the end repeat the last one; they are never stored.
        const int row = min(warp_row + r + 8 * i, sequence.q_len - 1);
        const float natural = args.q_scales[row_base + row] * args.scale;
        rows.scale[i] = T::kGeneral ? natural : natural * 1.44269504f;
        rows.reference[i] = -INFINITY;
        rows.sum[i] = 0.f;
        query_row[i] = args.q_codes + (row_base + row) * T::kD + 4 * c;
        if constexpr (T::kGeneral) mask_row[i] = batch * args.mask.batch + head * args.mask.head + row * args.mask.query;
    }
    uint4* query = reinterpret_cast<uint4*>(shared + args.stages * T::kTileBytes + warp * T::kQueryBytes);
    if constexpr (T::kQueryInShared) {
#pragma unroll
        for (int step = 0; step < T::kSteps; ++step) {
            uint32_t a[4];
            load_query(a, query_row[0], query_row[1], step);
            query[step * 32 + lane] = make_uint4(a[0], a[1], a[2], a[3]);  // read back by this lane alone
        }
    }
    const bool has_rows = warp_row < sequence.q_len;
    const float slack = args.running_max ? 0.f : 8.f;

    float out[T::kOutBlocks][4];
#pragma unroll
    for (int block = 0; block < T::kOutBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) out[block][i] = 0.f;

    int stage = 0;
    uint32_t parity = 0;
#pragma unroll 1
    for (int tile = tile_begin; tile < tile_end; ++tile) {
        copy_next();
        const int first_key = tile * kTileKeys;
        barrier_wait(full + 8 * stage, parity);
        if (has_rows && first_key < band.end(warp_last) && first_key + kTileKeys > band.first(warp_row)) {  // some row sees some key
            const uint32_t base = stage_base + stage * T::kTileBytes;
            const float* scales = reinterpret_cast<const float*>(shared + stage * T::kTileBytes + T::kTileBytes - 3 * kTileKeys * 4);
            int s[T::kScoreBlocks][4];
            score_products<T>(s, query, query_row[0], query_row[1], base, lane);
            const bool unmasked = first_key >= band.first(warp_last) && first_key + kTileKeys <= band.end(warp_row);
            const float2 local = unmasked ? scores_to_log2<T, false>(s, rows, band, warp_row + r, scales, first_key, c, args, mask_row)
                                          : scores_to_log2<T, true>(s, rows, band, warp_row + r, scales, first_key, c, args, mask_row);
            const float top[2] = {quad_max(local.x), quad_max(local.y)};
            follow_maximum<T>(rows, out, top, slack);
            if constexpr (T::kHalf) absorb_half<T>(out, s, rows, base + kTileKeys * T::kD, lane, args);
            else absorb_int8<T>(out, s, rows, top, scales, base + kTileKeys * T::kD, lane, args);
        }
        barrier_arrive(empty + 8 * stage);  // every lane for itself: its own reads are above
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
            *reinterpret_cast<float2*>(target + at) = make_float2(out[block][2 * i] * (factor.x * inverse), out[block][2 * i + 1] * (factor.y * inverse));
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
    const int stages = min(kMaxStages, (limits.shared_bytes - T::kMaxWarps * T::kQueryBytes - 2 * kMaxStages * 8) / T::kTileBytes);
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

}  // namespace intflash
