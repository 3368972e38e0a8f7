// O = softmax(Q·Kᵀ·scale)·V on Hopper's warpgroup products: INT8 Q and K, V in INT8 (full-int8) or float16 (half-int8).
// What is computed: docs/arithmetic.md, "Hopper". Why it looks like this, with measurements: docs/results/h200/log.md.
//
// One story: one thread block a processor takes one item of work after another: up to kRows queries of one head, against a run of key tiles.
//   §1 traits and shared memory      §2 items          §3 the producer, one thread: global → shared, tiles ahead
//   §4 the consumers, one warpgroup per 64 queries: S = Q·Kᵀ → P → O += P·V, taking turns on the tensor cores      §5 launch
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "operand.h"
#include "ptx/tile_copy.cuh"
#include "ptx/wgmma.cuh"
#include "sm90_flash_fwd.h"
#include "sm90_softmax.cuh"

namespace intflash {

// ── §1 ──
template <int kD_, bool kHalf_> struct Sm90Traits {
    static constexpr int kD = kD_;
    static constexpr bool kHalf = kHalf_;
    // As many warpgroups as registers allow: they hide each other's latencies. Counts of registers are what the block is launched with, shared out anew.
    static constexpr int kConsumers = kD == 256 ? 2 : 3;
    static constexpr int kThreads = 128 * (kConsumers + 1);
    static constexpr int kConsumerRegisters = kConsumers == 3 ? 160 : 240, kProducerRegisters = kConsumers == 3 ? 32 : 24;
        static constexpr bool kTurns = kD >= 128;  // with D = 64 the tensor cores have time to spare
    static constexpr int kRows = kQueryBlock * kConsumers;
    static constexpr int kQueryBuffers = kD == 256 ? 1 : 2;
    static constexpr int kStages = kD == 256 ? 2 : kHalf ? 3 : 4;
    static constexpr int kBlockBytes = kQueryBlock * kD, kQueryBytes = kConsumers * kBlockBytes;
    static constexpr int kKeyBytes = kTileKeys * kD, kValueBytes = kKeyBytes * (kHalf ? 2 : 1), kTileBytes = kKeyBytes + kValueBytes + kMetaBytes;
    static constexpr int kOut = kD / 2;  // registers of O a thread
    static_assert(kConsumers * kConsumerRegisters + kProducerRegisters <= (kConsumers + 1) * (65536 / kThreads / 8 * 8), "no register is there twice");
    static_assert(255LL * 255 * kTileKeys < (1 << 23), "P·(V + 128) read as the bits of a subnormal float is that integer · 2^-149");
    static_assert(127LL * 127 * kD < (1 << 24), "scores convert exactly");
};

/** Tiles [begin, end) that some row of a warpgroup sees; of these, every row sees all of [clear_begin, clear_end). */
struct alignas(16) TileRange {
    int32_t begin, clear_begin, clear_end, end;
};

/** Queries [first_row, first_row + kRows) of one head against tiles [tile_begin, tile_end). */
struct WorkItem {
    int32_t first_row, rows;  // rows: up to the end of the sequence, perhaps more than the item's; -1: no more work
    int32_t tile_begin, tile_end;
    TileRange own[4];  // of each warpgroup
    RowBand band;
    int64_t channel_at, out_at, lse_at;  // of first_row
};

template <class T> struct SharedMemory {  // from a 1024-byte boundary: the 128-byte swizzle repeats every 8 rows
    alignas(1024) uint8_t query[T::kQueryBuffers][T::kQueryBytes];
    alignas(1024) uint8_t key[T::kStages][T::kKeyBytes];
    alignas(1024) uint8_t value[T::kStages][T::kValueBytes];
    alignas(16) uint8_t meta[T::kStages][kMetaBytes];
    alignas(16) float query_scale[T::kQueryBuffers][T::kRows];
    WorkItem items[T::kQueryBuffers];
    alignas(8) uint64_t query_full[T::kQueryBuffers], query_empty[T::kQueryBuffers];
    uint64_t key_full[T::kStages], key_empty[T::kStages], value_full[T::kStages], value_empty[T::kStages];
};

/** A place in a ring of `size`, and the parity of this lap. */
template <int size> struct RingSlot {
    int index = 0;
    uint32_t parity = 0;
    __device__ __forceinline__ void next() {
        if (++index == size) index = 0, parity ^= 1;
    }
};

// ── §2 ──
__device__ __forceinline__ RowBand band_of(const Sm90Args& args, const Sm90Sequence& sequence) {
    constexpr int64_t kFar = int64_t{1} << 30;  // no sequence is longer, so nothing overflows
    const int64_t diagonal = args.bottom_right ? static_cast<int64_t>(sequence.k_len) - sequence.q_len : 0;
    return {static_cast<int>(max(min(diagonal - args.window_left, kFar), -kFar)), static_cast<int>(max(min(diagonal + args.window_right + 1, kFar), -kFar)), sequence.k_len};
}

__device__ __forceinline__ TileRange tile_range(const RowBand& band, int first, int last) {
    TileRange range{band.first(first) / kTileKeys, (band.first(last) + kTileKeys - 1) / kTileKeys, band.end(first) / kTileKeys, (band.end(last) + kTileKeys - 1) / kTileKeys};
    if (band.end(last) <= band.first(first)) range.end = range.begin;
    return range;
}

/** The long rows of a causal mask come first; heads of a section side by side, so that their keys and values stay in L2. @returns false past a short sequence's end. */
template <class T> __device__ __forceinline__ bool find_item(const Sm90Args& args, int index, Sm90Sequence& sequence, int& head, WorkItem& item) {
    const int per_section = args.section_heads * args.q_tiles, section = index / per_section, within = index - section * per_section;
    const int heads = min(args.section_heads, args.heads * args.sequence_count - section * args.section_heads);
    const int flat_head = section * args.section_heads + within % heads, batch = flat_head / args.heads;
    head = flat_head - batch * args.heads;
    item.first_row = (args.q_tiles - 1 - within / heads) * T::kRows;
    sequence = args.sequences[batch];
    item.rows = sequence.q_len - item.first_row;
    if (item.rows <= 0) return false;
    const int64_t token = sequence.q_start + item.first_row;
    item.channel_at = (static_cast<int64_t>(batch) * args.kv_heads + head / (args.heads / args.kv_heads)) * T::kD;
    item.out_at = batch * args.out_strides.batch + head * args.out_strides.head + token * args.out_strides.token;
    item.lse_at = batch * args.lse_strides.batch + head * args.lse_strides.head + token * args.lse_strides.token;
    item.band = band_of(args, sequence);
    const TileRange all = tile_range(item.band, item.first_row, min(item.first_row + T::kRows, sequence.q_len) - 1);
    item.tile_begin = all.begin, item.tile_end = all.end;
#pragma unroll
    for (int block = 0; block < T::kConsumers; ++block) {
        const int first = item.first_row + block * kQueryBlock;
        item.own[block] = first < sequence.q_len ? tile_range(item.band, first, min(first + kQueryBlock, sequence.q_len) - 1) : TileRange{0, 0, 0, 0};
    }
    return true;
}

// ── §3 ──
__device__ __forceinline__ void expect_bytes(uint64_t* full, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(full)), "r"(bytes) : "memory");
}
__device__ __forceinline__ void bulk_copy(void* target, const void* source, uint32_t bytes, uint64_t* full) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"(shared_address(target)), "l"(source), "r"(bytes), "r"(shared_address(full)) : "memory");
}

