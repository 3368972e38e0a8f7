#include "js_thread.h"

#include <utility>

namespace intflash {

using Task = std::function<void(Napi::Env)>;

JsThread::JsThread(Napi::Env env)
    : function_(Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}), "int-flash CUDA", 0, 1)) {
    function_.Unref(env);
}

void JsThread::begin(Napi::Env env) {
    if (pending_++ == 0 && !released_) function_.Ref(env);
}

void JsThread::finish(Napi::Env env) {
    if (--pending_ == 0 && !released_) function_.Unref(env);
}

void JsThread::post(Task task) {
    auto* owned = new Task(std::move(task));
    function_.NonBlockingCall(owned, [](Napi::Env env, Napi::Function, Task* run) {
        if (env == nullptr) return;  // the environment is going away: leak, see above
        (*run)(env);
        delete run;
    });
}

void JsThread::release() {
    if (released_) return;
    released_ = true;
    function_.Release();
}

}  // namespace intflash
