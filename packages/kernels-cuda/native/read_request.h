// JS values → requests. TypeScript has judged the arguments; what is checked here is what could corrupt memory.
#pragma once
#include <napi.h>

#include <memory>

#include "attention.h"
#include "quantize_request.h"

namespace intflash {

/**
 * @param wait the caller blocks until the answer is there, so its memory may be read in place; otherwise inputs are copied.
 * @throws Napi::Error on a malformed request
 */
AttentionRequest read_attention_request(const Napi::Object& js, const Device& device, bool wait);

/** One tensor to quantize. Its dims, and all that follows from them, are as for `read_attention_request`. */
TensorQuantizeRequest read_quantize_request(const Napi::Object& js, const Device& device);
/** One tensor of codes; `dim` counts codes. */
TensorRows read_code_rows(const Napi::Object& js, const Device& device, int codes_a_byte);

/** A typed array, a place in device memory or in page-locked memory. Shared and resizable memory is refused in TypeScript. */
Source read_source(const Napi::Value& js, const Device& device, bool wait, const char* what);
/** The same without device memory; typed arrays are copied. */
Source read_host_source(const Napi::Value& js, const Device& device, const char* what);

std::shared_ptr<Buffer> read_buffer(const Napi::Value& js, const Device& device, const char* what);

int64_t read_integer(const Napi::Object& js, const char* name, int64_t min, int64_t max);
double read_number(const Napi::Object& js, const char* name);
/** A number of bytes or of things. */
int64_t read_count(const Napi::Value& js, const char* name);

}  // namespace intflash
