#include "cache_timing.h"

#include <cmath>

#include "buffer.h"
#include "ceil_div.h"
#include "failure.h"

namespace intflash {
namespace {

constexpr size_t kFlushBytes = size_t{256} << 20;  // larger than any GPU's cache
constexpr int kTimed = 10;                         // launches that are timed together
constexpr int kArbitrary = 0x3c;                   // as a float's bytes 0.0115, as a code 60

/** Two events, for one measurement after the other. */
class Stopwatch {
public:
    Stopwatch() {
        check_cuda(cudaEventCreate(&start_), "create an event");
        if (const cudaError_t status = cudaEventCreate(&end_)) {
            cudaEventDestroy(start_);
            check_cuda(status, "create an event");
        }
    }
    ~Stopwatch() {
        cudaEventDestroy(start_);
        cudaEventDestroy(end_);
    }
    Stopwatch(const Stopwatch&) = delete;
    Stopwatch& operator=(const Stopwatch&) = delete;

    template <class Launch> float time(Stream& stream, const Launch& launch) {
        check_cuda(cudaEventRecord(start_, stream.handle()), "record an event");
        launch();
        check_cuda(cudaEventRecord(end_, stream.handle()), "record an event");
        stream.synchronize();
        float ms = 0;
        check_cuda(cudaEventElapsedTime(&ms, start_, end_), "read an event");
        return ms;
    }

private:
    cudaEvent_t start_ = nullptr, end_ = nullptr;
};

}  // namespace

std::vector<float> cache_attention_times(Stream& stream, const CacheTiming& what) {
    const cudaStream_t target = stream.handle();
    const int padded = padded_head(what.head_dim), rows = what.heads / what.kv_heads, pages = ceil_div(what.length, kPageTokens), tiles = ceil_div(what.length, kCacheTile);
    const size_t count = static_cast<size_t>(what.sequences);
    const auto filled = [&](size_t bytes, int value) {
        auto buffer = stream.allocate(bytes);
        check_cuda(cudaMemsetAsync(buffer->as(), value, bytes, target), "fill a buffer");
        return buffer;
    };
    // Layers as a decoder has them, so many that none is in the GPU's cache any more when its turn comes again. Tables serve all of them.
    const size_t layer_bytes = static_cast<size_t>(what.kv_heads * image_bytes(padded, what.int4)), all_pages = count * static_cast<size_t>(pages);
    const size_t layers = 1 + (kFlushBytes + all_pages * layer_bytes - 1) / (all_pages * layer_bytes), page_bytes = layers * layer_bytes;
    const auto memory = filled(all_pages * page_bytes, kArbitrary);
    std::vector<uint8_t*> pointers;
    for (size_t i = 0; i < all_pages; ++i) pointers.push_back(memory->as<uint8_t>() + i * page_bytes);
    const auto table = stream.allocate(pointers.size() * sizeof(uint8_t*));
    check_cuda(cudaMemcpyAsync(table->as(), pointers.data(), table->bytes(), cudaMemcpyHostToDevice, target), "copy the page table");
    std::vector<StepSequence> sequences;
    std::vector<int32_t> owners;
    for (int i = 0; i < what.sequences; ++i) {
        sequences.push_back({table->as<uint8_t*>() + static_cast<size_t>(i) * static_cast<size_t>(pages), what.length - 1, 1, nullptr, nullptr, nullptr, nullptr, 0, i});
        owners.push_back(i);
    }
    const auto sequence_memory = stream.allocate(sequences.size() * sizeof(StepSequence)), owner_memory = stream.allocate(count * sizeof(int32_t));
    check_cuda(cudaMemcpyAsync(sequence_memory->as(), sequences.data(), sequence_memory->bytes(), cudaMemcpyHostToDevice, target), "copy the sequences");
    check_cuda(cudaMemcpyAsync(owner_memory->as(), owners.data(), owner_memory->bytes(), cudaMemcpyHostToDevice, target), "copy the owners");

    const size_t heads = count * static_cast<size_t>(what.heads), pieces = static_cast<size_t>(what.split == KeySplit::kRuns ? ceil_div(tiles, kCacheRun / kCacheTile) : tiles),
                 states = count * static_cast<size_t>(what.kv_heads) * pieces * static_cast<size_t>(rows);
    const auto codes = filled(heads * static_cast<size_t>(padded), kArbitrary), scales = filled(heads * sizeof(float), kArbitrary);
    const auto out = stream.allocate(heads * static_cast<size_t>(what.head_dim) * sizeof(float)), findings = filled(sizeof(uint32_t), 0), flush = stream.allocate(kFlushBytes);
    const auto sums = stream.allocate(states * static_cast<size_t>(padded) * sizeof(int32_t)), state_memory = stream.allocate(2 * states * sizeof(float));
    const auto tickets = filled(count * static_cast<size_t>(what.kv_heads * short_query_parts(rows)) * sizeof(uint32_t), 0);

    CacheAttention args{};
    args.cache = {0, 0, 0, padded, what.int4, false};
    args.step = {sequence_memory->as<StepSequence>(), owner_memory->as<int32_t>(), what.sequences, what.sequences, 1};
    args.query = {codes->as<int8_t>(), scales->as<float>()};
    args.heads = what.heads;
    args.kv_heads = what.kv_heads;
    args.head_dim = what.head_dim;
    args.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(what.head_dim)));
    args.window_left = -1;
    args.out = out->as<float>();
    args.out_stride = int64_t{what.heads} * what.head_dim;
    args.findings = findings->as<uint32_t>();
    const ShortQueryScratch scratch{sums->as<int32_t>(), state_memory->as<float>(), tickets->as<uint32_t>()};
    const auto launch = what.split == KeySplit::kRuns ? launch_run_query : launch_short_query;
    size_t turn = 0;
    const auto attend = [&](size_t launches) {
        for (size_t i = 0; i < launches; ++i) {
            args.cache.offset = static_cast<int64_t>(turn++ % layers * layer_bytes);
            check_cuda(launch(args, scratch, tiles, rows, target), "attend the cache");
        }
    };
    Stopwatch watch;
    std::vector<float> times;
    for (int i = 0; i <= what.repeats; ++i) {  // the first warms up
        // Filling memory takes the GPU longer than queueing what follows takes the host. It leaves lines in the GPU's cache that are still to
        // be written: launches that are not timed push them out.
        check_cuda(cudaMemsetAsync(flush->as(), i, kFlushBytes, target), "keep the GPU busy");
        attend(layers);
        const float ms = watch.time(stream, [&] { attend(kTimed); });
        if (i > 0) times.push_back(ms / kTimed);
    }
    return times;
}

}  // namespace intflash
