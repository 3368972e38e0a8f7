#include "read_request.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "binding.h"

namespace intflash {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 53;

[[noreturn]] void reject(const Napi::Env& env, const std::string& message, const char* code = "ERR_ARG_TYPE") { throw argument_error(env, code, message); }

RowStrides read_strides(const Napi::Object& js, const char* name) {
    const Napi::Value value = js.Get(name);
    if (!value.IsObject()) reject(js.Env(), std::string("Expected ") + name + " to be strides {batch, head, token}");
    const Napi::Object strides = value.As<Napi::Object>();
    return {read_integer(strides, "batch", 0, kMaxElements), read_integer(strides, "head", 0, kMaxElements), read_integer(strides, "token", 0, kMaxElements)};
}

size_t element_bytes(ElementType type) { return type == ElementType::kFloat32 ? 4 : type == ElementType::kInt8 ? 1 : 2; }

/** An index, or one past the largest that any memory has. 128 bits: strides of 2^53 times counts of 2^31 are allowed to be asked for. */
using Reach = __int128;

/** One past the last element that any row touches. */
Reach reach(const std::vector<Sequence>& sequences, const RowStrides& strides, int heads, int64_t width, bool queries) {
    Reach end = 0;
    for (size_t b = 0; b < sequences.size(); ++b) {
        const Sequence& s = sequences[b];
        const int64_t length = queries ? s.q_len : s.k_len, start = queries ? s.q_start : s.k_start;
        if (length == 0 || width == 0) continue;
        end = std::max(end, Reach{strides.batch} * b + Reach{strides.head} * (heads - 1) + Reach{strides.token} * (start + length - 1) + width);
    }
    return end;
}

void expect_room(const Napi::Env& env, const Source& source, Reach elements, size_t size, const char* what) {
    const size_t available = source.buffer ? source.buffer->bytes() - std::min(source.offset, source.buffer->bytes()) : source.bytes;
    if (source.offset % size != 0) reject(env, std::string("Expected ") + what + " to start at a whole element", "ERR_ARG_RANGE");
    if (elements > static_cast<Reach>(available / size))
        reject(env, std::string("Expected ") + what + " to hold " + (elements < kMaxElements ? std::to_string(static_cast<int64_t>(elements)) : "2^53 or more") + " elements, got " + std::to_string(available / size),
               "ERR_SHAPE");
}

FloatOrCodes read_operand(const Napi::Object& js, const Device& device, bool wait, const char* what) {
    const Napi::Value given = js.Get(what);
    if (!given.IsObject()) reject(js.Env(), std::string("Expected ") + what + " to be an operand");
    const Napi::Object operand = given.As<Napi::Object>();
    FloatOrCodes result{};
    result.type = static_cast<ElementType>(read_integer(operand, "type", 0, 3));
    result.data = read_source(operand.Get("data"), device, wait, what);
    result.strides = read_strides(operand, "strides");
    if (result.type == ElementType::kInt8) {
        result.scale = read_source(operand.Get("scale"), device, wait, "scale");
        result.scale_strides = read_strides(operand, "scaleStrides");
    }
    return result;
}

std::vector<Sequence> read_sequences(const Napi::Object& js) {
    const Napi::Value value = js.Get("sequences");
    if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array) reject(js.Env(), "Expected sequences to be a Float64Array");
    const auto spans = value.As<Napi::Float64Array>();  // qStart, qLen, kStart, kLen of each
    if (!spans.ArrayBuffer().IsArrayBuffer()) reject(js.Env(), "Expected sequences to own its memory");
    std::vector<Sequence> sequences(spans.ElementLength() / 4);
    for (size_t i = 0; i < sequences.size(); ++i) {
        const double* span = spans.Data() + 4 * i;
        for (int k = 0; k < 4; ++k)
            if (!(span[k] >= 0 && span[k] <= 2147483647.)) reject(js.Env(), "Expected sequences to hold integers below 2^31", "ERR_ARG_RANGE");
        sequences[i] = {};
        sequences[i].q_start = static_cast<int64_t>(span[0]);
        sequences[i].q_len = static_cast<int32_t>(span[1]);
        sequences[i].k_start = static_cast<int64_t>(span[2]);
        sequences[i].k_len = static_cast<int32_t>(span[3]);
    }
    return sequences;
}

int64_t read_window(const Napi::Object& js, const char* name) {
    const double value = read_number(js, name);
    if (!(value >= 0)) reject(js.Env(), std::string("Expected ") + name + " to be at least 0", "ERR_ARG_RANGE");
    return value >= 1e12 ? int64_t{1} << 40 : static_cast<int64_t>(value);
}

