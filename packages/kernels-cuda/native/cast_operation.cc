#include "cast_operation.h"

#include <utility>

#include "cast_floats.h"

namespace intflash {

CastOperation::CastOperation(Stream& stream, std::shared_ptr<Buffer> from, ElementType type, std::shared_ptr<FindingsSheet> sheet)
    : sheet_(std::move(sheet)), place_(sheet_->take()), type_(type), from_(std::move(from)), out_(stream.allocate(from_->bytes() / 2)) {}

void CastOperation::launch(cudaStream_t stream, const AbortFlag&) const {
    const auto elements = static_cast<int64_t>(from_->bytes() / sizeof(float));
    check_cuda(launch_cast(from_->as<float>(), elements, type_, out_->as(), &sheet_->on_device(place_)->large_output, stream), "round the output");
}

void CastOperation::judge() const {
    if (sheet_->on_host(place_).large_output) throw Failure("ERR_OVERFLOW", "Expected an output that outType can hold, got larger numbers");
}

}  // namespace intflash
