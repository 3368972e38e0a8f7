#include "js_error.h"

#include <new>

#include "failure.h"

namespace intflash {
namespace {

Napi::Object error_object(Napi::Env env, const char* code, const std::string& message) {
    Napi::Object error = Napi::Error::New(env, message).Value();
    error.Set("code", code);
    return error;
}

}  // namespace

Napi::Error argument_error(Napi::Env env, const char* code, const std::string& message) { return Napi::Error(env, error_object(env, code, message)); }

Napi::Value describe_failure(Napi::Env env, const std::exception_ptr& thrown) {
    try {
        std::rethrow_exception(thrown);
    } catch (const Failure& failure) {
        Napi::Object error = error_object(env, failure.code, failure.what());
        if (failure.where != nullptr) error.Set("where", failure.where), error.Set("bytes", Napi::Number::New(env, static_cast<double>(failure.bytes)));
        if (failure.operand != nullptr) error.Set("operand", failure.operand);
        return error;
    } catch (const Aborted&) {
        return error_object(env, "ERR_ABORTED", "aborted");
    } catch (const std::bad_alloc&) {
        Napi::Object error = error_object(env, "ERR_OOM", "Expected host memory for the job, got none");
        error.Set("where", "host");
        return error;
    } catch (const std::exception& other) {
        return error_object(env, "ERR_CUDA", other.what());
    } catch (...) {
        return error_object(env, "ERR_CUDA", "Expected a failure with a name, got another");
    }
}

}  // namespace intflash
