// What every file of exports needs: the device, jobs with promises, and the tables of functions.
#pragma once
#include <napi.h>

#include <functional>
#include <vector>

#include "handles.h"

namespace intflash {

/** The device that every function but a few takes first. @throws Napi::Error */
DeviceHandle& device_of(const Napi::CallbackInfo& info);

/** The stream that `js` is a handle of, or the device's own when undefined. @throws Napi::Error */
Stream& stream_of(const DeviceHandle& device, const Napi::Value& js);

/**
 * Queues `work` on `stream` and returns a promise for what `result` makes of it on the JS thread. `keep`: JS memory that the job
 * writes to. The device, argument 0, is kept as well.
 */
Napi::Value queue(const Napi::CallbackInfo& info, Stream& stream, Stream::Work work, std::function<Napi::Value(Napi::Env)> result, std::vector<Napi::Value> keep = {});

/** Blocks until `work` has run on `stream`. @throws Napi::Error */
void run_blocking(Napi::Env env, Stream& stream, const Stream::Work& work);

Napi::Value wrap_buffer(Napi::Env env, std::shared_ptr<Buffer> buffer);

/** The signal's flag of a request; none when undefined. */
AbortFlag read_abort_flag(const Napi::Value& js);

Napi::Object read_object(const Napi::Value& js, const char* name);

struct ExportedFunction {
    const char* name;
    Napi::Value (*function)(const Napi::CallbackInfo&);
};
std::vector<ExportedFunction> device_functions();
std::vector<ExportedFunction> memory_functions();
std::vector<ExportedFunction> stream_functions();
std::vector<ExportedFunction> attention_functions();
std::vector<ExportedFunction> quantize_functions();
std::vector<ExportedFunction> linear_functions();
std::vector<ExportedFunction> decoder_functions();
std::vector<ExportedFunction> probe_functions();

}  // namespace intflash
