#include "cublas_lt.h"

#include <library_types.h>

#include <cstdlib>
#include <cstring>

#ifndef _WIN32
#include <dlfcn.h>
#endif

namespace intflash {
namespace {

// The library's numbers, as its reference lists them; stable since version 11.
constexpr int kSuccess = 0, kComputeInt32 = 72, kTransposeA = 3, kTransposed = 1, kMaxWorkspaceBytes = 1;
constexpr size_t kMostPlans = 1024;

struct Algorithm {
    uint64_t data[8];
};
struct HeuristicResult {
    Algorithm algorithm;
    size_t workspace_bytes;
    int state;
    float waves;
    int reserved[4];
};

}  // namespace

struct CublasLt::Functions {
    int (*create)(void**);
    int (*destroy)(void*);
    size_t (*version)();
    int (*create_product)(void**, int compute, int scale_type);
    int (*destroy_product)(void*);
    int (*set_product)(void*, int attribute, const void*, size_t);
    int (*create_layout)(void**, int type, uint64_t rows, uint64_t columns, int64_t leading);
    int (*destroy_layout)(void*);
    int (*create_preference)(void**);
    int (*destroy_preference)(void*);
    int (*set_preference)(void*, int attribute, const void*, size_t);
    int (*find)(void*, void* product, void* a, void* b, void* c, void* d, void* preference, int asked, HeuristicResult*, int* found);
    int (*multiply)(void*, void* product, const void* alpha, const void* a, void* a_layout, const void* b, void* b_layout, const void* beta, const void* c, void* c_layout, void* d, void* d_layout,
                    const Algorithm*, void* workspace, size_t workspace_bytes, cudaStream_t);
};

/** A product's description for the library, which sees row-major matrices as transposed ones: D = Aᵀ·B, [rows, tokens]. */
struct CublasLt::Plan {
    const std::shared_ptr<const Functions> f;
    void *product = nullptr, *a = nullptr, *b = nullptr, *d = nullptr;
    HeuristicResult way{};

    explicit Plan(std::shared_ptr<const Functions> functions) : f(std::move(functions)) {}
    ~Plan() {
        for (void* layout : {a, b, d})
            if (layout != nullptr) f->destroy_layout(layout);
        if (product != nullptr) f->destroy_product(product);
    }
    Plan(const Plan&) = delete;
    Plan& operator=(const Plan&) = delete;

    bool make(void* handle, const Int8Product& shape) {
        const auto rows = static_cast<uint64_t>(shape.rows), tokens = static_cast<uint64_t>(shape.tokens), columns = static_cast<uint64_t>(shape.columns);
        const int transposed = kTransposed;
        return f->create_product(&product, kComputeInt32, CUDA_R_32I) == kSuccess && f->set_product(product, kTransposeA, &transposed, sizeof transposed) == kSuccess &&
               f->create_layout(&a, CUDA_R_8I, columns, rows, shape.columns) == kSuccess && f->create_layout(&b, CUDA_R_8I, columns, tokens, shape.columns) == kSuccess &&
               f->create_layout(&d, CUDA_R_32I, rows, tokens, shape.rows) == kSuccess && find_way(handle);
    }

private:
    bool find_way(void* handle) {
        void* preference = nullptr;
        if (f->create_preference(&preference) != kSuccess) return false;
        const uint64_t bytes = kWorkspaceBytes;
        int found = 0;
        const bool answered = f->set_preference(preference, kMaxWorkspaceBytes, &bytes, sizeof bytes) == kSuccess &&
                              f->find(handle, product, a, b, d, d, preference, 1, &way, &found) == kSuccess;
        f->destroy_preference(preference);
        return answered && found > 0 && way.state == kSuccess && way.workspace_bytes <= kWorkspaceBytes;
    }
};

std::shared_ptr<const CublasLt::Functions> CublasLt::load() {
#ifdef _WIN32
    return nullptr;
#else
    const char* const wanted = std::getenv("INTFLASH_CUBLASLT");
    if (wanted != nullptr && std::strcmp(wanted, "0") == 0) return nullptr;
    const char* const names[] = {std::getenv("INTFLASH_CUBLASLT_PATH"), "libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
    void* library = nullptr;  // stays loaded: the driver may hold on to its kernels
    for (const char* name : names)
        if (library == nullptr && name != nullptr) library = dlopen(name, RTLD_LAZY | RTLD_LOCAL);
    if (library == nullptr) return nullptr;
    auto functions = std::make_shared<Functions>();
    bool complete = true;
    const auto bind = [&](auto& function, const char* name) {
        void* const address = dlsym(library, name);
        complete = complete && address != nullptr;
        std::memcpy(&function, &address, sizeof address);
    };
    bind(functions->create, "cublasLtCreate");
    bind(functions->destroy, "cublasLtDestroy");
    bind(functions->version, "cublasLtGetVersion");
    bind(functions->create_product, "cublasLtMatmulDescCreate");
    bind(functions->destroy_product, "cublasLtMatmulDescDestroy");
    bind(functions->set_product, "cublasLtMatmulDescSetAttribute");
    bind(functions->create_layout, "cublasLtMatrixLayoutCreate");
    bind(functions->destroy_layout, "cublasLtMatrixLayoutDestroy");
    bind(functions->create_preference, "cublasLtMatmulPreferenceCreate");
    bind(functions->destroy_preference, "cublasLtMatmulPreferenceDestroy");
    bind(functions->set_preference, "cublasLtMatmulPreferenceSetAttribute");
    bind(functions->find, "cublasLtMatmulAlgoGetHeuristic");
    bind(functions->multiply, "cublasLtMatmul");
    return complete ? functions : nullptr;
#endif
}

std::unique_ptr<CublasLt> CublasLt::open() {
    auto functions = load();
    void* handle = nullptr;
    if (!functions || functions->create(&handle) != kSuccess) return nullptr;
    return std::unique_ptr<CublasLt>(new CublasLt(std::move(functions), handle));
}

CublasLt::CublasLt(std::shared_ptr<const Functions> functions, void* handle) : functions_(std::move(functions)), handle_(handle), version_(functions_->version()) {}

CublasLt::~CublasLt() {
    plans_.clear();
    functions_->destroy(handle_);
}

std::shared_ptr<const CublasLt::Plan> CublasLt::plan_of(const Int8Product& product) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Shape shape{product.rows, product.tokens, product.columns};
    const auto known = plans_.find(shape);
    if (known != plans_.end()) return known->second;
    if (plans_.size() >= kMostPlans) plans_.clear();
    auto plan = std::make_shared<Plan>(functions_);
    if (!plan->make(handle_, product)) plan = nullptr;
    return plans_[shape] = std::move(plan);
}

bool CublasLt::multiply(const Int8Product& product, void* workspace, cudaStream_t stream) {
    const auto plan = plan_of(product);
    if (!plan) return false;
    const int32_t one = 1, zero = 0;
    return functions_->multiply(handle_, plan->product, &one, product.weights, plan->a, product.input, plan->b, &zero, product.sums, plan->d, product.sums, plan->d, &plan->way.algorithm, workspace,
                                kWorkspaceBytes, stream) == kSuccess;
}

}  // namespace intflash
