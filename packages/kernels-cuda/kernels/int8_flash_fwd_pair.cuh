// As int8_flash_fwd.cuh, with the work of 32 queries shared by two warps: each has half of a tile's keys for the scores and half of the
// channels for the values, so that what it loads from shared memory serves 32 rows. They tell each other the maxima and P. One story, with that file's sections.
#pragma once
#include <cstdlib>
#include <cstring>

#include "int8_flash_fwd.cuh"

namespace intflash {

// ── §1 ──
/** kVariant, bits: 1 takes the maximum over float bits as integers (three operands an instruction); 2 keeps Q in shared memory. */
template <int kD_, bool kHalf_, bool kGeneral_, int kVariant_ = 0> struct PairTraits {
    static constexpr int kD = kD_;
    static constexpr bool kHalf = kHalf_, kGeneral = kGeneral_;
    static constexpr bool kIntegerMax = kVariant_ & 1, kQueryInShared = kVariant_ & 2;
    static constexpr int kMaxPairs = 4, kRows = 32, kKeys = kTileKeys / 2, kChannels = kD / 2;
    static constexpr int kScoreBlocks = kKeys / 8, kOutBlocks = kChannels / 8, kSteps = kD / 32, kTogether = 4;
    static constexpr int kTileBytes = kTileKeys * kD * (kHalf ? 3 : 2) + 3 * kTileKeys * 4;
    static constexpr int kPieces = kHalf ? 8 : 4;  // 16 bytes of P a lane
    static constexpr int kQueryBytes = kQueryInShared ? 2 * kSteps * 32 * 16 : 0;
    static constexpr int kWarpBytes = kPieces * 32 * 16 + 32 * 4 + kQueryBytes;
};

struct PairRows {
    float scale[4], reference[4], sum[4];  // rows r, r + 8, r + 16, r + 24 of the pair; see Rows
};

/** What the warps of a pair tell each other. */
struct PairPlace {
    int side;        // 0 or 1: which half of the keys and of the channels
    uint32_t barrier;
    uint4* own;      // [pieces][lane] of P, then maxima [r][4]
    uint4* other;
};

__device__ __forceinline__ void pair_sync(const PairPlace& pair) { named_barrier_sync(pair.barrier, 64); }

/** The other warp's values of the same rows; every lane of a row knows its own. */
template <class T> __device__ __forceinline__ float4 exchange(const PairPlace& pair, const float (&mine)[4], int lane) {
    const int c = lane & 3;
    const float low = c & 1 ? mine[1] : mine[0], high = c & 1 ? mine[3] : mine[2];
    reinterpret_cast<float*>(pair.own + T::kPieces * 32)[lane] = c & 2 ? high : low;  // lane = 4r + c
    pair_sync(pair);
    return reinterpret_cast<const float4*>(pair.other + T::kPieces * 32)[lane >> 2];
}

// ── §3 ──
template <class T>
__device__ __forceinline__ void pair_products(int (&s)[2][T::kScoreBlocks][4], const uint32_t (&held)[2][T::kSteps][4], const uint4* stored, uint32_t keys, int lane) {
    const int key = lane & 7;
    const uint32_t base = keys + key * T::kD + (((lane >> 3) ^ row_swizzle(key, T::kD)) << 4);
#pragma unroll
    for (int pair = 0; pair < T::kSteps / 2; ++pair) {
        uint32_t query[2][2][4];
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
            for (int step = 0; step < 2; ++step) {
                if constexpr (T::kQueryInShared) {
                    const uint4 q = stored[(m * T::kSteps + 2 * pair + step) * 32 + lane];
                    query[m][step][0] = q.x, query[m][step][1] = q.y, query[m][step][2] = q.z, query[m][step][3] = q.w;
                } else {
#pragma unroll
                    for (int i = 0; i < 4; ++i) query[m][step][i] = held[m][2 * pair + step][i];
                }
            }
        const uint32_t address = (base ^ ((pair & 1) * 64)) + (pair >> 1) * 128;
#pragma unroll
        for (int first = 0; first < T::kScoreBlocks; first += T::kTogether) {
            uint32_t b[T::kTogether][4];
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) ldmatrix_x4(b[j], address + (first + j) * 8 * T::kD);
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j)
#pragma unroll
                for (int m = 0; m < 2; ++m) {
                    if (pair == 0) mma_s8_onto(s[m][first + j], query[m][0], b[j][0], b[j][1], kBiasBits);
                    else mma_s8(s[m][first + j], query[m][0], b[j][0], b[j][1]);
                }
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j)
#pragma unroll
                for (int m = 0; m < 2; ++m) mma_s8(s[m][first + j], query[m][1], b[j][2], b[j][3]);
        }
    }
}