/** The caller's Float32Array for an answer; kept alive by the job that writes it. */
float* read_target(const Napi::Object& js, const char* name, int64_t elements) {
    const Napi::Value value = js.Get(name);
    if (value.IsUndefined()) return nullptr;
    if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array) reject(js.Env(), std::string("Expected ") + name + " to be a Float32Array");
    auto array = value.As<Napi::Float32Array>();
    if (!array.ArrayBuffer().IsArrayBuffer()) reject(js.Env(), std::string("Expected ") + name + " to own its memory", "ERR_BUFFER_SHARED");
    if (static_cast<int64_t>(array.ElementLength()) != elements) reject(js.Env(), std::string("Expected ") + name + " to hold " + std::to_string(elements) + " elements");
    return array.Data();
}

/** @param per_element numbers that an element of `element_bytes` holds */
void read_rows(TensorRows& rows, const Napi::Object& js, const Device& device, size_t element_bytes, int per_element) {
    rows.data = read_source(js.Get("data"), device, false, "tensor");
    rows.strides = read_strides(js, "strides");
    rows.batch = static_cast<int32_t>(read_integer(js, "batch", 0, 1 << 20));
    rows.heads = static_cast<int32_t>(read_integer(js, "heads", 0, 1 << 30));
    rows.tokens = static_cast<int32_t>(read_integer(js, "tokens", 0, 1 << 30));
    rows.dim = static_cast<int32_t>(read_integer(js, "dim", 8, 256));
    rows.abort = read_abort_flag(js.Get("abortFlag"));
    if (rows.dim % 8 != 0) reject(js.Env(), "Expected dim to be a multiple of 8", "ERR_UNSUPPORTED");
    if (int64_t{rows.batch} * rows.heads > 1 << 30) reject(js.Env(), "Expected at most 2^30 heads of all sequences", "ERR_UNSUPPORTED");
    constexpr size_t kMostRows = size_t{1} << 38;  // strides of 0 repeat rows: more than memory holds may be asked for
    if (rows.count() > kMostRows) reject(js.Env(), "Expected at most 2^38 rows", "ERR_OVERFLOW");
    if (rows.heads == 0) return;
    std::vector<Sequence> sequences(static_cast<size_t>(rows.batch));
    for (Sequence& sequence : sequences) sequence.q_len = rows.tokens;
    expect_room(js.Env(), rows.data, reach(sequences, rows.strides, rows.heads, rows.dim / per_element, true), element_bytes, "tensor");
}

}  // namespace

double read_number(const Napi::Object& js, const char* name) {
    const Napi::Value value = js.Get(name);
    if (!value.IsNumber() || std::isnan(value.As<Napi::Number>().DoubleValue())) reject(js.Env(), std::string("Expected ") + name + " to be a number");
    return value.As<Napi::Number>().DoubleValue();
}

int64_t read_integer(const Napi::Object& js, const char* name, int64_t min, int64_t max) {
    const double value = read_number(js, name);
    if (!(value >= static_cast<double>(min) && value <= static_cast<double>(max)) || value != std::floor(value))
        reject(js.Env(), std::string("Expected ") + name + " to be an integer in [" + std::to_string(min) + ", " + std::to_string(max) + "]");
    return static_cast<int64_t>(value);
}

int64_t read_count(const Napi::Value& js, const char* name) {
    if (!js.IsNumber()) reject(js.Env(), std::string("Expected ") + name + " to be a number");
    const double value = js.As<Napi::Number>().DoubleValue();
    if (!(value >= 0 && value <= static_cast<double>(kMaxElements)) || value != std::floor(value))
        reject(js.Env(), std::string("Expected ") + name + " to be an integer in [0, 2^53]", "ERR_ARG_RANGE");
    return static_cast<int64_t>(value);
}

std::shared_ptr<Buffer> read_buffer(const Napi::Value& js, const Device& device, const char* what) {
    const auto buffer = read_handle<BufferHandle>(js, what).buffer;
    if (!buffer) reject(js.Env(), std::string("Expected ") + what + " to be live device memory, got a disposed tensor", "ERR_DISPOSED");
    if (&buffer->device() != &device) reject(js.Env(), std::string("Expected ") + what + " to lie on the same device object");
    return buffer;
}

