#include "attention_job.h"

#include <cmath>
#include <cstring>
#include <new>

#include "arithmetic.h"
#include "scratch.h"
#include "thread_pool.h"

namespace int_flash {
namespace {

constexpr int64_t kChunkKeys = 1024;  // keys one packing task takes: whole tiles
constexpr double kMaxScore = 1.2676506002282294e30;  // 2^100
constexpr double kMaxJobBytes = 1ull << 46;

void raise(std::atomic<uint32_t>* largest, uint32_t bits) {
    uint32_t before = largest->load(std::memory_order_relaxed);
    while (bits > before && !largest->compare_exchange_weak(before, bits, std::memory_order_relaxed)) {
    }
}

// The sequence that `task` of the prefix sums belongs to.
int64_t find_sequence(const int64_t* first, int64_t sequences, int64_t task) {
    int64_t low = 0, high = sequences;
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        (first[middle] <= task ? low : high) = middle;
    }
    return low;
}

size_t size_of(ElementType type) { return type == ElementType::kFloat32 ? 4 : type == ElementType::kInt8 ? 1 : 2; }

RowSource rows_at(const Operand& operand, int64_t batch, int64_t head, int64_t token, int dim) {
    const char* base = static_cast<const char*>(operand.data);
    return {base + operand.strides.at(batch, head, token) * static_cast<int64_t>(size_of(operand.type)), operand.type,
            static_cast<ptrdiff_t>(operand.strides.token), dim};
}

}  // namespace

bool AttentionJob::smoothing() const {
    return spec_.smooth_k && spec_.softcap == 0 && spec_.key.type != ElementType::kInt8 && spec_.precision != Precision::kFp32 &&
           spec_.precision != Precision::kPaperInt8;
}

// Room for the packed keys and values of one head.
void AttentionJob::take_room(Arena* arena, int64_t tokens, HeadRoom* room) const {
    const bool float_scores = spec_.precision == Precision::kFp32;
    const bool float_values = float_scores || spec_.precision == Precision::kHalfInt8;
    const auto granule = static_cast<size_t>(spec_.kernels->granule), count = static_cast<size_t>(round_up(tokens, kTileKeys));
    const size_t key_words = static_cast<size_t>(spec_.head_dim) / (float_scores ? 1 : granule);
    const auto width = static_cast<size_t>(round_up(spec_.head_dim_v, spec_.kernels->channel_lanes));
    HeadPack& pack = room->pack;
    pack.keys = arena->take<uint32_t>(count * key_words);
    pack.values = arena->take<uint32_t>((float_values ? count : count / granule) * width);
    pack.value_sums = arena->take<int32_t>(spec_.kernels->needs_value_sums ? count / kTileKeys * width : 0);
    pack.key_scale = arena->take<float>(count);
    pack.tau = arena->take<float>(count);
    pack.inverse_weight = arena->take<float>(count);
    pack.channel = arena->take<float>(kMaxHeadDim);
    pack.key_mean = arena->take<float>(kMaxHeadDim);
    room->channel_max = arena->take<float>(kMaxHeadDim);
}

void AttentionJob::lay_out(Arena* arena) {
    const bool measuring = head_ == nullptr;
    HeadRoom unused;
    if (short_heads_) {
        int64_t longest = 0;
        for (int64_t s = 0; s < spec_.sequences; s++) longest = sequence_[s].k_len > longest ? sequence_[s].k_len : longest;
        for (int i = 0; i < threads_; i++) take_room(arena, longest, measuring ? &unused : &lent_[i].room);
        return;
    }
    for (int64_t i = 0; i < spec_.sequences * spec_.kv_heads; i++) {
        HeadRoom& room = measuring ? unused : head_[i].room;
        room.pack.tokens = sequence_[i / spec_.kv_heads].k_len;
        room.pack.padded = round_up(room.pack.tokens, kTileKeys);
        take_room(arena, room.pack.tokens, &room);
    }
}

