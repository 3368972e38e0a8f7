// See baseline_flash_fwd.h. FlashAttention-2's loop: one warp owns 16 queries of one head and walks the keys in tiles of 64; the warps of a
// block share the tiles, as in int8_flash_fwd.cuh, whose parts serve here too.
//   §1 traits        §2 scores        §3 softmax and values        §4 the kernel        §5 launch
#include "baseline_flash_fwd.h"

#include <type_traits>

#include "baseline_tile.cuh"
#include "int8_flash_fwd.cuh"

namespace intflash {
namespace {

// ── §1 ──
/** kGeneral: softcap or a mask over scores. */
template <int kD_, BaselineKind kKind_, bool kFlashD_, bool kGeneral_> struct BaselineTraits {
    static constexpr int kD = kD_;
    static constexpr BaselineKind kKind = kKind_;
    static constexpr bool kFlashD = kFlashD_, kGeneral = kGeneral_, kFp8 = kKind == BaselineKind::kFp8;
    static constexpr int kMaxWarps = 8, kSize = kFp8 ? 1 : 2, kRowBytes = kD * kSize;
    static constexpr int kScoreBlocks = kBaselineKeys / 8, kOutBlocks = kD / 8, kSteps = kRowBytes / 32;
    static constexpr bool kQueryInRegisters = kSteps <= 8;
    static constexpr int kTileBytes = 2 * kBaselineKeys * kRowBytes;
    static constexpr float kLevelBits = kFp8 ? 8.f : 7.f, kLevels = kFp8 ? 256.f : 128.f;  // P is kept in units of 1 / kLevels
    static_assert(!kFlashD || kKind == BaselineKind::kFloat16, "FLASH-D is an option of float16");
};

template <class T> __device__ __forceinline__ void multiply(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    if constexpr (T::kFp8) mma_e4m3(d, {a0, a1, a2, a3}, b0, b1);
    else if constexpr (T::kKind == BaselineKind::kBfloat16) mma_bf16(d, {a0, a1, a2, a3}, b0, b1);
    else mma_f16(d, {a0, a1, a2, a3}, b0, b1);
}

// ── §2 ──
/** s = Q·Kᵀ. A step is 32 bytes of a row, whatever the type: operands lie alike. */
template <class T>
__device__ __forceinline__ void baseline_products(float (&s)[T::kScoreBlocks][4], const uint32_t (&held)[T::kSteps][4], const int8_t* row0, const int8_t* row1, uint32_t keys,
                                                  int lane) {
    const int key = lane & 7;
    const uint32_t base = keys + key * T::kRowBytes + (((lane >> 3) ^ row_swizzle(key, T::kRowBytes)) << 4);
#pragma unroll
    for (int block = 0; block < T::kScoreBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) s[block][i] = 0.f;
#pragma unroll
    for (int pair = 0; pair < T::kSteps / 2; ++pair) {
        uint32_t a[2][4];
#pragma unroll
        for (int step = 0; step < 2; ++step) {
            if constexpr (T::kQueryInRegisters) {
#pragma unroll
                for (int i = 0; i < 4; ++i) a[step][i] = held[2 * pair + step][i];
            } else {
                load_query(a[step], row0, row1, 2 * pair + step);
            }
        }
        const uint32_t address = (base ^ ((pair & 1) * 64)) + (pair >> 1) * 128;
#pragma unroll
        for (int first = 0; first < T::kScoreBlocks; first += 4) {
            uint32_t b[4][4];
#pragma unroll
            for (int j = 0; j < 4; ++j) ldmatrix_x4(b[j], address + (first + j) * 8 * T::kRowBytes);
#pragma unroll
            for (int step = 0; step < 2; ++step)
#pragma unroll
                for (int j = 0; j < 4; ++j) multiply<T>(s[first + j], a[step][0], a[step][1], a[step][2], a[step][3], b[j][2 * step], b[j][2 * step + 1]);
        }
    }
}

/** Raw sums → x in log2 units, in place, and the rows' maxima of that over this lane's columns; what the band or the mask excludes becomes -infinity. */
template <class T>
__device__ __forceinline__ void baseline_scores(float (&x)[T::kScoreBlocks][4], float (&top)[2], const Rows& rows, const RowBand& band, bool unmasked, int first_key, int first_row,
                                                int c, const ForwardArgs& args, const int64_t (&mask_row)[2]) {
#pragma unroll
    for (int block = 0; block < T::kScoreBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int key = first_key + block * 8 + 2 * c + (i & 1), row = first_row + 8 * (i >> 1);
            if constexpr (T::kGeneral) {
                const bool inside = key >= band.first(row) && key < band.end(row);
                const float score = general_score<T>(x[block][i], 1.f, rows.scale[i >> 1], 0.f, args, mask_row[i >> 1] + key * args.mask.key, inside);
                x[block][i] = inside ? score : -INFINITY;
            } else {
                x[block][i] *= rows.scale[i >> 1];
                if (!unmasked && (key < band.first(row) || key >= band.end(row))) x[block][i] = -INFINITY;
            }
            top[i >> 1] = fmaxf(top[i >> 1], x[block][i]);
        }
}

// ── §3 ──
/** out += P·V for the tile, P rounded to the operands' type. */
template <class T> __device__ __forceinline__ void baseline_values(float (&out)[T::kOutBlocks][4], const float (&p)[T::kScoreBlocks][4], uint32_t values, int lane) {
    if constexpr (T::kFp8) {
        const int channel = lane & 7;
        const uint32_t base = values + channel * kBaselineKeys + (((lane >> 3) ^ row_swizzle(channel, kBaselineKeys)) << 4);
        uint32_t a[4][2];  // 16 keys: rows r, r + 8
#pragma unroll
        for (int group = 0; group < 4; ++group)
#pragma unroll
            for (int row = 0; row < 2; ++row)
                a[group][row] = pack_e4m3(p[2 * group][2 * row], p[2 * group][2 * row + 1], p[2 * group + 1][2 * row], p[2 * group + 1][2 * row + 1]);
#pragma unroll
        for (int block = 0; block < T::kOutBlocks; ++block) {
            uint32_t b[4];
            ldmatrix_x4(b, base + block * 8 * kBaselineKeys);
            multiply<T>(out[block], a[0][0], a[0][1], a[1][0], a[1][1], b[0], b[1]);
            multiply<T>(out[block], a[2][0], a[2][1], a[3][0], a[3][1], b[2], b[3]);
        }
    } else {
        const auto pack = [](float x, float y) { return T::kKind == BaselineKind::kBfloat16 ? pack_bf16(x, y) : pack_f16(x, y); };
        const uint32_t base = values + ((lane & 7) + ((lane >> 3) & 1) * 8) * T::kRowBytes;
        const int swizzle = lane & 7, chunk = lane >> 4;
#pragma unroll
        for (int group = 0; group < kBaselineKeys / 16; ++group) {
            const auto &low = p[2 * group], &high = p[2 * group + 1];
            const uint32_t a0 = pack(low[0], low[1]), a1 = pack(low[2], low[3]), a2 = pack(high[0], high[1]), a3 = pack(high[2], high[3]);
#pragma unroll
            for (int two = 0; two < T::kOutBlocks / 2; ++two) {  // 16 channels
                uint32_t b[4];
                ldmatrix_x4_transposed(b, base + group * 16 * T::kRowBytes + (((2 * two + chunk) ^ swizzle) << 4));
                multiply<T>(out[2 * two], a0, a1, a2, a3, b[0], b[1]);
                multiply<T>(out[2 * two + 1], a0, a1, a2, a3, b[2], b[3]);
            }
        }
    }
}

template <class T> __device__ __forceinline__ void scale_rows(float (&out)[T::kOutBlocks][4], float low, float high) {
#pragma unroll
    for (int block = 0; block < T::kOutBlocks; ++block) out[block][0] *= low, out[block][1] *= low, out[block][2] *= high, out[block][3] *= high;
}

/** p = 2^(x + bits - base) in place, its sums over the lane's columns into `sum`. */
template <class T> __device__ __forceinline__ void exponentials(float (&x)[T::kScoreBlocks][4], float (&sum)[2], const float (&base)[2], float bits) {
#pragma unroll
    for (int block = 0; block < T::kScoreBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            x[block][i] = exp2_fast(x[block][i] - base[i >> 1] + bits);
            sum[i >> 1] += x[block][i];
        }
}

/**
 * FLASH-D, a tile at a time: `reference` + `sum` is the log-sum-exp L so far, in log2 units, and O the mean of V so far. With s the tile's own,
 * w = sigmoid(s - L) is the tile's share: O ← (1 - w)·O + w·mean, L ← L + softplus(s - L). L's first part is the largest score: beside one of
 * -FLT_MAX, which a mask may ask for, a single float would lose how many there are.
 */
template <class T>
__device__ __forceinline__ void absorb_flash_d(float (&out)[T::kOutBlocks][4], float (&x)[T::kScoreBlocks][4], Rows& rows, const float (&top)[2], uint32_t values, int lane) {
    float base[2] = {top[0] == -INFINITY ? 0.f : top[0], top[1] == -INFINITY ? 0.f : top[1]}, sum[2] = {0.f, 0.f}, keep[2], weight[2];
    exponentials<T>(x, sum, base, 0.f);
    const float total[2] = {quad_sum(sum[0]), quad_sum(sum[1])};
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        if (total[row] == 0.f) {  // no visible key
            keep[row] = 1.f, weight[row] = 0.f;
            continue;
        }
        const float tile = log2f(total[row]), raised = fmaxf(rows.reference[row], base[row]);
        const float gap = rows.reference[row] - base[row] + (rows.sum[row] - tile);  // L - s; -infinity at the first tile
        keep[row] = 1.f / (1.f + exp2_fast(-gap));
        weight[row] = T::kLevels / ((1.f + exp2_fast(gap)) * total[row]);
        rows.sum[row] = gap > 0.f ? rows.reference[row] - raised + rows.sum[row] + log2f(1.f + exp2_fast(-gap)) : base[row] - raised + tile + log2f(1.f + exp2_fast(gap));
        rows.reference[row] = raised;
    }
    scale_rows<T>(out, keep[0], keep[1]);
#pragma unroll
    for (int block = 0; block < T::kScoreBlocks; ++block) x[block][0] *= weight[0], x[block][1] *= weight[0], x[block][2] *= weight[1], x[block][3] *= weight[1];
    baseline_values<T>(out, x, values, lane);
}

template <class T>
__device__ __forceinline__ void absorb(float (&out)[T::kOutBlocks][4], float (&x)[T::kScoreBlocks][4], Rows& rows, const float (&top)[2], uint32_t values, int lane) {
    constexpr float kSlack = T::kFp8 ? 0.f : 8.f;  // bits by which the reference may lag the maximum: P < 2^15 in float16, at most 2^8 in e4m3
    if (outgrown(top, rows.reference, kSlack)) {
        float shrink[2];
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            const float raised = fmaxf(rows.reference[row], top[row]);
            shrink[row] = raised == rows.reference[row] ? 1.f : exp2_fast(rows.reference[row] - raised);
            rows.reference[row] = raised;
            rows.sum[row] *= shrink[row];
        }
        scale_rows<T>(out, shrink[0], shrink[1]);
    }
    const float base[2] = {rows.reference[0] == -INFINITY ? 0.f : rows.reference[0], rows.reference[1] == -INFINITY ? 0.f : rows.reference[1]};
    exponentials<T>(x, rows.sum, base, T::kLevelBits);
    baseline_values<T>(out, x, values, lane);
}

