// JavaScript values in, plain pointers and numbers out. Everything a caller could get wrong in a way that corrupts memory is caught here.
#pragma once
#include <napi.h>

#include "failure.h"
#include "kernel_table.h"

namespace int_flash {

struct ArrayView {
    void* data = nullptr;
    size_t length = 0;  // elements
    bool given = false;
};

// Reads arguments one after the other; after the first fault every further read is harmless, and `failure` says what it was.
class ArgumentReader {
public:
    ArgumentReader(const Napi::CallbackInfo& info, Failure* failure) : info_(info), failure_(failure) {}

    // A typed array of one of `types`, on a plain ArrayBuffer that nobody can shrink, share or take away.
    ArrayView array(size_t index, const char* name, std::initializer_list<napi_typedarray_type> types, napi_typedarray_type* found = nullptr);
    ArrayView float32(size_t index, const char* name) { return array(index, name, {napi_float32_array}); }
    // The same for a call that is over before JavaScript runs again: nobody can take the memory away meanwhile, so its kind need not
    // be asked, which costs more than a short call's work. A detached array has no elements.
    ArrayView view(size_t index, const char* name, napi_typedarray_type type);
    ArrayView float32_view(size_t index, const char* name) { return view(index, name, napi_float32_array); }
    ArrayView optional_float32(size_t index, const char* name);
    bool absent(size_t index) const;
    double number(size_t index, const char* name, double min, double max);
    bool ok() const { return failure_->code == nullptr; }
    Failure* failure() const { return failure_; }

private:
    const Napi::CallbackInfo& info_;
    Failure* failure_;
    napi_value resizable_key_ = nullptr;  // made once a call
};

// Numbers of a call, in a Float64Array: reading properties of an object would cost more than a short attention.
class ParameterReader {
public:
    ParameterReader(ArrayView array, size_t count, Failure* failure);
    double number(size_t index, const char* name, double min, double max);
    int64_t integer(size_t index, const char* name, double min, double max);
    int64_t integer_or_unlimited(size_t index, const char* name);  // -1 for Infinity
    bool ok() const { return failure_->code == nullptr; }

private:
    const double* values_;
    Failure* failure_;
};

constexpr double kMaxCount = 9007199254740991.0;  // 2^53 - 1

// The kernel table with this index in supportedIsas().
const KernelTable* kernels_at(ParameterReader* parameters, size_t index);

// What an external value of ours holds; null, with `failure` set, where `value` is none with this tag. `what`: as the message names it.
void* tagged_external(napi_env env, napi_value value, const napi_type_tag& tag, const char* what, Failure* failure);

// Throws `failure` as a JavaScript error with its code.
void throw_failure(Napi::Env env, const Failure& failure);
napi_value make_error(napi_env env, const Failure& failure);

}  // namespace int_flash
