// The addon's exports: JS values in, jobs out. No arithmetic here.
#include <napi.h>

#include <array>
#include <cstring>
#include <set>
#include <utility>

#include "attention.h"
#include "binding.h"
#include "failure.h"
#include "float_flash_fwd.h"
#include "js_thread.h"
#include "read_request.h"

namespace intflash {
namespace {

/** Devices of this environment, to be stopped before it goes away. */
struct Devices {
    std::set<DeviceHandle*> open;
};

}  // namespace

Napi::Value describe_failure(Napi::Env env, const std::exception_ptr& thrown) {
    try {
        std::rethrow_exception(thrown);
    } catch (const Failure& failure) {
        Napi::Object error = Napi::Error::New(env, failure.what()).Value();
        error.Set("code", failure.code);
        if (failure.where != nullptr) error.Set("where", failure.where), error.Set("bytes", Napi::Number::New(env, static_cast<double>(failure.bytes)));
        if (failure.operand != nullptr) error.Set("operand", failure.operand);
        return error;
    } catch (const Aborted&) {
        Napi::Object error = Napi::Error::New(env, "aborted").Value();
        error.Set("code", "ERR_ABORTED");
        return error;
    } catch (const std::bad_alloc&) {
        Napi::Object error = Napi::Error::New(env, "Expected host memory for the job, got none").Value();
        error.Set("code", "ERR_OOM");
        error.Set("where", "host");
        return error;
    } catch (const std::exception& other) {
        Napi::Object error = Napi::Error::New(env, other.what()).Value();
        error.Set("code", "ERR_CUDA");
        return error;
    }
}

DeviceHandle& device_of(const Napi::CallbackInfo& info) {
    if (info.Length() < 1 || !info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "Expected a device handle");
    return *info[0].As<Napi::External<DeviceHandle>>().Data();
}

Napi::Value queue(Napi::Env env, DeviceHandle& handle, Device::Work work, std::function<Napi::Value(Napi::Env)> result, std::vector<Napi::Value> keep) {
    struct Pending {
        Napi::Promise::Deferred deferred;
        std::vector<Napi::Reference<Napi::Value>> kept;
        std::function<Napi::Value(Napi::Env)> result;
    };
    auto pending = std::make_shared<Pending>(Pending{Napi::Promise::Deferred::New(env), {}, std::move(result)});
    for (const Napi::Value& value : keep) pending->kept.push_back(Napi::Reference<Napi::Value>::New(value, 1));
    const Napi::Promise promise = pending->deferred.Promise();
    auto js_thread = handle.js_thread;
    js_thread->begin(env);
    handle.device->submit(std::move(work), [js_thread, pending = std::move(pending)](std::exception_ptr error) mutable {
        js_thread->post([js_thread, pending = std::move(pending), error](Napi::Env env) {
            js_thread->finish(env);
            if (error) pending->deferred.Reject(describe_failure(env, error));
            else pending->deferred.Resolve(pending->result(env));
        });
    });
    return promise;
}

namespace {

Napi::Value wrap_buffer(Napi::Env env, std::shared_ptr<Buffer> buffer) {
    return Napi::External<BufferHandle>::New(env, new BufferHandle{std::move(buffer)}, [](Napi::Env, BufferHandle* handle) { delete handle; });
}

// probe() → { driverVersion, runtimeVersion, error, architectures, devices: [{ name, major, minor }] }
Napi::Value probe(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    int driver = 0, runtime = 0, count = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    const cudaError_t status = cudaGetDeviceCount(&count);
    cudaGetLastError();
    Napi::Object result = Napi::Object::New(env);
    result.Set("driverVersion", driver);
    result.Set("runtimeVersion", runtime);
    result.Set("error", status == cudaSuccess ? env.Undefined() : Napi::String::New(env, cudaGetErrorName(status)));
    result.Set("architectures", INTFLASH_CUDA_ARCHITECTURES);
    Napi::Array devices = Napi::Array::New(env);
    for (int i = 0; status == cudaSuccess && i < count; ++i) {
        cudaDeviceProp properties{};
        if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
        Napi::Object device = Napi::Object::New(env);
        device.Set("name", properties.name);
        device.Set("major", properties.major);
        device.Set("minor", properties.minor);
        device.Set("totalBytes", Napi::Number::New(env, static_cast<double>(properties.totalGlobalMem)));
        devices.Set(devices.Length(), device);
    }
    result.Set("devices", devices);
    return result;
}

// openDevice(ordinal) → handle
Napi::Value open_device(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const int ordinal = info[0].As<Napi::Number>().Int32Value();
    std::shared_ptr<Device> device;
    try {
        device = Device::open(ordinal);
    } catch (...) {
        throw Napi::Error(env, describe_failure(env, std::current_exception()));
    }
    auto* handle = new DeviceHandle{std::move(device), std::make_shared<JsThread>(env)};
    auto* devices = env.GetInstanceData<Devices>();
    devices->open.insert(handle);
    return Napi::External<DeviceHandle>::New(env, handle, [devices](Napi::Env, DeviceHandle* gone) {
        devices->open.erase(gone);
        gone->device->shutdown();
        gone->js_thread->release();
        delete gone;
    });
}

// closeDevice(device): waits for its queue
Napi::Value close_device(const Napi::CallbackInfo& info) {
    device_of(info).device->shutdown();
    return info.Env().Undefined();
}

// deviceFacts(device) → { name, major, minor, processors, totalBytes, liveBytes }
Napi::Value device_facts(const Napi::CallbackInfo& info) {
    const Device& device = *device_of(info).device;
    Napi::Object facts = Napi::Object::New(info.Env());
    facts.Set("name", device.facts().name);
    facts.Set("major", device.facts().major);
    facts.Set("minor", device.facts().minor);
    facts.Set("processors", device.facts().processors);
    facts.Set("totalBytes", Napi::Number::New(info.Env(), static_cast<double>(device.facts().total_bytes)));
    return facts;
}

Napi::Value live_bytes(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(device_of(info).device->live_bytes()));
}

// memory(device) → Promise<{ free, total }>, after everything queued, with the pool's spare memory given back
Napi::Value memory(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    Device* device = handle.device.get();
    auto sizes = std::make_shared<std::pair<size_t, size_t>>();
    return queue(info.Env(), handle,
                 [device, sizes] {
                     device->synchronize();
                     device->trim();
                     check_cuda(cudaMemGetInfo(&sizes->first, &sizes->second), "read the memory");
                 },
                 [sizes](Napi::Env env) -> Napi::Value {
                     Napi::Object result = Napi::Object::New(env);
                     result.Set("free", Napi::Number::New(env, static_cast<double>(sizes->first)));
                     result.Set("total", Napi::Number::New(env, static_cast<double>(sizes->second)));
                     return result;
                 });
}

// allocate(device, bytes) → Promise<buffer>
Napi::Value allocate(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    const double bytes = info[1].As<Napi::Number>().DoubleValue();
    if (!(bytes >= 0 && bytes <= 9007199254740992.)) throw Napi::RangeError::New(info.Env(), "Expected a number of bytes");
    Device* device = handle.device.get();
    auto buffer = std::make_shared<std::shared_ptr<Buffer>>();
    return queue(info.Env(), handle, [device, buffer, bytes] { *buffer = device->allocate(static_cast<size_t>(bytes)); },
                 [buffer](Napi::Env env) { return wrap_buffer(env, std::move(*buffer)); });
}

// upload(device, typedArray) → Promise<buffer>
Napi::Value upload(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    Device* device = handle.device.get();
    auto source = std::make_shared<Source>(read_source(info[1], *device, false, "data"));
    auto buffer = std::make_shared<std::shared_ptr<Buffer>>();
    return queue(info.Env(), handle,
                 [device, source, buffer] {
                     *buffer = device->allocate(source->bytes);
                     if (source->bytes > 0)
                         check_cuda(cudaMemcpyAsync((*buffer)->as(), source->copy->data(), source->bytes, cudaMemcpyHostToDevice, device->stream()), "copy to the device");
                     device->synchronize();
                 },
                 [buffer](Napi::Env env) { return wrap_buffer(env, std::move(*buffer)); });
}

// download(device, buffer, byteOffset, target: Uint8Array that nobody else holds) → Promise<void>
Napi::Value download(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    Device* device = handle.device.get();
    const auto buffer = read_buffer(info[1], *device, "tensor");
    auto target = info[3].As<Napi::Uint8Array>();
    const size_t offset = static_cast<size_t>(info[2].As<Napi::Number>().Int64Value()), bytes = target.ByteLength();
    if (offset > buffer->bytes() || bytes > buffer->bytes() - offset) throw Napi::RangeError::New(info.Env(), "Expected a range inside the buffer");
    uint8_t* to = target.Data();
    return queue(info.Env(), handle,
                 [device, buffer, offset, bytes, to] {
                     if (bytes > 0) check_cuda(cudaMemcpyAsync(to, buffer->as<uint8_t>() + offset, bytes, cudaMemcpyDeviceToHost, device->stream()), "copy to the host");
                     device->synchronize();
                 },
                 [](Napi::Env env) { return env.Undefined(); }, {target});
}

// disposeBuffer(buffer): twice is a no-op
Napi::Value dispose_buffer(const Napi::CallbackInfo& info) {
    if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "Expected device memory");
    info[0].As<Napi::External<BufferHandle>>().Data()->buffer.reset();
    return info.Env().Undefined();
}

