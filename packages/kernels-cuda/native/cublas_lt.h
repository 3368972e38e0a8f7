// cuBLASLt where a machine has it: products of INT8 matrices by a library that is tuned for each GPU. It is loaded at run time, from
// INTFLASH_CUBLASLT_PATH or under its usual names; INTFLASH_CUBLASLT=0 leaves it out. Sums are exact in int32, so it changes no bit.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

namespace intflash {

/** sums[t][r] = Σ_k input[t][k] · weights[r][k], all row-major. */
struct Int8Product {
    const int8_t *weights, *input;
    int32_t* sums;
    int rows, tokens, columns;
};

class CublasLt {
public:
    /** Of the calling thread's device. @returns null where there is no library that can be used */
    static std::unique_ptr<CublasLt> open();
    ~CublasLt();
    CublasLt(const CublasLt&) = delete;
    CublasLt& operator=(const CublasLt&) = delete;

    /** What `multiply` may use beside its operands. */
    static constexpr size_t kWorkspaceBytes = size_t{32} << 20;

    /** 13.0.2 is 130002; as the library says it. */
    size_t version() const { return version_; }
    /** @returns false where the library has no way to do it; nothing was launched then */
    bool multiply(const Int8Product& product, void* workspace, cudaStream_t stream);

private:
    struct Functions;
    struct Plan;
    using Shape = std::tuple<int, int, int>;  // rows, tokens, columns

    CublasLt(std::shared_ptr<const Functions> functions, void* handle);
    std::shared_ptr<const Plan> plan_of(const Int8Product& product);

    static std::shared_ptr<const Functions> load();

    const std::shared_ptr<const Functions> functions_;
    void* const handle_;
    size_t version_ = 0;
    std::mutex mutex_;
    std::map<Shape, std::shared_ptr<const Plan>> plans_;  // null: there is none
};

}  // namespace intflash
