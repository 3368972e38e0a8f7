// O = softmax(Q·Kᵀ·scale)·V on Hopper's warpgroup products: INT8 Q and K, V in INT8 (full-int8) or float16 (half-int8).
// What is computed: docs/arithmetic.md, "Sorted tiles". Why it looks like this, with measurements: docs/results/h200/log.md.
//
// One story: one thread block a processor takes one item of work after another (sm90_items.cuh): queries of one head, against a run of key tiles.
// A producer brings tiles (sm90_producer.cuh), and here are
//   §1 the consumers, one warpgroup per 64 queries: S = Q·Kᵀ → P → O += P·V, taking turns (sm90_turns.cuh); then the end (sm90_finish.cuh)
//   §2 launch
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "launch_early.h"
#include "ptx/grid_dependency.cuh"
#include "ptx/shared_memory.cuh"
#include "ptx/tile_copy.cuh"
#include "ptx/wgmma.cuh"
#include "sm90_finish.cuh"
#include "sm90_flash_fwd.h"
#include "sm90_items.cuh"
#include "sm90_producer.cuh"
#include "sm90_turns.cuh"
#include "sorted_softmax.cuh"

namespace intflash {

// ── §1 ──
/** threadIdx.x, read anew at each use: the loop has no register to keep it in. */
__device__ __forceinline__ uint32_t thread_index() {
    uint32_t index;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
    return index;
}

template <class T> __device__ __forceinline__ void consume(SharedMemory<T>& shared, const SortedArgs& args, int self) {
    const auto uniform = [](int x) { return __shfl_sync(~0u, x, 0); };  // known to be one number a warp, it lies in a uniform register
    using Memory = SharedMemory<T>;
    const uint32_t base = uniform(shared_address(&shared));  // by a shuffle it is not worked out anew in every iteration
    const auto barrier = [&](size_t offset, int index) { return base + static_cast<uint32_t>(offset) + 8 * index; };
    // Every thread arrives, not one for its warp: it costs nothing, and tools that look for races can follow it.
    const auto leave = [](uint32_t bar) { barrier_arrive(bar); };
    const TurnRing<T> turn{self};
    if (self == T::kConsumers - 1) turn.pass();
    const int warp = uniform((threadIdx.x >> 5) & 3);
    ExponentialTurn<T> weighing{barrier(offsetof(Memory, exponential_turn), 4 * self + warp), barrier(offsetof(Memory, exponential_turn), 4 * (self == T::kConsumers - 1 ? 0 : self + 1) + warp), self == 0};
    constexpr int kPanel = T::kD < 128 ? T::kD : 128;
    const SharedOperand<kPanel> queries(base + offsetof(Memory, query)), keys(base + offsetof(Memory, key));
    constexpr int kValuePanel = T::kHalf ? 128 : sorted_panel_bytes(T::kKeys);
    const SharedOperand<kValuePanel> values(base + offsetof(Memory, value));
    RingSlot<T::kStages> stage;
    for (RingSlot<T::kQueryBuffers> buffer;; buffer.next()) {
        barrier_wait(barrier(offsetof(Memory, query_full), buffer.index), buffer.parity);
        const WorkItem& item = shared.items[buffer.index];
        const auto let_turn_pass = [&] { turn.wait(), turn.pass(), weighing.skip(); };
        if (uniform(item.rows) < 0) break;
        const TileRange own{uniform(item.own[self].begin), uniform(item.own[self].clear_begin), uniform(item.own[self].clear_end), uniform(item.own[self].end)};
        const bool sharing = uniform(item.shared) != 0;
        const auto row_in_item = [&] {
            const int thread = static_cast<int>(thread_index()), block = sharing ? 0 : self;
            return block * kQueryBlock + ((thread >> 5) & 3) * 16 + ((thread & 31) >> 2);
        };
        RowPair rows{{0.f, 0.f}, {-INFINITY, -INFINITY}, {0.f, 0.f}, {0.f, 0.f}};
        const uint32_t factors = base + offsetof(Memory, query_scale) + buffer.index * (4 * T::kRows) + 4 * row_in_item();
        const float log2_scale = args.scale * 1.44269504f;
        float out[T::kOut];
#pragma unroll
        for (int i = 0; i < T::kOut; ++i) out[i] = 0.f;
        float weights[4] = {0.f, 0.f, 0.f, 0.f};  // half-int8: of row r twice, of row r + 8 twice, the same in all four threads
        const auto scale_out = [&](const float(&shrink)[2]) {
#pragma unroll
            for (int i = 0; i < T::kOut; ++i) out[i] *= shrink[(i >> 1) & 1];
            if constexpr (T::kHalf)
#pragma unroll
                for (int i = 0; i < 4; ++i) weights[i] *= shrink[i >> 1];
        };
        const int tile_end = uniform(item.tile_end);
        // Where tiles are shared, all have as many turns, also where they do not begin or end with a round.
        if (sharing && self < uniform(item.tile_begin) % T::kConsumers) let_turn_pass();
        const int query_position = buffer.index * (T::kQueryBytes / 16) + (sharing ? 0 : self) * (T::kBlockBytes / 16);
        const auto multiply_keys = [&](auto& s) {
            wgmma_fence();
#pragma unroll
            for (int step = 0; step < T::kD / 32; ++step) {
                const int panel = step / (kPanel / 32), within = step % (kPanel / 32);
                wgmma_s8(s, queries.at(query_position + panel * (kQueryBlock * kPanel / 16) + 2 * within),
                              keys.at(stage.index * (T::kKeyBytes / 16) + panel * (T::kKeys * kPanel / 16) + 2 * within), step > 0);
            }
            wgmma_commit();
        };
        const auto columns = [&](uint32_t meta) { return TileColumns<T::kKeys>(meta, thread_index() & 3); };
        int tile = uniform(item.tile_begin);
        const auto is_clear = [&] { return tile >= own.clear_begin && tile < own.clear_end; };  // every row sees all of it
        const auto score = [&](auto& s, float(&top)[2], auto tau, uint32_t meta) {
            if (is_clear()) general_scores<tau.value, false>(s, top, rows, columns(meta), RowBand{}, 0, 0);
            else general_scores<tau.value, true>(s, top, rows, columns(meta), item.band, item.first_row + row_in_item(), tile * T::kKeys);
        };
        // P·V of 64 channels from `first` on and of steps [begin, end), 32 keys each.
        const auto multiply_values = [&](auto& t, const auto& p, int first, int begin, int end) {
            wgmma_fence();
#pragma unroll
            for (int step = begin; step < end; ++step) {
                const int panel = step / (kValuePanel / 32), within = step % (kValuePanel / 32);
                wgmma_u8_n64(t, p + 4 * step, values.at(stage.index * (T::kValueBytes / 16) + panel * (T::kD * kValuePanel / 16) + first * (kValuePanel / 16) + 2 * within), step > 0);
            }
            wgmma_commit();
        };
        // V is offset by 128, so the sums are not negative and, read as the bits of a subnormal float, are themselves · 2^-149: no conversion.
        const auto add_products = [&](const auto& t, const TileSums& sums, int first) {
            const float scaled[2] = {sums.beta[0] * 0x1p100f, sums.beta[1] * 0x1p100f};
#pragma unroll
            for (int i = 0; i < 32; ++i) out[first / 2 + i] = fmaf(__int_as_float(t[i]), scaled[(i >> 1) & 1], out[first / 2 + i]);
        };
        const auto load_factors = [&] { rows.factor[0] = load_shared_float(factors) * log2_scale, rows.factor[1] = load_shared_float(factors + 32) * log2_scale; };  // anew for each tile: registers are dearer
        const auto start = [&](auto& s, const auto& meanwhile) {
            turn.wait();
            multiply_keys(s);
            load_factors();
            meanwhile();
            wgmma_wait();
            turn.pass();
            pin(s);
        };
        // The slots of a tile whose scores are there; `weigh(s, p, before_group)` makes them into codes, and the first `early` products begin before it ends.
        const auto attend = [&](auto& s, auto early, const auto& weigh) {
            constexpr int kScores = sizeof(s) / 4, kSteps = kScores / 16, kEarly = decltype(early)::value;
            int p[kScores / 4], t[2][32];
            const TileSums sums = weigh(s, p, [&](int group) {
                if (kEarly > 0 && group == 2 * kEarly) multiply_values(t[0], p, 0, 0, kEarly);
            });
            // 64 channels at a time, the next ones under way while these are added.
            multiply_values(t[0], p, 0, kEarly, kSteps);
#pragma unroll
            for (int part = 0; part < T::kD / 64; ++part) {
                if (part + 1 < T::kD / 64) multiply_values(t[(part + 1) & 1], p, 64 * (part + 1), 0, kSteps);
                if (part == 0) absorb(rows, sums);
                if (part + 1 < T::kD / 64) wgmma_wait_but<1>();
                else wgmma_wait();
                pin(t[part & 1]);
                add_products(t[part & 1], sums, 64 * part);
            }
        };
        const auto attend_plain = [&](auto& scores, auto outliers, uint32_t meta, const auto& visible) {
            constexpr int kEarly = sizeof(scores) / 4 == T::kScores ? T::kEarlySteps : 0;
            attend(scores, std::integral_constant<int, kEarly>{}, [&](auto& s, auto& p, const auto& before_group) {
                return weigh_plain<outliers.value>(s, p, rows, meta + T::kColumnBytes, columns(meta), visible, weighing, scale_out, before_group);
            });
        };
        const auto start_plain = [&](auto count, auto outliers, uint32_t meta, const auto& visible) {
            int scores[decltype(count)::value];
            start(scores, [] {});
            attend_plain(scores, outliers, meta, visible);
        };
        constexpr std::integral_constant<int, T::kScores> kWhole{};
        // Calls run(count), count / 2 scores being what a thread has of a row: of all slots, or of the first 64 or 128 where a sequence's last tile has no more keys.
        const auto with_span = [&](const auto& run) {
            if constexpr (T::kKeys > 128) {
                if (tile == uniform(item.short_tile)) {
                    if (uniform(item.short_span) == 64) run(std::integral_constant<int, 32>{});
                    else run(std::integral_constant<int, 64>{});
                    return;
                }
            }
            run(kWhole);
        };
        const auto attend_any = [&](uint32_t meta, auto kind) {
            if (tile < own.clear_begin || kind == TileKind::kColumns) {
                int scores[T::kScores];
                start(scores, [] {});
                attend(scores, std::integral_constant<int, 0>{}, [&](auto& s, auto& p, const auto&) {
                    float top[2];
                    score(s, top, std::true_type{}, meta);
                    follow(rows, top, scale_out);
                    return weigh_columns(s, p, rows, top, columns(meta), weighing);
                });
                return;
            }
            if (is_clear() && kind == TileKind::kOutliers) return start_plain(kWhole, std::true_type{}, meta, AllKeys{});
            const VisibleKeys visible(item.band, item.first_row + row_in_item(), tile * T::kKeys, T::kKeys);
            if (kind == TileKind::kOutliers) return start_plain(kWhole, std::true_type{}, meta, visible);
            with_span([&](auto count) { start_plain(count, std::false_type{}, meta, visible); });
        };
        // `visible`: AllKeys, VisibleKeys, or nullptr where a row may not see keys at the tile's beginning either.
        const auto attend_half = [&](auto count, uint32_t meta, const auto& visible) {
            constexpr int kScores = decltype(count)::value, kPanels = kScores / 32;
            constexpr bool kGeneral = std::is_same_v<decltype(visible), const std::nullptr_t&>;
            int s[kScores], p[kPanels][16];
            start(s, [] {});
            float top[2];
            if constexpr (kGeneral) score(s, top, std::false_type{}, meta);
            else maxima_of_eighths<T::kKeys>(s, top, rows, meta + T::kColumnBytes, columns(meta), visible);
            follow(rows, top, scale_out);
            const auto multiply = [&](const auto& half, int panel) {
                const int position = stage.index * (T::kValueRoom / 16) + panel * (T::kHalfPanelRoom / 16);
                wgmma_fence();
#pragma unroll
                for (int step = 0; step < 4; ++step) {
                    const uint64_t channels = values.at(position + 2 * step);
                    if constexpr (T::kD == 256) {
                        wgmma_f16(out, half + 4 * step, channels);
                        wgmma_f16(weights, half + 4 * step, values.at(position + T::kHalfPanelBytes / 16 + 2 * step));
                    } else {
                        wgmma_f16(out, weights, half + 4 * step, channels);
                    }
                }
                wgmma_commit();
            };
            pin(out), pin(weights);
            weighing.wait(rows.reference);
            const auto after_group = [&](int group, unsigned known) {
                if (group + 1 == pass_before(kScores / 8, true)) weighing.pass(known);
            };
            // A panel's keys are multiplied while the next one's are weighed.
            const auto weigh_panel = [&](auto panel) {
                constexpr int kPanel = decltype(panel)::value;
                if constexpr (kGeneral) weigh_half_general<4 * kPanel>(s, p[kPanel], rows, after_group);
                else weigh_half_plain<T::kKeys, 4 * kPanel>(s, p[kPanel], rows, meta + T::kColumnBytes, columns(meta), visible, after_group);
                multiply(p[kPanel], kPanel);
            };
            weigh_panel(std::integral_constant<int, 0>{});
            if constexpr (kPanels > 1) weigh_panel(std::integral_constant<int, 1>{});
            if constexpr (kPanels > 2) weigh_panel(std::integral_constant<int, 2>{});
            wgmma_wait();
            pin(out), pin(weights);
        };
        const auto attend_half_masked = [&](uint32_t meta) {
            if (tile < own.clear_begin) return attend_half(kWhole, meta, nullptr);
            const VisibleKeys visible(item.band, item.first_row + row_in_item(), tile * T::kKeys, T::kKeys);
            with_span([&](auto count) { attend_half(count, meta, visible); });
        };
        uint32_t meta;
        TileKind kind;
        bool is_plain = true;  // the last tile whose kind this warpgroup read, and so perhaps this one
        const auto reach = [&] {
            barrier_wait(barrier(offsetof(Memory, tile_full), stage.index), stage.parity);
            meta = base + offsetof(Memory, meta) + stage.index * T::kMetaBytes;
        };
        const auto read_kind = [&] { kind = static_cast<TileKind>(load_shared_int(meta + T::kColumnBytes + offsetof(TileHeader, kind))); };
        const auto release_tile = [&] {
            leave(barrier(offsetof(Memory, tile_empty), stage.index));
            ++tile, stage.next();
        };
        const auto attend_other = [&] {
            if (tile < own.begin || tile >= own.end) let_turn_pass();  // none of this warpgroup's rows sees it
            else if constexpr (T::kHalf) attend_half_masked(meta);
            else attend_any(meta, kind);
            release_tile();
        };
        // Nearly all tiles are plain and seen by every row, or another warpgroup's. In a loop of their own their code lies together: a jump far away costs a tile
        // 150 clocks. With kScoresFirst a run of them is counted, so that nothing but their kind is asked; without, that is slower (docs/results/h200/log.md).
        if constexpr (T::kScoresFirst) {
            while (tile < tile_end) {
                const bool is_own = !sharing || tile % T::kConsumers == self;
                const int usual = !is_own || !is_clear() ? 0 : sharing ? 1 : own.clear_end - tile;
                int left = usual;
#pragma unroll 1
                for (; left > 0 && is_plain; --left) {
                    reach();
                    int scores[T::kScores];
                    start(scores, read_kind);
                    is_plain = kind == TileKind::kPlain;
                    if (!is_plain) break;  // its scores will be computed again
                    attend_plain(scores, std::false_type{}, meta, AllKeys{});
                    release_tile();
                }
                if (usual > 0 && left == 0) continue;
                reach();
                read_kind(), is_plain = kind == TileKind::kPlain;
                if (is_own) attend_other();
                else release_tile();
            }
        } else {
            const int step = sharing ? T::kConsumers : 1;
            int next_own = sharing ? tile + (self + T::kConsumers - tile % T::kConsumers) % T::kConsumers : tile;
            while (tile < tile_end) {
#pragma unroll 1
                do {
                    reach();
                    if constexpr (!T::kHalf) read_kind();
                    if (tile == next_own) {
                        if (!is_clear()) break;
                        if constexpr (!T::kHalf)
                            if (kind != TileKind::kPlain) break;
                        next_own += step;
                        if constexpr (T::kHalf) attend_half(kWhole, meta, AllKeys{});
                        else start_plain(kWhole, std::false_type{}, meta, AllKeys{});
                    }
                    release_tile();
                } while (tile < tile_end);
                if (tile >= tile_end) break;
                next_own += step;
                attend_other();
            }
        }
        if constexpr (T::kHalf)
#pragma unroll
            for (int i = 0; i < 2; ++i) rows.sum[i] = (thread_index() & 3) == 0 ? weights[2 * i] : 0.f;
        if (sharing) {
            if (tile_end % T::kConsumers > 0 && self >= tile_end % T::kConsumers) let_turn_pass();
            add_up<T>(shared, out, rows, self);
            if (self > 0) {
                leave(barrier(offsetof(Memory, query_empty), buffer.index));
                continue;
            }
        }
        const int lane = static_cast<int>(thread_index() & 31), row = row_in_item(), c = lane & 3;
        const int first_row = row - (lane >> 2), block = sharing ? 0 : self;
        const uint32_t channels = base + static_cast<uint32_t>(offsetof(Memory, channel_scale)) + buffer.index * (4 * T::kD);
        const int present = row + 8 < item.rows ? 2 : row < item.rows ? 1 : 0;
        finish_rows(rows, T::kHalf ? kHalfLevelBits : kLevelBits, args, item.lse_at + row * args.lse_strides.token, present, c, [&](auto* target, const auto& inverse, const auto& offset) {
            if constexpr (sizeof(*target) == 2) {
                // Through what held the warpgroup's queries, which none of its warps needs any more.
                named_barrier_sync(kFinishBarrier + self, 128);
                const uint32_t room = base + static_cast<uint32_t>(offsetof(Memory, query)) + buffer.index * T::kQueryBytes + block * T::kBlockBytes + warp * (16 * T::kD);
                store_rows_through<T>(room, target, out, inverse, offset, args, item.out_at + first_row * args.out_strides.token, item.rows - first_row, lane, channels);
                publish_writes();  // before queries are copied there again
            } else {
                store_rows<T>(target, out, inverse, offset, args, item.out_at + row * args.out_strides.token, present, c, channels);
            }
        });
        leave(barrier(offsetof(Memory, query_empty), buffer.index));
    }
    if (self == 0) turn.wait();  // the last pass
}

template <class T> __global__ void __launch_bounds__(T::kThreads, 1) sm90_flash_fwd(const __grid_constant__ SortedArgs args) {
#if __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ uint8_t raw[];
    SharedMemory<T>& shared = *reinterpret_cast<SharedMemory<T>*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t{1023});
    if (threadIdx.x == 0) {
        for (int i = 0; i < T::kQueryBuffers; ++i) barrier_init(shared_address(&shared.query_full[i]), 1), barrier_init(shared_address(&shared.query_empty[i]), 128 * T::kConsumers);
        for (int i = 0; i < T::kStages; ++i) {
            barrier_init(shared_address(&shared.tile_full[i]), 1), barrier_init(shared_address(&shared.tile_empty[i]), 128 * T::kConsumers);
        }
        for (int i = 0; i < 4 * T::kConsumers; ++i) barrier_init(shared_address(&shared.exponential_turn[0][i]), 1);
    }
    if constexpr (T::kHalf) {
        constexpr int kWords = T::kOnes * 128 / 4;
        for (int i = threadIdx.x; i < T::kStages * T::kPanels * kWords; i += T::kThreads)
            reinterpret_cast<uint32_t*>(shared.value[i / kWords / T::kPanels] + i / kWords % T::kPanels * T::kHalfPanelRoom + T::kHalfPanelBytes)[i % kWords] = 0x3c003c00u;
    }
    publish_writes();
    __syncthreads();
    wait_for_launch_before();  // this one may have begun while the judge of the scores was at work
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

// ── §2 ──
constexpr int64_t kSectionBytes = 24 << 20;  // of keys and values: half of L2, the rest is for what streams through

template <class T> cudaError_t launch_sm90_traits(SortedArgs args, int processors, cudaStream_t stream) {
    const int64_t heads = static_cast<int64_t>(args.heads) * args.sequence_count, items = args.part_items > 0 ? args.part_items : heads * (args.max_full_items + args.max_shared_items);
    if (items == 0) return cudaSuccess;
    if (items > INT32_MAX - processors) return cudaErrorInvalidConfiguration;
    args.items = static_cast<int32_t>(items);
    const int64_t head_bytes = (static_cast<int64_t>(args.max_k_len) + T::kKeys - 1) / T::kKeys * T::kTileBytes + 1;
    const int64_t group = args.heads / args.kv_heads, groups = heads / group, together = std::max<int64_t>(1, kSectionBytes / head_bytes);
    const int64_t sections = (groups + together - 1) / together;  // of about the same size, so that the last one, too, has enough work to go round
    args.section_heads = static_cast<int32_t>((groups + sections - 1) / sections * group);
    const int64_t early_sections = args.window_right == 0 ? sections : T::kHalf ? (sections + 1) / 2 : 0;
    args.first_late_head = static_cast<int32_t>(std::min(heads, early_sections * args.section_heads));
    constexpr int bytes = sizeof(SharedMemory<T>) + 1024;
    static_assert(bytes <= 227 * 1024, "one block's shared memory on Hopper");
    if (const cudaError_t status = cudaFuncSetAttribute(sm90_flash_fwd<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return status;
    return launch_early(sm90_flash_fwd<T>, dim3(static_cast<unsigned>(std::min<int64_t>(items, processors))), T::kThreads, bytes, stream, args);
}

}  // namespace intflash