// ── §4 ──
template <class T> __global__ void __launch_bounds__(T::kMaxWarps * 32, 1) baseline_flash_fwd(const __grid_constant__ BaselineRequest request, int stages) {
    extern __shared__ __align__(1024) uint8_t shared[];
    __shared__ __align__(8) uint64_t barriers[2 * kMaxStages];
    const ForwardArgs& args = request.geometry;
    const int lane = threadIdx.x & 31, warp = __shfl_sync(~0u, threadIdx.x >> 5, 0), r = lane >> 2, c = lane & 3;
    const int block_rows = blockDim.x / 2, q_blocks = (args.max_q_len + block_rows - 1) / block_rows;
    const int from_end = static_cast<int>(blockIdx.x % q_blocks), head = static_cast<int>(blockIdx.x / q_blocks % args.heads);
    const int batch = static_cast<int>(blockIdx.x / (static_cast<unsigned>(q_blocks) * args.heads));
    const Sequence sequence = args.sequences[batch];
    const int block_row = (q_blocks - 1 - from_end) * block_rows;
    if (block_row >= sequence.q_len) return;

    const RowBand band = band_of(args, sequence);
    const int last_row = min(block_row + block_rows, sequence.q_len) - 1;
    const TileRange all = tile_range<kBaselineKeys>(band, block_row, last_row);
    const int tile_begin = all.begin, tile_end = all.end;

    const uint32_t full = shared_address(barriers), empty = full + 8 * kMaxStages, stage_base = shared_address(shared);
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < stages; ++stage) {
            barrier_init(full + 8 * stage, copy_arrivals());
            barrier_init(empty + 8 * stage, blockDim.x);
        }
        publish_writes();
    }
    __syncthreads();

    const int kv_head = head / (args.heads / args.kv_heads);
    const int64_t q_head_at = static_cast<int64_t>(batch) * args.heads + head, kv_head_at = static_cast<int64_t>(batch) * args.kv_heads + kv_head;
    const uint8_t* tiles = request.tiles + 2 * (sequence.tile_base + static_cast<int64_t>(kv_head) * sequence.tiles) * T::kTileBytes;
    int copy_tile_index = tile_begin, copy_stage = 0;
    uint32_t copy_parity = 1;
    const auto copy_next = [&] {
        if (copy_tile_index >= tile_end) return;
        if (copies()) {
            barrier_wait(empty + 8 * copy_stage, copy_parity);
            copy_tile(stage_base + copy_stage * T::kTileBytes, tiles + static_cast<int64_t>(copy_tile_index) * T::kTileBytes, T::kTileBytes, full + 8 * copy_stage);
        }
        ++copy_tile_index;
        if (++copy_stage == stages) copy_stage = 0, copy_parity ^= 1;
    };
    const int ahead = stages >= 3 ? stages - 2 : stages - 1;
    for (int i = 0; i < ahead; ++i) copy_next();

    const int warp_row = block_row + warp * 16, warp_last = min(warp_row + 15, last_row);
    float factor = T::kGeneral ? args.scale : args.scale * 1.44269504f, value_factor = 1.f;
    if constexpr (T::kFp8) {
        factor *= fp8_scale(request.maxima.query[q_head_at]) * fp8_scale(request.maxima.key[kv_head_at]);
        value_factor = fp8_scale(request.value_maxima[kv_head_at]);
    }
    Rows rows{{factor, factor}, {-INFINITY, -INFINITY}, {0.f, 0.f}};
    const int64_t row_base = sequence.q_row_base + static_cast<int64_t>(head) * sequence.q_len;
    const int8_t* query_row[2];
    int64_t mask_row[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int row = min(warp_row + r + 8 * i, sequence.q_len - 1);  // rows past the end repeat the last one; they are never stored
        query_row[i] = reinterpret_cast<const int8_t*>(request.rows) + (row_base + row) * T::kRowBytes + 4 * c;
        if constexpr (T::kGeneral) mask_row[i] = batch * args.mask.batch + head * args.mask.head + row * args.mask.query;
    }
    uint32_t query[T::kSteps][4];
    if constexpr (T::kQueryInRegisters) {
#pragma unroll
        for (int step = 0; step < T::kSteps; ++step) load_query(query[step], query_row[0], query_row[1], step);
    }
    const bool has_rows = warp_row < sequence.q_len;

    float out[T::kOutBlocks][4] = {};
    int stage = 0;
    uint32_t parity = 0;
