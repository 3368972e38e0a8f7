// poisonShared, poisonCache, countDifferences, fault, sortedImages: for tests only, not part of the package's interface.
#include <algorithm>
#include <string>
#include <utility>

#include "attention.h"
#include "binding.h"
#include "host_copy.h"
#include "read_request.h"
#include "sequence_handle.h"
#include "test_probes.h"

namespace intflash {
namespace {

// poisonShared(device) → Promise<void>
Napi::Value poison_shared(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    Stream& stream = *handle.stream;
    return queue(info, stream,
                 [&stream] {
                     const DeviceFacts& facts = stream.device().facts();
                     check_cuda(launch_poison_shared(facts.shared_bytes_per_block, facts.processors, stream.handle()), "poison the shared memory");
                     stream.synchronize();
                 },
                 [](Napi::Env env) { return env.Undefined(); });
}

// poisonCache(device, sequence, from, room) → Promise<void>: gives the sequence pages for `room` more tokens and poisons all of its pages from token `from` on
Napi::Value poison_cache(const Napi::CallbackInfo& info) {
    Stream& stream = *device_of(info).stream;
    const auto sequence = sequence_of(info[1]);
    const int64_t from = read_count(info[2], "from"), room = read_count(info[3], "room");
    return queue(info, stream,
                 [&stream, sequence, from, room] {
                     const CacheShape& shape = sequence->shape();
                     const auto expect_at_most = [](const char* name, int64_t value, int64_t most) {
                         if (value > most) throw Failure("ERR_ARG_RANGE", std::string("Expected ") + name + " in [0, " + std::to_string(most) + "], got " + std::to_string(value));
                     };
                     expect_at_most("from", from, sequence->length());
                     expect_at_most("room", room, shape.max_tokens);
                     sequence->reserve(stream, sequence->length() + static_cast<int>(room));
                     const auto& pages = sequence->pages();
                     for (size_t i = static_cast<size_t>(from / kPageTokens); i < pages.size(); ++i) {
                         const int64_t first = std::max<int64_t>(from - static_cast<int64_t>(i) * kPageTokens, 0);
                         check_cuda(launch_poison_page(pages[i]->as<uint8_t>(), shape.heads(), shape.padded(), shape.int4, static_cast<int>(first), stream.handle()), "poison a page");
                     }
                     stream.synchronize();
                 },
                 [](Napi::Env env) { return env.Undefined(); });
}

// countDifferences(device, a, b) → Promise<number>: 32-bit words in which two buffers of one size differ
Napi::Value count_differences(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    Stream& stream = *handle.stream;
    const auto a = read_buffer(info[1], *handle.device, "a"), b = read_buffer(info[2], *handle.device, "b");
    if (a->bytes() != b->bytes() || a->bytes() % 4 != 0) throw argument_error(info.Env(), "ERR_SHAPE", "Expected two buffers of as many whole words");
    auto different = std::make_shared<unsigned long long>(0);
    return queue(info, stream,
                 [&stream, a, b, different] {
                     const auto sum = stream.allocate(sizeof *different);
                     check_cuda(cudaMemsetAsync(sum->as(), 0, sum->bytes(), stream.handle()), "clear the sum");
                     check_cuda(launch_count_differences(a->as<uint32_t>(), b->as<uint32_t>(), static_cast<int64_t>(a->bytes() / 4), sum->as<unsigned long long>(), stream.handle()), "compare");
                     copy_to_host(stream, different.get(), sum->as(), sum->bytes());
                 },
                 [different](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, static_cast<double>(*different)); });
}

// fault(device) → Promise that rejects; the context of this process is lost
Napi::Value fault(const Napi::CallbackInfo& info) {
    Stream& stream = *device_of(info).stream;
    return queue(info, stream,
                 [&stream] {
                     check_cuda(launch_fault(stream.handle()), "fault");
                     stream.synchronize();
                 },
                 [](Napi::Env env) { return env.Undefined(); });
}

// sortedImages(device, request) → Promise<{ out, lse?, queryCodes, queryScales, tiles, channelScale }>: attention by a kernel on sorted tiles, and what it read
Napi::Value sorted_images(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    Stream& stream = *handle.stream;
    const auto request = std::make_shared<AttentionRequest>(read_attention_request(read_object(info[1], "request"), *handle.device, false));
    if (request->host_out != nullptr || request->host_lse != nullptr) throw argument_error(info.Env(), "ERR_ARG_TYPE", "Expected no memory for the answer, which stays on the device");
    struct Answer {
        std::shared_ptr<Buffer> out, lse;
        SortedBuffers read;
    };
    auto answer = std::make_shared<Answer>();
    return queue(info, stream,
                 [&stream, request, answer] {
                     const auto sheet = std::make_shared<FindingsSheet>(stream, 1);
                     const AttentionOperation operation(stream, *request, sheet);
                     if (operation.sorted() == nullptr) throw Failure("ERR_UNSUPPORTED", "Expected a kernel on sorted tiles, got another");
                     run_now(stream, operation, *sheet, request->abort);
                     *answer = {operation.out(), operation.lse(), operation.sorted()->buffers()};
                 },
                 [answer](Napi::Env env) -> Napi::Value {
                     Napi::Object result = Napi::Object::New(env);
                     const auto hand_over = [&](const char* name, std::shared_ptr<Buffer>& buffer) {
                         if (buffer) result.Set(name, wrap_buffer(env, std::move(buffer)));
                     };
                     hand_over("out", answer->out);
                     hand_over("lse", answer->lse);
                     hand_over("queryCodes", answer->read.query_codes);
                     hand_over("queryScales", answer->read.query_scales);
                     hand_over("tiles", answer->read.tiles);
                     hand_over("channelScale", answer->read.channel_scale);
                     return result;
                 });
}

}  // namespace

std::vector<ExportedFunction> probe_functions() { return {{"poisonShared", poison_shared}, {"poisonCache", poison_cache}, {"countDifferences", count_differences}, {"fault", fault}, {"sortedImages", sorted_images}}; }

}  // namespace intflash
