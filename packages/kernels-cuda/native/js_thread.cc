#include "js_thread.h"

#include <utility>

namespace intflash {

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
    const napi_status status = function_.NonBlockingCall(owned, [](Napi::Env env, Napi::Function, Task* due) {
        if (env == nullptr) {  // the environment is going away
            due->drop();
            return;
        }
        due->run(env);
        delete due;
    });
    if (status != napi_ok) owned->drop();
}

void JsThread::release() {
    if (released_) return;
    released_ = true;
    function_.Release();
}

}  // namespace intflash
