// attention, attentionSync, compare, timeCopy: calls on the device's data.
#include <algorithm>
#include <array>
#include <utility>

#include "binding.h"
#include "cast_operation.h"
#include "float_flash_fwd.h"
#include "host_copy.h"
#include "ledger.h"
#include "read_request.h"

namespace intflash {
namespace {

Napi::Array list_of(Napi::Env env, const std::vector<float>& values) {
    Napi::Array list = Napi::Array::New(env, values.size());
    for (size_t i = 0; i < values.size(); ++i) list.Set(static_cast<uint32_t>(i), Napi::Number::New(env, values[i]));
    return list;
}

Napi::Object describe_answer(Napi::Env env, AttentionAnswer& answer) {
    Napi::Object result = Napi::Object::New(env);
    if (answer.out) result.Set("out", wrap_buffer(env, std::move(answer.out)));
    if (answer.lse) result.Set("lse", wrap_buffer(env, std::move(answer.lse)));
    result.Set("kernel", static_cast<int32_t>(answer.kernel));
    result.Set("quantizeMs", answer.quantize_ms);
    result.Set("forwardMs", list_of(env, answer.forward_ms));
    result.Set("quantizeRepeatMs", list_of(env, answer.quantize_repeat_ms));
    return result;
}

AttentionAnswer attend(Stream& stream, const AttentionRequest& request, const Ledger& ledger) {
    LedgerEntry entry(ledger, stream);
    AttentionAnswer answer = run_attention(stream, request, entry.sheet());
    if (answer.operation) entry.add(std::move(answer.operation));
    if (request.out_type != answer.out_type && answer.out) {
        const auto cast = std::make_shared<CastOperation>(stream, answer.out, request.out_type, entry.sheet());
        entry.run(stream, cast, request.abort);
        answer.out = cast->out();
    }
    entry.keep();
    return answer;
}

// attention(device, request) → Promise<{ out?, lse?, kernel, quantizeMs, forwardMs, quantizeRepeatMs }>;  inputs on the host are copied before it returns
Napi::Value attention(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    const Napi::Object js = read_object(info[1], "request");
    Stream& stream = stream_of(handle, js.Get("stream"));
    auto request = std::make_shared<AttentionRequest>(read_attention_request(js, *handle.device, false));
    const Ledger ledger = ledger_of(js, handle, stream);
    auto answer = std::make_shared<AttentionAnswer>();
    std::vector<Napi::Value> keep;
    for (const char* name : {"out", "lse"})
        if (js.Get(name).IsTypedArray()) keep.push_back(js.Get(name));
    return queue(info, stream,
                 [&stream, request = std::move(request), ledger, answer] { *answer = attend(stream, *request, ledger); },
                 [answer](Napi::Env env) -> Napi::Value { return describe_answer(env, *answer); }, std::move(keep));
}

// attentionSync(device, request): the same, blocking
Napi::Value attention_sync(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    Stream& stream = *handle.stream;
    AttentionRequest request = read_attention_request(read_object(info[1], "request"), *handle.device, true);
    AttentionAnswer answer;
    run_blocking(info.Env(), stream, [&] {
        answer = run_attention(stream, request, std::make_shared<FindingsSheet>(stream, 1));
        answer.operation = nullptr;
    });
    return describe_answer(info.Env(), answer);
}

// compare(device, a: { buffer, byteOffset }, b, elements) → Promise<{ difference, size, worst, odd }>: see launch_compare
Napi::Value compare(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    DeviceHandle& handle = device_of(info);
    Stream& stream = *handle.stream;
    const Source a = read_source(info[1], *handle.device, false, "actual"), b = read_source(info[2], *handle.device, false, "expected");
    if (!a.buffer || !b.buffer || !info[3].IsNumber()) throw argument_error(env, "ERR_ARG_TYPE", "Expected two places in device memory and a number of elements");
    const double elements = info[3].As<Napi::Number>().DoubleValue();
    const size_t room = std::min(a.buffer->bytes() - a.offset, b.buffer->bytes() - b.offset) / sizeof(float);
    if (!(elements >= 0 && elements <= static_cast<double>(room)) || a.offset % 4 != 0 || b.offset % 4 != 0)
        throw argument_error(env, "ERR_SHAPE", "Expected the elements to lie inside both tensors");
    auto totals = std::make_shared<std::array<double, 4>>();
    return queue(info, stream,
                 [&stream, a, b, elements, totals] {
                     const auto sums = stream.allocate(sizeof *totals);
                     check_cuda(cudaMemsetAsync(sums->as(), 0, sums->bytes(), stream.handle()), "clear the sums");
                     check_cuda(launch_compare(reinterpret_cast<const float*>(a.buffer->as<uint8_t>() + a.offset), reinterpret_cast<const float*>(b.buffer->as<uint8_t>() + b.offset),
                                               static_cast<int64_t>(elements), sums->as<double>(), stream.handle()), "compare");
                     copy_to_host(stream, totals->data(), sums->as(), sums->bytes());
                 },
                 [totals](Napi::Env env) -> Napi::Value {
                     Napi::Object result = Napi::Object::New(env);
                     const char* names[] = {"difference", "size", "worst", "odd"};
                     for (int i = 0; i < 4; ++i) result.Set(names[i], (*totals)[static_cast<size_t>(i)]);
                     return result;
                 });
}

// timeCopy(device, bytes, repeats) → Promise<number[]>: milliseconds of copies within the device, what its memory can do at best
Napi::Value time_copy(const Napi::CallbackInfo& info) {
    Stream& stream = *device_of(info).stream;
    const auto bytes = static_cast<size_t>(read_count(info[1], "bytes"));
    const auto repeats = static_cast<int>(std::min(read_count(info[2], "repeats"), int64_t{10000}));
    auto times = std::make_shared<std::vector<float>>();
    return queue(info, stream, [&stream, bytes, repeats, times] { *times = copy_times(stream, bytes, repeats); },
                 [times](Napi::Env env) -> Napi::Value { return list_of(env, *times); });
}

}  // namespace

std::vector<ExportedFunction> attention_functions() { return {{"attention", attention}, {"attentionSync", attention_sync}, {"compare", compare}, {"timeCopy", time_copy}}; }

}  // namespace intflash
