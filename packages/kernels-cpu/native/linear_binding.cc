// createLinear(), linearForward(), disposeLinear(): a LinearLayer behind an opaque handle.
#include <memory>

#include "bindings.h"
#include "js_args.h"
#include "linear_handle.h"

namespace int_flash {
namespace {

enum Parameter : size_t { kIsa, kThreads, kRows, kCols, kGroup, kParameterCount };

constexpr napi_type_tag kHandleTag = {0x1f6a5c3e9d2b4870ull, 0x8e21b7c4d05f9a36ull};

void adjust(napi_env env, int64_t bytes) {
    int64_t total;
    napi_adjust_external_memory(env, bytes, &total);
}

// createLinear(parameters, weights, scales, bias) → handle; Int8Array and Uint8Array (INT4) weights come with scales, Float32Array weights
// without.
Napi::Value create_linear(const Napi::CallbackInfo& info) {
    Failure failure;
    ArgumentReader args(info, &failure);
    auto handle = std::make_unique<LinearHandle>();
    handle->environment = Environment::of(info.Env()).shared_from_this();
    handle->layer = std::make_shared<LinearLayer>();
    const bool created = [&] {
        ParameterReader p(args.array(0, "parameters", {napi_float64_array}), kParameterCount, &failure);
        if (!p.ok()) return false;
        const KernelTable* kernels = kernels_at(&p, kIsa);
        const int threads = static_cast<int>(p.integer(kThreads, "threads", 1, 256));
        constexpr double kMost = 1 << 24;
        const int rows = static_cast<int>(p.integer(kRows, "rows", 1, kMost));
        // 127 * 127 * 133,000 is the last sum of INT8 products that an int32 holds; 128 * 128 * 131,071 for codes of -128.
        const int cols = static_cast<int>(p.integer(kCols, "cols", 1, 131071));
        const int group = static_cast<int>(p.integer(kGroup, "group", 0, 128));
        napi_typedarray_type type = napi_float32_array;
        const ArrayView weights = args.array(1, "weights", {napi_float32_array, napi_int8_array, napi_uint8_array}, &type);
        if (!args.ok() || !p.ok()) return false;
        const bool int8 = type == napi_int8_array, int4 = type == napi_uint8_array;
        if (int4 && ((group != 32 && group != 64 && group != 128) || cols % group != 0))
            return failure.set("ERR_SHAPE", "Expected columns in groups of 32, 64 or 128, got %d in groups of %d", cols, group);
        const size_t count = static_cast<size_t>(rows) * static_cast<size_t>(cols), stored = int4 ? count / 2 : count;
        if (weights.length != stored) return failure.set("ERR_SHAPE", "Expected weights to hold %zu elements, got %zu", stored, weights.length);
        const ArrayView scales = int8 || int4 ? args.float32(2, "scales") : ArrayView{};
        const ArrayView bias = args.optional_float32(3, "bias");
        if (!args.ok()) return false;
        const size_t scale_count = int4 ? count / static_cast<size_t>(group) : static_cast<size_t>(rows);
        if ((int8 || int4) && scales.length != scale_count) return failure.set("ERR_SHAPE", "Expected %zu scales, got %zu", scale_count, scales.length);
        if (bias.given && bias.length != static_cast<size_t>(rows)) return failure.set("ERR_SHAPE", "Expected a bias of %d elements, got %zu", rows, bias.length);
        LinearSource source{rows, cols};
        if (int8) source.codes = static_cast<const int8_t*>(weights.data);
        if (int4) source.nibbles = static_cast<const uint8_t*>(weights.data);
        if (!int8 && !int4) source.floats = static_cast<const float*>(weights.data);
        source.group = group;
        source.scales = static_cast<const float*>(scales.data);
        if (bias.given) source.bias = static_cast<const float*>(bias.data);
        return handle->layer->create(kernels, threads, source, &handle->environment->live_bytes(), &failure);
    }();
    if (!created) {
        throw_failure(info.Env(), failure);
        return {};
    }
    napi_value external;
    const napi_finalize finalize = [](napi_env env, void* data, void*) {
        std::unique_ptr<LinearHandle> held(static_cast<LinearHandle*>(data));
        adjust(env, -held->layer->bytes());
    };
    if (napi_create_external(info.Env(), handle.get(), finalize, nullptr, &external) != napi_ok) return info.Env().Undefined();
    adjust(info.Env(), handle->layer->bytes());
    handle.release();
    napi_type_tag_object(info.Env(), external, &kHandleTag);
    return Napi::Value(info.Env(), external);
}

LinearHandle* handle_of(const Napi::CallbackInfo& info, Failure* failure) { return linear_handle_of(info.Env(), info.Length() > 0 ? static_cast<napi_value>(info[0]) : nullptr, failure); }

// Bits of linearForward's `flags`; src/cpu-linear.ts is the other half.
enum Flag : int { kSwiglu = 1, kAccumulate = 2, kAllFlags = 3 };

// linearForward(handle, input, tokens, out, flags, normGain, epsilon); the last three may be absent.
Napi::Value linear_forward(const Napi::CallbackInfo& info) {
    Failure failure;
    ArgumentReader args(info, &failure);
    const LinearHandle* handle = handle_of(info, &failure);
    const bool done = handle && [&] {
        const LinearLayer& layer = *handle->layer;
        if (!layer.expect_in_use(&failure)) return false;
        const ArrayView input = args.float32_view(1, "input");
        const double tokens = args.number(2, "tokens", 0, 1 << 24);
        const ArrayView out = args.float32_view(3, "out");
        const double flags = args.absent(4) ? 0 : args.number(4, "flags", 0, kAllFlags);
        LinearSteps steps;
        if (!args.absent(5)) {
            const ArrayView gain = args.float32_view(5, "normGain");
            steps.epsilon = args.number(6, "epsilon", 0, 1);
            if (args.ok() && gain.length != static_cast<size_t>(layer.cols())) return failure.set("ERR_SHAPE", "Expected normGain to hold %d elements, got %zu", layer.cols(), gain.length);
            steps.norm_gain = static_cast<const float*>(gain.data);
        }
        if (!args.ok()) return false;
        const auto count = static_cast<int64_t>(tokens);
        const int bits = static_cast<int>(flags);
        if (static_cast<double>(count) != tokens) return failure.set("ERR_ARG_RANGE", "Expected tokens to be an integer, got %g", tokens);
        if (static_cast<double>(bits) != flags) return failure.set("ERR_ARG_RANGE", "Expected flags to be an integer, got %g", flags);
        steps.swiglu = (bits & kSwiglu) != 0;
        steps.accumulate = (bits & kAccumulate) != 0;
        if (steps.swiglu && (layer.rows() % 2 != 0 || steps.accumulate))
            return failure.set("ERR_ARG_RANGE", "Expected an even number of rows and no accumulation with swiglu, got %d rows", layer.rows());
        const double needed_in = tokens * layer.cols(), needed_out = tokens * layer.rows() / (steps.swiglu ? 2 : 1);
        if (needed_in > static_cast<double>(input.length)) return failure.set("ERR_SHAPE", "Expected input to hold %.0f elements, got %zu", needed_in, input.length);
        if (needed_out > static_cast<double>(out.length)) return failure.set("ERR_SHAPE", "Expected out to hold %.0f elements, got %zu", needed_out, out.length);
        return layer.forward(static_cast<const float*>(input.data), count, static_cast<float*>(out.data), steps, &failure);
    }();
    if (!done) throw_failure(info.Env(), failure);
    return info.Env().Undefined();
}

Napi::Value dispose_linear(const Napi::CallbackInfo& info) {
    Failure failure;
    LinearHandle* handle = handle_of(info, &failure);
    if (!handle) {
        throw_failure(info.Env(), failure);
        return {};
    }
    adjust(info.Env(), -handle->layer->bytes());
    handle->layer->dispose();
    return info.Env().Undefined();
}

}  // namespace

LinearHandle* linear_handle_of(napi_env env, napi_value value, Failure* failure) {
    return static_cast<LinearHandle*>(tagged_external(env, value, kHandleTag, "a linear layer's handle", failure));
}

void export_linear(Napi::Env env, Napi::Object exports) {
    exports.Set("createLinear", Napi::Function::New<create_linear>(env, "createLinear"));
    exports.Set("linearForward", Napi::Function::New<linear_forward>(env, "linearForward"));
    exports.Set("disposeLinear", Napi::Function::New<dispose_linear>(env, "disposeLinear"));
}

}  // namespace int_flash
