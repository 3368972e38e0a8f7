#include "choose_kernel.h"

#include <algorithm>
#include <string>

#include "sorted_flash_fwd.h"
#include "tile_layout.h"

namespace intflash {
namespace {

int padded_dim_of(const AttentionRequest& request) { return padded_dim(std::max(request.head_dim, request.head_dim_v)); }

// What a kernel would need and has not got, or null.
const char* sorting_needs(const AttentionRequest& request) {
    const ElementType query = request.query.type, key = request.key.type, value = request.value.type;
    const auto is_wide = [](ElementType type) { return type == ElementType::kFloat32; };
    if (query == ElementType::kInt8 || key == ElementType::kInt8 || value == ElementType::kInt8) return "floats";
    if (is_wide(query) != is_wide(key) || is_wide(key) != is_wide(value)) return "query, key and value of one width";
    if (request.softcap != 0.f || request.mask.present()) return "no softcap and no attnMask";
    return nullptr;
}

const char* hopper_needs(const DeviceFacts& facts, const AttentionRequest& request) {
    if (request.precision != Precision::kHalfInt8 && request.precision != Precision::kFullInt8) return "precision 'full-int8' or 'half-int8'";
    if (const char* needed = sorting_needs(request)) return needed;
    return facts.has_hopper_kernels ? nullptr : "a device of compute capability 9.0 and code compiled for it";
}

const char* sorted_needs(const DeviceFacts& facts, const AttentionRequest& request) {
    if (request.precision != Precision::kFullInt8) return "precision 'full-int8'";
    if (const char* needed = sorting_needs(request)) return needed;
    return sorted_supports(padded_dim_of(request), facts.shared_bytes_per_block) ? nullptr : "head dimensions of at most 128 on this device";
}

}  // namespace

KernelChoice choose_kernel(const DeviceFacts& facts, const AttentionRequest& request) {
    const char *for_hopper = hopper_needs(facts, request), *for_sorted = sorted_needs(facts, request);
    const auto refuse = [&](KernelChoice choice, const char* needed, const char* whose) {
        if (needed != nullptr && request.kernel == choice) throw Failure("ERR_UNSUPPORTED", std::string("Expected ") + needed + " for " + whose);
    };
    refuse(KernelChoice::kHopper, for_hopper, "Hopper's kernel");
    refuse(KernelChoice::kSorted, for_sorted, "the kernel on sorted tiles");
    if (request.kernel != KernelChoice::kAuto) return request.kernel;
    return for_hopper == nullptr ? KernelChoice::kHopper : for_sorted == nullptr ? KernelChoice::kSorted : KernelChoice::kPortable;
}

}  // namespace intflash
