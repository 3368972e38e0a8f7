// cacheAttention(), appendCache(), turnRows(), rotateHeads(): specs from parameters and arrays. No arithmetic in this file.

#include "bindings.h"
#include "cache_append.h"
#include "cache_args.h"
#include "cache_attention.h"
#include "environment.h"

namespace int_flash {
namespace {

// Places in the parameter array; src/native-parameters.ts is the other half.
enum Parameter : size_t { kIsa, kThreads, kCacheType, kKvHeads, kCapacity, kHeadDim, kLength, kTokens, kHeads, kScale, kSoftcap, kWindowLeft, kParameterCount };

napi_typedarray_type array_type(ElementType type) {
    if (type == ElementType::kFloat32) return napi_float32_array;
    if (type == ElementType::kFloat16) return napi_uint16_array;
    return type == ElementType::kInt8 ? napi_int8_array : napi_uint8_array;
}

// cacheAttention(parameters, query, keys, values, keyScales, valueScales, out, pages)
Napi::Value cache_attention_sync(const Napi::CallbackInfo& info) {
    Failure failure;
    ArgumentReader args(info, &failure);
    CacheSpec s;
    const bool read = [&] {
        ParameterReader p(args.view(0, "parameters", napi_float64_array), kParameterCount, &failure);
        if (!p.ok()) return false;
        s.kernels = kernels_at(&p, kIsa);
        s.threads = static_cast<int>(p.integer(kThreads, "threads", 1, 256));
        constexpr ElementType kTypes[] = {ElementType::kFloat32, ElementType::kInt8, ElementType::kInt4, ElementType::kFloat16};
        s.type = kTypes[p.integer(kCacheType, "cache type", 0, 3)];
        s.kv_heads = p.integer(kKvHeads, "kvHeads", 1, 1 << 20);
        s.capacity = p.integer(kCapacity, "capacity", 0, kMaxTokens);
        s.head_dim = static_cast<int>(p.integer(kHeadDim, "headDim", 8, kMaxHeadDim));
        s.length = p.integer(kLength, "length", 0, kMaxTokens);
        s.tokens = p.integer(kTokens, "tokens", 0, kMaxTokens);
        s.heads = static_cast<int>(p.integer(kHeads, "heads", 1, 1 << 20));
        s.scale = static_cast<float>(p.number(kScale, "scale", 1e-38, 1.3e30));
        s.softcap = static_cast<float>(p.number(kSoftcap, "softcap", 0, 3e38));
        s.window_left = p.integer_or_unlimited(kWindowLeft, "windowLeft");
        if (!p.ok()) return false;
        if (s.head_dim % 8 != 0) return failure.set("ERR_UNSUPPORTED", "Expected a head dimension that is a multiple of 8, got %d", s.head_dim);
        if (s.heads % s.kv_heads != 0) return failure.set("ERR_SHAPE", "Expected heads to be a multiple of kvHeads, got %d and %lld", s.heads, static_cast<long long>(s.kv_heads));
        if (s.tokens > s.length || (args.absent(7) && s.length > s.capacity))
            return failure.set("ERR_SHAPE", "Expected tokens <= length <= capacity, got %lld, %lld and %lld", static_cast<long long>(s.tokens), static_cast<long long>(s.length),
                               static_cast<long long>(s.capacity));
        const double scales = static_cast<double>(s.kv_heads) * static_cast<double>(s.capacity), elements = scales * s.head_dim;
        const double queries = static_cast<double>(s.tokens) * s.heads * s.head_dim;
        const ArrayView query = args.float32_view(1, "query");
        const ArrayView keys = args.view(2, "keys", array_type(s.type)), values = args.view(3, "values", array_type(s.type));
        const double cached = s.type == ElementType::kInt4 ? elements / 2 : elements;
        if (!args.ok() || !holds(query, queries, "query", &failure) || !holds(keys, cached, "keys", &failure) || !holds(values, cached, "values", &failure)) return false;
        if (s.type == ElementType::kInt8 || s.type == ElementType::kInt4) {
            const ArrayView key_scales = args.float32_view(4, "keyScales"), value_scales = args.float32_view(5, "valueScales");
            if (!args.ok() || !holds(key_scales, scales, "keyScales", &failure) || !holds(value_scales, scales, "valueScales", &failure)) return false;
            s.key_scales = static_cast<const float*>(key_scales.data);
            s.value_scales = static_cast<const float*>(value_scales.data);
        }
        if (!read_pages(&args, 7, s.length, s.capacity, &s.pages, &failure)) return false;
        const ArrayView out = args.float32_view(6, "out");
        if (!args.ok() || !holds(out, queries, "out", &failure)) return false;
        s.query = static_cast<const float*>(query.data);
        s.keys = keys.data;
        s.values = values.data;
        s.out = static_cast<float*>(out.data);
        return true;
    }();
    if (!read || !cache_attention(s, &Environment::of(info.Env()).live_bytes(), &failure)) {
        throw_failure(info.Env(), failure);
        return {};
    }
    return info.Env().Undefined();
}

enum AppendParameter : size_t { kAppendIsa, kAppendThreads, kAppendKvHeads, kAppendCapacity, kAppendHeadDim, kAppendLength, kAppendTokens, kKeyOffset, kValueOffset, kStride, kAppendInt4, kAppendParameterCount };

// appendCache(parameters, rows, keys, values, keyScales, valueScales, keyShift, largestValueScale, pages) → whether all rows were finite
Napi::Value append_cache_sync(const Napi::CallbackInfo& info) {
    Failure failure;
    ArgumentReader args(info, &failure);
    AppendSpec s;
    const bool read = [&] {
        ParameterReader p(args.view(0, "parameters", napi_float64_array), kAppendParameterCount, &failure);
        if (!p.ok()) return false;
        s.kernels = kernels_at(&p, kAppendIsa);
        s.threads = static_cast<int>(p.integer(kAppendThreads, "threads", 1, 256));
        s.kv_heads = p.integer(kAppendKvHeads, "kvHeads", 1, 1 << 20);
        s.capacity = p.integer(kAppendCapacity, "capacity", 0, kMaxTokens);
        s.head_dim = static_cast<int>(p.integer(kAppendHeadDim, "headDim", 1, kMaxHeadDim));
        s.length = p.integer(kAppendLength, "length", 0, kMaxTokens);
        s.tokens = p.integer(kAppendTokens, "tokens", 0, kMaxTokens);
        const int64_t key_offset = p.integer(kKeyOffset, "keyOffset", 0, kMaxTokens), value_offset = p.integer(kValueOffset, "valueOffset", 0, kMaxTokens);
        s.stride = p.integer(kStride, "stride", 0, kMaxTokens);
        s.int4 = p.integer(kAppendInt4, "int4", 0, 1) == 1;
        if (!p.ok()) return false;
        if (s.int4 && s.head_dim % 2 != 0) return failure.set("ERR_UNSUPPORTED", "Expected an even head dimension for INT4, got %d", s.head_dim);
        constexpr size_t kCache = 2;
        if (!expect_room(&args, kCache, s, &failure)) return false;
        const double last = static_cast<double>(s.tokens - 1) * static_cast<double>(s.stride) + static_cast<double>(s.kv_heads) * s.head_dim;
        const ArrayView rows = args.float32_view(1, "rows");
        if (!args.ok()) return false;
        const double needed = s.tokens == 0 ? 0 : last + static_cast<double>(key_offset > value_offset ? key_offset : value_offset);
        if (!holds(rows, needed, "rows", &failure) || !read_code_cache(&args, kCache, &s, &failure)) return false;
        s.keys = static_cast<const float*>(rows.data) + key_offset;
        s.values = static_cast<const float*>(rows.data) + value_offset;
        return true;
    }();
    if (!read) {
        throw_failure(info.Env(), failure);
        return {};
    }
    return Napi::Boolean::New(info.Env(), append_cache(s));
}

// turnRows(parameters [isa, threads, dim], rows, out) → whether all results are finite
Napi::Value turn_rows_sync(const Napi::CallbackInfo& info) {
    Failure failure;
    ArgumentReader args(info, &failure);
    ParameterReader p(args.view(0, "parameters", napi_float64_array), 3, &failure);
    const KernelTable* kernels = p.ok() ? kernels_at(&p, 0) : nullptr;
    const auto threads = p.ok() ? static_cast<int>(p.integer(1, "threads", 1, 256)) : 0;
    const auto dim = p.ok() ? static_cast<int>(p.integer(2, "dim", 1, kMaxHeadDim)) : 0;
    const ArrayView rows = args.float32_view(1, "rows"), out = args.float32_view(2, "out");
    if (p.ok() && args.ok() && rows.length % static_cast<size_t>(dim) != 0) failure.set("ERR_SHAPE", "Expected whole rows of %d, got %zu elements", dim, rows.length);
    else if (p.ok() && args.ok() && holds(out, static_cast<double>(rows.length), "out", &failure)) {
        const auto count = static_cast<int64_t>(rows.length) / dim;
        return Napi::Boolean::New(info.Env(), turn_rows(*kernels, threads, static_cast<const float*>(rows.data), count, dim, static_cast<float*>(out.data)));
    }
    throw_failure(info.Env(), failure);
    return {};
}

enum RotaryParameter : size_t { kRotaryIsa, kRotaryTokens, kRotaryHeads, kRotaryHeadDim, kRotaryHalf, kRotaryOffset, kRotaryStride, kRotaryStart, kRotaryParameterCount };

// rotateHeads(parameters, rows, cos, sin, out): turns heads of consecutive positions, in place where out is undefined
Napi::Value rotate_heads_sync(const Napi::CallbackInfo& info) {
    Failure failure;
    ArgumentReader args(info, &failure);
    const bool done = [&] {
        ParameterReader p(args.view(0, "parameters", napi_float64_array), kRotaryParameterCount, &failure);
        if (!p.ok()) return false;
        const KernelTable* kernels = kernels_at(&p, kRotaryIsa);
        RotaryArgs r{};
        r.tokens = p.integer(kRotaryTokens, "tokens", 0, kMaxTokens);
        r.heads = static_cast<int>(p.integer(kRotaryHeads, "heads", 1, 1 << 20));
        r.head_dim = static_cast<int>(p.integer(kRotaryHeadDim, "headDim", 2, kMaxHeadDim));
        r.half = static_cast<int>(p.integer(kRotaryHalf, "half", 1, kMaxHeadDim / 2));
        const int64_t offset = p.integer(kRotaryOffset, "offset", 0, kMaxTokens), start = p.integer(kRotaryStart, "start", 0, kMaxTokens);
        r.from_stride = p.integer(kRotaryStride, "stride", 0, kMaxTokens);
        if (!p.ok()) return false;
        if (2 * r.half > r.head_dim) return failure.set("ERR_SHAPE", "Expected at most %d turned channels, got %d", r.head_dim, 2 * r.half);
        const double tokens = static_cast<double>(r.tokens), width = static_cast<double>(r.heads) * r.head_dim;
        const double needed = r.tokens == 0 ? 0 : static_cast<double>(offset) + (tokens - 1) * static_cast<double>(r.from_stride) + width;
        const double turned = (static_cast<double>(start) + tokens) * r.half;
        const bool in_place = args.absent(4);
        const ArrayView rows = args.float32_view(1, "rows"), cos = args.float32_view(2, "cos"), sin = args.float32_view(3, "sin");
        if (!args.ok() || !holds(rows, needed, "rows", &failure) || !holds(cos, turned, "cos", &failure) || !holds(sin, turned, "sin", &failure)) return false;
        r.from = static_cast<const float*>(rows.data) + offset;
        r.cos = static_cast<const float*>(cos.data) + start * r.half;
        r.sin = static_cast<const float*>(sin.data) + start * r.half;
        if (in_place) {
            r.to = static_cast<float*>(rows.data) + offset;
            r.to_stride = r.from_stride;
        } else {
            const ArrayView out = args.float32_view(4, "out");
            if (!args.ok() || !holds(out, tokens * width, "out", &failure)) return false;
            r.to = static_cast<float*>(out.data);
            r.to_stride = static_cast<int64_t>(r.heads) * r.head_dim;
        }
        if (r.tokens > 0) kernels->rotate_heads(r);
        return true;
    }();
    if (!done) throw_failure(info.Env(), failure);
    return info.Env().Undefined();
}

}  // namespace

void export_cache_attention(Napi::Env env, Napi::Object exports) {
    exports.Set("cacheAttention", Napi::Function::New<cache_attention_sync>(env, "cacheAttention"));
    exports.Set("rotateHeads", Napi::Function::New<rotate_heads_sync>(env, "rotateHeads"));
    exports.Set("turnRows", Napi::Function::New<turn_rows_sync>(env, "turnRows"));
    exports.Set("appendCache", Napi::Function::New<append_cache_sync>(env, "appendCache"));
}

}  // namespace int_flash