#pragma unroll 1
    for (int tile = tile_begin; tile < tile_end; ++tile) {
        copy_next();
        const int first_key = tile * kBaselineKeys;
        barrier_wait(full + 8 * stage, parity);
        if (has_rows && first_key < band.end(warp_last) && first_key + kBaselineKeys > band.first(warp_row)) {
            const uint32_t base = stage_base + stage * T::kTileBytes;
            float x[T::kScoreBlocks][4], top[2] = {-INFINITY, -INFINITY};
            baseline_products<T>(x, query, query_row[0], query_row[1], base, lane);
            const bool unmasked = first_key >= band.first(warp_last) && first_key + kBaselineKeys <= band.end(warp_row);
            baseline_scores<T>(x, top, rows, band, unmasked, first_key, warp_row + r, c, args, mask_row);
            top[0] = quad_max(top[0]), top[1] = quad_max(top[1]);
            if constexpr (T::kFlashD) absorb_flash_d<T>(out, x, rows, top, base + kBaselineKeys * T::kRowBytes, lane);
            else absorb<T>(out, x, rows, top, base + kBaselineKeys * T::kRowBytes, lane);
        }
        barrier_arrive(empty + 8 * stage);
        if (++stage == stages) stage = 0, parity ^= 1;
    }

#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float sum = T::kFlashD ? (rows.reference[i] == -INFINITY ? 0.f : T::kLevels) : quad_sum(rows.sum[i]);
        const int row = warp_row + r + 8 * i;
        if (row >= sequence.q_len) continue;
        const float inverse = sum > 0.f ? value_factor / sum : 0.f;  // FLASH-D: a power of two
        float* target = args.out + batch * args.out_strides.batch + head * args.out_strides.head + (sequence.q_start + row) * args.out_strides.token;
