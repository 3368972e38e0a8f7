// allocate, upload, write, copy, download, disposeBuffer, allocatePinned, disposePinned: memory on the device, and on its way there.
#include <algorithm>
#include <utility>

#include "binding.h"
#include "gather_strided.h"
#include "host_copy.h"
#include "read_request.h"

namespace intflash {
namespace {

/** `bytes` of `buffer` from `offset` on. */
struct Span {
    std::shared_ptr<Buffer> buffer;
    size_t offset, bytes;
    uint8_t* begin() const { return buffer->as<uint8_t>() + offset; }
};

Span span_of(const Napi::CallbackInfo& info, const DeviceHandle& handle, size_t at, size_t bytes, const char* what) {
    Span span{read_buffer(info[at], *handle.device, what), static_cast<size_t>(read_count(info[at + 1], "byteOffset")), bytes};
    if (span.offset > span.buffer->bytes() || bytes > span.buffer->bytes() - span.offset)
        throw argument_error(info.Env(), "ERR_SHAPE", std::string("Expected a range inside ") + what + ", got " + std::to_string(bytes) + " bytes at " + std::to_string(span.offset) + " of " +
                                                          std::to_string(span.buffer->bytes()));
    return span;
}

// allocate(device, bytes, stream?) → Promise<buffer>; what it holds is undefined
Napi::Value allocate(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    const auto bytes = static_cast<size_t>(read_count(info[1], "bytes"));
    Stream& stream = stream_of(handle, info[2]);
    auto buffer = std::make_shared<std::shared_ptr<Buffer>>();
    return queue(info, stream,
                 [&stream, buffer, bytes] {
                     *buffer = stream.allocate(bytes);
                     stream.synchronize();
                 },
                 [buffer](Napi::Env env) { return wrap_buffer(env, std::move(*buffer)); });
}

// upload(device, source, stream?) → Promise<buffer>
Napi::Value upload(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    Stream& stream = stream_of(handle, info[2]);
    auto source = std::make_shared<Source>(read_host_source(info[1], *handle.device, "data"));
    auto buffer = std::make_shared<std::shared_ptr<Buffer>>();
    return queue(info, stream,
                 [&stream, source, buffer] {
                     *buffer = stream.allocate(source->bytes);
                     copy_from_host(stream, (*buffer)->as(), source->host(), source->bytes);
                     *source = {};
                 },
                 [buffer](Napi::Env env) { return wrap_buffer(env, std::move(*buffer)); });
}

// write(device, buffer, byteOffset, source, stream?) → Promise<void>
Napi::Value write(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    Stream& stream = stream_of(handle, info[4]);
    auto source = std::make_shared<Source>(read_host_source(info[3], *handle.device, "data"));
    const Span to = span_of(info, handle, 1, source->bytes, "the tensor");
    return queue(info, stream,
                 [&stream, source, to] {
                     copy_from_host(stream, to.begin(), source->host(), to.bytes);
                     *source = {};
                 },
                 [](Napi::Env env) { return env.Undefined(); });
}

// copy(device, from, fromByteOffset, to, toByteOffset, bytes, stream?) → Promise<void>
Napi::Value copy(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    Stream& stream = stream_of(handle, info[6]);
    const auto bytes = static_cast<size_t>(read_count(info[5], "bytes"));
    const Span from = span_of(info, handle, 1, bytes, "the source"), to = span_of(info, handle, 3, bytes, "the target");
    return queue(info, stream,
                 [&stream, from, to] {
                     if (to.bytes > 0) check_cuda(cudaMemcpyAsync(to.begin(), from.begin(), to.bytes, cudaMemcpyDeviceToDevice, stream.handle()), "copy on the device");
                     stream.synchronize();
                 },
                 [](Napi::Env env) { return env.Undefined(); });
}

/** Bytes from the first to the last element; 128 bits, since 2^53 times 2^53 may be asked for. */
__int128 reach_of(const StridedAxes& axes) {
    __int128 last = 0;
    for (int axis = 0; axis < axes.rank; ++axis) last += static_cast<__int128>(axes.dims[axis] - 1) * axes.strides[axis];
    return (last + 1) * axes.element_bytes;
}

/** { elementBytes, axes: Float64Array of each axis' dim and stride } of `bytes` in all, which is not 0. */
StridedAxes read_axes(const Napi::Object& js, size_t bytes) {
    const Napi::Env env = js.Env();
    StridedAxes axes{};
    axes.element_bytes = static_cast<int32_t>(read_integer(js, "elementBytes", 1, 4));
    const Napi::Value pairs = js.Get("axes");
    if (axes.element_bytes == 3 || !pairs.IsTypedArray() || pairs.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array || !pairs.As<Napi::TypedArray>().ArrayBuffer().IsArrayBuffer())
        throw argument_error(env, "ERR_ARG_TYPE", "Expected layout to hold elementBytes of 1, 2 or 4 and a Float64Array axes of its own memory");
    const auto numbers = pairs.As<Napi::Float64Array>();
    if (numbers.ElementLength() % 2 != 0 || numbers.ElementLength() > 2 * StridedAxes::kMost) throw argument_error(env, "ERR_ARG_TYPE", "Expected axes to hold up to 8 pairs, got " + std::to_string(numbers.ElementLength()) + " numbers");
    axes.rank = static_cast<int32_t>(numbers.ElementLength() / 2);
    __int128 left = bytes / static_cast<size_t>(axes.element_bytes), product = 1;
    for (int axis = 0; axis < axes.rank; ++axis) {
        const double dim = numbers[2 * static_cast<size_t>(axis)], stride = numbers[2 * static_cast<size_t>(axis) + 1];
        if (!(dim >= 1 && dim <= 0x1p53 && stride >= 0 && stride <= 0x1p53)) throw argument_error(env, "ERR_ARG_RANGE", "Expected dims in [1, 2^53] and strides in [0, 2^53]");
        axes.dims[axis] = static_cast<int64_t>(dim), axes.strides[axis] = static_cast<int64_t>(stride);
        product *= axes.dims[axis];
        if (product > left) break;  // before it could overflow
    }
    if (product != left || bytes % static_cast<size_t>(axes.element_bytes) != 0) throw argument_error(env, "ERR_SHAPE", "Expected a target of as many elements as axes make");
    return axes;
}

/** Elements wherever they lie, by way of contiguous memory on the device. On the worker thread of `stream`. */
void download_strided(Stream& stream, const uint8_t* from, const StridedAxes& given, uint8_t* to) {
    constexpr size_t kMostAtOnce = size_t{32} << 20;  // no tensor is doubled for this
    const StridedAxes axes = made_simple(given, from);
    const auto each = static_cast<size_t>(axes.element_bytes);
    const auto total = static_cast<size_t>(axes.count()), at_once = std::min(total, kMostAtOnce / each);
    const auto gathered = stream.allocate(at_once * each);
    for (size_t first = 0; first < total; first += at_once) {
        const size_t count = std::min(at_once, total - first);
        check_cuda(launch_gather(from, axes, static_cast<int64_t>(first), static_cast<int64_t>(count), gathered->as(), stream.handle()), "gather a view");
        copy_to_host(stream, to + first * each, gathered->as(), count * each);
    }
}

// download(device, buffer, byteOffset, target: Uint8Array that nobody else holds, or { pinned, byteOffset, bytes }, stream?,
//          layout?: { elementBytes, axes }) → Promise<void>; without a layout what lies one behind the other
Napi::Value download(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    Stream& stream = stream_of(handle, info[4]);
    std::shared_ptr<PinnedMemory> pinned;
    uint8_t* to = nullptr;
    size_t bytes = 0;
    if (info[3].IsTypedArray()) {
        const auto array = info[3].As<Napi::TypedArray>();
        if (array.TypedArrayType() != napi_uint8_array || !array.ArrayBuffer().IsArrayBuffer())
            throw argument_error(info.Env(), "ERR_ARG_TYPE", "Expected target to be a Uint8Array of its own memory");
        to = static_cast<uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset();
        bytes = array.ByteLength();
    } else {
        const Source target = read_host_source(info[3], *handle.device, "target");
        pinned = target.pinned;
        to = pinned->data() + target.offset;
        bytes = target.bytes;
    }
    if (!info[5].IsUndefined() && bytes > 0) {
        const StridedAxes axes = read_axes(read_object(info[5], "layout"), bytes);
        Span from = span_of(info, handle, 1, 0, "the tensor");
        if (from.offset % static_cast<size_t>(axes.element_bytes) != 0 || reach_of(axes) > static_cast<__int128>(from.buffer->bytes() - from.offset))
            throw argument_error(info.Env(), "ERR_SHAPE", "Expected every element of the view to lie inside the tensor");
        return queue(info, stream, [&stream, from = std::move(from), axes, pinned, to] { download_strided(stream, from.begin(), axes, to); },
                     [](Napi::Env env) { return env.Undefined(); }, {info[3]});
    }
    const Span from = span_of(info, handle, 1, bytes, "the tensor");
    return queue(info, stream,
                 [&stream, from, pinned, to] { copy_to_host(stream, to, from.begin(), from.bytes); },
                 [](Napi::Env env) { return env.Undefined(); }, {info[3]});
}

// disposeBuffer(buffer): twice is a no-op
Napi::Value dispose_buffer(const Napi::CallbackInfo& info) {
    BufferHandle& handle = read_handle<BufferHandle>(info[0], "buffer");
    handle.buffer.reset();
    if (handle.counted != 0) Napi::MemoryManagement::AdjustExternalMemory(info.Env(), -handle.counted);
    handle.counted = 0;
    return info.Env().Undefined();
}

// allocatePinned(device, bytes) → Promise<{ handle, memory: ArrayBuffer }>. V8 counts the memory as the ArrayBuffer's own.
Napi::Value allocate_pinned(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    const auto bytes = static_cast<size_t>(read_count(info[1], "bytes"));
    auto memory = std::make_shared<std::shared_ptr<PinnedMemory>>();
    return queue(info, *handle.stream, [home = handle.stream, memory, bytes] { *memory = std::make_shared<PinnedMemory>(home, bytes); },
                 [memory](Napi::Env env) -> Napi::Value {
                     const std::shared_ptr<PinnedMemory> pinned = std::move(*memory);
                     auto* owner = new std::shared_ptr<PinnedMemory>(pinned);  // the ArrayBuffer's, until it is detached or collected
                     Napi::Object result = Napi::Object::New(env);
                     result.Set("memory", Napi::ArrayBuffer::New(env, pinned->data(), pinned->bytes(), [](Napi::Env, void*, std::shared_ptr<PinnedMemory>* gone) { delete gone; }, owner));
                     result.Set("handle", wrap_handle<PinnedHandle>(env, {pinned}));
                     return result;
                 });
}

// disposePinned(handle, memory): nobody reads or writes it through JS any more; freed once no copy is under way. Twice is a no-op.
Napi::Value dispose_pinned(const Napi::CallbackInfo& info) {
    PinnedHandle& handle = read_handle<PinnedHandle>(info[0], "buffer");
    if (!info[1].IsArrayBuffer()) throw argument_error(info.Env(), "ERR_ARG_TYPE", "Expected memory to be the buffer's ArrayBuffer");
    auto memory = info[1].As<Napi::ArrayBuffer>();
    if (handle.memory && memory.Data() == handle.memory->data() && !memory.IsDetached()) memory.Detach();
    handle.memory.reset();
    return info.Env().Undefined();
}

}  // namespace

std::vector<ExportedFunction> memory_functions() {
    return {{"allocate", allocate}, {"upload", upload},       {"write", write}, {"copy", copy}, {"download", download}, {"disposeBuffer", dispose_buffer},
            {"allocatePinned", allocate_pinned}, {"disposePinned", dispose_pinned}};
}

}  // namespace intflash
