#include "js_args.h"

#include <cmath>
#include <cstring>

#include "cpu_features.h"

namespace int_flash {
namespace {

const char* type_name(napi_typedarray_type type) {
    switch (type) {
        case napi_int8_array: return "Int8Array";
        case napi_uint8_array: return "Uint8Array";
        case napi_uint16_array: return "Uint16Array";
        case napi_float32_array: return "Float32Array";
        case napi_float64_array: return "Float64Array";
        default: return "TypedArray";
    }
}

bool is_resizable(napi_env env, napi_value buffer, napi_value key) {
    napi_value value;
    bool resizable = false;
    if (!key || napi_get_property(env, buffer, key, &value) != napi_ok) return false;
    napi_valuetype type;
    if (napi_typeof(env, value, &type) != napi_ok || type != napi_boolean) return false;  // Node before 20 knows no such buffers
    napi_get_value_bool(env, value, &resizable);
    return resizable;
}

}  // namespace

bool ArgumentReader::absent(size_t index) const {
    if (index >= info_.Length()) return true;
    napi_valuetype type;
    return napi_typeof(info_.Env(), info_[index], &type) == napi_ok && (type == napi_undefined || type == napi_null);
}

ArrayView ArgumentReader::optional_float32(size_t index, const char* name) { return absent(index) ? ArrayView{} : float32(index, name); }

ArrayView ArgumentReader::array(size_t index, const char* name, std::initializer_list<napi_typedarray_type> types, napi_typedarray_type* found) {
    if (!ok()) return {};
    const napi_env env = info_.Env();
    const napi_value value = index < info_.Length() ? static_cast<napi_value>(info_[index]) : nullptr;
    const char* expected = type_name(*types.begin());
    bool is_array = false;
    if (!value || napi_is_typedarray(env, value, &is_array) != napi_ok || !is_array) {
        failure_->set("ERR_ARG_TYPE", "Expected %s to be a %s, got something else", name, expected);
        return {};
    }
    napi_typedarray_type type;
    size_t length = 0, offset = 0;
    void* data = nullptr;
    napi_value buffer;
    if (napi_get_typedarray_info(env, value, &type, &length, &data, &buffer, &offset) != napi_ok) {
        failure_->set("ERR_ARG_TYPE", "Expected %s to be a %s, got something unreadable", name, expected);
        return {};
    }
    bool wanted = false;
    for (const napi_typedarray_type candidate : types) wanted = wanted || candidate == type;
    if (!wanted) {
        failure_->set("ERR_ARG_TYPE", "Expected %s to be a %s, got a %s", name, expected, type_name(type));
        return {};
    }
    bool plain = false, detached = false;
    if (napi_is_arraybuffer(env, buffer, &plain) != napi_ok || !plain) {
        failure_->set("ERR_BUFFER_SHARED", "Expected %s to own its memory, got a view of a SharedArrayBuffer", name);
        return {};
    }
    if (napi_is_detached_arraybuffer(env, buffer, &detached) != napi_ok || detached) {
        failure_->set("ERR_BUFFER_DETACHED", "Expected %s to hold its memory, got a detached buffer", name);
        return {};
    }
    if (!resizable_key_) napi_create_string_utf8(env, "resizable", NAPI_AUTO_LENGTH, &resizable_key_);
    if (is_resizable(env, buffer, resizable_key_)) {
        failure_->set("ERR_BUFFER_RESIZABLE", "Expected %s in a buffer of fixed length, got a resizable ArrayBuffer", name);
        return {};
    }
    if (found) *found = type;
    return {data, length, true};
}

ArrayView ArgumentReader::view(size_t index, const char* name, napi_typedarray_type type) {
    if (!ok()) return {};
    const napi_value value = index < info_.Length() ? static_cast<napi_value>(info_[index]) : nullptr;
    bool is_array = false;
    napi_typedarray_type found;
    size_t length = 0;
    void* data = nullptr;
    if (!value || napi_is_typedarray(info_.Env(), value, &is_array) != napi_ok || !is_array ||
        napi_get_typedarray_info(info_.Env(), value, &found, &length, &data, nullptr, nullptr) != napi_ok) {
        failure_->set("ERR_ARG_TYPE", "Expected %s to be a %s, got something else", name, type_name(type));
        return {};
    }
    if (found != type) {
        failure_->set("ERR_ARG_TYPE", "Expected %s to be a %s, got a %s", name, type_name(type), type_name(found));
        return {};
    }
    return {data, length, true};
}

double ArgumentReader::number(size_t index, const char* name, double min, double max) {
    if (!ok()) return min;
    double value = 0;
    napi_valuetype type = napi_undefined;
    if (index < info_.Length()) napi_typeof(info_.Env(), info_[index], &type);
    if (type != napi_number || napi_get_value_double(info_.Env(), info_[index], &value) != napi_ok) {
        failure_->set("ERR_ARG_TYPE", "Expected %s to be a number, got something else", name);
        return min;
    }
    if (!(value >= min && value <= max)) {
        failure_->set("ERR_ARG_RANGE", "Expected %s to be in [%g, %g], got %g", name, min, max, value);
        return min;
    }
    return value;
}

ParameterReader::ParameterReader(ArrayView array, size_t count, Failure* failure) : values_(static_cast<const double*>(array.data)), failure_(failure) {
    if (ok() && array.length < count) failure->set("ERR_SHAPE", "Expected %zu parameters, got %zu", count, array.length);
}

double ParameterReader::number(size_t index, const char* name, double min, double max) {
    if (!ok()) return min;
    const double value = values_[index];
    if (!(value >= min && value <= max)) {
        failure_->set("ERR_ARG_RANGE", "Expected %s to be in [%g, %g], got %g", name, min, max, value);
        return min;
    }
    return value;
}

int64_t ParameterReader::integer(size_t index, const char* name, double min, double max) {
    const double value = number(index, name, min, max);
    if (ok() && value != std::floor(value)) failure_->set("ERR_ARG_RANGE", "Expected %s to be an integer, got %g", name, value);
    return ok() ? static_cast<int64_t>(value) : static_cast<int64_t>(min);
}

int64_t ParameterReader::integer_or_unlimited(size_t index, const char* name) {
    if (ok() && values_[index] == INFINITY) return -1;
    return integer(index, name, 0, kMaxCount);
}

const KernelTable* kernels_at(ParameterReader* parameters, size_t index) {
    const KernelTable* tables[kMaxIsas];
    const int count = supported_kernels(tables);
    return tables[parameters->integer(index, "isa", 0, count - 1)];
}

napi_value make_error(napi_env env, const Failure& failure) {
    napi_value code, message, error = nullptr;
    napi_create_string_utf8(env, failure.code, NAPI_AUTO_LENGTH, &code);
    napi_create_string_utf8(env, failure.message, NAPI_AUTO_LENGTH, &message);
    if (std::strcmp(failure.code, "ERR_ARG_TYPE") == 0) {
        napi_create_type_error(env, code, message, &error);
    } else if (std::strcmp(failure.code, "ERR_ARG_RANGE") == 0) {
        napi_create_range_error(env, code, message, &error);
    } else {
        napi_create_error(env, code, message, &error);
    }
    if (error && failure.bytes > 0) {
        napi_value bytes;
        if (napi_create_double(env, failure.bytes, &bytes) == napi_ok) napi_set_named_property(env, error, "bytes", bytes);
    }
    return error;
}

void throw_failure(Napi::Env env, const Failure& failure) {
    if (const napi_value error = make_error(env, failure)) napi_throw(env, error);
}

void* tagged_external(napi_env env, napi_value value, const napi_type_tag& tag, const char* what, Failure* failure) {
    void* data = nullptr;
    napi_valuetype type = napi_undefined;
    bool ours = false;
    if (value) napi_typeof(env, value, &type);
    if (type == napi_external) napi_check_object_type_tag(env, value, &tag, &ours);
    if (ours && napi_get_value_external(env, value, &data) == napi_ok) return data;
    failure->set("ERR_ARG_TYPE", "Expected %s, got something else", what);
    return nullptr;
}

}  // namespace int_flash