template <class T> __device__ __forceinline__ void produce(SharedMemory<T>& shared, const Sm90Args& args) {
    RingSlot<T::kStages> stage;
    RingSlot<T::kQueryBuffers> buffer;
    WorkItem item;
    Sm90Sequence sequence;
    int head;
    for (int index = blockIdx.x; index < args.items; index = gridDim.x + atomicAdd(args.next_item, 1)) {
        if (!find_item<T>(args, index, sequence, head, item)) continue;
        barrier_wait(shared_address(&shared.query_empty[buffer.index]), buffer.parity ^ 1);
        shared.items[buffer.index] = item;
        const int block = item.first_row / kQueryBlock, blocks = min(T::kConsumers, sequence.q_blocks - block);
        const int64_t first_block = sequence.q_block_base + static_cast<int64_t>(head) * sequence.q_blocks + block;
        expect_bytes(&shared.query_full[buffer.index], blocks * (T::kBlockBytes + kQueryBlock * 4));
        bulk_copy(shared.query[buffer.index], args.q_blocks + first_block * T::kBlockBytes, blocks * T::kBlockBytes, &shared.query_full[buffer.index]);
        bulk_copy(shared.query_scale[buffer.index], args.q_scales + first_block * kQueryBlock, blocks * kQueryBlock * 4, &shared.query_full[buffer.index]);
        buffer.next();
        const int kv_head = head / (args.heads / args.kv_heads);
        const uint8_t* tile = args.tiles + (sequence.tile_base + static_cast<int64_t>(kv_head) * sequence.tiles + item.tile_begin) * T::kTileBytes;
        for (int i = item.tile_begin; i < item.tile_end; ++i, tile += T::kTileBytes, stage.next()) {
            const int slot = stage.index;
            barrier_wait(shared_address(&shared.key_empty[slot]), stage.parity ^ 1);
            barrier_wait(shared_address(&shared.value_empty[slot]), stage.parity ^ 1);  // the columns are read until then
            expect_bytes(&shared.key_full[slot], T::kKeyBytes + kMetaBytes);
            bulk_copy(shared.key[slot], tile, T::kKeyBytes, &shared.key_full[slot]);
            bulk_copy(shared.meta[slot], tile + T::kKeyBytes + T::kValueBytes, kMetaBytes, &shared.key_full[slot]);
            expect_bytes(&shared.value_full[slot], T::kValueBytes);
            bulk_copy(shared.value[slot], tile + T::kKeyBytes, T::kValueBytes, &shared.value_full[slot]);
        }
    }
    barrier_wait(shared_address(&shared.query_empty[buffer.index]), buffer.parity ^ 1);
    shared.items[buffer.index].rows = -1;
    barrier_arrive(shared_address(&shared.query_full[buffer.index]));
}