// abortFlag() → flag;  raiseAbortFlag(flag)
using AbortFlag = std::shared_ptr<std::atomic<bool>>;
Napi::Value abort_flag(const Napi::CallbackInfo& info) {
    return Napi::External<AbortFlag>::New(info.Env(), new AbortFlag(std::make_shared<std::atomic<bool>>(false)), [](Napi::Env, AbortFlag* flag) { delete flag; });
}
Napi::Value raise_abort_flag(const Napi::CallbackInfo& info) {
    (*info[0].As<Napi::External<AbortFlag>>().Data())->store(true);
    return info.Env().Undefined();
}

Napi::Object describe_answer(Napi::Env env, AttentionAnswer& answer) {
    Napi::Object result = Napi::Object::New(env);
    if (answer.out) result.Set("out", wrap_buffer(env, std::move(answer.out)));
    if (answer.lse) result.Set("lse", wrap_buffer(env, std::move(answer.lse)));
    result.Set("quantizeMs", answer.quantize_ms);
    Napi::Array times = Napi::Array::New(env, answer.forward_ms.size());
    for (size_t i = 0; i < answer.forward_ms.size(); ++i) times.Set(i, Napi::Number::New(env, answer.forward_ms[i]));
    result.Set("forwardMs", times);
    return result;
}

