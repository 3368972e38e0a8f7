// O = softmax(Q·Kᵀ·scale)·V on INT8 codes whose keys are sorted within their tiles (sorted_layout.h): what Hopper's kernel computes, on tensor cores that
// every architecture from sm_80 on has (mma.sync). What is computed: docs/arithmetic.md, "Sorted tiles".
//
// One warp owns 16 queries of one head and walks the tiles, which the warps of a block share (tile_ring.cuh).
//   §1 traits, shared memory     §2 products     §3 the kernel     §4 launch
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "ptx/mma.cuh"
#include "ptx/shared_memory.cuh"
#include "shared_limit.h"
#include "sorted_flash_fwd.h"
#include "sorted_softmax.cuh"
#include "sorted_store.cuh"
#include "tile_ring.cuh"

namespace intflash {

// ── §1 ──
template <int kD_> struct SortedTraits {
    static constexpr int kD = kD_;
    static constexpr bool kHalf = false;
    static constexpr int kMaxWarps = kD == 64 ? 12 : 8;  // of a processor, for their registers: measured, docs/results/h200/log.md
    static constexpr bool kQueryInRegisters = kD == 64;
    static constexpr int kKeys = sorted_tile_keys(kD, false), kOut = kD / 2;
    static constexpr int kKeyBytes = kKeys * kD, kColumnBytes = sorted_column_bytes(kKeys), kTileBytes = sorted_tile_bytes(kD, false);
    static constexpr int kKeyPanel = sorted_panel_bytes(kD), kValuePanel = sorted_panel_bytes(kKeys);
    static constexpr int kWarpQueryBytes = 16 * kD, kStageBytes = (kTileBytes + 127) / 128 * 128;
    static constexpr int kTogether = 4;  // independent chains of products side by side, to hide their latency
    static_assert(255LL * 255 * kKeys < (1 << 24), "P·(V + 128) read as the bits of a float, subnormal or of the least exponent, is that integer · 2^-149");
    static_assert(127LL * 127 * kD < -VisibleKeys::kLeast, "scores convert exactly, and none lies as low as one out of sight");
    static_assert(kTileBytes % 16 == 0, "copies move multiples of 16 bytes");
};

/** Beside the ring of tiles and the queries. */
template <class T> struct SortedShared {
    RingBarriers barriers;
    TileRange ranges[T::kMaxWarps];
    RowBand band;
    const uint8_t* tiles;  // of the head
    alignas(16) float channel_scale[T::kD];
};

// ── §2 ──
/** `registers` from `first` on, as one product's. */
template <int n> __device__ __forceinline__ int (&four(int (&registers)[n], int first))[4] { return *reinterpret_cast<int(*)[4]>(registers + first); }

/** A warp's Q as the A operand of products: 32 channels a step. */
template <class T> struct QueryOperand {
    uint32_t address;  // of what this lane names to ldmatrix, in the first chunk
    uint32_t kept[T::kQueryInRegisters ? T::kD / 32 : 1][4];
    __device__ __forceinline__ explicit QueryOperand(uint32_t address) : address(address) {
        if constexpr (T::kQueryInRegisters)
#pragma unroll
            for (int step = 0; step < T::kD / 32; ++step) load(kept[step], step);
    }
    __device__ __forceinline__ void read(uint32_t (&a)[4], int step) const {
        if constexpr (T::kQueryInRegisters)
#pragma unroll
            for (int i = 0; i < 4; ++i) a[i] = kept[step][i];
        else load(a, step);
    }

private:
    __device__ __forceinline__ void load(uint32_t (&a)[4], int step) const {
        constexpr int kPanelSteps = T::kKeyPanel / 32;
        ldmatrix_x4(a, (address ^ (step % kPanelSteps * 32)) + step / kPanelSteps * (kQueryBlock * T::kKeyPanel));
    }
};

/** S of the first 2 · kScores slots. `keys`: this lane's address of the tile's first eight keys for ldmatrix. */
template <class T, int kScores> __device__ __forceinline__ void multiply_keys(int (&s)[kScores], const QueryOperand<T>& query, uint32_t keys) {
    constexpr int kBlocks = kScores / 4, kPanelPairs = T::kKeyPanel / 64;
#pragma unroll
    for (int pair = 0; pair < T::kD / 64; ++pair) {  // 64 channels: two steps of products from one ldmatrix
        const int panel = pair / kPanelPairs, within = pair % kPanelPairs;
        uint32_t a[2][4];
        query.read(a[0], 2 * pair), query.read(a[1], 2 * pair + 1);
        const uint32_t address = (keys ^ (within * 64)) + panel * (T::kKeys * T::kKeyPanel);
#pragma unroll
        for (int first = 0; first < kBlocks; first += T::kTogether) {
            uint32_t b[T::kTogether][4];
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) ldmatrix_x4(b[j], address + (first + j) * 8 * T::kKeyPanel);
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) {
                if (pair == 0) mma_s8_onto(four(s, 4 * (first + j)), a[0], b[j][0], b[j][1], 0);
                else mma_s8(four(s, 4 * (first + j)), a[0], b[j][0], b[j][1]);
            }
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) mma_s8(four(s, 4 * (first + j)), a[1], b[j][2], b[j][3]);
        }
    }
}

