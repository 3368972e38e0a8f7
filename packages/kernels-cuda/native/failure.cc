#include "failure.h"

#include <cstring>

namespace intflash {

void check_cuda(cudaError_t status, const char* doing) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // clears what can be cleared
    const std::string text = std::string(doing) + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")";
    // After a fault in a kernel every call of the process on this context fails alike.
    switch (status) {
        case cudaErrorIllegalAddress:
        case cudaErrorLaunchFailure:
        case cudaErrorLaunchTimeout:
        case cudaErrorAssert:
        case cudaErrorHardwareStackError:
        case cudaErrorIllegalInstruction:
        case cudaErrorMisalignedAddress:
        case cudaErrorInvalidAddressSpace:
        case cudaErrorInvalidPc:
        case cudaErrorECCUncorrectable:
        case cudaErrorDevicesUnavailable:
        case cudaErrorCudartUnloading: throw Failure("ERR_DEVICE_LOST", text);
        case cudaErrorMemoryAllocation: {
            Failure failure("ERR_OOM", text);
            failure.where = "device";
            throw failure;
        }
        default: throw Failure("ERR_CUDA", text);
    }
}

Failure nonfinite(const char* operand, const char* expected) {
    Failure failure("ERR_NONFINITE", std::string("Expected ") + operand + " " + expected + ", got NaN or Infinity");
    failure.operand = operand;
    return failure;
}

Failure out_of_memory(const char* where, size_t bytes) {
    const bool device = std::strcmp(where, "device") == 0;
    Failure failure("ERR_OOM", "Expected " + std::to_string(bytes) + (device ? " bytes of device memory, got none: the device is full" : " bytes of page-locked host memory, got none"));
    failure.where = where;
    failure.bytes = static_cast<int64_t>(bytes);
    return failure;
}

}  // namespace intflash