// How many threads are worth it, and whether each does whole heads.
void AttentionJob::plan(const Sequence* sequences) {
    // In multiply-adds, of a key/value head of the longest sequence and of all. Reading, quantizing and writing a number takes as long as
    // about 150 of them.
    double most = 0, work = 0;
    const double group = static_cast<double>(spec_.heads / spec_.kv_heads);
    for (int64_t s = 0; s < spec_.sequences; s++) {
        const auto queries = static_cast<double>(sequences[s].q_len), keys = static_cast<double>(sequences[s].k_len);
        const double head = (queries * keys * group + (queries * group + keys) * 75) * (spec_.head_dim + spec_.head_dim_v);
        most = std::fmax(most, head);
        work += head * spec_.kv_heads;
    }
    constexpr double kWorthAThread = 1.2e6;  // about four microseconds, what handing work to a waiting thread costs
    threads_ = threads_worth(work / kWorthAThread, spec_.threads);
    short_heads_ = spec_.sequences * spec_.kv_heads >= threads_ && most < 8e6;  // handing out work three times would cost more than it saves
}

bool AttentionJob::prepare(const AttentionSpec& spec, const Sequence* sequences, LiveBytes* live, Failure* failure) {
    spec_ = spec;
    plan(sequences);
    // Enough blocks to share out evenly, big enough that a tile of keys is read from memory rarely.
    int64_t queries = 0;
    for (int64_t s = 0; s < spec.sequences; s++) queries += sequences[s].q_len;
    block_rows_ = kMaxBlockRows;
    while (block_rows_ > 16 && queries * spec.heads / block_rows_ < static_cast<int64_t>(spec.threads) * 4) block_rows_ /= 2;

    const auto count = static_cast<size_t>(spec.sequences);
    sequence_ = const_cast<Sequence*>(sequences);  // for measuring only; the copy follows
    Arena measure(nullptr);
    const auto take_tables = [&](Arena* arena) {
        Sequence* copy = arena->take<Sequence>(count);
        int64_t* chunks = arena->take<int64_t>(count + 1);
        int64_t* blocks = arena->take<int64_t>(count + 1);
        Head* heads = arena->take<Head>(count * static_cast<size_t>(spec.kv_heads));
        Lent* lent = arena->take<Lent>(short_heads_ ? static_cast<size_t>(threads_) : 0);
        if (!copy) return;
        std::memcpy(copy, sequences, count * sizeof(Sequence));
        sequence_ = copy, first_chunk_ = chunks, first_block_ = blocks, head_ = heads, lent_ = lent;
    };
    double estimate = static_cast<double>(spec.sequences) * spec.kv_heads * static_cast<double>(sizeof(Head));
    for (int64_t s = 0; s < spec.sequences && !short_heads_; s++) {
        estimate += static_cast<double>(spec.kv_heads) * static_cast<double>(sequences[s].k_len + kTileKeys) * 4.0 * (spec.head_dim + spec.head_dim_v + 16);
    }
    take_tables(&measure);
    if (estimate < kMaxJobBytes) lay_out(&measure);
    if (estimate >= kMaxJobBytes || !memory_.allocate(measure.used(), live)) {
        failure->bytes = estimate;
        return failure->set("ERR_OOM", "Expected %.0f bytes of memory for packed keys and values, got none", estimate);
    }
    Arena arena(memory_.as<char>());
    take_tables(&arena);
    first_chunk_[0] = first_block_[0] = 0;
    for (size_t s = 0; s < count; s++) {
        first_chunk_[s + 1] = first_chunk_[s] + (sequence_[s].k_len + kChunkKeys - 1) / kChunkKeys;
        first_block_[s + 1] = first_block_[s] + (sequence_[s].q_len + block_rows_ - 1) / block_rows_;
    }
    for (size_t i = 0; i < count * static_cast<size_t>(spec.kv_heads); i++) new (&head_[i]) Head{};
    for (int i = 0; short_heads_ && i < threads_; i++) new (&lent_[i]) Lent{};
    lay_out(&arena);
    return true;
}

