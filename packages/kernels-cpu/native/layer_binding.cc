// createLayer(), layerForward(), disposeLayer(): a DecoderLayer behind an opaque handle.
#include <memory>

#include "bindings.h"
#include "cache_args.h"
#include "decoder_layer.h"
#include "linear_handle.h"

namespace int_flash {
namespace {

// Places in createLayer's parameters; src/cpu-layer.ts is the other half.
enum Parameter : size_t { kIsa, kThreads, kHeads, kKvHeads, kHeadDim, kHalf, kScale, kEpsilon, kWindowLeft, kParameterCount };
// And in layerForward's.
enum StepParameter : size_t { kTokens, kInt4, kCapacity, kLength, kStepParameterCount };

struct Handle {
    std::shared_ptr<Environment> environment;  // whose live bytes the layer and its parts count in: it must not go first
    DecoderLayer layer;
};

constexpr napi_type_tag kHandleTag = {0x5b0c1d7e42f94a13ull, 0xa7d3609ce85f1b24ull};

std::shared_ptr<const LinearLayer> linear_at(const Napi::CallbackInfo& info, size_t index, Failure* failure) {
    if (failure->code) return nullptr;
    const LinearHandle* handle = linear_handle_of(info.Env(), index < info.Length() ? static_cast<napi_value>(info[index]) : nullptr, failure);
    return handle ? handle->layer : nullptr;
}

// createLayer(parameters, qkv, attentionOutput, mlpUp, mlpDown, attentionGain, mlpGain) → handle
Napi::Value create_layer(const Napi::CallbackInfo& info) {
    Failure failure;
    ArgumentReader args(info, &failure);
    auto handle = std::make_unique<Handle>();
    handle->environment = Environment::of(info.Env()).shared_from_this();
    const bool created = [&] {
        ParameterReader p(args.view(0, "parameters", napi_float64_array), kParameterCount, &failure);
        if (!p.ok()) return false;
        LayerFacts f;
        f.kernels = kernels_at(&p, kIsa);
        f.threads = static_cast<int>(p.integer(kThreads, "threads", 1, 256));
        f.heads = static_cast<int>(p.integer(kHeads, "heads", 1, 1 << 20));
        f.kv_heads = static_cast<int>(p.integer(kKvHeads, "kvHeads", 1, 1 << 20));
        f.head_dim = static_cast<int>(p.integer(kHeadDim, "headDim", 8, kMaxHeadDim));
        f.half = static_cast<int>(p.integer(kHalf, "half", 1, kMaxHeadDim / 2));
        f.scale = static_cast<float>(p.number(kScale, "scale", 1e-38, 1.3e30));
        f.epsilon = p.number(kEpsilon, "epsilon", 0, 1);
        f.window_left = p.integer_or_unlimited(kWindowLeft, "windowLeft");
        if (!p.ok()) return false;
        if (f.head_dim % 8 != 0) return failure.set("ERR_UNSUPPORTED", "Expected a head dimension that is a multiple of 8, got %d", f.head_dim);
        if (2 * f.half > f.head_dim) return failure.set("ERR_SHAPE", "Expected at most %d turned channels, got %d", f.head_dim, 2 * f.half);
        if (f.heads % f.kv_heads != 0) return failure.set("ERR_SHAPE", "Expected heads to be a multiple of kvHeads, got %d and %d", f.heads, f.kv_heads);
        const LayerParts parts{linear_at(info, 1, &failure), linear_at(info, 2, &failure), linear_at(info, 3, &failure), linear_at(info, 4, &failure)};
        if (failure.code) return false;
        const ArrayView attention_gain = args.float32_view(5, "attentionGain"), mlp_gain = args.float32_view(6, "mlpGain");
        const double hidden = parts.qkv->cols();
        if (!args.ok() || !holds(attention_gain, hidden, "attentionGain", &failure) || !holds(mlp_gain, hidden, "mlpGain", &failure)) return false;
        return handle->layer.create(f, parts, static_cast<const float*>(attention_gain.data), static_cast<const float*>(mlp_gain.data), &handle->environment->live_bytes(), &failure);
    }();
    if (!created) {
        throw_failure(info.Env(), failure);
        return {};
    }
    napi_value external;
    const napi_finalize finalize = [](napi_env, void* data, void*) { delete static_cast<Handle*>(data); };
    if (napi_create_external(info.Env(), handle.get(), finalize, nullptr, &external) != napi_ok) return info.Env().Undefined();
    handle.release();
    napi_type_tag_object(info.Env(), external, &kHandleTag);
    return Napi::Value(info.Env(), external);
}

Handle* handle_of(const Napi::CallbackInfo& info, Failure* failure) {
    const napi_value value = info.Length() > 0 ? static_cast<napi_value>(info[0]) : nullptr;
    return static_cast<Handle*>(tagged_external(info.Env(), value, kHandleTag, "a decoder layer's handle", failure));
}

bool read_step(ArgumentReader* args, const DecoderLayer& layer, LayerStep* step, Failure* failure) {
    const LayerFacts& f = layer.facts();
    AppendSpec& s = step->append;
    ParameterReader p(args->view(1, "parameters", napi_float64_array), kStepParameterCount, failure);
    if (!p.ok()) return false;
    s.tokens = p.integer(kTokens, "tokens", 1, 1 << 24);
    s.int4 = p.integer(kInt4, "int4", 0, 1) == 1;
    s.capacity = p.integer(kCapacity, "capacity", 0, kMaxTokens);
    s.length = p.integer(kLength, "length", 0, kMaxTokens);
    if (!p.ok()) return false;
    s.kv_heads = f.kv_heads;
    s.head_dim = f.head_dim;
    constexpr size_t kCache = 6;
    if (!expect_room(args, kCache, s, failure)) return false;
    const double tokens = static_cast<double>(s.tokens), turned = (static_cast<double>(s.length) + tokens) * f.half;
    const ArrayView hidden = args->float32_view(2, "hidden"), rows = args->float32_view(3, "rows"), cos = args->float32_view(4, "cos"), sin = args->float32_view(5, "sin");
    if (!args->ok() || !holds(hidden, tokens * layer.hidden(), "hidden", failure) || !holds(rows, tokens * static_cast<double>(f.row()), "rows", failure) ||
        !holds(cos, turned, "cos", failure) || !holds(sin, turned, "sin", failure) || !read_code_cache(args, kCache, &s, failure))
        return false;
    step->hidden = static_cast<float*>(hidden.data);
    step->rows = static_cast<float*>(rows.data);
    step->cos = static_cast<const float*>(cos.data) + s.length * f.half;
    step->sin = static_cast<const float*>(sin.data) + s.length * f.half;
    return true;
}

// layerForward(handle, parameters, hidden, rows, cos, sin, keys, values, keyScales, valueScales, keyShift, largestValueScale, pages) → whether all keys and values were finite
Napi::Value layer_forward(const Napi::CallbackInfo& info) {
    Failure failure;
    ArgumentReader args(info, &failure);
    const Handle* handle = handle_of(info, &failure);
    LayerStep step;
    LayerOutcome outcome = LayerOutcome::kFailed;
    if (handle && handle->layer.disposed()) failure.set("ERR_DISPOSED", "Expected a decoder layer in use, got one that was disposed");
    else if (handle && read_step(&args, handle->layer, &step, &failure)) outcome = handle->layer.forward(step, &handle->environment->live_bytes(), &failure);
    if (outcome != LayerOutcome::kFailed) return Napi::Boolean::New(info.Env(), outcome == LayerOutcome::kDone);
    throw_failure(info.Env(), failure);
    return {};
}

Napi::Value dispose_layer(const Napi::CallbackInfo& info) {
    Failure failure;
    Handle* handle = handle_of(info, &failure);
    if (handle) handle->layer.dispose();
    else throw_failure(info.Env(), failure);
    return info.Env().Undefined();
}

}  // namespace

void export_layer(Napi::Env env, Napi::Object exports) {
    exports.Set("createLayer", Napi::Function::New<create_layer>(env, "createLayer"));
    exports.Set("layerForward", Napi::Function::New<layer_forward>(env, "layerForward"));
    exports.Set("disposeLayer", Napi::Function::New<dispose_layer>(env, "disposeLayer"));
}

}  // namespace int_flash