template <class T, bool kMasked>
__device__ __forceinline__ void pair_scores(int (&s)[2][T::kScoreBlocks][4], float (&top)[4], const PairRows& rows, const Band& band, int first_row, const float* scales,
                                            int first_key, int c, const ForwardArgs& args, const int64_t (&mask_row)[4]) {
    int lo[4], hi[4], top_bits[4];
#pragma unroll
    for (int row = 0; row < 4; ++row) {
        top[row] = -INFINITY;
        top_bits[row] = INT32_MIN;
        if constexpr (kMasked) lo[row] = band.first(first_row + 8 * row), hi[row] = band.end(first_row + 8 * row);
    }
#pragma unroll
    for (int group = 0; group < T::kScoreBlocks / 2; ++group) {  // 16 keys
        const float4 k_scale = reinterpret_cast<const float4*>(scales)[group * 4 + c];
        float4 tau = make_float4(0.f, 0.f, 0.f, 0.f);
        if constexpr (!T::kHalf) tau = reinterpret_cast<const float4*>(scales + kTileKeys)[group * 4 + c];
        const float ks[4] = {k_scale.x, k_scale.y, k_scale.z, k_scale.w}, ts[4] = {tau.x, tau.y, tau.z, tau.w};
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int row = 2 * m + (i >> 1), column = half * 2 + (i & 1);
                    int& score = s[m][2 * group + half][i];
                    const float sum = __int_as_float(score) - kBias;
                    const int key = first_key + group * 16 + half * 8 + 2 * c + (i & 1);
                    bool visible = true;
                    if constexpr (kMasked) visible = key >= lo[row] && key < hi[row];
                    float x;
                    if constexpr (T::kGeneral) x = general_score<ForwardTraits<T::kD, T::kHalf, true>>(sum, ks[column], rows.scale[row], ts[column], args, mask_row[row] + key * args.mask.key, visible);
                    else x = fmaf(sum * ks[column], rows.scale[row], ts[column]);
                    if constexpr (kMasked) x = visible ? x : -INFINITY;
                    score = __float_as_int(x);
                    if constexpr (!T::kIntegerMax) top[row] = fmaxf(top[row], x);
                    else if (i & 1) top_bits[row] = max(max(top_bits[row], s[m][2 * group + half][i - 1]), score);
                }
    }
    if constexpr (T::kIntegerMax) {
        // Float bits order as integers from +0 on. A row without a score above 0 is rare, and is gone over again.
        if (__any_sync(~0u, min(min(top_bits[0], top_bits[1]), min(top_bits[2], top_bits[3])) < 0)) {
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
                for (int block = 0; block < T::kScoreBlocks; ++block)
#pragma unroll
                    for (int i = 0; i < 4; ++i) top[2 * m + (i >> 1)] = fmaxf(top[2 * m + (i >> 1)], __int_as_float(s[m][block][i]));
        } else {
#pragma unroll
            for (int row = 0; row < 4; ++row) top[row] = __int_as_float(top_bits[row]);
        }
    }
}

// ── §4 ──
template <class T> __device__ __forceinline__ void pair_follow(PairRows& rows, float (&out)[2][T::kOutBlocks][4], const float (&top)[4], float slack) {
    bool outgrown = false;
#pragma unroll
    for (int row = 0; row < 4; ++row) outgrown |= top[row] > rows.reference[row] + slack;
    if (!__any_sync(~0u, outgrown)) return;
    float shrink[4];
#pragma unroll
    for (int row = 0; row < 4; ++row) {
        const float raised = fmaxf(rows.reference[row], top[row]);
        shrink[row] = raised == rows.reference[row] ? 1.f : exp2_fast(rows.reference[row] - raised);
        rows.reference[row] = raised;
        rows.sum[row] *= shrink[row];
    }
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int block = 0; block < T::kOutBlocks; ++block)
#pragma unroll
            for (int i = 0; i < 4; ++i) out[m][block][i] *= shrink[2 * m + (i >> 1)];
}

template <class T> __device__ __forceinline__ void pair_offsets(int (&s)[2][T::kScoreBlocks][4], const float (&base)[4], float (&offset)[4], float level_bits) {
    bool far = false;
#pragma unroll
    for (int row = 0; row < 4; ++row) {
        offset[row] = level_bits - base[row];
        far |= fabsf(base[row]) > kExactOffset;
    }
    if (!__any_sync(~0u, far)) return;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int block = 0; block < T::kScoreBlocks; ++block)
