// O = softmax(Q·Kᵀ·scale)·V on INT8 Q and K, with V as INT8 (full-int8, paper-int8, int4-qk) or float16 (half-int8).
// INT-FlashAttention, arXiv:2409.16997; the arithmetic, operation by operation: docs/arithmetic.md. Tensor cores by mma.sync: sm_80 and up.
//
// One warp owns 16 queries of one head and walks the keys in tiles of 128; the warps of a block share the tiles (tile_ring.cuh).
//   §1 to §3 int8_flash_scores.cuh     §4 and §5 int8_flash_values.cuh     §6 the kernel: pipeline, loop, epilogue     §7 launch
#pragma once
#include <cuda_runtime.h>

#include "int8_flash_values.cuh"
#include "shared_limit.h"

namespace intflash {

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

    const RowBand band = band_of(args, sequence);
    const int last_row = min(block_row + block_rows, sequence.q_len) - 1;
    const TileRange all = tile_range<kTileKeys>(band, block_row, last_row);
    const int tile_begin = uniform(all.begin), tile_end = uniform(all.end);
    const int kv_head = head / (args.heads / args.kv_heads), warp_row = block_row + warp * 16;

    if (lane == 0) plan.ranges[warp] = warp_row < sequence.q_len ? tile_range<kTileKeys>(band, warp_row, min(warp_row + 15, last_row)) : TileRange{0, 0, 0, 0};
    const uint32_t stage_base = uniform(shared_address(shared));
    if (threadIdx.x == 0) {
        plan.band = band;
        plan.tiles = args.tiles + (sequence.tile_base + static_cast<int64_t>(kv_head) * sequence.tiles) * T::kTileBytes;
        plan.barriers.init(args.stages, blockDim.x / 32);
    }
    __syncthreads();
    TileRing<T::kTileBytes, T::kTileBytes> ring(uniform(shared_address(&plan.barriers)), stage_base, args.stages);
    ring.start(plan.tiles, tile_begin, tile_end);

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
#pragma unroll 1
    for (int tile = tile_begin; tile < tile_end; ++tile) {
        ring.keep_up(plan.tiles, tile, tile_end);
        const TileRange own = plan.ranges[warp];
        const uint32_t base = ring.address(), values = base + kTileKeys * T::kD, columns = base + T::kTileBytes - 3 * kTileKeys * 4 + 16 * c;
        ring.wait();
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
        ring.leave();
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
    if (const cudaError_t status = allow_most_shared(int8_flash_fwd<T>, limits.shared_bytes)) return status;
    int8_flash_fwd<T><<<static_cast<unsigned>(blocks), warps * 32, bytes, stream>>>(args);
    return cudaGetLastError();
}

template <int kD> cudaError_t launch_dim(const ForwardArgs& args, bool half_values, const LaunchLimits& limits, cudaStream_t stream) {
    const bool general = args.softcap > 0.f || args.mask.data != nullptr;
    if (half_values) return general ? launch_traits<kD, true, true>(args, limits, stream) : launch_traits<kD, true, false>(args, limits, stream);
    return general ? launch_traits<kD, false, true>(args, limits, stream) : launch_traits<kD, false, false>(args, limits, stream);
}

}  // namespace intflash
