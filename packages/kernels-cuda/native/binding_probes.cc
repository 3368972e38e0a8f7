// poisonShared, countDifferences, fault: for tests only, not part of the package's interface.
#include <utility>

#include "binding.h"
#include "read_request.h"
#include "test_probes.h"

namespace intflash {
namespace {

// poisonShared(device) → Promise<void>
Napi::Value poison_shared(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    Stream& stream = *handle.stream;
    return queue(info, stream,
                 [&stream] {
                     const DeviceFacts& facts = stream.device().facts();
                     check_cuda(launch_poison_shared(facts.shared_bytes_per_block, facts.processors, stream.handle()), "poison the shared memory");
                     stream.synchronize();
                 },
                 [](Napi::Env env) { return env.Undefined(); });
}

// countDifferences(device, a, b) → Promise<number>: 32-bit words in which two buffers of one size differ
Napi::Value count_differences(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    Stream& stream = *handle.stream;
    const auto a = read_buffer(info[1], *handle.device, "a"), b = read_buffer(info[2], *handle.device, "b");
    if (a->bytes() != b->bytes() || a->bytes() % 4 != 0) throw argument_error(info.Env(), "ERR_SHAPE", "Expected two buffers of as many whole words");
    auto different = std::make_shared<unsigned long long>(0);
    return queue(info, stream,
                 [&stream, a, b, different] {
                     const auto sum = stream.allocate(sizeof *different);
                     check_cuda(cudaMemsetAsync(sum->as(), 0, sum->bytes(), stream.handle()), "clear the sum");
                     check_cuda(launch_count_differences(a->as<uint32_t>(), b->as<uint32_t>(), static_cast<int64_t>(a->bytes() / 4), sum->as<unsigned long long>(), stream.handle()), "compare");
                     check_cuda(cudaMemcpyAsync(different.get(), sum->as(), sum->bytes(), cudaMemcpyDeviceToHost, stream.handle()), "read the sum");
                     stream.synchronize();
                 },
                 [different](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, static_cast<double>(*different)); });
}

// fault(device) → Promise that rejects; the context of this process is lost
Napi::Value fault(const Napi::CallbackInfo& info) {
    Stream& stream = *device_of(info).stream;
    return queue(info, stream,
                 [&stream] {
                     check_cuda(launch_fault(stream.handle()), "fault");
                     stream.synchronize();
                 },
                 [](Napi::Env env) { return env.Undefined(); });
}

}  // namespace

std::vector<ExportedFunction> probe_functions() { return {{"poisonShared", poison_shared}, {"countDifferences", count_differences}, {"fault", fault}}; }

}  // namespace intflash
