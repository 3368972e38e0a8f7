// Objects of the addon that JS holds without seeing into them. Each kind carries a tag, so that one is never taken for another.
#pragma once
#include <napi.h>

#include <memory>
#include <vector>

#include "buffer.h"
#include "event_mark.h"
#include "failure.h"
#include "graph.h"
#include "js_error.h"
#include "js_thread.h"
#include "pinned_memory.h"

namespace intflash {

struct DeviceHandle {
    std::shared_ptr<Device> device;
    std::shared_ptr<Stream> stream;  // for whoever names none
    std::shared_ptr<JsThread> js_thread;
    std::vector<std::weak_ptr<Stream>> more_streams;
};

struct StreamHandle {
    std::shared_ptr<Stream> stream;
};

/** Empty once disposed. `counted`: what V8 has been told of, so that it collects tensors that nobody disposed of. */
struct BufferHandle {
    std::shared_ptr<Buffer> buffer;
    int64_t counted = 0;
};

/** Empty once disposed. */
struct PinnedHandle {
    std::shared_ptr<PinnedMemory> memory;
};

struct EventHandle {
    std::shared_ptr<EventMark> mark;
};

/** Empty once it has become a graph. */
struct RecordingHandle {
    std::shared_ptr<Recording> recording;
    std::shared_ptr<Device> device;
};

/** Empty once disposed. */
struct GraphHandle {
    std::shared_ptr<Graph> graph;
    std::shared_ptr<Device> device;
};

struct AbortHandle {
    AbortFlag flag;
};

template <class Handle> struct HandleKind;
#define INTFLASH_HANDLE(Type, words, number)                                      \
    template <> struct HandleKind<Type> {                                         \
        static constexpr const char* kWhat = words;                               \
        static constexpr napi_type_tag kTag = {0x696e74666c617368ULL, number##ULL}; \
    }
INTFLASH_HANDLE(DeviceHandle, "a device handle", 1);
INTFLASH_HANDLE(StreamHandle, "a stream handle", 2);
INTFLASH_HANDLE(BufferHandle, "device memory", 3);
INTFLASH_HANDLE(PinnedHandle, "page-locked memory", 4);
INTFLASH_HANDLE(EventHandle, "an event handle", 5);
INTFLASH_HANDLE(RecordingHandle, "a recording", 6);
INTFLASH_HANDLE(GraphHandle, "a graph", 7);
INTFLASH_HANDLE(AbortHandle, "an abort flag", 8);

/** Hands `handle` to JS; `end` runs when it is collected, before it is deleted. */
template <class Handle> Napi::Value wrap_handle(Napi::Env env, Handle handle, void (*end)(Napi::Env, Handle&) = nullptr) {
    auto* owned = new Handle(std::move(handle));
    auto external = Napi::External<Handle>::New(env, owned, [end](Napi::Env gone, Handle* dead) {
        if (end != nullptr) end(gone, *dead);
        delete dead;
    });
    external.TypeTag(&HandleKind<Handle>::kTag);
    return external;
}

/** @throws Napi::Error with ERR_ARG_TYPE on anything but a handle of that kind */
template <class Handle> Handle& read_handle(const Napi::Value& js, const char* name) {
    if (!js.IsExternal() || !js.As<Napi::External<Handle>>().CheckTypeTag(&HandleKind<Handle>::kTag))
        throw argument_error(js.Env(), "ERR_ARG_TYPE", std::string("Expected ") + name + " to be " + HandleKind<Handle>::kWhat + ", got something else");
    return *js.As<Napi::External<Handle>>().Data();
}

}  // namespace intflash
