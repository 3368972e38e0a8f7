#include "environment.h"

#include "thread_pool.h"

namespace int_flash {
namespace {

struct InstanceData {
    std::shared_ptr<Environment> environment;
};

}  // namespace

std::shared_ptr<Environment> Environment::create(Napi::Env env) {
    auto environment = std::make_shared<Environment>();
    napi_value name;
    napi_create_string_utf8(env, "int-flash", NAPI_AUTO_LENGTH, &name);
    if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr, settle_on_js_thread, &environment->to_js_) != napi_ok) {
        environment->to_js_ = nullptr;
    } else {
        napi_unref_threadsafe_function(env, environment->to_js_);  // only calls in flight keep the process alive
    }
    env.SetInstanceData(new InstanceData{environment});
    // Hooks run in reverse order: this one before the thread-safe function frees itself, which pool threads must not outlive unawares.
    auto* keep = new std::shared_ptr<Environment>(environment);
    napi_add_env_cleanup_hook(env, [](void* data) {
        auto* held = static_cast<std::shared_ptr<Environment>*>(data);
        (*held)->close();
        delete held;
    }, keep);
    return environment;
}

Environment& Environment::of(Napi::Env env) { return *env.GetInstanceData<InstanceData>()->environment; }

void Environment::close() {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    for (AsyncCall* call = in_flight_; call; call = call->next_) call->abort();
}

void Environment::abort(double id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (AsyncCall* call = in_flight_; call; call = call->next_) {
        if (call->id_ == id) call->abort();
    }
}

void Environment::forget(AsyncCall* call) {
    for (AsyncCall** link = &in_flight_; *link; link = &(*link)->next_) {
        if (*link != call) continue;
        *link = call->next_;
        count_--;
        return;
    }
}

napi_value Environment::start(napi_env env, std::unique_ptr<AsyncCall> owned, double id, int threads, int64_t external_bytes) {
    napi_value promise = nullptr;
    AsyncCall* call = owned.get();
    if (!to_js_ || napi_create_promise(env, &call->deferred_, &promise) != napi_ok) return nullptr;
    call->environment_ = shared_from_this();
    call->id_ = id;
    call->external_bytes_ = external_bytes;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        call->next_ = in_flight_;
        in_flight_ = call;
        if (count_++ == 0) napi_ref_threadsafe_function(env, to_js_);
    }
    int64_t total;
    napi_adjust_external_memory(env, external_bytes, &total);
    owned.release();
    const bool started = run_detached(threads, [](void* context) {
        auto* running = static_cast<AsyncCall*>(context);
        running->run();
        const std::shared_ptr<Environment> environment = running->environment_;
        environment->finish(running);
    }, call);
    if (!started) {  // no thread to be had: compute here, late but right
        call->run();
        settle_on_js_thread(env, nullptr, nullptr, call);
    }
    return promise;
}

void Environment::finish(AsyncCall* call) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!closed_ && napi_call_threadsafe_function(to_js_, call, napi_tsfn_nonblocking) == napi_ok) return;
    forget(call);
    delete call;  // its JavaScript thread is gone, and with it whoever waited
}

void Environment::settle_on_js_thread(napi_env env, napi_value, void*, void* data) {
    std::unique_ptr<AsyncCall> call(static_cast<AsyncCall*>(data));
    const std::shared_ptr<Environment> environment = call->environment_;
    {
        const std::lock_guard<std::mutex> lock(environment->mutex_);
        environment->forget(call.get());
        if (env && environment->count_ == 0 && !environment->closed_) napi_unref_threadsafe_function(env, environment->to_js_);
    }
    if (!env) return;
    int64_t total;
    napi_adjust_external_memory(env, -call->external_bytes_, &total);
    call->settle(env, call->deferred_);
}

}  // namespace int_flash
