// See running_code.h.
#include <cuda_runtime.h>

#include <array>
#include <atomic>

#include "running_code.h"

namespace intflash {
namespace {

constexpr int kMaxDevices = 64, kSm90a = 1;  // kSm90a: architectures are multiples of ten

__device__ int answer;

__global__ void say_architecture() {
#if __CUDA_ARCH_FEAT_SM90_ALL
    answer = __CUDA_ARCH__ + kSm90a;
#elif defined(__CUDA_ARCH__)
    answer = __CUDA_ARCH__;
#endif
}

std::array<std::atomic<int>, kMaxDevices> answers{};  // by ordinal

std::atomic<int>* answer_of_device() {
    int device = 0;
    return cudaGetDevice(&device) == cudaSuccess && device < kMaxDevices ? &answers[static_cast<size_t>(device)] : nullptr;
}

RunningCode read(int said) { return {said / 10 * 10, said % 10 == kSm90a}; }

}  // namespace

RunningCode ask_running_code() {
    std::atomic<int>* known = answer_of_device();
    if (known == nullptr) return {};
    if (*known == 0) {
        int said = 0;
        say_architecture<<<1, 1>>>();
        if (cudaGetLastError() == cudaSuccess && cudaMemcpyFromSymbol(&said, answer, sizeof said) == cudaSuccess) *known = said;
        cudaGetLastError();  // no code at all leaves an error for the next to find
    }
    return read(*known);
}

RunningCode running_code() {
    const std::atomic<int>* known = answer_of_device();
    return known == nullptr ? RunningCode{} : read(*known);
}

}  // namespace intflash