// task: head of a sequence, times 2: its keys or its values.
void AttentionJob::gather_statistics(int64_t task) {
    const int64_t index = task / 2, s = index / spec_.kv_heads;
    const int h = static_cast<int>(index % spec_.kv_heads);
    const bool is_value = task % 2 != 0;
    Head& head = head_[index];
    HeadStats stats{0};
    if (!is_value) {
        for (int64_t d = 0; d < round_up(spec_.head_dim, 16); d++) head.room.pack.key_mean[d] = 0.0f;
        if (!smoothing()) return;
        const RowSource rows = rows_at(spec_.key, s, h, sequence_[s].k_start, spec_.head_dim);
        spec_.kernels->channel_stats(rows, sequence_[s].k_len, head.room.pack.key_mean, nullptr, &stats);
        raise(&head.key_bits, stats.max_bits);
        return;
    }
    for (int64_t d = 0; d < round_up(spec_.head_dim_v, 16); d++) head.room.pack.channel[d] = head.room.channel_max[d] = 1.0f;
    if (spec_.value.type == ElementType::kInt8) {
        const float* scale = spec_.value_scale.data;
        const bool per_head = spec_.value_scale.strides.token == 0;
        const ScaleOperand& channel = spec_.channel_scale;
        for (int d = 0; d < spec_.head_dim_v; d++) {
            float c = channel.data ? channel.data[channel.strides.at(s, h, 0) + d] : 1.0f;
            if (per_head) c = c * scale[spec_.value_scale.strides.at(s, h, 0)];
            head.room.pack.channel[d] = c;
        }
        return;
    }
    if (spec_.precision == Precision::kHalfInt8 || spec_.precision == Precision::kFp32) return;
    const RowSource rows = rows_at(spec_.value, s, h, sequence_[s].k_start, spec_.head_dim_v);
    spec_.kernels->channel_stats(rows, sequence_[s].k_len, nullptr, head.room.channel_max, &stats);
    raise(&head.value_bits, stats.max_bits);
    if (spec_.precision == Precision::kPaperInt8) {
        const float largest = float_of(stats.max_bits);
        const float scale = largest / 127.0f;
        for (int d = 0; d < spec_.head_dim_v; d++) head.room.pack.channel[d] = scale > 1.17549435e-38f ? scale : 1.17549435e-38f;
        head.room.channel_max[0] = largest;
        return;
    }
    for (int d = 0; d < spec_.head_dim_v; d++) {
        if (head.room.channel_max[d] == 0.0f) head.room.channel_max[d] = 1.0f;
        head.room.pack.channel[d] = head.room.channel_max[d] / 127.0f;
    }
}

// task: chunk of a head, times 2: its keys or its values.
void AttentionJob::pack_chunk(int64_t task) {
    Scratch* scratch = thread_scratch();
    if (!scratch) {
        out_of_memory_ = true;
        return;
    }
    const bool is_value = task % 2 != 0;
    const int64_t index = task / 2;
    const int64_t s = find_sequence(first_chunk_, spec_.sequences, index / spec_.kv_heads);
    const int64_t inside = index - first_chunk_[s] * spec_.kv_heads;
    const int64_t chunks = first_chunk_[s + 1] - first_chunk_[s];
    const int h = static_cast<int>(inside / chunks);
    const int64_t begin = inside % chunks * kChunkKeys;
    const int64_t end = begin + kChunkKeys < sequence_[s].k_len ? begin + kChunkKeys : sequence_[s].k_len;
    Head& head = head_[s * spec_.kv_heads + h];
    HeadStats stats{0};
    const Operand& operand = is_value ? spec_.value : spec_.key;
    const RowSource rows = rows_at(operand, s, h, sequence_[s].k_start, is_value ? spec_.head_dim_v : spec_.head_dim);
    const ScaleOperand& scale = is_value ? spec_.value_scale : spec_.key_scale;
    const float* scales = scale.data ? scale.data + scale.strides.at(s, h, sequence_[s].k_start) : nullptr;
    if (is_value) {
        spec_.kernels->pack_values(rows, scales, static_cast<ptrdiff_t>(scale.strides.token), spec_.precision, head.room.channel_max, begin, end, &head.room.pack,
                                   scratch, &stats);
        raise(&head.value_bits, stats.max_bits);
    } else {
        float max_scale = 0.0f;
        spec_.kernels->pack_keys(rows, scales, static_cast<ptrdiff_t>(scale.strides.token), spec_.precision, begin, end, &head.room.pack, scratch, &stats,
                                 &max_scale);
        raise(&head.key_bits, stats.max_bits);
        raise(&head.key_scale_bits, bits_of(max_scale));
    }
}