/** O += P·(V + 128) · beta; what is not negative is, read as the bits of a float, the number itself · 2^-149. `values`: this lane's address of the tile's first eight channels for ldmatrix. */
template <class T, int kSteps, int n> __device__ __forceinline__ void multiply_values(float (&out)[T::kOut], const int (&p)[n], const float (&beta)[2], uint32_t values) {
    constexpr int kPanelSteps = T::kValuePanel / 32;
    const float scaled[2] = {beta[0] * 0x1p100f, beta[1] * 0x1p100f};
#pragma unroll
    for (int first = 0; first < T::kD / 8; first += T::kTogether) {
        int t[T::kTogether][4];
#pragma unroll
        for (int pair = 0; pair < kSteps / 2; ++pair) {  // 64 slots
            const uint32_t address = (values ^ (2 * pair % kPanelSteps * 32)) + 2 * pair / kPanelSteps * (T::kD * T::kValuePanel);
            uint32_t b[T::kTogether][4];
#pragma unroll
            for (int j = 0; j < T::kTogether; ++j) ldmatrix_x4(b[j], address + (first + j) * 8 * T::kValuePanel);
#pragma unroll
            for (int step = 0; step < 2; ++step) {
                const int* at = p + 8 * pair + 4 * step;
                const uint32_t a[4] = {static_cast<uint32_t>(at[0]), static_cast<uint32_t>(at[1]), static_cast<uint32_t>(at[2]), static_cast<uint32_t>(at[3])};
#pragma unroll
                for (int j = 0; j < T::kTogether; ++j) {
                    if (pair + step == 0) mma_u8_u8_onto(t[j], a, b[j][0], b[j][1], 0);
                    else mma_u8_u8(t[j], a, b[j][2 * step], b[j][2 * step + 1]);
                }
            }
        }
#pragma unroll
        for (int j = 0; j < T::kTogether; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) out[4 * (first + j) + i] = fmaf(__int_as_float(t[j][i]), scaled[i >> 1], out[4 * (first + j) + i]);
    }
}

// ── §3 ──
/** Nobody waits for anybody. */
struct NoTurn {
    __device__ __forceinline__ void wait(float (&)[2]) const {}
    __device__ __forceinline__ void pass(unsigned = 0) const {}
};

