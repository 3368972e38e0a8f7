// The module: which functions it exports. src/native-addon.ts holds their types.
#include "bindings.h"
#include "call_memory.h"
#include "cpu_features.h"
#include "environment.h"

namespace int_flash {
namespace {

Napi::Value supported_isas(const Napi::CallbackInfo& info) {
    const KernelTable* tables[kMaxIsas];
    const int count = supported_kernels(tables);
    Napi::Array names = Napi::Array::New(info.Env(), static_cast<size_t>(count));
    for (int i = 0; i < count; i++) names.Set(static_cast<uint32_t>(i), Napi::String::New(info.Env(), tables[i]->name));
    return names;
}

Napi::Value live_bytes(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(Environment::of(info.Env()).live_bytes().load()));
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
    Environment::create(env);
    keep_freed_memory();
    exports.Set("supportedIsas", Napi::Function::New<supported_isas>(env, "supportedIsas"));
    exports.Set("liveBytes", Napi::Function::New<live_bytes>(env, "liveBytes"));
    export_attention(env, exports);
    export_cache_attention(env, exports);
    export_linear(env, exports);
    export_layer(env, exports);
    export_limits(env, exports);
    return exports;
}

}  // namespace
}  // namespace int_flash

namespace {
Napi::Object init_addon(Napi::Env env, Napi::Object exports) { return int_flash::initialize(env, exports); }
}  // namespace
NODE_API_MODULE(int_flash_cpu, init_addon)