#pragma unroll
        for (int block = 0; block < T::kOutBlocks; ++block) {
            const int at = block * 8 + 2 * c;
            if (at < args.head_dim_v) *reinterpret_cast<float2*>(target + at) = make_float2(out[block][2 * i] * inverse, out[block][2 * i + 1] * inverse);
        }
        if (args.lse != nullptr && c == 0) {
            float* lse = args.lse + batch * args.lse_strides.batch + head * args.lse_strides.head + (sequence.q_start + row) * args.lse_strides.token;
            const float bits = T::kFlashD ? rows.reference[i] + rows.sum[i] : rows.reference[i] - T::kLevelBits + log2f(sum);
            *lse = sum > 0.f ? bits * 0.693147181f : -INFINITY;
        }
    }
}

// ── §5 ──
template <class T> cudaError_t launch_baseline(const BaselineRequest& request, const LaunchLimits& limits, cudaStream_t stream) {
    const ForwardArgs& args = request.geometry;
    const int stages = min(kMaxStages, (limits.shared_bytes - 2 * kMaxStages * 8) / T::kTileBytes);
    if (stages < 1) return cudaErrorInvalidConfiguration;
    const int64_t heads = static_cast<int64_t>(args.heads) * args.sequence_count;
    const int warps = args.max_q_len <= 64 ? 4 : T::kMaxWarps;
    const int64_t blocks = heads * ((args.max_q_len + warps * 16 - 1) / (warps * 16));
    if (blocks == 0) return cudaSuccess;
    if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
    const int bytes = stages * T::kTileBytes;
    if (const cudaError_t status = allow_most_shared(baseline_flash_fwd<T>, limits.shared_bytes)) return status;
    baseline_flash_fwd<T><<<static_cast<unsigned>(blocks), warps * 32, bytes, stream>>>(request, stages);
    return cudaGetLastError();
}