template <class T> __global__ void __launch_bounds__(T::kMaxWarps * 32, 1) sorted_flash_fwd(const __grid_constant__ SortedArgs args, int stages) {
    extern __shared__ __align__(128) uint8_t memory[];
    __shared__ SortedShared<T> shared;
    const auto uniform = [](int x) { return __shfl_sync(~0u, x, 0); };  // known to be one number a warp, it is not worked out anew in every iteration
    const int lane = threadIdx.x & 31, warp = uniform(threadIdx.x >> 5), r = lane >> 2, c = lane & 3;
    const int block_rows = blockDim.x / 2, q_blocks = (args.max_q_blocks * kQueryBlock + block_rows - 1) / block_rows;
    // Neighbouring blocks work on one head, whose keys then stay in L2; with a causal mask the longest rows start first.
    const int from_end = static_cast<int>(blockIdx.x % q_blocks), head = static_cast<int>(blockIdx.x / q_blocks % args.heads);
    const int batch = static_cast<int>(blockIdx.x / (static_cast<unsigned>(q_blocks) * args.heads));
    const SortedSequence sequence = args.sequences[batch];
    const int block_row = (q_blocks - 1 - from_end) * block_rows;
    if (block_row >= sequence.q_len) return;

    const RowBand band = band_of(args, sequence);
    const TileRange all = tile_range<T::kKeys>(band, block_row, min(block_row + block_rows, sequence.q_len) - 1);
    const int tile_begin = uniform(all.begin), tile_end = uniform(all.end), warp_row = block_row + warp * 16;
    const int kv_head = head / (args.heads / args.kv_heads);
    const int64_t channel_at = (static_cast<int64_t>(batch) * args.kv_heads + kv_head) * T::kD;
    if (lane == 0) shared.ranges[warp] = warp_row < sequence.q_len ? tile_range<T::kKeys>(band, warp_row, min(warp_row + 16, sequence.q_len) - 1) : TileRange{0, 0, 0, 0};
    const uint32_t stage_base = uniform(shared_address(memory));
    if (threadIdx.x == 0) {
        shared.band = band;
        shared.tiles = args.tiles + (sequence.tile_base + static_cast<int64_t>(kv_head) * sequence.tiles) * T::kTileBytes;
        shared.barriers.init(stages, blockDim.x / 32);
    }
    // Queries lie behind the ring, as they lie in their image.
    uint8_t* const query_image = memory + stages * T::kStageBytes;
    const int64_t first_block = sequence.q_block_base + static_cast<int64_t>(head) * sequence.q_blocks + block_row / kQueryBlock;
    const int blocks = min(block_rows / kQueryBlock, sequence.q_blocks - block_row / kQueryBlock);
    for (int at = threadIdx.x; at < blocks * (kQueryBlock * T::kD / 16); at += blockDim.x)
        reinterpret_cast<uint4*>(query_image)[at] = __ldg(reinterpret_cast<const uint4*>(args.q_blocks + first_block * (kQueryBlock * T::kD)) + at);
    for (int at = threadIdx.x; at < T::kD; at += blockDim.x) shared.channel_scale[at] = args.channel_scale[channel_at + at];
    __syncthreads();

    TileRing<T::kTileBytes, T::kStageBytes> ring(uniform(shared_address(&shared.barriers)), stage_base, stages);
    ring.start(shared.tiles, tile_begin, tile_end);

    RowPair rows{{0.f, 0.f}, {-INFINITY, -INFINITY}, {0.f, 0.f}, {0.f, 0.f}};
    const bool is_there = warp_row < sequence.q_len;
#pragma unroll
    for (int i = 0; i < 2; ++i) rows.factor[i] = is_there ? args.q_scales[first_block * kQueryBlock + warp * 16 + r + 8 * i] * (args.scale * 1.44269504f) : 0.f;
    float out[T::kOut];
#pragma unroll
    for (int i = 0; i < T::kOut; ++i) out[i] = 0.f;
    const auto scale_out = [&](const float(&shrink)[2]) {
#pragma unroll
        for (int i = 0; i < T::kOut; ++i) out[i] *= shrink[(i >> 1) & 1];
    };

    // What this lane names to ldmatrix: of queries rows 0 to 15, a chunk of 16 bytes and the next; of keys and channels eight rows, four chunks.
    const int query_row = warp % 4 * 16 + (lane & 15), row = lane & 7;
    const QueryOperand<T> query(stage_base + stages * T::kStageBytes + warp / 4 * (kQueryBlock * T::kD) + query_row * T::kKeyPanel + (((lane >> 4) ^ row_swizzle(query_row, T::kKeyPanel)) << 4));
    const uint32_t key_at = row * T::kKeyPanel + (((lane >> 3) ^ row_swizzle(row, T::kKeyPanel)) << 4);
    const uint32_t value_at = T::kKeyBytes + row * T::kValuePanel + (((lane >> 3) ^ row_swizzle(row, T::kValuePanel)) << 4);
    NoTurn turn;
#pragma unroll 1
    for (int tile = tile_begin; tile < tile_end; ++tile) {
        ring.keep_up(shared.tiles, tile, tile_end);
        const TileRange own = shared.ranges[warp];
        const uint32_t base = ring.address(), meta = base + 2 * T::kKeyBytes, header = meta + T::kColumnBytes;
        ring.wait();
        const TileColumns<T::kKeys> columns(meta, c);
        // The first 2 * kScores slots of a tile; `weigh(s, p)` makes scores into codes.
        const auto attend = [&](auto scores, const auto& weigh) {
            constexpr int kScores = decltype(scores)::value;
            int s[kScores], p[kScores / 4];
            multiply_keys<T>(s, query, base + key_at);
            const TileSums sums = weigh(s, p);
            absorb(rows, sums);
            multiply_values<T, kScores / 16>(out, p, sums.beta, base + value_at);
        };
        const auto attend_plain = [&](auto scores, auto outliers, const auto& visible) {
            attend(scores, [&](auto& s, auto& p) { return weigh_plain<outliers.value>(s, p, rows, header, columns, visible, turn, scale_out, [](int) {}); });
        };
        constexpr std::integral_constant<int, T::kKeys / 2> kWhole{};
        const bool is_clear = tile >= own.clear_begin && tile < own.clear_end;  // every row sees all of it
        const auto kind = static_cast<TileKind>(uniform(load_shared_int(header + offsetof(TileHeader, kind))));
        if (is_clear && kind == TileKind::kPlain) {
            attend_plain(kWhole, std::false_type{}, AllKeys{});  // nearly all tiles are like this
        } else if (tile >= own.begin && tile < own.end) {
            const RowBand band = shared.band;
            const int first_key = tile * T::kKeys;
            const VisibleKeys visible(band, warp_row + r, first_key, T::kKeys);
            if (tile < own.clear_begin || kind == TileKind::kColumns) {
                attend(kWhole, [&](auto& s, auto& p) {
                    float top[2];
                    general_scores<true, true>(s, top, rows, columns, band, warp_row + r, first_key);
                    follow(rows, top, scale_out);
                    return weigh_columns(s, p, rows, top, columns, turn);
                });
            } else if (kind == TileKind::kOutliers) {
                attend_plain(kWhole, std::true_type{}, visible);
            } else if (const int span = sorted_span(sequence.k_len - first_key, T::kKeys); span == T::kKeys) {
                attend_plain(kWhole, std::false_type{}, visible);
            } else if constexpr (T::kKeys > 128) {
                if (span == 64) attend_plain(std::integral_constant<int, 32>{}, std::false_type{}, visible);
                else attend_plain(std::integral_constant<int, 64>{}, std::false_type{}, visible);
            }
        }
        ring.leave();
    }

    const int first_row = warp_row + r, present = first_row + 8 < sequence.q_len ? 2 : first_row < sequence.q_len ? 1 : 0;
    const int64_t token = sequence.q_start + first_row;
    const int64_t out_at = batch * args.out_strides.batch + head * args.out_strides.head + token * args.out_strides.token;
    finish_rows(rows, kLevelBits, args, batch * args.lse_strides.batch + head * args.lse_strides.head + token * args.lse_strides.token, present, c, [&](auto* target, const auto& inverse, const auto& offset) {
        store_rows<T>(target, out, inverse, offset, args, out_at, present, c, shared_address(shared.channel_scale));
    });
}

