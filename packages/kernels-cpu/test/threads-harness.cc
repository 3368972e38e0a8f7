// What several JavaScript threads do to the addon at once, without Node, so that a race detector sees nothing but our code: 8 threads
// make 10,000 calls each of the pool, and among them whole calls of attention, the cache, a linear layer and a decoder's layer, whose answers must be the
// same bits every time. Prints one line and exits 1 on any difference.
//   test/threads-harness.sh builds it with ThreadSanitizer and runs it
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "attention_job.h"
#include "cache_append.h"
#include "cache_attention.h"
#include "cpu_features.h"
#include "decoder_layer.h"
#include "linear_layer.h"
#include "thread_pool.h"

using namespace int_flash;

namespace {

constexpr int kThreads = 8, kCalls = 10000, kWholeEvery = 500;
constexpr int kDim = 32, kHeads = 4, kKeys = 1100, kQueries = 40, kLinearTokens = 160;

LiveBytes live{0};
std::atomic<int> failures{0};

std::vector<float> numbers(size_t count, uint32_t state) {
    std::vector<float> values(count);
    for (float& value : values) {
        state = state * 1664525u + 1013904223u;
        value = static_cast<float>(static_cast<int32_t>(state)) / 2147483648.0f;
    }
    return values;
}

// One call of each kind, on more threads than there is work for one.
std::vector<float> whole_calls(const KernelTable* kernels, const LinearLayer& layer, const LinearLayer& floats) {
    const auto q = numbers(kHeads * kKeys * kDim, 1), k = numbers(kHeads * kKeys * kDim, 2), v = numbers(kHeads * kKeys * kDim, 3);
    constexpr size_t kAttended = 2 * kHeads * kQueries * kDim, kProjected = kLinearTokens * kHeads * kDim;
    std::vector<float> out(kAttended + kProjected + kProjected / 2, 0.0f);
    Failure failure;
    AttentionSpec attention;
    attention.kernels = kernels;
    attention.threads = 4;
    attention.heads = attention.kv_heads = kHeads;
    attention.head_dim = attention.head_dim_v = kDim;
    attention.scale = 0.2f;
    attention.sequences = 1;
    attention.query = {q.data(), ElementType::kFloat32, {0, kQueries * kDim, kDim}};
    attention.key = {k.data(), ElementType::kFloat32, {0, kKeys * kDim, kDim}};
    attention.value = {v.data(), ElementType::kFloat32, {0, kKeys * kDim, kDim}};
    attention.out = out.data();
    attention.out_strides = attention.query.strides;
    const Sequence sequence{0, kQueries, 0, kKeys};
    AttentionJob job;
    if (!job.prepare(attention, &sequence, &live, &failure) || !job.run(&failure)) failures++;

    std::vector<int8_t> codes(k.size());
    for (size_t i = 0; i < codes.size(); i++) codes[i] = static_cast<int8_t>(k[i] * 100);
    std::vector<float> scales(kHeads * kKeys, 0.01f);
    CacheSpec cache;
    cache.kernels = kernels;
    cache.threads = 4;
    cache.keys = cache.values = codes.data();
    cache.key_scales = cache.value_scales = scales.data();
    cache.kv_heads = cache.heads = kHeads;
    cache.capacity = cache.length = kKeys;
    cache.head_dim = kDim;
    cache.tokens = 4;
    cache.query = q.data();
    cache.out = out.data() + kHeads * kQueries * kDim;
    cache.scale = 0.2f;
    if (!cache_attention(cache, &live, &failure)) failures++;

    // INT4 codes and their scales, turned rows too, as floats behind the rest.
    std::vector<uint8_t> nibbles(codes.size());
    AppendSpec append;
    append.kernels = kernels;
    append.threads = 4;
    append.int4 = true;
    append.keys = k.data();
    append.values = v.data();
    append.tokens = append.capacity = kKeys;
    append.stride = kHeads * kDim;
    const std::vector<float> shift(kHeads * kDim, 0.01f);
    std::vector<float> largest(kHeads, 0.0f), value_scales(scales.size());
    append.key_shift = shift.data();
    append.largest_value_scale = largest.data();
    append.kv_heads = kHeads;
    append.head_dim = kDim;
    append.key_codes = reinterpret_cast<int8_t*>(nibbles.data());
    append.value_codes = append.key_codes + codes.size() / 2;
    append.key_scales = scales.data();
    append.value_scales = value_scales.data();
    std::vector<float> turned(k.size());
    if (!append_cache(append) || !turn_rows(*kernels, 4, k.data(), kHeads * kKeys, kDim, turned.data())) failures++;
    for (const auto* part : {&scales, &value_scales, &largest, &turned}) out.insert(out.end(), part->begin(), part->end());
    out.insert(out.end(), nibbles.begin(), nibbles.end());

    LinearSteps gated;
    gated.swiglu = true;
    if (!layer.forward(q.data(), kLinearTokens, out.data() + kAttended, {}, &failure)) failures++;
    if (!layer.forward(q.data(), kLinearTokens, out.data() + kAttended + kProjected, gated, &failure)) failures++;
    std::vector<float> wide(kProjected);
    if (!floats.forward(q.data(), kLinearTokens, wide.data(), {}, &failure)) failures++;
    out.insert(out.end(), wide.begin(), wide.end());
    return out;
}

// One token through layers that are gone afterwards, large enough for several threads: helpers look ahead to what the next call reads, which may be gone as well.
std::vector<float> short_lived(const KernelTable* kernels, int threads) {
    constexpr int kRows = 1024, kCols = 512;
    std::vector<int8_t> codes(static_cast<size_t>(kRows) * kCols);
    for (size_t i = 0; i < codes.size(); i++) codes[i] = static_cast<int8_t>(i * 31 % 255 - 127);
    const std::vector<float> scales(kRows, 0.01f), input = numbers(kCols, 5);
    LinearSource source{kRows, kCols};
    source.codes = codes.data();
    source.scales = scales.data();
    LinearSteps gated;
    gated.swiglu = true;
    std::vector<float> out(kRows + kRows / 2);
    LinearLayer first, second;
    Failure failure;
    if (!first.create(kernels, threads, source, &live, &failure) || !second.create(kernels, threads, source, &live, &failure)) failures++;
    for (int token = 0; token < 2; token++) {
        if (!first.forward(input.data(), 1, out.data(), {}, &failure) || !second.forward(input.data(), 1, out.data() + kRows, gated, &failure)) failures++;
    }
    first.dispose();
    return out;
}

// Three tokens, then one, through a decoder's layer and into a cache of its own.
std::vector<float> layer_steps(const KernelTable* kernels, int threads, bool int4) {
    constexpr int kHidden = 64, kWide = 96, kTokens = 4, kHalf = kDim / 2;
    const auto linear = [&](int rows, int cols, uint32_t seed) {
        const std::vector<float> weights = numbers(static_cast<size_t>(rows) * static_cast<size_t>(cols), seed), scales(static_cast<size_t>(rows), 0.001f);
        std::vector<int8_t> codes(weights.size());
        for (size_t i = 0; i < codes.size(); i++) codes[i] = static_cast<int8_t>(weights[i] * 127);
        LinearSource source{rows, cols};
        source.codes = codes.data();
        source.scales = scales.data();
        auto layer = std::make_shared<LinearLayer>();
        Failure failure;
        if (!layer->create(kernels, threads, source, &live, &failure)) failures++;
        return layer;
    };
    LayerFacts facts{kernels, threads, kHeads, kHeads / 2, kDim, kHalf, 0.2f, 1e-5, -1};
    const int row = static_cast<int>(facts.row());
    const LayerParts parts{linear(row, kHidden, 11), linear(kHidden, kHeads * kDim, 12), linear(2 * kWide, kHidden, 13), linear(kHidden, kWide, 14)};
    const std::vector<float> gain = numbers(kHidden, 15), turned = numbers(kTokens * kHalf, 16);
    std::vector<float> hidden = numbers(kTokens * kHidden, 17), rows(static_cast<size_t>(kTokens * row));
    const size_t places = kHeads / 2 * kPageTokens;
    std::vector<int8_t> keys(places * kDim), values(places * kDim);
    std::vector<float> key_scales(places), value_scales(places), shift(kHeads / 2 * kDim, 0.01f), largest(kHeads / 2, 0.0f);
    DecoderLayer layer;
    Failure failure;
    if (!layer.create(facts, parts, gain.data(), gain.data(), &live, &failure)) failures++;
    LayerStep step;
    step.rows = rows.data();
    step.append.int4 = int4;
    step.append.capacity = kPageTokens;
    step.append.key_shift = shift.data();
    step.append.largest_value_scale = largest.data();
    step.append.key_codes = keys.data();
    step.append.value_codes = values.data();
    step.append.key_scales = key_scales.data();
    step.append.value_scales = value_scales.data();
    for (const int from : {0, 3}) {
        step.hidden = hidden.data() + from * kHidden;
        step.cos = step.sin = turned.data() + from * kHalf;
        step.append.length = from;
        step.append.tokens = from == 0 ? 3 : 1;
        if (layer.forward(step, &live, &failure) != LayerOutcome::kDone) failures++;
    }
    return hidden;
}

void work(const KernelTable* kernels, const LinearLayer& layer, const LinearLayer& floats, const std::vector<float>& expected, int thread) {
    const std::vector<float> alone = short_lived(kernels, 1), int8_steps = layer_steps(kernels, 1, false), int4_steps = layer_steps(kernels, 1, true);
    for (int call = 0; call < kCalls; call++) {
        const int tasks = 1 + (call * 7 + thread) % 20;
        std::vector<int> done(static_cast<size_t>(tasks), 0);
        auto count = [&](int64_t task) { done[static_cast<size_t>(task)]++; };
        parallel_for(1 + call % 5, tasks, count);
        for (const int times : done)
            if (times != 1) failures++;
        if (call % kWholeEvery != 0) continue;
        const int others = 1 + (call / kWholeEvery + thread) % 4;
        if (short_lived(kernels, others) != alone || layer_steps(kernels, others, false) != int8_steps || layer_steps(kernels, others, true) != int4_steps) failures++;
        const std::vector<float> out = whole_calls(kernels, layer, floats);
        if (std::memcmp(out.data(), expected.data(), out.size() * sizeof(float)) != 0) failures++;
    }
}

// is_first_task() against the first tasks themselves.
void check_first_tasks() {
    for (int threads = 1; threads <= 9; threads++) {
        for (int64_t tasks = 1; tasks <= 70; tasks++) {
            const int runs = threads < tasks ? threads : static_cast<int>(tasks);
            std::vector<bool> first(static_cast<size_t>(tasks), false);
            for (int i = 0; i < runs; i++) first[static_cast<size_t>(first_task(tasks, runs, i))] = true;
            for (int64_t task = 0; task < tasks; task++)
                if (is_first_task(threads, tasks, task) != first[static_cast<size_t>(task)]) failures++;
        }
    }
}

}  // namespace

