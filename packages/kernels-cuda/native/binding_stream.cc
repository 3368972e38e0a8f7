// synchronize, recordEvent, holdBack, awaitEvent, eventMs, beginRecording, finishRecording, replay, disposeGraph: order, time, graphs.
#include <utility>

#include "binding.h"

namespace intflash {
namespace {

std::shared_ptr<EventMark> mark_of(const Napi::Value& js, const DeviceHandle& handle) {
    auto mark = read_handle<EventHandle>(js, "event").mark;
    if (&mark->home().device() != handle.device.get()) throw argument_error(js.Env(), "ERR_ARG_TYPE", "Expected an event of the same device object, got one of another");
    return mark;
}

// synchronize(device, stream?) → Promise<void>
Napi::Value synchronize(const Napi::CallbackInfo& info) {
    Stream& stream = stream_of(device_of(info), info[1]);
    return queue(info, stream, [&stream] { stream.synchronize(); }, [](Napi::Env env) { return env.Undefined(); });
}

// recordEvent(device, stream?) → event
Napi::Value record_event(const Napi::CallbackInfo& info) {
    Stream& stream = stream_of(device_of(info), info[1]);
    auto mark = std::make_shared<EventMark>(stream.shared_from_this());
    stream.submit([mark] { mark->record(); },
                  [mark](std::exception_ptr error) {
                      if (error) mark->fail();
                  });
    return wrap_handle<EventHandle>(info.Env(), {std::move(mark)});
}

// holdBack(device, event, stream?) → Promise<void>: what the stream does from now on waits for the event
Napi::Value hold_back(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    Stream& stream = stream_of(handle, info[2]);
    return queue(info, stream, [&stream, mark = mark_of(info[1], handle)] { mark->hold_back(stream); }, [](Napi::Env env) { return env.Undefined(); });
}

// awaitEvent(device, event) → Promise<void>
Napi::Value await_event(const Napi::CallbackInfo& info) {
    auto mark = mark_of(info[1], device_of(info));
    Stream& home = mark->home();
    return queue(info, home, [mark = std::move(mark)] { mark->wait(); }, [](Napi::Env env) { return env.Undefined(); });
}

// eventMs(device, start, end) → Promise<number>
Napi::Value event_ms(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    auto start = mark_of(info[1], handle), end = mark_of(info[2], handle);
    Stream& home = end->home();
    auto ms = std::make_shared<float>(0.f);
    return queue(info, home, [start = std::move(start), end = std::move(end), ms] { *ms = end->since(*start); },
                 [ms](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, *ms); });
}

// beginRecording(device) → Promise<recording>
Napi::Value begin_recording(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    Stream& stream = *handle.stream;
    auto recording = std::make_shared<std::shared_ptr<Recording>>();
    return queue(info, stream, [&stream, recording] { *recording = std::make_shared<Recording>(stream); },
                 [recording, device = handle.device](Napi::Env env) { return wrap_handle<RecordingHandle>(env, {std::move(*recording), device}); });
}

// finishRecording(device, recording) → Promise<graph>; the recording is used up
Napi::Value finish_recording(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    RecordingHandle& given = read_handle<RecordingHandle>(info[1], "recording");
    if (given.device != handle.device || !given.recording) throw argument_error(info.Env(), "ERR_ARG_TYPE", "Expected an unfinished recording of the same device object");
    auto recording = std::move(given.recording);
    given.recording = nullptr;
    auto graph = std::make_shared<std::shared_ptr<Graph>>();
    return queue(info, *handle.stream,
                 [device = handle.device, recording = std::move(recording), graph] {
                     if (recording->operations.empty()) throw Failure("ERR_ARG_RANGE", "Expected at least one recorded operation, got none");
                     *graph = std::make_shared<Graph>(device, std::move(*recording));
                 },
                 [graph, device = handle.device](Napi::Env env) { return wrap_handle<GraphHandle>(env, {std::move(*graph), device}); });
}

// disposeRecording(recording): drops what was recorded; twice is a no-op
Napi::Value dispose_recording(const Napi::CallbackInfo& info) {
    read_handle<RecordingHandle>(info[0], "recording").recording.reset();
    return info.Env().Undefined();
}

// replay(device, graph, times, stream?, abortFlag?) → Promise<number>: the GPU's milliseconds
Napi::Value replay(const Napi::CallbackInfo& info) {
    DeviceHandle& handle = device_of(info);
    GraphHandle& given = read_handle<GraphHandle>(info[1], "graph");
    if (given.device != handle.device) throw argument_error(info.Env(), "ERR_ARG_TYPE", "Expected a graph of the same device object, got one of another");
    if (!given.graph) throw argument_error(info.Env(), "ERR_DISPOSED", "Expected a live graph, got one that was disposed");
    if (!info[2].IsNumber() || !(info[2].As<Napi::Number>().DoubleValue() >= 1 && info[2].As<Napi::Number>().DoubleValue() <= 1e6))
        throw argument_error(info.Env(), "ERR_ARG_RANGE", "Expected times to be a number in [1, 1000000]");
    Stream& stream = stream_of(handle, info[3]);
    auto ms = std::make_shared<float>(0.f);
    return queue(info, stream,
                 [&stream, graph = given.graph, times = info[2].As<Napi::Number>().Int32Value(), abort = read_abort_flag(info[4]), ms] {
                     *ms = graph->replay(stream, times, abort);
                 },
                 [ms](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, *ms); });
}

// disposeGraph(graph): twice is a no-op
Napi::Value dispose_graph(const Napi::CallbackInfo& info) {
    read_handle<GraphHandle>(info[0], "graph").graph.reset();
    return info.Env().Undefined();
}

}  // namespace

std::vector<ExportedFunction> stream_functions() {
    return {{"synchronize", synchronize},
            {"recordEvent", record_event},
            {"holdBack", hold_back},
            {"awaitEvent", await_event},
            {"eventMs", event_ms},
            {"beginRecording", begin_recording},
            {"finishRecording", finish_recording},
            {"disposeRecording", dispose_recording},
            {"replay", replay},
            {"disposeGraph", dispose_graph}};
}

}  // namespace intflash
