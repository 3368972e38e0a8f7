#pragma once
#include <napi.h>

namespace int_flash {

void export_attention(Napi::Env env, Napi::Object exports);
void export_cache_attention(Napi::Env env, Napi::Object exports);
void export_linear(Napi::Env env, Napi::Object exports);
void export_layer(Napi::Env env, Napi::Object exports);
void export_limits(Napi::Env env, Napi::Object exports);

}  // namespace int_flash