void AttentionJob::compute_block(int64_t task) {
    if (aborted_ || nonfinite_.load(std::memory_order_relaxed)) return;
    Scratch* scratch = thread_scratch();
    if (!scratch) {
        out_of_memory_ = true;
        return;
    }
    const int64_t s = find_sequence(first_block_, spec_.sequences, task / spec_.heads);
    const int64_t inside = task - first_block_[s] * spec_.heads;
    const int64_t blocks = first_block_[s + 1] - first_block_[s];
    const int h = static_cast<int>(inside / blocks);
    const int64_t first = (blocks - 1 - inside % blocks) * block_rows_;  // last queries first: causal ones see the most keys
    const Sequence& sequence = sequence_[s];
    const int64_t shift = spec_.bottom_right ? sequence.k_len - sequence.q_len : 0;
    constexpr int64_t kFar = int64_t{1} << 60;
    const Head& head = head_[s * spec_.kv_heads + h / (spec_.heads / spec_.kv_heads)];

    BlockArgs args{};
    args.precision = spec_.precision;
    args.head_dim = spec_.head_dim;
    args.head_dim_v = spec_.head_dim_v;
    args.scale = spec_.scale;
    args.softcap = spec_.softcap;
    args.first_query = first;
    args.rows = static_cast<int>(sequence.q_len - first < block_rows_ ? sequence.q_len - first : block_rows_);
    args.shift_left = spec_.window_left < 0 ? -kFar : shift - spec_.window_left;
    args.shift_right = spec_.window_right < 0 ? kFar : shift + spec_.window_right;
    args.query = rows_at(spec_.query, s, h, sequence.q_start + first, spec_.head_dim);
    if (first > 0) {  // blocks of a head follow one another
        const RowSource next = rows_at(spec_.query, s, h, sequence.q_start + first - block_rows_, spec_.head_dim);
        const auto element = static_cast<ptrdiff_t>(size_of(next.type));
        args.next_query = {static_cast<const char*>(next.data), next.token_stride * element, static_cast<int>(next.dim * element),
                           static_cast<int>(block_rows_)};
    }
    if (spec_.query_scale.data) {
        args.query_scale = spec_.query_scale.data + spec_.query_scale.strides.at(s, h, sequence.q_start + first);
        args.query_scale_stride = static_cast<ptrdiff_t>(spec_.query_scale.strides.token);
    }
    args.head = &head.room.pack;
    args.mask.type = spec_.mask_type;
    if (spec_.mask_type != MaskType::kNone) {
        const int64_t element = s * spec_.mask_batch + h * spec_.mask_head + first * spec_.mask_query;
        args.mask.data = static_cast<const char*>(spec_.mask) + element * (spec_.mask_type == MaskType::kFloat32 ? 4 : 1);
        args.mask.query_stride = static_cast<ptrdiff_t>(spec_.mask_query);
        args.mask.key_stride = static_cast<ptrdiff_t>(spec_.mask_key);
    }
    args.out = spec_.out + spec_.out_strides.at(s, h, sequence.q_start + first);
    args.out_stride = static_cast<ptrdiff_t>(spec_.out_strides.token);
    if (spec_.lse) {
        args.lse = spec_.lse + spec_.lse_strides.at(s, h, sequence.q_start + first);
        args.lse_stride = static_cast<ptrdiff_t>(spec_.lse_strides.token);
    }
    Checksums checksums{0, 0};
    args.checksums = spec_.checksums ? &checksums : nullptr;
    args.aborted = &aborted_;
    BlockResult result{};
    spec_.kernels->attention_block(args, scratch, &result);
    if (result.bad_row >= 0) nonfinite_ = true;
    // Each factor counts as at least 1: a partial product is formed before the others can make it small.
    const double bound = spec_.head_dim * std::fmax(1.0, 127.0 * static_cast<double>(result.max_query_scale)) *
                         std::fmax(1.0, 127.0 * static_cast<double>(float_of(head.key_scale_bits.load(std::memory_order_relaxed)))) *
                         std::fmax(1.0, static_cast<double>(spec_.scale) * 1.4426950408889634);
    if (!(bound <= kMaxScore)) overflow_ = true;
    if (spec_.checksums) {
        score_checksum_.fetch_add(checksums.scores, std::memory_order_relaxed);
        product_checksum_.fetch_add(checksums.products, std::memory_order_relaxed);
    }
}