#pragma unroll
            for (int i = 0; i < 4; ++i) s[m][block][i] = __float_as_int(__int_as_float(s[m][block][i]) - base[2 * m + (i >> 1)]);
#pragma unroll
    for (int row = 0; row < 4; ++row) offset[row] = level_bits;
}

// ── §5 ──
template <class T>
__device__ __forceinline__ void pair_absorb_int8(float (&out)[2][T::kOutBlocks][4], int (&s)[2][T::kScoreBlocks][4], PairRows& rows, const float (&top)[4],
                                                 const float* scales, uint32_t values, const PairPlace& pair, int lane, const ForwardArgs& args) {
    const int c = lane & 3;
    float beta[4], base_of[4], offset[4], sum[4] = {};
#pragma unroll
    for (int row = 0; row < 4; ++row) {
        const float against = args.running_max ? rows.reference[row] : top[row];
        const bool seen = against != -INFINITY;
        beta[row] = seen ? exp2_fast(against - rows.reference[row]) : 0.f;
        base_of[row] = seen ? against : 0.f;
    }
    pair_offsets<T>(s, base_of, offset, args.level_bits);
    uint32_t p[2][2][4];  // [16 rows][32 keys]: an A operand
#pragma unroll
    for (int group = 0; group < T::kScoreBlocks / 2; ++group) {
        const float4 inverse_weight = reinterpret_cast<const float4*>(scales + 2 * kTileKeys)[group * 4 + c];
        const float w[4] = {inverse_weight.x, inverse_weight.y, inverse_weight.z, inverse_weight.w};
#pragma unroll
        for (int row = 0; row < 4; ++row) {
            float e[4];
#pragma unroll
            for (int column = 0; column < 4; ++column) {
                e[column] = exp2_fast(__int_as_float(s[row >> 1][2 * group + (column >> 1)][2 * (row & 1) + (column & 1)]) + offset[row]);
                sum[row] = fmaf(e[column], w[column], sum[row]);
            }
            p[row >> 1][group >> 1][2 * (group & 1) + (row & 1)] = pack_u8(e[0], e[1], e[2], e[3]);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) pair.own[i * 32 + lane] = make_uint4(p[i >> 1][i & 1][0], p[i >> 1][i & 1][1], p[i >> 1][i & 1][2], p[i >> 1][i & 1][3]);
#pragma unroll
    for (int row = 0; row < 4; ++row) rows.sum[row] = fmaf(sum[row], beta[row], rows.sum[row]);

    const int channel = lane & 7;
    const uint32_t base = values + (pair.side * T::kChannels + channel) * kTileKeys + (((4 * pair.side + (lane >> 3)) ^ channel) << 4);
    int t[2][T::kOutBlocks][4];
#pragma unroll
    for (int whose = 0; whose < 2; ++whose) {  // this warp's keys, then, once they have come, the other's
        if (whose == 1) {
            pair_sync(pair);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const uint4 a = pair.other[i * 32 + lane];
                p[i >> 1][i & 1][0] = a.x, p[i >> 1][i & 1][1] = a.y, p[i >> 1][i & 1][2] = a.z, p[i >> 1][i & 1][3] = a.w;
            }
        }
#pragma unroll
        for (int first = 0; first < T::kOutBlocks; first += T::kTogether) {
            uint32_t b[T::kTogether][4];
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) ldmatrix_x4(b[j], (base ^ (whose * 64)) + (first + j) * 8 * kTileKeys);
#pragma unroll
            for (int step = 0; step < 2; ++step)
#pragma unroll
                for (int j = 0; j < T::kTogether; ++j)
#pragma unroll
                    for (int m = 0; m < 2; ++m) {
                        const auto& a = p[m][step];
                        if (whose == 0 && step == 0) mma_u8_s8_onto(t[m][first + j], a[0], a[1], a[2], a[3], b[j][0], b[j][1], kBiasBits);
                        else mma_u8_s8(t[m][first + j], a[0], a[1], a[2], a[3], b[j][2 * step], b[j][2 * step + 1]);
                    }
        }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int block = 0; block < T::kOutBlocks; ++block)
#pragma unroll
            for (int i = 0; i < 4; ++i) out[m][block][i] = fmaf(__int_as_float(t[m][block][i]) - kBias, beta[2 * m + (i >> 1)], out[m][block][i]);
}

