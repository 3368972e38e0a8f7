// The way back from a worker thread to the JS thread that made the device.
#pragma once
#include <napi.h>

#include <functional>
#include <memory>

namespace intflash {

/** Keeps the event loop alive exactly while something is pending. Everything but `post` belongs to the JS thread. */
class JsThread {
public:
    explicit JsThread(Napi::Env env);

    /** One more, or one fewer, thing to wait for. */
    void begin(Napi::Env env);
    void finish(Napi::Env env);

    /** From any thread: runs `task` on the JS thread. If that thread is gone, the task is leaked on purpose: it owns JS references. */
    void post(std::function<void(Napi::Env)> task);
    void release();

private:
    Napi::ThreadSafeFunction function_;
    int pending_ = 0;
    bool released_ = false;
};

}  // namespace intflash