Source read_host_source(const Napi::Value& js, const Device& device, const char* what) {
    Source source = read_source(js, device, false, what);
    if (source.buffer) reject(js.Env(), std::string("Expected ") + what + " to lie in host memory");
    return source;
}

Source read_source(const Napi::Value& js, const Device& device, bool wait, const char* what) {
    Source source;
    if (js.IsObject() && !js.IsTypedArray() && js.As<Napi::Object>().Has("buffer")) {
        const Napi::Object view = js.As<Napi::Object>();
        source.buffer = read_buffer(view.Get("buffer"), device, what);
        source.offset = static_cast<size_t>(read_integer(view, "byteOffset", 0, kMaxElements));
        if (source.offset > source.buffer->bytes()) reject(js.Env(), std::string("Expected the offset of ") + what + " to lie inside its buffer", "ERR_SHAPE");
        return source;
    }
    if (js.IsObject() && !js.IsTypedArray() && js.As<Napi::Object>().Has("pinned")) {
        const Napi::Object view = js.As<Napi::Object>();
        source.pinned = read_handle<PinnedHandle>(view.Get("pinned"), what).memory;
        if (!source.pinned) reject(js.Env(), std::string("Expected ") + what + " to be live page-locked memory, got a disposed buffer", "ERR_DISPOSED");
        source.offset = static_cast<size_t>(read_integer(view, "byteOffset", 0, kMaxElements));
        source.bytes = static_cast<size_t>(read_integer(view, "bytes", 0, kMaxElements));
        if (source.offset > source.pinned->bytes() || source.bytes > source.pinned->bytes() - source.offset)
            reject(js.Env(), std::string("Expected ") + what + " to lie inside its buffer", "ERR_SHAPE");
        return source;
    }
    if (!js.IsTypedArray()) reject(js.Env(), std::string("Expected ") + what + " to be a typed array or device memory");
    const auto array = js.As<Napi::TypedArray>();
    if (!array.ArrayBuffer().IsArrayBuffer()) reject(js.Env(), std::string("Expected ") + what + " to own its memory, got shared memory", "ERR_BUFFER_SHARED");
    source.bytes = array.ByteLength();
    const uint8_t* data = static_cast<const uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset();
    if (wait) {
        static const uint8_t nothing = 0;
        source.borrowed = source.bytes == 0 ? &nothing : data;
    } else {
        source.copy = std::make_shared<std::vector<uint8_t>>(data, data + source.bytes);
    }
    return source;
}

