// What goes wrong below JavaScript, in the closed list of codes that @int-flash/ops knows.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace intflash {

struct Failure : std::runtime_error {
    Failure(const char* code, const std::string& message) : std::runtime_error(message), code(code) {}

    const char* code;
    const char* where = nullptr;   // ERR_OOM: "device" or "host"
    int64_t bytes = 0;             // ERR_OOM: how much was asked for
    const char* operand = nullptr; // ERR_NONFINITE: whose data
};

/** Thrown when the caller's AbortSignal fired between two kernels. */
struct Aborted {};

/** Turns a CUDA status into a Failure; says what was being done. A status that the context never recovers from is ERR_DEVICE_LOST. */
void check_cuda(cudaError_t status, const char* doing);

}  // namespace intflash