// ── §4 ──
/** Turns on the tensor cores: a warpgroup starts its Q·Kᵀ when the one before it has finished its own, so that all do not weigh at once. */
template <class T> struct TurnRing {
    int self;
    __device__ __forceinline__ void wait() const {
        if constexpr (T::kTurns) asm volatile("bar.sync %0, 256;" ::"r"(1 + self) : "memory");
    }
    __device__ __forceinline__ void pass() const {
        if constexpr (T::kTurns) asm volatile("bar.arrive %0, 256;" ::"r"(1 + (self == T::kConsumers - 1 ? 0 : self + 1)) : "memory");
    }
};

__device__ __forceinline__ TileHeader read_header(uint32_t address) {
    TileHeader header{};
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(header.k_scale[0]), "=f"(header.k_scale[1]), "=f"(header.tau), "=f"(header.inverse_weight)
                 : "r"(address));
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(header.kind) : "r"(address + 16));
    return header;
}

__device__ __forceinline__ void store_pair(float* to, float a, float b) { *reinterpret_cast<float2*>(to) = make_float2(a, b); }
__device__ __forceinline__ void store_pair(__half* to, float a, float b) { *reinterpret_cast<__half2*>(to) = __floats2half2_rn(a, b); }
__device__ __forceinline__ void store_pair(__nv_bfloat16* to, float a, float b) { *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(a, b); }

/** O of a thread, rows `row` of the item and the eighth after it: columns 8j + 2c of two rows in registers 4j .. 4j + 3. For INT8 values in units of 2^-49, with V's offset still in it. */
template <class T, class Element>
__device__ __forceinline__ void store_rows(Element* out, const float (&o)[T::kOut], const RowPair& rows, const Sm90Args& args, const WorkItem& item, int row, int c) {
    float2 factor[T::kD / 8];
#pragma unroll
    for (int block = 0; block < T::kD / 8; ++block) factor[block] = __ldg(reinterpret_cast<const float2*>(args.channel_scale + item.channel_at + 8 * block + 2 * c));
    Element* target = out + item.out_at + row * args.out_strides.token + 2 * c;
    const int64_t lse_at = item.lse_at + row * args.lse_strides.token;
    const bool present[2] = {row < item.rows, row + 8 < item.rows};
    float inverse[2], offset[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float sum = over_quad_sum(rows.sum[i]);
        inverse[i] = sum > 0.f ? 1.f / sum : 0.f;  // no visible key: zeros
        offset[i] = -128.f * over_quad_sum(rows.codes[i]);
        if (args.lse != nullptr && c == 0 && present[i]) {
            const float level = T::kHalf ? kHalfLevelBits : kLevelBits;
            args.lse[lse_at + 8 * i * args.lse_strides.token] = sum > 0.f ? (rows.reference[i] - level + log2f(sum)) * 0.693147181f : -INFINITY;
        }
    }
#pragma unroll
    for (int block = 0; block < T::kD / 8; ++block) {
        if (8 * block + 2 * c >= args.head_dim_v) continue;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float a = o[4 * block + 2 * i], b = o[4 * block + 2 * i + 1];
            if constexpr (!T::kHalf) a = fmaf(a, 0x1p49f, offset[i]), b = fmaf(b, 0x1p49f, offset[i]);
            if (present[i]) store_pair(target + 8 * i * args.out_strides.token + 8 * block, a * (factor[block].x * inverse[i]), b * (factor[block].y * inverse[i]));
        }
    }
}

