// quantize, packInt4, unpackInt4: codes that are made and stay on the device.
#include <utility>

#include "binding.h"
#include "int4_operation.h"
#include "ledger.h"
#include "quantize_operation.h"
#include "read_request.h"
#include "two_pass_operation.h"

namespace intflash {
namespace {

struct Quantized {
    std::shared_ptr<Buffer> codes, scales, means;
};

Quantized run_quantize(Stream& stream, const TensorQuantizeRequest& request, const Ledger& ledger) {
    LedgerEntry entry(ledger, stream);
    Quantized made;
    if (request.granularity == Granularity::kToken && !request.smooth) {
        const auto operation = std::make_shared<QuantizeOperation>(stream, request, entry.sheet());
        entry.run(stream, operation, request.abort);
        made = {operation->codes(), operation->scales(), nullptr};
    } else {
        const auto operation = std::make_shared<TwoPassOperation>(stream, request, entry.sheet());
        entry.run(stream, operation, request.abort);
        made = {operation->codes(), operation->scales(), operation->means()};
    }
    entry.keep();
    return made;
}

// quantize(device, request) → Promise<{ codes, scales, means? }>
Napi::Value quantize(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    const Napi::Object js = read_object(info[1], "request");
    Stream& stream = stream_of(handle, js.Get("stream"));
    auto request = std::make_shared<TensorQuantizeRequest>(read_quantize_request(js, *handle.device));
    const Ledger ledger = ledger_of(js, handle, stream);
    auto made = std::make_shared<Quantized>();
    return queue(info, stream, [&stream, request = std::move(request), ledger, made] { *made = run_quantize(stream, *request, ledger); },
                 [made](Napi::Env env) -> Napi::Value {
                     Napi::Object result = Napi::Object::New(env);
                     result.Set("codes", wrap_buffer(env, std::move(made->codes)));
                     result.Set("scales", wrap_buffer(env, std::move(made->scales)));
                     if (made->means) result.Set("means", wrap_buffer(env, std::move(made->means)));
                     return result;
                 });
}

Napi::Value convert(const Napi::CallbackInfo& info, Int4Operation::Way way) {
    DeviceHandle& handle = device_of(info);
    const Napi::Object js = read_object(info[1], "request");
    Stream& stream = stream_of(handle, js.Get("stream"));
    auto rows = std::make_shared<TensorRows>(read_code_rows(js, *handle.device, way == Int4Operation::Way::kPack ? 1 : 2));
    const Ledger ledger = ledger_of(js, handle, stream);
    auto out = std::make_shared<std::shared_ptr<Buffer>>();
    return queue(info, stream,
                 [&stream, way, rows = std::move(rows), ledger, out] {
                     LedgerEntry entry(ledger, stream);
                     const auto operation = std::make_shared<Int4Operation>(stream, way, *rows, entry.sheet());
                     entry.run(stream, operation, rows->abort);
                     *out = operation->out();
                     entry.keep();
                 },
                 [out](Napi::Env env) -> Napi::Value { return wrap_buffer(env, std::move(*out)); });
}

// packInt4(device, request) → Promise<buffer>
Napi::Value pack_int4(const Napi::CallbackInfo& info) { return convert(info, Int4Operation::Way::kPack); }

// unpackInt4(device, request) → Promise<buffer>
Napi::Value unpack_int4(const Napi::CallbackInfo& info) { return convert(info, Int4Operation::Way::kUnpack); }

}  // namespace

std::vector<ExportedFunction> quantize_functions() { return {{"quantize", quantize}, {"packInt4", pack_int4}, {"unpackInt4", unpack_int4}}; }

}  // namespace intflash
