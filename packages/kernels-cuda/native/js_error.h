// Failures as JS errors with the `code` that TypeScript turns into an IntFlashError.
#pragma once
#include <napi.h>

#include <exception>
#include <string>

namespace intflash {

Napi::Error argument_error(Napi::Env env, const char* code, const std::string& message);

/** Failure, Aborted and whatever else a job threw. */
Napi::Value describe_failure(Napi::Env env, const std::exception_ptr& thrown);

}  // namespace intflash
