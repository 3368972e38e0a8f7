#include "two_pass_operation.h"

#include <string>
#include <utility>

#include "tile_layout.h"

namespace intflash {

TwoPassOperation::TwoPassOperation(Stream& stream, const TensorQuantizeRequest& request, std::shared_ptr<FindingsSheet> sheet)
    : sheet_(std::move(sheet)), place_(sheet_->take()) {
    const size_t rows = request.count(), channels = static_cast<size_t>(request.batch) * static_cast<size_t>(request.heads) * static_cast<size_t>(request.dim);
    request_.statistic = request.granularity == Granularity::kToken ? Statistic::kMeans : request.granularity == Granularity::kChannel ? Statistic::kChannelMaxima : Statistic::kMaximum;
    const size_t scales = request.granularity == Granularity::kToken ? rows : request.granularity == Granularity::kChannel ? channels : 1;
    const void* data = source_on_device(stream, request.data, held_);
    request_.tensor = {data, request.strides, request.type, request.heads, request.dim};
    request_.batch = request.batch;
    request_.tokens = request.tokens;
    request_.padded = padded_dim(request.dim);
    request_.levels = static_cast<float>(request.levels);
    if (!fits_two_pass(request_))
        throw Failure("ERR_UNSUPPORTED", "Expected fewer than 2^30 heads but with a scale a token and without smoothK, got " + std::to_string(int64_t{request.batch} * request.heads));
    codes_ = stream.allocate(rows * static_cast<size_t>(request_.padded));
    scales_ = stream.allocate(scales * sizeof(float));
    if (request.smooth) means_ = stream.allocate(channels * sizeof(float));
    request_.codes = codes_->as<int8_t>();
    request_.scales = scales_->as<float>();
    request_.means = means_ ? means_->as<float>() : nullptr;
    request_.findings = sheet_->on_device(place_);
    place_two_pass(request_, held_.emplace_back(stream.allocate(two_pass_bytes(request_)))->as<uint8_t>());
}

void TwoPassOperation::launch(cudaStream_t stream, const AbortFlag& abort) const {
    abort.check();
    check_cuda(launch_two_pass(request_, stream), "quantize a tensor");
}

void TwoPassOperation::judge() const {
    const Findings& findings = sheet_->on_host(place_);
    if (findings.bad_query) throw nonfinite("tensor");
    if (findings.large_query) throw Failure("ERR_OVERFLOW", "Expected every number minus its channel's mean to be within float32, got a larger one");
}

}  // namespace intflash