/** threadIdx.x, read anew at each use: the loop has no register to keep it in. */
__device__ __forceinline__ uint32_t thread_index() {
    uint32_t index;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
    return index;
}

template <class T> __device__ __forceinline__ void consume(SharedMemory<T>& shared, const Sm90Args& args, int self) {
    const auto uniform = [](int x) { return __shfl_sync(~0u, x, 0); };  // known to be one number a warp, it lies in a uniform register
    using Memory = SharedMemory<T>;
    const uint32_t base = uniform(shared_address(&shared));  // by a shuffle it is not worked out anew in every iteration
    const auto barrier = [&](size_t offset, int index) { return base + static_cast<uint32_t>(offset) + 8 * index; };
    const bool speaks = (threadIdx.x & 31) == 0;
    const auto leave = [&](uint32_t bar) {
        if (speaks) barrier_arrive(bar);  // one arrival a warp
    };
    const TurnRing<T> turn{self};
    if (self == T::kConsumers - 1) turn.pass();
    constexpr int kPanel = T::kD < 128 ? T::kD : 128;
    const SharedOperand<kPanel> queries(base + offsetof(Memory, query) + self * T::kBlockBytes), keys(base + offsetof(Memory, key));
    const SharedOperand<128> values(base + offsetof(Memory, value));
    RingSlot<T::kStages> stage;
    for (RingSlot<T::kQueryBuffers> buffer;; buffer.next()) {
        barrier_wait(barrier(offsetof(Memory, query_full), buffer.index), buffer.parity);
        const WorkItem& item = shared.items[buffer.index];
        if (uniform(item.rows) < 0) break;
        const TileRange own{uniform(item.own[self].begin), uniform(item.own[self].clear_begin), uniform(item.own[self].clear_end), uniform(item.own[self].end)};
        const auto row_in_item = [&] {
            const int thread = static_cast<int>(thread_index());
            return self * kQueryBlock + ((thread >> 5) & 3) * 16 + ((thread & 31) >> 2);
        };
        RowPair rows{{0.f, 0.f}, {-INFINITY, -INFINITY}, {0.f, 0.f}, {0.f, 0.f}};
        const uint32_t factors = base + offsetof(Memory, query_scale) + buffer.index * (4 * T::kRows) + 4 * row_in_item();
        const float log2_scale = args.scale * 1.44269504f;
        float out[T::kOut];
#pragma unroll
        for (int i = 0; i < T::kOut; ++i) out[i] = 0.f;
        const auto scale_out = [&](const float(&shrink)[2]) {
#pragma unroll
            for (int i = 0; i < T::kOut; ++i) out[i] *= shrink[(i >> 1) & 1];
        };
        const int tile_end = uniform(item.tile_end);
#pragma unroll 1
        for (int tile = uniform(item.tile_begin); tile < tile_end; ++tile, stage.next()) {
            const int slot = stage.index;
            barrier_wait(barrier(offsetof(Memory, key_full), slot), stage.parity);
            turn.wait();
            if (tile < own.begin || tile >= own.end) {
                turn.pass();
                leave(barrier(offsetof(Memory, key_empty), slot));
                barrier_wait(barrier(offsetof(Memory, value_full), slot), stage.parity);
                leave(barrier(offsetof(Memory, value_empty), slot));
                continue;
            }
            int s[64], p[16];
            TileSums sums{};
            {
                wgmma_fence();
#pragma unroll
                for (int step = 0; step < T::kD / 32; ++step) {
                    const int panel = step / (kPanel / 32), within = step % (kPanel / 32);
                    wgmma_s8_n128(s, queries.at(buffer.index * (T::kQueryBytes / 16) + panel * (kQueryBlock * kPanel / 16) + 2 * within),
                                  keys.at(slot * (T::kKeyBytes / 16) + panel * (kTileKeys * kPanel / 16) + 2 * within), step > 0);
                }
                wgmma_commit();
                const uint32_t meta = base + offsetof(Memory, meta) + slot * kMetaBytes;
                const TileHeader header = read_header(meta + kColumnBytes);
                const TileKind kind = static_cast<TileKind>(uniform(header.kind));
                const bool clear = tile >= own.clear_begin && tile < own.clear_end;
                asm volatile("ld.shared.f32 %0, [%1];" : "=f"(rows.factor[0]) : "r"(factors));  // anew for each tile: registers are dearer
                asm volatile("ld.shared.f32 %0, [%1];" : "=f"(rows.factor[1]) : "r"(factors + 32));
                rows.factor[0] *= log2_scale, rows.factor[1] *= log2_scale;
                wgmma_wait();
                turn.pass();
                pin(s);
                leave(barrier(offsetof(Memory, key_empty), slot));
                const auto columns = [&] {
                    const uint32_t c = thread_index() & 3;
                    return TileColumns{meta + 16 * c, meta + 3 * kTileKeys * 4 + 4 * c};
                };
                const auto score = [&](auto tau, float(&top)[2]) {
                    if (clear) general_scores<tau.value, false>(s, top, rows, columns(), RowBand{}, 0, 0);
                    else general_scores<tau.value, true>(s, top, rows, columns(), item.band, item.first_row + row_in_item(), tile * kTileKeys);
                };
                if constexpr (T::kHalf) {
                    float top[2];
                    if (clear) maxima_of_eighths(s, top, rows, meta + kColumnBytes);
                    else score(std::false_type{}, top);
                    if (__any_sync(~0u, top[0] - rows.reference[0] > kSlack || top[1] - rows.reference[1] > kSlack)) follow(rows, top, scale_out);
                    if (clear) weigh_half_plain<0>(s, p, rows, meta + kColumnBytes);
                    else weigh_half_general<0>(s, p, rows);
                } else if (clear && kind == TileKind::kPlain) {
                    sums = weigh_plain<false>(s, p, rows, header, TileColumns{});
                } else if (clear && kind == TileKind::kOutliers) {
                    sums = weigh_plain<true>(s, p, rows, header, columns());
                } else {
                    float top[2];
                    score(std::true_type{}, top);
                    sums = weigh_columns(s, p, rows, top, columns());
                }
                if constexpr (!T::kHalf) {
                    if (sums.above) {
                        follow(rows, sums.top, scale_out);
                        sums.beta[0] = exp2_fast(sums.top[0] - rows.reference[0]);
                        sums.beta[1] = exp2_fast(sums.top[1] - rows.reference[1]);
                    }
                }
            }
            barrier_wait(barrier(offsetof(Memory, value_full), slot), stage.parity);
            const int value = slot * (T::kValueBytes / 16);
            if constexpr (T::kHalf) {
                // The first 64 keys are multiplied while the others are weighed.
                int p_rest[16];
                const auto add_products = [&](const int (&half)[16], int panel) {
                    wgmma_fence();
#pragma unroll
                    for (int step = 0; step < 4; ++step) wgmma_f16(out, half + 4 * step, values.at(value + panel * (T::kD * 128 / 16) + 2 * step));
                    wgmma_commit();
                };
                pin(out);
                add_products(p, 0);
                if (tile >= own.clear_begin && tile < own.clear_end) weigh_half_plain<4>(s, p_rest, rows, base + static_cast<uint32_t>(offsetof(Memory, meta)) + slot * kMetaBytes + kColumnBytes);
                else weigh_half_general<4>(s, p_rest, rows);
                add_products(p_rest, 1);
                wgmma_wait();
                pin(out);
            } else {
                constexpr int kWidth = T::kD < 128 ? T::kD : 128;  // channels a product
                // V is offset by 128, so the sums are not negative and, read as the bits of a subnormal float, are themselves · 2^-149: no conversion.
                const float scaled[2] = {sums.beta[0] * 0x1p100f, sums.beta[1] * 0x1p100f};
#pragma unroll
                for (int first = 0; first < T::kD; first += kWidth) {
                    int t[kWidth / 2];
                    wgmma_fence();
#pragma unroll
                    for (int step = 0; step < kTileKeys / 32; ++step) wgmma_u8(t, p + 4 * step, values.at(value + first * (kTileKeys / 16) + 2 * step), step > 0);
                    wgmma_commit();
                    if (first == 0) absorb(rows, sums);
                    wgmma_wait();
                    pin(t);
#pragma unroll
                    for (int i = 0; i < kWidth / 2; ++i) out[first / 2 + i] = fmaf(__int_as_float(t[i]), scaled[(i >> 1) & 1], out[first / 2 + i]);
                }
            }
            leave(barrier(offsetof(Memory, value_empty), slot));
        }
        const WorkItem done = item;
        leave(barrier(offsetof(Memory, query_empty), buffer.index));
        const int row = row_in_item(), c = static_cast<int>(thread_index() & 3);
        if (args.out_type == static_cast<int32_t>(ElementType::kFloat32)) store_rows<T>(static_cast<float*>(args.out), out, rows, args, done, row, c);
        else if (args.out_type == static_cast<int32_t>(ElementType::kFloat16)) store_rows<T>(static_cast<__half*>(args.out), out, rows, args, done, row, c);
        else store_rows<T>(static_cast<__nv_bfloat16*>(args.out), out, rows, args, done, row, c);
    }
    if (self == 0) turn.wait();  // the last pass
}

