// probe, openDevice, closeDevice, deviceFacts, liveBytes, pinnedBytes, memory: a device and what there is to know about it.
#include <algorithm>
#include <set>
#include <utility>

#include "binding.h"

namespace intflash {
namespace {

/** What must stop before this JS environment goes away. */
struct Environment {
    std::vector<std::weak_ptr<Stream>> streams;
    std::set<std::shared_ptr<JsThread>> js_threads;

    void stop() {
        for (const auto& weak : streams)
            if (const auto stream = weak.lock()) stream->stop(Stream::Queued::kDrop);
        for (const auto& weak : streams)
            if (const auto stream = weak.lock()) stream->join();
        for (const auto& js_thread : js_threads) js_thread->release();
    }
};

void add_alive(std::vector<std::weak_ptr<Stream>>& streams, const std::shared_ptr<Stream>& fresh) {
    streams.erase(std::remove_if(streams.begin(), streams.end(), [](const auto& weak) { return weak.expired(); }), streams.end());
    streams.push_back(fresh);
}

/** One an environment. */
std::shared_ptr<Environment> environment_of(Napi::Env env) {
    using Shared = std::shared_ptr<Environment>;
    if (Shared* known = env.GetInstanceData<Shared>()) return *known;
    auto fresh = std::make_shared<Environment>();
    env.SetInstanceData<Shared>(new Shared(fresh));
    return fresh;
}

std::shared_ptr<Stream> open_tracked(Napi::Env env, const std::shared_ptr<Device>& device) {
    auto stream = Stream::open(device);
    add_alive(environment_of(env)->streams, stream);
    return stream;
}

void close(const DeviceHandle& handle) {
    std::vector<std::shared_ptr<Stream>> streams = {handle.stream};
    for (const auto& weak : handle.more_streams)
        if (auto stream = weak.lock()) streams.push_back(std::move(stream));
    for (const auto& stream : streams) stream->stop(Stream::Queued::kRun);
    for (const auto& stream : streams) stream->join();
}

// probe() → { driverVersion, runtimeVersion, error, architectures, devices: [{ name, major, minor, totalBytes }] }
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

// openDevice(ordinal) → device
Napi::Value open_device(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    if (!info[0].IsNumber()) throw argument_error(env, "ERR_ARG_TYPE", "Expected ordinal to be a number");
    const double ordinal = info[0].As<Napi::Number>().DoubleValue();
    if (!(ordinal >= 0 && ordinal < 64)) throw argument_error(env, "ERR_ARG_RANGE", "Expected ordinal to be in [0, 63]");
    std::shared_ptr<Device> device;
    std::shared_ptr<Stream> stream;
    try {
        device = Device::open(static_cast<int>(ordinal));
        stream = open_tracked(env, device);
    } catch (const Napi::Error&) {
        throw;
    } catch (...) {
        throw Napi::Error(env, describe_failure(env, std::current_exception()));
    }
    auto js_thread = std::make_shared<JsThread>(env);
    const auto environment = environment_of(env);
    environment->js_threads.insert(js_thread);
    // Hooks run last first: this one, registered after the JsThread's own, stops the workers while what they post to is still there.
    Napi::Env(env).AddCleanupHook([environment] { environment->stop(); });
    return wrap_handle<DeviceHandle>(env, {std::move(device), std::move(stream), std::move(js_thread), {}}, [](Napi::Env gone, DeviceHandle& handle) {
        close(handle);  // nothing is pending: a pending call keeps the handle
        handle.js_thread->release();
        if (auto* known = gone.GetInstanceData<std::shared_ptr<Environment>>()) (*known)->js_threads.erase(handle.js_thread);
    });
}

// closeDevice(device): lets the queues of all its streams run out
Napi::Value close_device(const Napi::CallbackInfo& info) {
    close(device_of(info));
    return info.Env().Undefined();
}

// openStream(device) → stream
Napi::Value open_stream(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    DeviceHandle& handle = device_of(info);
    std::shared_ptr<Stream> stream;
    try {
        if (handle.device->lost()) throw Failure("ERR_DEVICE_LOST", "Expected a device that answers, got one whose context was lost by an earlier fault");
        stream = open_tracked(env, handle.device);
    } catch (const Napi::Error&) {
        throw;
    } catch (...) {
        throw Napi::Error(env, describe_failure(env, std::current_exception()));
    }
    add_alive(handle.more_streams, stream);
    return wrap_handle<StreamHandle>(env, {std::move(stream)}, [](Napi::Env, StreamHandle& gone) { gone.stream->stop(Stream::Queued::kRun); });
}

// closeStream(stream): lets its queue run out
Napi::Value close_stream(const Napi::CallbackInfo& info) {
    Stream& stream = *read_handle<StreamHandle>(info[0], "stream").stream;
    stream.stop(Stream::Queued::kRun);
    stream.join();
    return info.Env().Undefined();
}

// deviceFacts(device) → { name, major, minor, processors, totalBytes }
Napi::Value device_facts(const Napi::CallbackInfo& info) {
    const DeviceFacts& known = device_of(info).device->facts();
    Napi::Object facts = Napi::Object::New(info.Env());
    facts.Set("name", known.name);
    facts.Set("major", known.major);
    facts.Set("minor", known.minor);
    facts.Set("processors", known.processors);
    facts.Set("totalBytes", Napi::Number::New(info.Env(), static_cast<double>(known.total_bytes)));
    return facts;
}

// liveBytes(device), pinnedBytes(device)
Napi::Value live_bytes(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), static_cast<double>(device_of(info).device->live_bytes())); }
Napi::Value pinned_bytes(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), static_cast<double>(device_of(info).device->pinned_bytes())); }

// memory(device) → Promise<{ free, total }>, after everything queued, with the pool's spare memory given back
Napi::Value memory(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    auto sizes = std::make_shared<std::pair<size_t, size_t>>();
    return queue(info, *handle.stream,
                 [device = handle.device, sizes] {
                     device->synchronize_streams();
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

}  // namespace

std::vector<ExportedFunction> device_functions() {
    return {{"probe", probe},           {"openDevice", open_device},     {"closeDevice", close_device}, {"openStream", open_stream}, {"closeStream", close_stream},
            {"deviceFacts", device_facts}, {"liveBytes", live_bytes}, {"pinnedBytes", pinned_bytes}, {"memory", memory}};
}

}  // namespace intflash
