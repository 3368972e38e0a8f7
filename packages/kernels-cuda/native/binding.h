// What every file of exports needs: handles, jobs with promises, failures as JS errors.
#pragma once
#include <napi.h>

#include <exception>
#include <functional>
#include <vector>

#include "read_request.h"

namespace intflash {

/** An error object with the code that TypeScript turns into an IntFlashError. */
Napi::Value describe_failure(Napi::Env env, const std::exception_ptr& thrown);

/** The device handle that every function takes first. @throws Napi::TypeError */
DeviceHandle& device_of(const Napi::CallbackInfo& info);

/** Queues `work` and returns a promise for what `result` makes of it on the JS thread. `keep`: JS memory that the job writes to. */
Napi::Value queue(Napi::Env env, DeviceHandle& handle, Device::Work work, std::function<Napi::Value(Napi::Env)> result, std::vector<Napi::Value> keep = {});

void export_linear(Napi::Env env, Napi::Object exports);
void export_decoder(Napi::Env env, Napi::Object exports);

}  // namespace intflash