template <class T>
__device__ __forceinline__ void pair_absorb_half(float (&out)[2][T::kOutBlocks][4], int (&s)[2][T::kScoreBlocks][4], PairRows& rows, uint32_t values, const PairPlace& pair,
                                                 int lane, const ForwardArgs& args) {
    float base_of[4], offset[4];
#pragma unroll
    for (int row = 0; row < 4; ++row) base_of[row] = rows.reference[row] == -INFINITY ? 0.f : rows.reference[row];
    pair_offsets<T>(s, base_of, offset, args.level_bits);
    uint4 p[4][2];  // [16 keys][16 rows]: an A operand
#pragma unroll
    for (int group = 0; group < 4; ++group)
#pragma unroll
        for (int m = 0; m < 2; ++m) {
            uint32_t a[4];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float e[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int row = 2 * m + (i >> 1);
                    e[i] = exp2_fast(__int_as_float(s[m][2 * group + half][i]) + offset[row]);
                    rows.sum[row] += e[i];
                }
                a[2 * half] = pack_f16(e[0], e[1]), a[2 * half + 1] = pack_f16(e[2], e[3]);
            }
            p[group][m] = make_uint4(a[0], a[1], a[2], a[3]);
            pair.own[(2 * group + m) * 32 + lane] = p[group][m];
        }
    const int row_in_group = (lane & 7) + ((lane >> 3) & 1) * 8, swizzle = lane & 7, chunk = lane >> 4;
#pragma unroll
    for (int whose = 0; whose < 2; ++whose) {
        if (whose == 1) {
            pair_sync(pair);
#pragma unroll
            for (int i = 0; i < 8; ++i) p[i >> 1][i & 1] = pair.other[i * 32 + lane];
        }
        const uint32_t base = values + ((whose ^ pair.side) * T::kKeys + row_in_group) * 2 * T::kD;
#pragma unroll
        for (int group = 0; group < 4; ++group)
#pragma unroll
            for (int two = 0; two < T::kOutBlocks / 2; ++two) {  // 16 channels
                uint32_t b[4];
                ldmatrix_x4_transposed(b, base + group * 32 * T::kD + (((pair.side * T::kOutBlocks + 2 * two + chunk) ^ swizzle) << 4));
#pragma unroll
                for (int m = 0; m < 2; ++m) {
                    const uint4& a = p[group][m];
                    mma_f16(out[m][2 * two], a.x, a.y, a.z, a.w, b[0], b[1]);
                    mma_f16(out[m][2 * two + 1], a.x, a.y, a.z, a.w, b[2], b[3]);
                }
            }
    }
}

