// JS values → requests. TypeScript has judged the arguments; what is checked here is what could corrupt memory.
#pragma once
#include <napi.h>

#include <memory>

#include "attention.h"

namespace intflash {

/** What a JS handle of a device buffer holds; empty once disposed. */
struct BufferHandle {
    std::shared_ptr<Buffer> buffer;
};

struct DeviceHandle {
    std::shared_ptr<Device> device;
    std::shared_ptr<class JsThread> js_thread;
};

/**
 * @param wait the caller blocks until the answer is there, so its memory may be read in place; otherwise inputs are copied.
 * @throws Napi::Error on a malformed request
 */
AttentionRequest read_attention_request(const Napi::Object& js, const Device& device, bool wait);

/** A typed array's bytes, or an error that names `what`. Shared and resizable memory is refused in TypeScript. */
Source read_source(const Napi::Value& js, const Device& device, bool wait, const char* what);

std::shared_ptr<Buffer> read_buffer(const Napi::Value& js, const Device& device, const char* what);

int64_t read_integer(const Napi::Object& js, const char* name, int64_t min, int64_t max);
double read_number(const Napi::Object& js, const char* name);

}  // namespace intflash
