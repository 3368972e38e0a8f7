// Why a job did not finish, as a value: jobs run on threads where nothing may be thrown.
#pragma once
#include <cstdarg>
#include <cstdint>
#include <cstdio>

namespace int_flash {

struct Failure {
    const char* code = nullptr;  // one of ops' ERROR_CODES; null = success
    char message[200] = {0};
    double bytes = 0;  // ERR_OOM: how much was asked for

    explicit operator bool() const { return code != nullptr; }
#if !defined(_MSC_VER)
    __attribute__((format(printf, 3, 4)))
#endif
    bool set(const char* error_code, const char* format, ...) {
        code = error_code;
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(message, sizeof message, format, arguments);
        va_end(arguments);
        return false;
    }
};

}  // namespace int_flash
