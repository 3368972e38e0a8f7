// createLinear, linearForward, disposeLinear: a LinearLayer behind a handle.
#include <memory>

#include "binding.h"
#include "failure.h"
#include "linear_handle.h"
#include "read_request.h"

namespace intflash {
namespace {

constexpr int64_t kMostRows = 1 << 24, kMostTokens = 1 << 24;
/** 128 · 128 · 131,071 is the last sum of products of codes that an int32 holds. */
constexpr int64_t kMostColumns = 131071;

/** The array's first element, or an error that names it. */
void* array_of(const Napi::Value& value, napi_typedarray_type type, const char* name, double count) {
    if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type)
        throw argument_error(value.Env(), "ERR_ARG_TYPE", std::string("Expected ") + name + " to be a typed array of another kind");
    const auto array = value.As<Napi::TypedArray>();
    if (!array.ArrayBuffer().IsArrayBuffer()) throw argument_error(value.Env(), "ERR_BUFFER_SHARED", std::string("Expected ") + name + " to own its memory, got shared memory");
    if (static_cast<double>(array.ElementLength()) != count)
        throw argument_error(value.Env(), "ERR_ARG_RANGE", std::string("Expected ") + name + " to hold " + std::to_string(static_cast<int64_t>(count)) + " elements, got " +
                                                     std::to_string(array.ElementLength()));
    return static_cast<uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset();
}

// createLinear(device, { rows, cols, codes?, packed?, group?, scales?, weights?, bias? }) → handle; blocks until the weights are copied
Napi::Value create_linear(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Stream& stream = *device_of(info).stream;
    const Napi::Object js = read_object(info[1], "the layer");
    HostWeights host{};
    host.rows = static_cast<int>(read_integer(js, "rows", 1, kMostRows));
    host.cols = static_cast<int>(read_integer(js, "cols", 1, kMostColumns));
    const double count = static_cast<double>(host.rows) * host.cols;
    if (!js.Get("codes").IsUndefined()) {
        host.codes = static_cast<const int8_t*>(array_of(js.Get("codes"), napi_int8_array, "codes", count));
        host.scales = static_cast<const float*>(array_of(js.Get("scales"), napi_float32_array, "scales", host.rows));
    } else if (!js.Get("packed").IsUndefined()) {
        host.group = static_cast<int>(read_integer(js, "group", 32, 128));
        if ((host.group & (host.group - 1)) != 0 || host.cols % host.group != 0) throw argument_error(env, "ERR_ARG_RANGE", "Expected groups of 32, 64 or 128 columns that make up a row");
        host.packed = static_cast<const uint8_t*>(array_of(js.Get("packed"), napi_uint8_array, "packed", count / 2));
        host.scales = static_cast<const float*>(array_of(js.Get("scales"), napi_float32_array, "scales", count / host.group));
    } else {
        host.weights = static_cast<const float*>(array_of(js.Get("weights"), napi_float32_array, "weights", count));
    }
    if (!js.Get("bias").IsUndefined()) host.bias = static_cast<const float*>(array_of(js.Get("bias"), napi_float32_array, "bias", host.rows));
    std::shared_ptr<LinearLayer> layer;
    run_blocking(env, stream, [&] { layer = std::make_shared<LinearLayer>(stream, host); });
    return wrap_handle<LinearHandle>(env, {std::move(layer)});
}

// linearForward(device, layer, input, tokens, out): blocks until `out` is written
Napi::Value linear_forward(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Stream& stream = *device_of(info).stream;
    const auto layer = linear_of(info[1]);
    const auto tokens = static_cast<double>(read_count(info[3], "tokens"));
    if (!(tokens >= 1 && tokens <= static_cast<double>(kMostTokens))) throw argument_error(env, "ERR_ARG_RANGE", "Expected 1 to 2^24 tokens");
    const auto* input = static_cast<const float*>(array_of(info[2], napi_float32_array, "input", tokens * layer->cols()));
    auto* out = static_cast<float*>(array_of(info[4], napi_float32_array, "out", tokens * layer->rows()));
    run_blocking(env, stream, [&] { layer->forward(stream, input, static_cast<int>(tokens), out); });
    return env.Undefined();
}

// cublasLtVersion(device) → number; 0: there is none. Loads it.
Napi::Value cublas_lt_version(const Napi::CallbackInfo& info) {
    Stream& stream = *device_of(info).stream;
    size_t version = 0;
    run_blocking(info.Env(), stream, [&] {
        if (const CublasLt* library = stream.device().cublas_lt()) version = library->version();
    });
    return Napi::Number::New(info.Env(), static_cast<double>(version));
}

// disposeLinear(layer): twice is a no-op
Napi::Value dispose_linear(const Napi::CallbackInfo& info) {
    read_handle<LinearHandle>(info[0], "layer").layer.reset();
    return info.Env().Undefined();
}

}  // namespace

std::shared_ptr<LinearLayer> linear_of(const Napi::Value& js) {
    auto layer = read_handle<LinearHandle>(js, "layer").layer;
    if (!layer) throw argument_error(js.Env(), "ERR_DISPOSED", "Expected a live linear layer, got a disposed one");
    return layer;
}

std::vector<ExportedFunction> linear_functions() {
    return {{"createLinear", create_linear}, {"linearForward", linear_forward}, {"disposeLinear", dispose_linear}, {"cublasLtVersion", cublas_lt_version}};
}

}  // namespace intflash