// ── §6 ──
template <class T> __global__ void __launch_bounds__(T::kMaxPairs * 64, 1) int8_flash_fwd_pair(const __grid_constant__ ForwardArgs args) {
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ __align__(8) uint64_t barriers[2 * kMaxStages];
    const int lane = threadIdx.x & 31, warp = __shfl_sync(~0u, threadIdx.x >> 5, 0), r = lane >> 2, c = lane & 3;
    const int block_rows = blockDim.x / 2, q_blocks = (args.max_q_len + block_rows - 1) / block_rows;
    const int from_end = static_cast<int>(blockIdx.x % q_blocks), head = static_cast<int>(blockIdx.x / q_blocks % args.heads);
    const int batch = static_cast<int>(blockIdx.x / (static_cast<unsigned>(q_blocks) * args.heads));
    const Sequence sequence = args.sequences[batch];
    const int block_row = (q_blocks - 1 - from_end) * block_rows;
    if (block_row >= sequence.q_len) return;

    const int64_t diagonal = args.bottom_right ? static_cast<int64_t>(sequence.k_len) - sequence.q_len : 0;
    constexpr int64_t kFar = int64_t{1} << 30;
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
    uint32_t copy_parity = 1;
    const auto copy_next = [&] {
        if (copy_tile_index >= tile_end) return;
        if (copies()) {
            barrier_wait(empty + 8 * copy_stage, copy_parity);
            copy_tile(stage_base + copy_stage * T::kTileBytes, tiles + static_cast<int64_t>(copy_tile_index) * T::kTileBytes, T::kTileBytes, full + 8 * copy_stage);
        }
        ++copy_tile_index;
        if (++copy_stage == args.stages) copy_stage = 0, copy_parity ^= 1;
    };
    const int ahead = args.stages >= 3 ? args.stages - 2 : args.stages - 1;
    for (int i = 0; i < ahead; ++i) copy_next();

    uint8_t* mailboxes = shared + args.stages * T::kTileBytes;
    const PairPlace pair{warp & 1, static_cast<uint32_t>(1 + warp / 2), reinterpret_cast<uint4*>(mailboxes + warp * T::kWarpBytes),
                         reinterpret_cast<uint4*>(mailboxes + (warp ^ 1) * T::kWarpBytes)};
    const int pair_row = block_row + warp / 2 * T::kRows, pair_last = min(pair_row + T::kRows - 1, last_row);
    PairRows rows;
    const int64_t row_base = sequence.q_row_base + static_cast<int64_t>(head) * sequence.q_len;
    const int8_t* query_row[4];
    int64_t mask_row[4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = min(pair_row + r + 8 * i, sequence.q_len - 1);  // rows past the end repeat the last one; they are never stored
        const float natural = args.q_scales[row_base + row] * args.scale;
        rows.scale[i] = T::kGeneral ? natural : natural * 1.44269504f;
        rows.reference[i] = -INFINITY;
        rows.sum[i] = 0.f;
        query_row[i] = args.q_codes + (row_base + row) * T::kD + 4 * c;
        if constexpr (T::kGeneral) mask_row[i] = batch * args.mask.batch + head * args.mask.head + row * args.mask.query;
    }
    uint32_t query[2][T::kSteps][4];
    uint4* stored = pair.own + T::kPieces * 32 + 8;  // read back by this lane alone
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int step = 0; step < T::kSteps; ++step) {
            load_query(query[m][step], query_row[2 * m], query_row[2 * m + 1], step);
            if constexpr (T::kQueryInShared) stored[(m * T::kSteps + step) * 32 + lane] = make_uint4(query[m][step][0], query[m][step][1], query[m][step][2], query[m][step][3]);
        }
    const bool has_rows = pair_row < sequence.q_len;
    const float slack = args.running_max ? 0.f : 8.f;

    float out[2][T::kOutBlocks][4];
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int block = 0; block < T::kOutBlocks; ++block)
#pragma unroll
            for (int i = 0; i < 4; ++i) out[m][block][i] = 0.f;

    int stage = 0;
    uint32_t parity = 0;
#pragma unroll 1
    for (int tile = tile_begin; tile < tile_end; ++tile) {
        copy_next();
        const int first_key = tile * kTileKeys;
        barrier_wait(full + 8 * stage, parity);
        if (has_rows && first_key < band.end(pair_last) && first_key + kTileKeys > band.first(pair_row)) {
            const uint32_t base = stage_base + stage * T::kTileBytes;
            const float* scales = reinterpret_cast<const float*>(shared + stage * T::kTileBytes + T::kTileBytes - 3 * kTileKeys * 4) + pair.side * T::kKeys;
            int s[2][T::kScoreBlocks][4];
            pair_products<T>(s, query, stored, base + pair.side * T::kKeys * T::kD, lane);
            const bool unmasked = first_key >= band.first(pair_last) && first_key + kTileKeys <= band.end(pair_row);
            float top[4];
            if (unmasked) pair_scores<T, false>(s, top, rows, band, pair_row + r, scales, first_key + pair.side * T::kKeys, c, args, mask_row);
            else pair_scores<T, true>(s, top, rows, band, pair_row + r, scales, first_key + pair.side * T::kKeys, c, args, mask_row);
#pragma unroll
            for (int i = 0; i < 4; ++i) top[i] = quad_max(top[i]);
            const float4 other = exchange<T>(pair, top, lane);
            top[0] = fmaxf(top[0], other.x), top[1] = fmaxf(top[1], other.y), top[2] = fmaxf(top[2], other.z), top[3] = fmaxf(top[3], other.w);
            pair_follow<T>(rows, out, top, slack);
            if constexpr (T::kHalf) pair_absorb_half<T>(out, s, rows, base + kTileKeys * T::kD, pair, lane, args);
            else pair_absorb_int8<T>(out, s, rows, top, scales, base + kTileKeys * T::kD, pair, lane, args);
        }
        barrier_arrive(empty + 8 * stage);
        if (++stage == args.stages) stage = 0, parity ^= 1;
    }
    if (!has_rows) return;

    float sums[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] = quad_sum(rows.sum[i]);
    const float4 other = exchange<T>(pair, sums, lane);
    sums[0] += other.x, sums[1] += other.y, sums[2] += other.z, sums[3] += other.w;
    const float* channel = args.channel_scale + (static_cast<int64_t>(batch) * args.kv_heads + kv_head) * T::kD;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = pair_row + r + 8 * i;
        if (row >= sequence.q_len) continue;
        const float inverse = sums[i] > 0.f ? 1.f / sums[i] : 0.f;  // no visible key: zeros
        float* target = args.out + batch * args.out_strides.batch + head * args.out_strides.head + (sequence.q_start + row) * args.out_strides.token;
