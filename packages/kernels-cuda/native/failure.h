// What goes wrong below JavaScript, in the closed list of codes that @int-flash/ops knows.
#pragma once
#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <memory>
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

/** Raised from the JS thread, looked at between kernels. Without a signal there is nothing to look at. */
struct AbortFlag {
    std::shared_ptr<std::atomic<bool>> raised;
    void check() const {
        if (raised && raised->load()) throw Aborted{};
    }
};

/** Turns a CUDA status into a Failure; says what was being done. A status that the context never recovers from is ERR_DEVICE_LOST. */
void check_cuda(cudaError_t status, const char* doing);

/** ERR_NONFINITE of an operand, "Expected tensor" and so on. */
Failure nonfinite(const char* operand, const char* expected = "to be finite");

/** ERR_OOM of `bytes`, where "device" or "host". */
Failure out_of_memory(const char* where, size_t bytes);

}  // namespace intflash