template <class T> __global__ void __launch_bounds__(T::kThreads, 1) sm90_flash_fwd(const __grid_constant__ Sm90Args args) {
#if __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ uint8_t raw[];
    SharedMemory<T>& shared = *reinterpret_cast<SharedMemory<T>*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t{1023});
    if (threadIdx.x == 0) {
        for (int i = 0; i < T::kQueryBuffers; ++i) barrier_init(shared_address(&shared.query_full[i]), 1), barrier_init(shared_address(&shared.query_empty[i]), 4 * T::kConsumers);
        for (int i = 0; i < T::kStages; ++i) {
            barrier_init(shared_address(&shared.key_full[i]), 1), barrier_init(shared_address(&shared.key_empty[i]), 4 * T::kConsumers);
            barrier_init(shared_address(&shared.value_full[i]), 1), barrier_init(shared_address(&shared.value_empty[i]), 4 * T::kConsumers);
        }
        publish_barriers();
    }
    __syncthreads();
    const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);  // uniform, so that what depends on it lies in uniform registers
    if (warpgroup == 0) {
        release_registers<T::kProducerRegisters>();
        if (threadIdx.x == 0) produce<T>(shared, args);
    } else {
        take_registers<T::kConsumerRegisters>();
        consume<T>(shared, args, warpgroup - 1);
    }
