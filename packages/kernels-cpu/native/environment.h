// What one JavaScript thread's instance of the addon owns, and how its asynchronous calls find their way back.
#pragma once
#include <napi.h>

#include <memory>
#include <mutex>

#include "owned_memory.h"

namespace int_flash {

class Environment;

// One call in flight. `run` works on a pool thread, `settle` back on the JavaScript thread.
class AsyncCall {
public:
    virtual ~AsyncCall() = default;
    virtual void run() = 0;
    virtual void settle(napi_env env, napi_deferred deferred) = 0;
    virtual void abort() = 0;

private:
    friend class Environment;
    std::shared_ptr<Environment> environment_;
    napi_deferred deferred_ = nullptr;
    double id_ = 0;
    int64_t external_bytes_ = 0;
    AsyncCall* next_ = nullptr;
};

class Environment : public std::enable_shared_from_this<Environment> {
public:
    static std::shared_ptr<Environment> create(Napi::Env env);
    static Environment& of(Napi::Env env);

    LiveBytes& live_bytes() { return live_; }
    // Starts `call` on a pool thread and returns its promise; null (and deletes the call) when that is impossible.
    napi_value start(napi_env env, std::unique_ptr<AsyncCall> call, double id, int threads, int64_t external_bytes);
    void abort(double id);

private:
    static void settle_on_js_thread(napi_env env, napi_value, void* context, void* data);
    void finish(AsyncCall* call);  // on a pool thread
    void close();
    void forget(AsyncCall* call);

    LiveBytes live_{0};
    std::mutex mutex_;  // guards all below
    bool closed_ = false;
    napi_threadsafe_function to_js_ = nullptr;
    AsyncCall* in_flight_ = nullptr;
    int count_ = 0;
};

}  // namespace int_flash