int main() {
    check_first_tasks();
    const KernelTable* tables[kMaxIsas];
    supported_kernels(tables);
    const KernelTable* kernels = tables[0];  // the best one here
    const auto weights = numbers(kHeads * kDim * kDim, 4);
    std::vector<int8_t> codes(weights.size());
    for (size_t i = 0; i < codes.size(); i++) codes[i] = static_cast<int8_t>(weights[i] * 100);
    const std::vector<float> scales(kHeads * kDim, 0.01f);
    LinearSource source{kHeads * kDim, kDim};
    source.codes = codes.data();
    source.scales = scales.data();
    LinearSource wide{kHeads * kDim, kDim};
    wide.floats = weights.data();
    LinearLayer layer, floats;
    Failure failure;
    if (!layer.create(kernels, 4, source, &live, &failure) || !floats.create(kernels, 4, wide, &live, &failure)) return 1;
    const std::vector<float> expected = whole_calls(kernels, layer, floats);
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; i++) threads.emplace_back([&, i] { work(kernels, layer, floats, expected, i); });
    for (std::thread& thread : threads) thread.join();
    layer.dispose();
    floats.dispose();
    printf("%s: %d threads, %d calls each, %d failures, %lld bytes left\n", kernels->name, kThreads, kCalls, failures.load(), static_cast<long long>(live.load()));
    return failures != 0 || live.load() != 0;
}