// ── §4 ──
template <int kD> cudaError_t launch_sorted(const SortedArgs& args, const LaunchLimits& limits, cudaStream_t stream) {
    using T = SortedTraits<kD>;
    constexpr int kReserved = 1024;  // of a processor's shared memory, for each block
    const auto stages_of = [&](int warps, int resident) {
        const int room = (limits.shared_bytes + kReserved) / resident - kReserved - static_cast<int>(sizeof(SortedShared<T>)) - warps * T::kWarpQueryBytes;
        return std::min(kMaxStages, std::max(room, 0) / T::kStageBytes);
    };
    const int64_t heads = static_cast<int64_t>(args.heads) * args.sequence_count;
    const auto blocks_of = [&](int warps) { return heads * ((args.max_q_blocks * 4 + warps - 1) / warps); };
    // Several small blocks a processor, where each has room for two tiles; else a large one, unless there are few rows.
    int warps = 4, stages = stages_of(4, T::kMaxWarps / 4);
    if (stages < 2) {
        warps = T::kMaxWarps;
        while (warps > 4 && (stages_of(warps, 1) < 1 || args.max_q_blocks * 4 <= warps - 4 || blocks_of(warps) < limits.processors)) warps -= 4;
        stages = stages_of(warps, 1);
    }
    const int64_t blocks = blocks_of(warps);
    if (blocks == 0) return cudaSuccess;
    if (stages < 1 || blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
    const int bytes = stages * T::kStageBytes + warps * T::kWarpQueryBytes;
    if (const cudaError_t status = allow_most_shared(sorted_flash_fwd<T>, limits.shared_bytes)) return status;
    sorted_flash_fwd<T><<<static_cast<unsigned>(blocks), warps * 32, bytes, stream>>>(args, stages);
    return cudaGetLastError();
}

}  // namespace intflash
