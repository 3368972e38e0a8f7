#include "binding.h"

#include <utility>

namespace intflash {
namespace {

// abortFlag() → flag
Napi::Value abort_flag(const Napi::CallbackInfo& info) { return wrap_handle(info.Env(), AbortHandle{{std::make_shared<std::atomic<bool>>(false)}}); }

// raiseAbortFlag(flag)
Napi::Value raise_abort_flag(const Napi::CallbackInfo& info) {
    read_handle<AbortHandle>(info[0], "flag").flag.raised->store(true);
    return info.Env().Undefined();
}

}  // namespace

DeviceHandle& device_of(const Napi::CallbackInfo& info) { return read_handle<DeviceHandle>(info[0], "device"); }

Stream& stream_of(const DeviceHandle& device, const Napi::Value& js) {
    if (js.IsUndefined()) return *device.stream;
    Stream& stream = *read_handle<StreamHandle>(js, "stream").stream;
    if (&stream.device() != device.device.get()) throw argument_error(js.Env(), "ERR_ARG_TYPE", "Expected a stream of the same device object, got one of another");
    return stream;
}

Napi::Value queue(const Napi::CallbackInfo& info, Stream& stream, Stream::Work work, std::function<Napi::Value(Napi::Env)> result, std::vector<Napi::Value> keep) {
    struct Pending {
        Napi::Promise::Deferred deferred;
        std::vector<Napi::Reference<Napi::Value>> kept;
        std::function<Napi::Value(Napi::Env)> result;
    };
    const Napi::Env env = info.Env();
    auto pending = std::make_shared<Pending>(Pending{Napi::Promise::Deferred::New(env), {}, std::move(result)});
    keep.push_back(info[0]);
    for (const Napi::Value& value : keep) pending->kept.push_back(Napi::Reference<Napi::Value>::New(value, 1));
    const Napi::Promise promise = pending->deferred.Promise();
    auto js_thread = device_of(info).js_thread;
    js_thread->begin(env);
    stream.submit(std::move(work), [js_thread, pending = std::move(pending)](std::exception_ptr error) mutable {
        JsThread::Task task;
        task.drop = [pending] { pending->result = nullptr; };
        task.run = [js_thread, pending = std::move(pending), error](Napi::Env env) {
            js_thread->finish(env);
            if (error) return pending->deferred.Reject(describe_failure(env, error));
            try {
                pending->deferred.Resolve(pending->result(env));
            } catch (const Napi::Error& thrown) {  // e.g. an engine that refuses external memory
                pending->deferred.Reject(thrown.Value());
            }
        };
        js_thread->post(std::move(task));
    });
    return promise;
}

void run_blocking(Napi::Env env, Stream& stream, const Stream::Work& work) {
    try {
        stream.run(work);
    } catch (...) {
        throw Napi::Error(env, describe_failure(env, std::current_exception()));
    }
}

Napi::Value wrap_buffer(Napi::Env env, std::shared_ptr<Buffer> buffer) {
    const auto bytes = static_cast<int64_t>(buffer->bytes());
    Napi::MemoryManagement::AdjustExternalMemory(env, bytes);
    return wrap_handle<BufferHandle>(env, {std::move(buffer), bytes}, [](Napi::Env gone, BufferHandle& handle) {
        if (handle.counted != 0) Napi::MemoryManagement::AdjustExternalMemory(gone, -handle.counted);
    });
}

AbortFlag read_abort_flag(const Napi::Value& js) { return js.IsUndefined() ? AbortFlag{} : read_handle<AbortHandle>(js, "abortFlag").flag; }

Napi::Object read_object(const Napi::Value& js, const char* name) {
    if (!js.IsObject()) throw argument_error(js.Env(), "ERR_ARG_TYPE", std::string("Expected ") + name + " to be an object");
    return js.As<Napi::Object>();
}

}  // namespace intflash

static Napi::Object init_addon(Napi::Env env, Napi::Object exports) {
    using namespace intflash;
    const std::vector<ExportedFunction> flags = {{"abortFlag", abort_flag}, {"raiseAbortFlag", raise_abort_flag}};
    for (const auto& functions : {device_functions(), memory_functions(), stream_functions(), attention_functions(), quantize_functions(), linear_functions(), decoder_functions(), probe_functions(), flags})
        for (const auto& [name, function] : functions) exports.Set(name, Napi::Function::New(env, function, name));
    return exports;
}
NODE_API_MODULE(int_flash_cuda, init_addon)