// task: as gather_statistics; its chunks are packed right after, while the cache still holds them.
void AttentionJob::prepare_operand(int64_t task) {
    if (aborted_) return;
    gather_statistics(task);
    const int64_t s = task / 2 / spec_.kv_heads, h = task / 2 % spec_.kv_heads;
    const int64_t chunks = first_chunk_[s + 1] - first_chunk_[s], first_chunk = first_chunk_[s] * spec_.kv_heads + h * chunks;
    for (int64_t chunk = first_chunk; chunk < first_chunk + chunks; chunk++) pack_chunk(2 * chunk + task % 2);
}

// task: head of a sequence, from its statistics to its output, in one of the rooms that are lent: there is one for each thread.
void AttentionJob::compute_head(int64_t task) {
    Lent* lent = lent_;
    while (lent->taken.exchange(true, std::memory_order_acquire)) lent = lent + 1 == lent_ + threads_ ? lent_ : lent + 1;
    head_[task].room = lent->room;
    head_[task].room.pack.tokens = sequence_[task / spec_.kv_heads].k_len;
    head_[task].room.pack.padded = round_up(head_[task].room.pack.tokens, kTileKeys);
    prepare_operand(2 * task);
    prepare_operand(2 * task + 1);
    const int64_t s = task / spec_.kv_heads, h = task % spec_.kv_heads;
    const int64_t group = spec_.heads / spec_.kv_heads;
    const int64_t blocks = first_block_[s + 1] - first_block_[s], first_block = first_block_[s] * spec_.heads + h * group * blocks;
    for (int64_t block = first_block; block < first_block + group * blocks; block++) compute_block(block);
    lent->taken.store(false, std::memory_order_release);
}

bool AttentionJob::run(Failure* failure) {
    const int64_t heads = spec_.sequences * spec_.kv_heads;
    const int64_t chunks = first_chunk_[spec_.sequences] * spec_.kv_heads;
    const int64_t blocks = first_block_[spec_.sequences] * spec_.heads;
    const int threads = threads_;
    auto statistics = [this](int64_t task) { gather_statistics(task); };
    auto packing = [this](int64_t task) { pack_chunk(task); };
    auto operand = [this](int64_t task) { prepare_operand(task); };
    auto computing = [this](int64_t task) { compute_block(task); };
    auto whole_head = [this](int64_t head) { compute_head(head); };
    if (short_heads_) {
        parallel_for(threads, heads, whole_head);
    } else if (heads * 2 >= threads * 4) {
        parallel_for(threads, heads * 2, operand);
    } else {
        parallel_for(threads, heads * 2, statistics);
        if (!aborted_) parallel_for(threads, chunks * 2, packing);
    }
    uint32_t key_bits = 0, value_bits = 0;
    for (int64_t i = 0; i < heads; i++) {
        const uint32_t key = head_[i].key_bits.load(), value = head_[i].value_bits.load();
        if (key >= 0x7f800000u || value >= 0x7f800000u) nonfinite_ = true;
        key_bits = key > key_bits ? key : key_bits;
        value_bits = value > value_bits ? value : value_bits;
    }
    if (!nonfinite_ && spec_.precision == Precision::kHalfInt8 && float_of(value_bits) > 65504.0f) {
        return failure->set("ERR_OVERFLOW", "Expected |value| of at most 65504 for half-int8, got %g", static_cast<double>(float_of(value_bits)));
    }
    if (!nonfinite_ && static_cast<double>(float_of(value_bits)) > kMaxScore) {
        return failure->set("ERR_OVERFLOW", "Expected |value| of at most 2^100, got %g", static_cast<double>(float_of(value_bits)));
    }
    if (!nonfinite_ && static_cast<double>(float_of(key_bits)) > kMaxScore) {
        return failure->set("ERR_OVERFLOW", "Expected |key| of at most 2^100, got %g", static_cast<double>(float_of(key_bits)));
    }
    if (!nonfinite_ && !aborted_ && !short_heads_) parallel_for(threads, blocks, computing);
    if (aborted_) return failure->set("ERR_ABORTED", "Expected to finish, got aborted");
    if (out_of_memory_) {
        failure->bytes = sizeof(Scratch);
        return failure->set("ERR_OOM", "Expected %zu bytes of scratch memory a thread, got none", sizeof(Scratch));
    }
    if (nonfinite_) return report_nonfinite(spec_, sequence_, failure);
    if (overflow_) return failure->set("ERR_OVERFLOW", "Expected scores of at most 2^100, got inputs that allow larger ones");
    return true;
}

}  // namespace int_flash