// attention(device, request) → Promise<{ out?, lse?, quantizeMs, forwardMs }>;  inputs on the host are copied before it returns
Napi::Value attention(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    Device* device = handle.device.get();
    const Napi::Object js = info[1].As<Napi::Object>();
    auto request = std::make_shared<AttentionRequest>(read_attention_request(js, *device, false));
    if (js.Get("abortFlag").IsExternal()) request->aborted = *js.Get("abortFlag").As<Napi::External<AbortFlag>>().Data();
    auto answer = std::make_shared<AttentionAnswer>();
    std::vector<Napi::Value> keep;
    for (const char* name : {"out", "lse"})
        if (js.Get(name).IsTypedArray()) keep.push_back(js.Get(name));
    return queue(info.Env(), handle, [device, request, answer] { *answer = run_attention(*device, *request); },
                 [answer](Napi::Env env) -> Napi::Value { return describe_answer(env, *answer); }, std::move(keep));
}

// attentionSync(device, request): the same, blocking
Napi::Value attention_sync(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    DeviceHandle& handle = device_of(info);
    Device* device = handle.device.get();
    AttentionRequest request = read_attention_request(info[1].As<Napi::Object>(), *device, true);
    AttentionAnswer answer;
    try {
        device->run([&] { answer = run_attention(*device, request); });
    } catch (...) {
        throw Napi::Error(env, describe_failure(env, std::current_exception()));
    }
    return describe_answer(env, answer);
}

// compare(device, a, b, elements) → Promise<{ difference, size, worst, odd }>: see launch_compare
Napi::Value compare(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    Device* device = handle.device.get();
    const auto a = read_buffer(info[1], *device, "a"), b = read_buffer(info[2], *device, "b");
    const int64_t elements = info[3].As<Napi::Number>().Int64Value();
    if (elements < 0 || static_cast<size_t>(elements) > std::min(a->bytes(), b->bytes()) / 4) throw Napi::RangeError::New(info.Env(), "Expected elements inside both buffers");
    auto totals = std::make_shared<std::array<double, 4>>();
    return queue(info.Env(), handle,
                 [device, a, b, elements, totals] {
                     const auto sums = device->allocate(sizeof *totals);
                     check_cuda(cudaMemsetAsync(sums->as(), 0, sums->bytes(), device->stream()), "clear the sums");
                     check_cuda(launch_compare(a->as<float>(), b->as<float>(), elements, sums->as<double>(), device->stream()), "compare");
                     check_cuda(cudaMemcpyAsync(totals->data(), sums->as(), sums->bytes(), cudaMemcpyDeviceToHost, device->stream()), "read the sums");
                     device->synchronize();
                 },
                 [totals](Napi::Env env) -> Napi::Value {
                     Napi::Object result = Napi::Object::New(env);
                     const char* names[] = {"difference", "size", "worst", "odd"};
                     for (int i = 0; i < 4; ++i) result.Set(names[i], (*totals)[i]);
                     return result;
                 });
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
    auto* devices = new Devices;
    env.SetInstanceData<Devices>(devices);
    env.AddCleanupHook([devices] {
        for (DeviceHandle* handle : devices->open) handle->device->shutdown();
    });
    const std::pair<const char*, Napi::Value (*)(const Napi::CallbackInfo&)> functions[] = {
        {"probe", probe}, {"openDevice", open_device}, {"closeDevice", close_device}, {"deviceFacts", device_facts}, {"liveBytes", live_bytes},
        {"memory", memory}, {"allocate", allocate}, {"upload", upload}, {"download", download}, {"disposeBuffer", dispose_buffer},
        {"abortFlag", abort_flag}, {"raiseAbortFlag", raise_abort_flag}, {"attention", attention}, {"attentionSync", attention_sync}, {"compare", compare}};
    for (const auto& [name, function] : functions) exports.Set(name, Napi::Function::New(env, function, name));
    export_linear(env, exports);
    export_decoder(env, exports);
    return exports;
}

}  // namespace
}  // namespace intflash

static Napi::Object init_addon(Napi::Env env, Napi::Object exports) { return intflash::init(env, exports); }
NODE_API_MODULE(int_flash_cuda, init_addon)
