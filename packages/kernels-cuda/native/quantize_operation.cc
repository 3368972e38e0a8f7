#include "quantize_operation.h"

#include <utility>

#include "tile_layout.h"

namespace intflash {

QuantizeOperation::QuantizeOperation(Stream& stream, const TensorQuantizeRequest& request, std::shared_ptr<FindingsSheet> sheet)
    : sheet_(std::move(sheet)), place_(sheet_->take()) {
    const cudaStream_t target = stream.handle();
    const size_t rows_each = static_cast<size_t>(request.heads) * static_cast<size_t>(request.tokens), rows = request.count();
    std::vector<Sequence> sequences(static_cast<size_t>(request.batch));
    for (size_t b = 0; b < sequences.size(); ++b) {
        sequences[b].q_row_base = static_cast<int64_t>(b * rows_each);
        sequences[b].q_len = request.tokens;
    }
    const auto table = held_.emplace_back(stream.allocate(sequences.size() * sizeof(Sequence)));
    if (!sequences.empty()) check_cuda(cudaMemcpyAsync(table->as(), sequences.data(), table->bytes(), cudaMemcpyHostToDevice, target), "copy the sequence table");
    table_.sequences = table->as<Sequence>();
    table_.count = request.batch;
    table_.max_q_len = request.tokens;

    const void* data = source_on_device(stream, request.data, held_);
    codes_ = stream.allocate(rows * static_cast<size_t>(padded_dim(request.dim)));
    scales_ = stream.allocate(rows * sizeof(float));
    quantize_.query = {data, request.strides, request.type, request.heads, request.dim};
    quantize_.key.type = quantize_.value.type = ElementType::kInt8;  // nothing to encode
    quantize_.key.heads = quantize_.value.heads = request.heads;
    quantize_.padded = padded_dim(request.dim);
    quantize_.levels = static_cast<float>(request.levels);
    quantize_.rows = {codes_->as<int8_t>(), scales_->as<float>()};
    quantize_.findings = sheet_->on_device(place_);
    // Maxima for a score bound that nobody asks for.
    const auto maxima = held_.emplace_back(stream.allocate(static_cast<size_t>(request.batch) * static_cast<size_t>(request.heads) * sizeof(uint32_t)));
    check_cuda(cudaMemsetAsync(maxima->as(), 0, maxima->bytes(), target), "clear the maxima");
    quantize_.head_maxima.query = maxima->as<uint32_t>();
}

void QuantizeOperation::launch(cudaStream_t stream, const AbortFlag&) const {
    if (table_.count == 0 || table_.max_q_len == 0 || quantize_.query.heads == 0) return;
    check_cuda(launch_encode(quantize_, table_, stream), "quantize a tensor");
}

void QuantizeOperation::judge() const {
    if (sheet_->on_host(place_).bad_query) throw nonfinite("tensor");
}

}  // namespace intflash
