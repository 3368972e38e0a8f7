#include "findings_sheet.h"

#include <string>

#include "failure.h"

namespace intflash {

FindingsSheet::FindingsSheet(Stream& home, int capacity)
    : buffer_(home.allocate(static_cast<size_t>(capacity) * sizeof(Findings))), host_(home.device(), static_cast<size_t>(capacity) * sizeof(Findings)), capacity_(capacity) {}

int FindingsSheet::take() {
    if (used_ == capacity_) throw Failure("ERR_UNSUPPORTED", "Expected at most " + std::to_string(capacity_) + " operations in a graph, got more");
    return used_++;
}

void FindingsSheet::clear(cudaStream_t stream) const {
    if (used_ > 0) check_cuda(cudaMemsetAsync(buffer_->as(), 0, used_bytes(), stream), "clear the findings");
}

void FindingsSheet::collect(cudaStream_t stream) {
    if (used_ > 0) check_cuda(cudaMemcpyAsync(host_.as<Findings>(), buffer_->as(), used_bytes(), cudaMemcpyDeviceToHost, stream), "read the findings");
}

}  // namespace intflash