AttentionRequest read_attention_request(const Napi::Object& js, const Device& device, bool wait) {
    const Napi::Env env = js.Env();
    AttentionRequest request{};
    request.precision = static_cast<Precision>(read_integer(js, "precision", 0, 9));
    request.kernel = js.Get("kernel").IsUndefined() ? KernelChoice::kAuto : static_cast<KernelChoice>(read_integer(js, "kernel", 0, 3));
    if (!js.Get("outType").IsUndefined()) request.out_type = static_cast<ElementType>(read_integer(js, "outType", 0, 2));
    request.smooth_k = js.Get("smoothK").ToBoolean();
    request.heads = static_cast<int>(read_integer(js, "heads", 1, 1 << 20));
    request.kv_heads = static_cast<int>(read_integer(js, "kvHeads", 1, 1 << 20));
    request.head_dim = static_cast<int>(read_integer(js, "headDim", 8, 256));
    request.head_dim_v = static_cast<int>(read_integer(js, "headDimV", 8, 256));
    if (request.heads % request.kv_heads != 0 || request.head_dim % 8 != 0 || request.head_dim_v % 8 != 0) reject(env, "Expected heads and head dimensions as the judge lets pass");
    request.sequences = read_sequences(js);
    request.scale = static_cast<float>(read_number(js, "scale"));
    request.softcap = static_cast<float>(read_number(js, "softcap"));
    request.window_left = read_window(js, "windowLeft");
    request.window_right = read_window(js, "windowRight");
    request.bottom_right = js.Get("bottomRight").ToBoolean();
    request.query = read_operand(js, device, wait, "query");
    request.key = read_operand(js, device, wait, "key");
    request.value = read_operand(js, device, wait, "value");
    if (!js.Get("channelScale").IsUndefined()) {
        request.channel_scale = read_source(js.Get("channelScale"), device, wait, "channelScale");
        request.channel_strides = read_strides(js, "channelStrides");
        expect_room(env, request.channel_scale, reach(request.sequences, request.channel_strides, request.kv_heads, request.head_dim_v, false), 4, "channelScale");
    }
    request.out_strides = read_strides(js, "outStrides");
    request.lse_strides = read_strides(js, "lseStrides");
    request.out_elements = read_integer(js, "outElements", 0, kMaxElements);
    request.lse_elements = read_integer(js, "lseElements", 0, kMaxElements);
    request.want_lse = js.Get("returnLse").ToBoolean();
    request.repeats = js.Get("repeats").IsUndefined() ? 0 : static_cast<int>(read_integer(js, "repeats", 0, 10000));
    request.host_out = read_target(js, "out", request.out_elements);
    request.host_lse = read_target(js, "lse", request.lse_elements);
    request.abort = read_abort_flag(js.Get("abortFlag"));

    const struct {
        const FloatOrCodes& operand;
        int heads, dim;
        bool queries;
        const char* what;
    } operands[] = {{request.query, request.heads, request.head_dim, true, "query"},
                    {request.key, request.kv_heads, request.head_dim, false, "key"},
                    {request.value, request.kv_heads, request.head_dim_v, false, "value"}};
    for (const auto& [operand, heads, dim, queries, what] : operands) {
        expect_room(env, operand.data, reach(request.sequences, operand.strides, heads, dim, queries), element_bytes(operand.type), what);
        if (operand.type != ElementType::kInt8) continue;
        const bool is_half_value = request.precision == Precision::kHalfInt8 && &operand == &request.value;
        if (request.precision >= Precision::kFloat32 || is_half_value) reject(env, std::string("Expected ") + what + " to be floats for this precision");
        expect_room(env, operand.scale, reach(request.sequences, operand.scale_strides, heads, 1, queries), 4, "a scale");
    }
    if (reach(request.sequences, request.out_strides, request.heads, request.head_dim_v, true) > request.out_elements) reject(env, "Expected the output to hold every row");
    if (request.want_lse && reach(request.sequences, request.lse_strides, request.heads, 1, true) > request.lse_elements) reject(env, "Expected lse to hold every row");

    if (js.Get("mask").IsObject()) {
        const Napi::Object mask = js.Get("mask").As<Napi::Object>();
        request.mask = read_source(mask.Get("data"), device, wait, "mask");
        request.mask_strides.batch = read_integer(mask, "batch", 0, kMaxElements);
        request.mask_strides.head = read_integer(mask, "head", 0, kMaxElements);
        request.mask_strides.query = read_integer(mask, "query", 0, kMaxElements);
        request.mask_strides.key = read_integer(mask, "key", 0, kMaxElements);
        request.mask_strides.is_float = mask.Get("isFloat").ToBoolean();
        Reach end = 0;
        for (size_t b = 0; b < request.sequences.size(); ++b) {
            const Sequence& s = request.sequences[b];
            if (s.q_len != request.sequences[0].q_len || s.k_len != request.sequences[0].k_len) reject(env, "Expected a mask over sequences of one length");
            if (s.q_len > 0 && s.k_len > 0)
                end = std::max(end, Reach{request.mask_strides.batch} * b + Reach{request.mask_strides.head} * (request.heads - 1) +
                                        Reach{request.mask_strides.query} * (s.q_len - 1) + Reach{request.mask_strides.key} * (s.k_len - 1) + 1);
        }
        expect_room(env, request.mask, end, request.mask_strides.is_float ? 4 : 1, "mask");
    }
    return request;
}

TensorQuantizeRequest read_quantize_request(const Napi::Object& js, const Device& device) {
    TensorQuantizeRequest request{};
    request.type = static_cast<ElementType>(read_integer(js, "type", 0, 2));
    request.levels = static_cast<int32_t>(read_integer(js, "levels", 1, 127));
    request.granularity = static_cast<Granularity>(read_integer(js, "granularity", 0, 2));
    request.smooth = js.Get("smoothK").ToBoolean();
    const std::string granularity = std::to_string(static_cast<int32_t>(request.granularity));
    if (request.smooth && request.granularity != Granularity::kToken) reject(js.Env(), "Expected granularity 0, a scale a token, with smoothK, got " + granularity);
    if (request.levels != 127 && request.granularity != Granularity::kToken) reject(js.Env(), "Expected 127 levels with granularity " + granularity + ", got " + std::to_string(request.levels));
    read_rows(request, js, device, element_bytes(request.type), 1);
    return request;
}

TensorRows read_code_rows(const Napi::Object& js, const Device& device, int codes_a_byte) {
    TensorRows rows{};
    read_rows(rows, js, device, 1, codes_a_byte);
    return rows;
}

}  // namespace intflash
