// The way back from worker threads to the JS thread that made the device.
#pragma once
#include <napi.h>

#include <functional>

namespace intflash {

/** Keeps the event loop alive exactly while something is pending. Everything but `post` belongs to the JS thread. */
class JsThread {
public:
    struct Task {
        std::function<void(Napi::Env)> run;
        std::function<void()> drop;  // instead, on any thread, when the JS thread is gone: lets go of what is not JS's
    };

    explicit JsThread(Napi::Env env);

    /** One more, or one fewer, thing to wait for. */
    void begin(Napi::Env env);
    void finish(Napi::Env env);

    /** From any thread. A task that is dropped is leaked after that, on purpose: it owns JS references. */
    void post(Task task);
    /** Once no thread posts any more; twice is a no-op. */
    void release();

private:
    Napi::ThreadSafeFunction function_;
    int pending_ = 0;
    bool released_ = false;
};

}  // namespace intflash
