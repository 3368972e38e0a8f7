// createLinear, linearForward, disposeLinear: a LinearLayer behind a handle.
#include <memory>

#include "binding.h"
#include "failure.h"
#include "linear_handle.h"

namespace intflash {
namespace {

constexpr int64_t kMostRows = 1 << 24, kMostTokens = 1 << 24;
/** 128 · 128 · 131,071 is the last sum of products of codes that an int32 holds. */
constexpr int64_t kMostColumns = 131071;

/** The array's first element, or an error that names it. */
void* array_of(const Napi::Value& value, napi_typedarray_type type, const char* name, double count) {
    if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type)
        throw Napi::TypeError::New(value.Env(), std::string("Expected ") + name + " to be a typed array of another kind");
    const auto array = value.As<Napi::TypedArray>();
    if (static_cast<double>(array.ElementLength()) != count)
        throw Napi::RangeError::New(value.Env(), std::string("Expected ") + name + " to hold " + std::to_string(static_cast<int64_t>(count)) + " elements, got " +
                                                     std::to_string(array.ElementLength()));
    return static_cast<uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset();
}

// createLinear(device, { rows, cols, codes?, scales?, weights?, bias? }) → handle; blocks until the weights are copied
Napi::Value create_linear(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Device* device = device_of(info).device.get();
    const Napi::Object js = info[1].As<Napi::Object>();
    HostWeights host{};
    host.rows = static_cast<int>(read_integer(js, "rows", 1, kMostRows));
    host.cols = static_cast<int>(read_integer(js, "cols", 1, kMostColumns));
    const double count = static_cast<double>(host.rows) * host.cols;
    if (!js.Get("codes").IsUndefined()) {
        host.codes = static_cast<const int8_t*>(array_of(js.Get("codes"), napi_int8_array, "codes", count));
        host.scales = static_cast<const float*>(array_of(js.Get("scales"), napi_float32_array, "scales", host.rows));
    } else {
        host.weights = static_cast<const float*>(array_of(js.Get("weights"), napi_float32_array, "weights", count));
    }
    if (!js.Get("bias").IsUndefined()) host.bias = static_cast<const float*>(array_of(js.Get("bias"), napi_float32_array, "bias", host.rows));
    std::shared_ptr<LinearLayer> layer;
    try {
        device->run([&] { layer = std::make_shared<LinearLayer>(*device, host); });
    } catch (...) {
        throw Napi::Error(env, describe_failure(env, std::current_exception()));
    }
    return Napi::External<LinearHandle>::New(env, new LinearHandle{std::move(layer)}, [](Napi::Env, LinearHandle* handle) { delete handle; });
}

// linearForward(device, layer, input, tokens, out): blocks until `out` is written
Napi::Value linear_forward(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Device* device = device_of(info).device.get();
    const auto layer = linear_of(info[1]);
    const double tokens = info[3].As<Napi::Number>().DoubleValue();
    if (!(tokens >= 1 && tokens <= static_cast<double>(kMostTokens))) throw Napi::RangeError::New(env, "Expected 1 to 2^24 tokens");
    const auto* input = static_cast<const float*>(array_of(info[2], napi_float32_array, "input", tokens * layer->cols()));
    auto* out = static_cast<float*>(array_of(info[4], napi_float32_array, "out", tokens * layer->rows()));
    try {
        device->run([&] { layer->forward(*device, input, static_cast<int>(tokens), out); });
    } catch (...) {
        throw Napi::Error(env, describe_failure(env, std::current_exception()));
    }
    return env.Undefined();
}

// disposeLinear(layer): twice is a no-op
Napi::Value dispose_linear(const Napi::CallbackInfo& info) {
    if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "Expected a linear layer's handle");
    info[0].As<Napi::External<LinearHandle>>().Data()->layer.reset();
    return info.Env().Undefined();
}

}  // namespace

std::shared_ptr<LinearLayer> linear_of(const Napi::Value& js) {
    if (!js.IsExternal()) throw Napi::TypeError::New(js.Env(), "Expected a linear layer's handle");
    auto layer = js.As<Napi::External<LinearHandle>>().Data()->layer;
    if (!layer) throw Napi::TypeError::New(js.Env(), "Expected a live linear layer, got a disposed one");
    return layer;
}

void export_linear(Napi::Env env, Napi::Object exports) {
    exports.Set("createLinear", Napi::Function::New(env, create_linear, "createLinear"));
    exports.Set("linearForward", Napi::Function::New(env, linear_forward, "linearForward"));
    exports.Set("disposeLinear", Napi::Function::New(env, dispose_linear, "disposeLinear"));
}

}  // namespace intflash
