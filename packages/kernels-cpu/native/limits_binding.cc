// measurePeak(), readArrays(): what this machine can do at most, measured beside what the kernels do (bench/).
#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

#include "bindings.h"
#include "js_args.h"
#include "thread_pool.h"

namespace int_flash {
namespace {

enum Parameter : size_t { kIsa, kThreads, kParameterCount };

struct Place {
    const KernelTable* kernels;
    int threads;
};

bool read_place(ArgumentReader* args, Place* place) {
    ParameterReader p(args->view(0, "parameters", napi_float64_array), kParameterCount, args->failure());
    if (!p.ok()) return false;
    place->kernels = kernels_at(&p, kIsa);
    place->threads = static_cast<int>(p.integer(kThreads, "threads", 1, 256));
    return p.ok();
}

// measurePeak(parameters) → dot-product operations a second on all threads together, over about four milliseconds
Napi::Value measure_peak(const Napi::CallbackInfo& info) {
    Failure failure;
    ArgumentReader args(info, &failure);
    Place place{};
    if (!read_place(&args, &place)) {
        throw_failure(info.Env(), failure);
        return {};
    }
    std::atomic<uint32_t> sink{0};
    double operations = 0;
    const auto measure = [&](int64_t rounds) {
        auto work = [&](int64_t task) {
            uint32_t result = 0;
            const double done = place.kernels->dot_peak(rounds, &result);
            sink.fetch_add(result, std::memory_order_relaxed);
            if (task == 0) operations = done;
        };
        const auto start = std::chrono::steady_clock::now();
        parallel_for(place.threads, place.threads, work);
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    int64_t rounds = 1000;
    double seconds = measure(rounds);
    while (seconds < 2e-3) seconds = measure(rounds *= 2);
    return Napi::Number::New(info.Env(), operations * place.threads / seconds);
}

// readArrays(parameters, ...arrays): reads every byte of the typed arrays once
Napi::Value read_arrays(const Napi::CallbackInfo& info) {
    Failure failure;
    ArgumentReader args(info, &failure);
    Place place{};
    constexpr int64_t kPart = 256 << 10;
    struct Part {
        const char* data;
        int64_t bytes;
    };
    std::vector<Part> parts;
    bool ok = read_place(&args, &place);
    for (size_t i = 1; ok && i < info.Length(); i++) {
        napi_typedarray_type type;
        const ArrayView view = args.array(i, "array", {napi_int8_array, napi_uint8_array, napi_float32_array}, &type);
        ok = args.ok();
        const auto bytes = static_cast<int64_t>(view.length * (type == napi_float32_array ? 4 : 1));
        for (int64_t at = 0; ok && at < bytes; at += kPart) parts.push_back({static_cast<const char*>(view.data) + at, std::min(kPart, bytes - at)});
    }
    if (!ok) {
        throw_failure(info.Env(), failure);
        return {};
    }
    std::atomic<uint32_t> sink{0};
    auto work = [&](int64_t task) {
        const Part& part = parts[static_cast<size_t>(task)];
        sink.fetch_add(place.kernels->read_bytes(part.data, part.bytes), std::memory_order_relaxed);
    };
    parallel_for(place.threads, static_cast<int64_t>(parts.size()), work);
    return Napi::Number::New(info.Env(), sink.load());
}

}  // namespace

void export_limits(Napi::Env env, Napi::Object exports) {
    exports.Set("measurePeak", Napi::Function::New<measure_peak>(env, "measurePeak"));
    exports.Set("readArrays", Napi::Function::New<read_arrays>(env, "readArrays"));
}

}  // namespace int_flash