#pragma unroll
        for (int block = 0; block < T::kOutBlocks; ++block) {
            const int at = pair.side * T::kChannels + block * 8 + 2 * c;
            if (at >= args.head_dim_v) continue;
            const float2 factor = __ldg(reinterpret_cast<const float2*>(channel + at));
            const float(&pairs)[4] = out[i >> 1][block];
            *reinterpret_cast<float2*>(target + at) = make_float2(pairs[2 * (i & 1)] * (factor.x * inverse), pairs[2 * (i & 1) + 1] * (factor.y * inverse));
        }
        if (args.lse != nullptr && c == 0 && pair.side == 0) {
            float* lse = args.lse + batch * args.lse_strides.batch + head * args.lse_strides.head + (sequence.q_start + row) * args.lse_strides.token;
            *lse = sums[i] > 0.f ? (rows.reference[i] - args.level_bits + log2f(sums[i])) * 0.693147181f : -INFINITY;
        }
    }
}

// ── §7 ──
template <int kD, bool kHalf, bool kGeneral, int kVariant = 0> cudaError_t launch_pair(ForwardArgs args, const LaunchLimits& limits, cudaStream_t stream) {
    using T = PairTraits<kD, kHalf, kGeneral, kVariant>;
    const int stages = min(kMaxStages, (limits.shared_bytes - T::kMaxPairs * 2 * T::kWarpBytes - 2 * kMaxStages * 8) / T::kTileBytes);
    if (stages < 1) return cudaErrorInvalidConfiguration;
    int pairs = T::kMaxPairs;
    const int64_t heads = static_cast<int64_t>(args.heads) * args.sequence_count;
    const auto blocks_of = [&](int count) { return heads * ((args.max_q_len + count * T::kRows - 1) / (count * T::kRows)); };
    while (pairs > 1 && (args.max_q_len <= pairs / 2 * T::kRows || blocks_of(pairs) < limits.processors)) pairs /= 2;
    const int64_t blocks = blocks_of(pairs);
    if (blocks == 0) return cudaSuccess;
    if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
    args.stages = stages;
    const int bytes = stages * T::kTileBytes + pairs * 2 * T::kWarpBytes;
    if (const cudaError_t status = cudaFuncSetAttribute(int8_flash_fwd_pair<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return status;
    int8_flash_fwd_pair<T><<<static_cast<unsigned>(blocks), pairs * 64, bytes, stream>>>(args);
    return cudaGetLastError();
}

/** INTFLASH_FORWARD chooses while there are several: pair, or 12 warps (w12; w12f with plain maxima), 8 (w8), 16 where D = 64 (w16). */
template <int kD, bool kHalf, bool kGeneral> cudaError_t launch_either(const ForwardArgs& args, const LaunchLimits& limits, cudaStream_t stream) {
    if constexpr (!kGeneral) {
        const char* choice = std::getenv("INTFLASH_FORWARD");
        const auto is = [&](const char* name) { return choice != nullptr && std::strcmp(choice, name) == 0; };
        if (is("w12f")) return launch_traits<kD, kHalf, kGeneral, 0>(args, limits, stream);
        if constexpr (kD <= 128) {
            if (is("pair")) return launch_pair<kD, kHalf, kGeneral>(args, limits, stream);
            if (is("w8")) return launch_traits<kD, kHalf, kGeneral, 3>(args, limits, stream);
        }
        if constexpr (kD == 64)
            if (is("w16")) return launch_traits<kD, kHalf, kGeneral, 5>(args, limits, stream);
    }
    return launch_traits<kD, kHalf, kGeneral, 1>(args, limits, stream);
}

template <int kD> cudaError_t launch_dim(const ForwardArgs& args, bool half_values, const LaunchLimits& limits, cudaStream_t stream) {
    const bool general = args.softcap > 0.f || args.mask.data != nullptr;
    if (half_values) return general ? launch_either<kD, true, true>(args, limits, stream) : launch_either<kD, true, false>(args, limits, stream);
    return general ? launch_either<kD, false, true>(args, limits, stream) : launch_either<kD, false, false>(args, limits, stream);
}

}  // namespace intflash