#endif
}

// ── §5 ──
constexpr int64_t kSectionBytes = 24 << 20;  // of keys and values: half of L2, the rest is for what streams through

template <class T> cudaError_t launch_sm90_traits(Sm90Args args, int processors, cudaStream_t stream) {
    args.q_tiles = (args.max_q_len + T::kRows - 1) / T::kRows;
    const int64_t heads = static_cast<int64_t>(args.heads) * args.sequence_count, items = heads * args.q_tiles;
    if (items == 0) return cudaSuccess;
    if (items > INT32_MAX - processors) return cudaErrorInvalidConfiguration;
    args.items = static_cast<int32_t>(items);
    const int64_t head_bytes = (static_cast<int64_t>(args.max_k_len) + kTileKeys - 1) / kTileKeys * T::kTileBytes + 1;
    const int64_t group = args.heads / args.kv_heads, kv_heads_together = std::max<int64_t>(1, kSectionBytes / head_bytes);
    args.section_heads = static_cast<int32_t>(std::min(heads, kv_heads_together * group));
    constexpr int bytes = sizeof(SharedMemory<T>) + 1024;
    static_assert(bytes <= 227 * 1024, "one block's shared memory on Hopper");
    if (const cudaError_t status = cudaFuncSetAttribute(sm90_flash_fwd<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return status;
    if (const cudaError_t status = cudaMemsetAsync(args.next_item, 0, sizeof(int32_t), stream)) return status;
    sm90_flash_fwd<T><<<static_cast<unsigned>(std::min<int64_t>(items, processors)), T::kThreads, bytes, stream>>>(args);
    return cudaGetLastError();
}

}  // namespace intflash
