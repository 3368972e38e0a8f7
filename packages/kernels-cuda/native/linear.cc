#include "linear.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "failure.h"
#include "host_copy.h"
#include "landing.h"

namespace intflash {
namespace {

/** Tokens of one pass: bounds what a call needs beside its weights. */
constexpr int kPassTokens = 4096;
/** Above these cuBLASLt is worth the second that loading it may take; our products by rows serve fewer tokens. */
constexpr int kLibraryTokens = kFewTokens;
constexpr int64_t kLibraryWeights = 1 << 20;

std::shared_ptr<Buffer> upload(Stream& worker, const void* from, size_t bytes) {
    auto buffer = worker.allocate(bytes);
    check_cuda(cudaMemcpyAsync(buffer->as(), from, bytes, cudaMemcpyHostToDevice, worker.handle()), "copy weights to the device");
    return buffer;
}

/** Rows of `width` bytes, `padded` bytes apart on the device, zeros between. */
void upload_rows(Stream& worker, void* to, size_t padded, const void* from, size_t width, size_t rows) {
    if (width != padded) check_cuda(cudaMemsetAsync(to, 0, padded * rows, worker.handle()), "clear the padding");
    check_cuda(cudaMemcpy2DAsync(to, padded, from, width, width, rows, cudaMemcpyHostToDevice, worker.handle()), "copy rows to the device");
}

}  // namespace

LinearLayer::LinearLayer(Stream& worker, const HostWeights& host) : rows_(host.rows), cols_(host.cols), group_(host.group) {
    const size_t rows = static_cast<size_t>(rows_), cols = static_cast<size_t>(cols_), columns = static_cast<size_t>(this->columns());
    if (host.packed != nullptr) {
        take_int4(worker, host);
    } else if (host.codes != nullptr) {
        codes_ = worker.allocate(rows * columns);
        upload_rows(worker, codes_->as(), columns, host.codes, cols, rows);
        scales_ = upload(worker, host.scales, rows * sizeof(float));
    } else {
        take_floats(worker, host);
    }
    if (host.bias != nullptr) bias_ = upload(worker, host.bias, rows * sizeof(float));
    worker.synchronize();
}

void LinearLayer::take_floats(Stream& worker, const HostWeights& host) {
    const size_t rows = static_cast<size_t>(rows_), cols = static_cast<size_t>(cols_), padded = static_cast<size_t>(columns());
    uint32_t low_bits = 0;
    std::vector<uint32_t> bits(cols);
    for (size_t row = 0; row < rows; ++row) {
        std::memcpy(bits.data(), host.weights + row * cols, cols * sizeof(float));
        for (const uint32_t x : bits) low_bits |= x;
    }
    is_bfloat16_ = (low_bits & 0xffffu) == 0;
    const size_t size = is_bfloat16_ ? sizeof(uint16_t) : sizeof(float);
    weights_ = worker.allocate(rows * padded * size);
    if (!is_bfloat16_) return upload_rows(worker, weights_->as(), padded * size, host.weights, cols * size, rows);
    std::vector<uint16_t> narrow(rows * cols);
    for (size_t row = 0; row < rows; ++row) {
        std::memcpy(bits.data(), host.weights + row * cols, cols * sizeof(float));
        for (size_t c = 0; c < cols; ++c) narrow[row * cols + c] = static_cast<uint16_t>(bits[c] >> 16);
    }
    upload_rows(worker, weights_->as(), padded * size, narrow.data(), cols * size, rows);
    worker.synchronize();  // `narrow` ends here
}

FloatWeights LinearLayer::float_weights() const {
    return {is_bfloat16_ ? nullptr : weights_->as<float>(), is_bfloat16_ ? weights_->as<uint16_t>() : nullptr, bias_ ? bias_->as<float>() : nullptr, rows_, columns()};
}

void LinearLayer::take_int4(Stream& worker, const HostWeights& host) {
    const size_t rows = static_cast<size_t>(rows_), width = static_cast<size_t>(cols_) / 2, padded = static_cast<size_t>(columns()) / 2;
    const size_t groups = static_cast<size_t>(cols_ / group_) * sizeof(float), padded_groups = static_cast<size_t>(columns() / group_) * sizeof(float);
    const auto natural = worker.allocate(rows * padded);
    codes_ = worker.allocate(rows * padded);
    scales_ = worker.allocate(rows * padded_groups);
    upload_rows(worker, natural->as(), padded, host.packed, width, rows);
    upload_rows(worker, scales_->as(), padded_groups, host.scales, groups, rows);
    check_cuda(launch_arrange_int4(natural->as<uint8_t>(), rows_, columns(), codes_->as<uint8_t>(), worker.handle()), "arrange INT4 weights");
}

bool LinearLayer::suits_library(int tokens) const { return is_int8() && tokens > kLibraryTokens && int64_t{rows_} * columns() >= kLibraryWeights; }

ProductMemory LinearLayer::product_memory(Stream& worker, int tokens, int most_rows) {
    ProductMemory memory{worker.device().cublas_lt(), nullptr, nullptr};
    if (memory.library == nullptr) return memory;
    memory.sums = worker.allocate(static_cast<size_t>(tokens) * static_cast<size_t>(most_rows) * sizeof(int32_t));
    memory.workspace = worker.allocate(CublasLt::kWorkspaceBytes);
    return memory;
}

Int8Weights LinearLayer::int8_weights() const { return {codes_->as<int8_t>(), scales_->as<float>(), bias_ ? bias_->as<float>() : nullptr, rows_, columns()}; }

bool LinearLayer::sum(const Int8Rows& input, int tokens, const ProductMemory& memory, cudaStream_t stream) const {
    if (memory.library == nullptr || !suits_library(tokens)) return false;
    const Int8Product product{codes_->as<int8_t>(), input.codes, memory.sums->as<int32_t>(), rows_, tokens, columns()};
    return memory.library->multiply(product, memory.workspace->as(), stream);
}

void LinearLayer::multiply(const Int8Rows& input, int tokens, float* out, bool accumulate, const ProductMemory& memory, const WeightsAhead& ahead, cudaStream_t stream) const {
    const Int8Weights weights = int8_weights();
    if (sum(input, tokens, memory, stream))
        return check_cuda(launch_finish_int8(weights, memory.sums->as<int32_t>(), input.scales, tokens, out, accumulate, stream), "finish an INT8 linear layer");
    check_cuda(launch_linear_int8(weights, input, tokens, out, accumulate, ahead, stream), "run an INT8 linear layer");
}

void LinearLayer::multiply(const GroupRows& input, int tokens, float* out, bool accumulate, cudaStream_t stream) const {
    const Int4Weights weights{codes_->as<uint8_t>(), scales_->as<float>(), bias_ ? bias_->as<float>() : nullptr, rows_, columns(), group_};
    check_cuda(launch_linear_int4(weights, input, tokens, out, accumulate, stream), "run an INT4 linear layer");
}

void LinearLayer::multiply(const float* input, int tokens, float* out, bool accumulate, float* scratch, cudaStream_t stream) const {
    check_cuda(launch_linear_float(float_weights(), input, tokens, out, accumulate, scratch, stream), "run a float32 linear layer");
}

GroupRows LinearLayer::group_rows(float* scratch, int tokens) const {
    const int64_t code_floats = static_cast<int64_t>(tokens) * columns() / static_cast<int64_t>(sizeof(float));
    return {reinterpret_cast<int8_t*>(scratch), scratch + code_floats, group_};
}

int64_t LinearLayer::scratch_floats(int tokens) const {
    const int64_t numbers = static_cast<int64_t>(tokens) * columns();
    if (group_ > 0) return numbers / static_cast<int64_t>(sizeof(float)) + numbers / group_;  // codes, then scales
    return is_bfloat16_ ? turned_floats(tokens, columns()) : 0;
}

void LinearLayer::forward(Stream& worker, const float* input, int tokens, float* out) const {
    for (int first = 0; first < tokens; first += kPassTokens)
        forward_part(worker, input + static_cast<int64_t>(first) * cols_, std::min(kPassTokens, tokens - first), out + static_cast<int64_t>(first) * rows_);
}

void LinearLayer::forward_part(Stream& worker, const float* input, int tokens, float* out) const {
    const cudaStream_t stream = worker.handle();
    const size_t count = static_cast<size_t>(tokens), width = static_cast<size_t>(cols_) * sizeof(float), padded = static_cast<size_t>(columns()) * sizeof(float);
    const size_t out_bytes = count * static_cast<size_t>(rows_) * sizeof(float);
    const auto floats = worker.allocate(count * (is_float() ? padded : width)), result = worker.allocate(out_bytes);
    const auto finding = worker.allocate(sizeof(uint32_t));
    const Landing nonfinite(worker.device(), sizeof(uint32_t));
    check_cuda(cudaMemsetAsync(finding->as(), 0, sizeof(uint32_t), stream), "clear the findings");
    std::shared_ptr<Buffer> codes, scales, scratch;
    if (is_int8()) {
        codes = worker.allocate(count * static_cast<size_t>(columns()));
        scales = worker.allocate(count * sizeof(float));
        const Int8Rows rows{codes->as<int8_t>(), scales->as<float>()};
        check_cuda(cudaMemcpyAsync(floats->as(), input, count * width, cudaMemcpyHostToDevice, stream), "copy an input to the device");
        check_cuda(launch_quantize_rows(floats->as<float>(), cols_, tokens, cols_, rows, finding->as<uint32_t>(), stream), "quantize an input");
        multiply(rows, tokens, result->as<float>(), false, suits_library(tokens) ? product_memory(worker, tokens, rows_) : ProductMemory{}, {}, stream);
    } else {
        scratch = worker.allocate(static_cast<size_t>(scratch_floats(tokens)) * sizeof(float));
        if (is_int4()) {
            const GroupRows rows = group_rows(scratch->as<float>(), tokens);
            check_cuda(cudaMemcpyAsync(floats->as(), input, count * width, cudaMemcpyHostToDevice, stream), "copy an input to the device");
            check_cuda(launch_quantize_groups(floats->as<float>(), cols_, tokens, cols_, rows, finding->as<uint32_t>(), stream), "quantize an input by groups");
            multiply(rows, tokens, result->as<float>(), false, stream);
        } else {
            upload_rows(worker, floats->as(), padded, input, width, count);
            multiply(floats->as<float>(), tokens, result->as<float>(), false, scratch->as<float>(), stream);
        }
    }
    check_cuda(cudaMemcpyAsync(nonfinite.as(), finding->as(), sizeof(uint32_t), cudaMemcpyDeviceToHost, stream), "read the findings");
    copy_to_host(worker, out, result->as(), out_bytes);
    if (*nonfinite.as<uint32_t>() != 0) {
        Failure failure("ERR_NONFINITE", "Expected input to hold finite numbers, got NaN or Infinity");
        failure.operand = "input";
        throw failure;
    }
}

}  // namespace intflash