template <int kD, bool kGeneral> cudaError_t launch_kind(const BaselineRequest& request, const LaunchLimits& limits, cudaStream_t stream) {
    switch (request.kind) {
        case BaselineKind::kFp8: return launch_baseline<BaselineTraits<kD, BaselineKind::kFp8, false, kGeneral>>(request, limits, stream);
        case BaselineKind::kBfloat16: return launch_baseline<BaselineTraits<kD, BaselineKind::kBfloat16, false, kGeneral>>(request, limits, stream);
        default: break;
    }
    return request.flash_d ? launch_baseline<BaselineTraits<kD, BaselineKind::kFloat16, true, kGeneral>>(request, limits, stream)
                           : launch_baseline<BaselineTraits<kD, BaselineKind::kFloat16, false, kGeneral>>(request, limits, stream);
}

template <int kD> cudaError_t launch_dim(const BaselineRequest& request, const LaunchLimits& limits, cudaStream_t stream) {
    const bool general = request.geometry.softcap > 0.f || request.geometry.mask.data != nullptr;
    return general ? launch_kind<kD, true>(request, limits, stream) : launch_kind<kD, false>(request, limits, stream);
}

}  // namespace

cudaError_t launch_baseline_fwd(const BaselineRequest& request, const LaunchLimits& limits, cudaStream_t stream) {
    switch (request.padded) {
        case 64: return launch_dim<64>(request, limits, stream);
        case 128: return launch_dim<128>(request, limits, stream);
        default: return launch_dim<256>(request, limits, stream);
    }
}

}  // namespace intflash
