#include "cache_attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "arithmetic.h"
#include "attention_job.h"
#include "scratch.h"
#include "thread_pool.h"

namespace int_flash {
namespace {

constexpr int64_t kFewQueries = 8;  // docs/arithmetic.md: up to here the keys are split into runs
constexpr double kMaxScore = 1.2676506002282294e30;  // 2^100

bool report_nonfinite(const CacheSpec& spec, Failure* failure) {
    const int64_t count = spec.tokens * spec.heads * spec.head_dim;
    for (int64_t i = 0; i < count; i++) {
        if (std::isfinite(spec.query[i])) continue;
        const char* what = std::isnan(spec.query[i]) ? "NaN" : spec.query[i] > 0 ? "Infinity" : "-Infinity";
        return failure->set("ERR_NONFINITE", "Expected query to hold finite numbers, got %s at element %lld", what, static_cast<long long>(i));
    }
    return failure->set("ERR_NONFINITE", "Expected finite numbers, got NaN or Infinity");
}

// Memory a thread keeps for its decode calls: asking the allocator each time would cost more than a short cache's attention.
struct Workspace {
    OwnedMemory memory;
    LiveBytes bytes{0};  // of no backend's objects
    char* reserve(size_t wanted) {
        if (memory.bytes() < wanted && !memory.allocate(wanted + wanted / 2, &bytes)) return nullptr;
        return memory.as<char>();
    }
};
thread_local Workspace workspace;

int64_t row_of(const CacheSpec& spec, int64_t token) {
    return spec.pages ? int64_t{spec.pages[token / kPageTokens]} * kPageTokens + token % kPageTokens : token;
}

// Whether the rows of tokens [begin, end) follow each other in memory.
bool is_contiguous(const CacheSpec& spec, int64_t begin, int64_t end) {
    if (!spec.pages) return true;
    for (int64_t page = begin / kPageTokens + 1; page * kPageTokens < end; page++)
        if (spec.pages[page] != spec.pages[page - 1] + 1) return false;
    return true;
}

size_t row_bytes(const CacheSpec& spec) {
    const auto dim = static_cast<size_t>(spec.head_dim);
    if (spec.type == ElementType::kFloat32) return dim * 4;
    if (spec.type == ElementType::kFloat16) return dim * 2;
    return spec.type == ElementType::kInt4 ? dim / 2 : dim;
}

// Hands over tokens [begin, end) of a head in pieces whose rows follow each other: read(first row, first token less begin, tokens).
template <class Read>
void each_piece(const CacheSpec& spec, int64_t head, int64_t begin, int64_t end, Read read) {
    for (int64_t token = begin; token < end;) {
        const int64_t next = std::min(end, (token / kPageTokens + 1) * kPageTokens);
        read(head * spec.capacity + row_of(spec, token), token - begin, next - token);
        token = next;
    }
}

// Copies tokens [begin, end) of a head to one place; float16 is widened.
void copy_rows(const CacheSpec& spec, const void* rows, int64_t head, int64_t begin, int64_t end, char* to) {
    const size_t bytes = row_bytes(spec);
    each_piece(spec, head, begin, end, [&](int64_t row, int64_t at, int64_t tokens) {
        const char* from = static_cast<const char*>(rows) + static_cast<size_t>(row) * bytes;
        if (spec.type != ElementType::kFloat16) {
            std::memcpy(to + static_cast<size_t>(at) * bytes, from, static_cast<size_t>(tokens) * bytes);
            return;
        }
        const auto* halves = reinterpret_cast<const uint16_t*>(from);
        float* wide = reinterpret_cast<float*>(to) + at * spec.head_dim;
        for (int64_t i = 0; i < tokens * spec.head_dim; i++) wide[i] = float16_to_float32(halves[i]);
    });
}

void copy_scales(const CacheSpec& spec, const float* scales, int64_t head, int64_t begin, int64_t end, float* to) {
    each_piece(spec, head, begin, end, [&](int64_t row, int64_t at, int64_t tokens) { std::memcpy(to + at, scales + row, static_cast<size_t>(tokens) * 4); });
}

thread_local Workspace run_copy;  // a run's rows, where they do not lie as the kernel reads them

// Up to which token rows follow those before `end`; no further than is worth knowing.
int64_t contiguous_end(const CacheSpec& spec, int64_t end) {
    if (!spec.pages) return spec.length;
    constexpr int64_t kPagesWorthKnowing = 16;
    const int64_t last = std::min((spec.length + kPageTokens - 1) / kPageTokens, end / kPageTokens + kPagesWorthKnowing);
    int64_t page = (end + kPageTokens - 1) / kPageTokens;
    while (page < last && spec.pages[page] == spec.pages[page - 1] + 1) page++;
    return std::min(spec.length, page * kPageTokens);
}

// Points the kernel at a run's rows: where they lie, or at a copy. False: no memory for one. next_head: the thread goes on with the next head's
// `first_token`.
bool place_run(const CacheSpec& spec, int64_t head, bool next_head, int64_t first_token, CacheRunArgs* args) {
    const bool coded = spec.key_scales != nullptr;
    const int64_t tokens = args->end - args->begin;
    if (is_contiguous(spec, args->begin, args->end) && spec.type != ElementType::kFloat16) {
        const int64_t row = head * spec.capacity + row_of(spec, args->begin);
        const auto byte = static_cast<ptrdiff_t>(row) * static_cast<ptrdiff_t>(row_bytes(spec));
        args->keys = static_cast<const char*>(spec.keys) + byte;
        args->values = static_cast<const char*>(spec.values) + byte;
        if (coded) args->key_scale = spec.key_scales + row, args->value_scale = spec.value_scales + row;
        args->readable = contiguous_end(spec, args->end);
        if (next_head) args->next = spec.capacity + row_of(spec, first_token) - row_of(spec, args->begin);
        return true;
    }
    const size_t bytes = static_cast<size_t>(tokens) * (spec.type == ElementType::kFloat16 ? static_cast<size_t>(spec.head_dim) * 4 : row_bytes(spec));
    const size_t aligned = static_cast<size_t>(round_up(static_cast<int64_t>(bytes), 64)), scale_bytes = static_cast<size_t>(round_up(tokens, 16)) * 4;
    char* to = run_copy.reserve(2 * (aligned + scale_bytes));
    if (!to) return false;
    copy_rows(spec, spec.keys, head, args->begin, args->end, to);
    copy_rows(spec, spec.values, head, args->begin, args->end, to + aligned);
    args->keys = to;
    args->values = to + aligned;
    if (!coded) return true;
    float* scales = reinterpret_cast<float*>(to + 2 * aligned);
    float* value_scales = scales + round_up(tokens, 16);
    copy_scales(spec, spec.key_scales, head, args->begin, args->end, scales);
    copy_scales(spec, spec.value_scales, head, args->begin, args->end, value_scales);
    args->key_scale = scales;
    args->value_scale = value_scales;
    return true;
}

bool attend_few(const CacheSpec& spec, Failure* failure) {
    const KernelTable& kernels = *spec.kernels;
    const bool is_float = spec.key_scales == nullptr;
    const int dim = spec.head_dim, group = static_cast<int>(spec.heads / spec.kv_heads);
    const int tokens = static_cast<int>(spec.tokens);
    const int rows = tokens * group;  // of one kv head: row t * group + g
    const int64_t all_rows = spec.tokens * spec.heads;
    const int words = is_float ? kMaxHeadDim : static_cast<int>(round_up(dim, 64)) / kernels.granule;
    const int64_t first_visible = spec.window_left < 0 ? 0 : std::max<int64_t>(0, spec.length - spec.tokens - spec.window_left);
    const int64_t first_run = first_visible / kRunKeys, runs = (spec.length + kRunKeys - 1) / kRunKeys - first_run;
    // A task's rows live in the kernel's fixed arrays, so very wide groups go in parts.
    const int part_rows = rows < kMaxBlockRows ? rows : kMaxBlockRows, parts = (rows + part_rows - 1) / part_rows;
    const int64_t tasks = spec.kv_heads * runs * parts;
    const int out_width = static_cast<int>(round_up(dim, 16));

    struct Places {
        uint32_t* query;
        float *row_scale, *natural_scale, *partial_max, *partial_sum, *partial_out, *max_key_scale, *query_scale;
        int64_t *begin, *end;
    };
    const auto places_in = [&](Arena arena, size_t* used) {
        Places p;
        const auto n = static_cast<size_t>(all_rows), r = static_cast<size_t>(runs);
        p.query = arena.take<uint32_t>(n * static_cast<size_t>(words));
        p.row_scale = arena.take<float>(n);
        p.natural_scale = arena.take<float>(n);
        p.query_scale = arena.take<float>(n);
        p.begin = arena.take<int64_t>(n);
        p.end = arena.take<int64_t>(n);
        p.partial_max = arena.take<float>(n * r);
        p.partial_sum = arena.take<float>(n * r);
        p.partial_out = arena.take<float>(n * r * static_cast<size_t>(out_width));
        p.max_key_scale = arena.take<float>(static_cast<size_t>(tasks));
        *used = arena.used();
        return p;
    };
    size_t bytes = 0;
    places_in(Arena(nullptr), &bytes);
    char* base = workspace.reserve(bytes);
    Scratch* scratch = thread_scratch();
    if (!base || !scratch) {
        failure->bytes = static_cast<double>(bytes);
        return failure->set("ERR_OOM", "Expected %zu bytes of memory, got none", bytes);
    }
    const Places p = places_in(Arena(base), &bytes);

    float max_query_scale = 0.0f;
    for (int64_t h = 0; h < spec.kv_heads; h++) {
        for (int i = 0; i < rows; i++) {
            const int64_t t = i / group, row = h * rows + i;
            const float* query = spec.query + (t * spec.heads + h * group + i % group) * dim;
            float scale = 0.0f;
            uint32_t bits = 0;
            kernels.prepare_int8_row(query, dim, p.query + row * words, &scale, &bits, scratch);
            if (bits >= kInfinityBits) return report_nonfinite(spec, failure);
            max_query_scale = scale > max_query_scale ? scale : max_query_scale;
            p.query_scale[row] = scale;
            if (is_float) {
                std::memcpy(p.query + row * words, query, static_cast<size_t>(dim) * 4);
                p.natural_scale[row] = spec.scale;
            } else {
                p.natural_scale[row] = scale * spec.scale;
                p.row_scale[row] = p.natural_scale[row] * kLog2E;
            }
            const int64_t position = spec.length - spec.tokens + t;
            p.end[row] = position + 1;
            p.begin[row] = spec.window_left < 0 ? 0 : std::max<int64_t>(0, position - spec.window_left);
        }
    }
    const double work = static_cast<double>(spec.length - first_visible) * static_cast<double>(all_rows) * dim;
    const int threads = work < 400e3 ? 1 : spec.threads;
    std::atomic<bool> out_of_memory{false};
    auto run_task = [&](int64_t task) {
        Scratch* own = thread_scratch();
        if (!own) {
            out_of_memory = true;
            return;
        }
        const int64_t part = task % parts, run = task / parts % runs, h = task / parts / runs;
        const int64_t first_row = h * rows + part * part_rows;
        CacheRunArgs args{};
        args.type = is_float ? ElementType::kFloat32 : spec.type;
        args.head_dim = dim;
        args.first = args.begin = (first_run + run) * kRunKeys;
        args.end = std::min<int64_t>(spec.length, args.begin + kRunKeys);
        args.readable = args.end;
        const bool next_head = h + 1 < spec.kv_heads && !is_first_task(threads, tasks, (h + 1) * runs * parts);
        if (!place_run(spec, h, next_head, first_run * kRunKeys, &args)) {
            out_of_memory = true;
            return;
        }
        args.rows = static_cast<int>(std::min<int64_t>(part_rows, rows - part * part_rows));
        args.query = p.query + first_row * words;
        args.row_scale = p.row_scale + first_row;
        args.natural_scale = p.natural_scale + first_row;
        args.visible_begin = p.begin + first_row;
        args.visible_end = p.end + first_row;
        args.softcap = spec.softcap;
        const int64_t partial = run * all_rows + first_row;
        args.partial_max = p.partial_max + partial;
        args.partial_sum = p.partial_sum + partial;
        args.partial_out = p.partial_out + partial * out_width;
        args.out_width = out_width;
        kernels.cache_run(&args, own);
        p.max_key_scale[task] = args.max_key_scale;
    };
    parallel_for(threads, tasks, run_task);
    if (out_of_memory) return failure->set("ERR_OOM", "Expected %zu bytes of scratch memory a thread and more for a run, got none", sizeof(Scratch));
    float max_key_scale = 0.0f;
    for (int64_t i = 0; i < tasks; i++) max_key_scale = p.max_key_scale[i] > max_key_scale ? p.max_key_scale[i] : max_key_scale;
    if (!is_float) {
        const double bound = dim * std::fmax(1.0, 127.0 * static_cast<double>(max_query_scale)) * std::fmax(1.0, 127.0 * static_cast<double>(max_key_scale)) *
                             std::fmax(1.0, static_cast<double>(spec.scale) * 1.4426950408889634);
        if (!(bound <= kMaxScore)) return failure->set("ERR_OVERFLOW", "Expected scores of at most 2^100, got inputs that allow larger ones");
    }
    for (int64_t row = 0; row < all_rows; row++) {
        const int64_t h = row / rows, i = row % rows;
        float* out = spec.out + (i / group * spec.heads + h * group + i % group) * dim;
        float m = -INFINITY, l = 0.0f;
        float* o = p.partial_out + row * out_width;  // the first run's place collects the later ones
        for (int64_t run = 0; run < runs; run++) {
            const int64_t at = run * all_rows + row;
            const float run_max = p.partial_max[at];
            if (run_max == -INFINITY) continue;
            const float after = m > run_max ? m : run_max;
            const float alpha = m == -INFINITY ? 0.0f : exp2_polynomial(m - after), beta = exp2_polynomial(run_max - after);
            l = fmaf(p.partial_sum[at], beta, l * alpha);
            const float* part = p.partial_out + at * out_width;
            if (part == o) {
                for (int d = 0; d < dim; d++) o[d] = part[d] * beta;  // beta is 1 here
            } else {
                for (int d = 0; d < dim; d++) o[d] = fmaf(part[d], beta, o[d] * alpha);
            }
            m = after;
        }
        if (m == -INFINITY) {
            std::memset(out, 0, static_cast<size_t>(dim) * 4);
        } else if (is_float) {
            for (int d = 0; d < dim; d++) out[d] = o[d] / l;
        } else {
            const float factor = (1.0f / 255.0f) / l;
            for (int d = 0; d < dim; d++) out[d] = o[d] * factor;
        }
    }
    return true;
}

// Many queries: packing the cache once costs little against their products, so they take attention's road. The queries are quantized
// here and handed over as codes.
bool attend_many(const CacheSpec& spec, LiveBytes* live, Failure* failure) {
    const int dim = spec.head_dim;
    AttentionSpec a;
    a.kernels = spec.kernels;
    a.threads = spec.threads;
    const bool is_float = spec.key_scales == nullptr;
    a.precision = is_float ? Precision::kFp32 : Precision::kFullInt8;
    a.heads = spec.heads;
    a.kv_heads = static_cast<int>(spec.kv_heads);
    a.head_dim = a.head_dim_v = dim;
    a.scale = spec.scale;
    a.softcap = spec.softcap;
    a.window_left = spec.window_left;
    a.window_right = 0;
    a.bottom_right = true;
    a.smooth_k = false;
    a.sequences = 1;
    a.query = {spec.query, ElementType::kFloat32, {0, dim, static_cast<int64_t>(spec.heads) * dim}};
    a.out = spec.out;
    a.out_strides = a.query.strides;
    const ElementType element = is_float ? spec.type : ElementType::kInt8;
    const Strides cache{0, spec.capacity * dim, dim};
    a.key = {spec.keys, element, cache};
    a.value = {spec.values, element, cache};
    a.key_scale = {spec.key_scales, {0, spec.capacity, 1}};
    a.value_scale = {spec.value_scales, {0, spec.capacity, 1}};
    CallMemory wide;
    if (spec.type == ElementType::kInt4) {
        // Two codes a byte do not fit the packing loops; the visible part is widened first.
        const int64_t per_head = spec.length * dim;
        if (!wide.allocate(static_cast<size_t>(2 * per_head * spec.kv_heads), live)) return failure->set("ERR_OOM", "Expected memory to unpack the cache, got none");
        int8_t* codes = wide.as<int8_t>();
        auto unpack = [&](int64_t task) {
            const int64_t h = task / 2;
            const uint8_t* source = static_cast<const uint8_t*>(task % 2 ? spec.values : spec.keys) + h * spec.capacity * dim / 2;
            int8_t* out = codes + task % 2 * per_head * spec.kv_heads + h * per_head;
            spec.kernels->unpack_int4(source, per_head / 2, out);
        };
        parallel_for(spec.threads, 2 * spec.kv_heads, unpack);
        a.key = {codes, ElementType::kInt8, {0, per_head, dim}};
        a.value = {codes + per_head * spec.kv_heads, ElementType::kInt8, {0, per_head, dim}};
    }
    const Sequence sequence{0, spec.tokens, 0, spec.length};
    AttentionJob job;
    return job.prepare(a, &sequence, live, failure) && job.run(failure);
}

// Packing reads rows one behind the other: pages that do not lie so are copied first, once for many queries.
bool attend_many_paged(const CacheSpec& spec, LiveBytes* live, Failure* failure) {
    CacheSpec flat = spec;
    flat.pages = nullptr;
    if (is_contiguous(spec, 0, spec.length)) {
        const int64_t row = row_of(spec, 0);
        const auto byte = static_cast<ptrdiff_t>(row) * static_cast<ptrdiff_t>(row_bytes(spec));
        flat.keys = static_cast<const char*>(spec.keys) + byte;
        flat.values = static_cast<const char*>(spec.values) + byte;
        if (spec.key_scales) flat.key_scales += row, flat.value_scales += row;
        return attend_many(flat, live, failure);
    }
    const bool widens = spec.type == ElementType::kFloat16;
    const size_t row = widens ? static_cast<size_t>(spec.head_dim) * 4 : row_bytes(spec);
    const size_t rows = static_cast<size_t>(spec.kv_heads * spec.length), bytes = (rows * row + 63) / 64 * 64;
    OwnedMemory copy;
    if (!copy.allocate(2 * bytes + 2 * rows * 4, live)) return failure->set("ERR_OOM", "Expected %zu bytes to gather the cache, got none", 2 * bytes);
    char* keys = copy.as<char>();
    float* key_scales = reinterpret_cast<float*>(keys + 2 * bytes);
    auto gather = [&](int64_t task) {
        const int64_t head = task / 2;
        const bool is_value = task % 2 == 1;
        copy_rows(spec, is_value ? spec.values : spec.keys, head, 0, spec.length, keys + (is_value ? bytes : 0) + static_cast<size_t>(head * spec.length) * row);
        if (spec.key_scales)
            copy_scales(spec, is_value ? spec.value_scales : spec.key_scales, head, 0, spec.length, key_scales + (is_value ? rows : 0) + head * spec.length);
    };
    parallel_for(spec.threads, 2 * spec.kv_heads, gather);
    flat.capacity = spec.length;
    flat.keys = keys;
    flat.values = keys + bytes;
    if (widens) flat.type = ElementType::kFloat32;
    if (spec.key_scales) flat.key_scales = key_scales, flat.value_scales = key_scales + rows;
    return attend_many(flat, live, failure);
}

}  // namespace

bool cache_attention(const CacheSpec& spec, LiveBytes* live, Failure* failure) {
    if (spec.tokens == 0) return true;
    if (spec.tokens <= kFewQueries) return attend_few(spec, failure);
    return spec.pages ? attend_many_paged(spec, live, failure) : attend_many(spec, live, failure);
}

}  // namespace int_flash
