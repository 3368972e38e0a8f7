#include "int4_operation.h"

#include <utility>

namespace intflash {

Int4Operation::Int4Operation(Stream& stream, Way way, const TensorRows& rows, std::shared_ptr<FindingsSheet> sheet)
    : way_(way), sheet_(std::move(sheet)), place_(sheet_->take()) {
    const auto* data = static_cast<const uint8_t*>(source_on_device(stream, rows.data, held_));
    from_ = {data, rows.strides, static_cast<int64_t>(rows.count()), rows.heads, rows.tokens, rows.dim};
    out_ = stream.allocate(rows.count() * static_cast<size_t>(way == Way::kPack ? rows.dim / 2 : rows.dim));
}

void Int4Operation::launch(cudaStream_t stream, const AbortFlag&) const {
    if (way_ == Way::kPack) check_cuda(launch_pack_int4(from_, out_->as<uint32_t>(), sheet_->on_device(place_), stream), "pack codes");
    else check_cuda(launch_unpack_int4(from_, out_->as<uint2>(), stream), "unpack codes");
}

void Int4Operation::judge() const {
    if (sheet_->on_host(place_).bad_given & static_cast<uint32_t>(Given::kInt4Codes)) throw Failure("ERR_ARG_RANGE", "Expected INT4 codes in [-8, 7], got others");
}

}  // namespace intflash
