// attention() and attentionAsync(): parameters and arrays in, an AttentionJob out. No arithmetic in this file.
#include <cmath>
#include <cstring>
#include <vector>

#include "attention_job.h"
#include "bindings.h"
#include "environment.h"
#include "js_args.h"

namespace int_flash {
namespace {

// Places in the parameter array; src/native-parameters.ts is the other half.
enum Parameter : size_t {
    kIsa, kThreads, kPrecision, kSmoothK, kHeads, kKvHeads, kHeadDim, kHeadDimV, kScale, kSoftcap, kWindowLeft, kWindowRight, kBottomRight, kSequences,
    kQueryType, kKeyType, kValueType,
    kQueryStrides, kKeyStrides = kQueryStrides + 3, kValueStrides = kKeyStrides + 3, kOutStrides = kValueStrides + 3, kLseStrides = kOutStrides + 3,
    kQueryScaleStrides = kLseStrides + 3, kKeyScaleStrides = kQueryScaleStrides + 3, kValueScaleStrides = kKeyScaleStrides + 3,
    kChannelScaleStrides = kValueScaleStrides + 3,
    kMaskType = kChannelScaleStrides + 3, kMaskStrides, kChecksums = kMaskStrides + 4, kParameterCount,
};

constexpr double kMaxInt = 2147483647.0;

Strides read_strides(ParameterReader* p, size_t index, const char* name) {
    Strides s;
    s.batch = p->integer(index, name, 0, kMaxCount);
    s.head = p->integer(index + 1, name, 0, kMaxCount);
    s.token = p->integer(index + 2, name, 0, kMaxCount);
    return s;
}

struct Reach {
    bool empty;
    double last_batch, last_head, last_token;  // token: the largest index any sequence uses
};

// One past the last element that rows of `dim` reach. In double: a product beyond 2^53 is rounded, but stays beyond any array's length.
double elements_needed(const Strides& s, const Reach& reach, int dim) {
    if (reach.empty) return 0;
    return reach.last_batch * static_cast<double>(s.batch) + reach.last_head * static_cast<double>(s.head) + reach.last_token * static_cast<double>(s.token) + dim;
}

bool holds(const ArrayView& array, double needed, const char* name, Failure* failure) {
    if (needed <= static_cast<double>(array.length)) return true;
    return failure->set("ERR_SHAPE", "Expected %s to hold %.0f elements, got %zu", name, needed, array.length);
}

struct Arguments {
    AttentionSpec spec;
    std::vector<Sequence> sequences;
    double bytes_read[8] = {0};  // of query, key, value, their scales, channel scale, mask: for the copies
    Reach queries, keys;
};

ArrayView read_operand(ArgumentReader* args, size_t index, const char* name, ElementType type) {
    if (type == ElementType::kFloat32) return args->float32(index, name);
    if (type == ElementType::kInt8) return args->array(index, name, {napi_int8_array});
    return args->array(index, name, {napi_uint16_array});
}

int64_t longest(const std::vector<Sequence>& sequences, bool query) {
    int64_t most = 0;
    for (const Sequence& s : sequences) most = std::max(most, query ? s.q_len : s.k_len);
    return most;
}

bool read_sequences(ArgumentReader* args, size_t index, Arguments* out) {
    const ArrayView spans = args->view(index, "spans", napi_float64_array);
    if (!args->ok()) return false;
    const size_t count = static_cast<size_t>(out->spec.sequences);
    if (spans.length != count * 4) return args->failure()->set("ERR_SHAPE", "Expected spans to hold %zu entries, got %zu", count * 4, spans.length);
    ParameterReader reader(spans, count * 4, args->failure());
    out->sequences.resize(count);
    Reach& q = out->queries;
    Reach& k = out->keys;
    q = k = {true, 0, static_cast<double>(out->spec.heads - 1), 0};
    k.last_head = static_cast<double>(out->spec.kv_heads - 1);
    constexpr double kMaxTokens = 4398046511104.0;  // 2^42, so that no sum of positions overflows
    for (size_t i = 0; i < count; i++) {
        Sequence& s = out->sequences[i];
        s.q_start = reader.integer(4 * i, "spans", 0, kMaxTokens);
        s.q_len = reader.integer(4 * i + 1, "spans", 0, kMaxTokens);
        s.k_start = reader.integer(4 * i + 2, "spans", 0, kMaxTokens);
        s.k_len = reader.integer(4 * i + 3, "spans", 0, kMaxTokens);
        if (s.q_len > 0) q.empty = false, q.last_batch = static_cast<double>(i), q.last_token = std::max(q.last_token, static_cast<double>(s.q_start + s.q_len - 1));
        if (s.k_len > 0) k.empty = false, k.last_batch = static_cast<double>(i), k.last_token = std::max(k.last_token, static_cast<double>(s.k_start + s.k_len - 1));
    }
    return args->ok();
}

bool read_scale(ArgumentReader* args, ParameterReader* p, size_t index, size_t strides, const char* name, const Reach& reach, int dim, ScaleOperand* out, double* bytes) {
    const ArrayView array = args->float32(index, name);
    out->strides = read_strides(p, strides, name);
    if (!args->ok() || !holds(array, elements_needed(out->strides, reach, dim), name, args->failure())) return false;
    out->data = static_cast<const float*>(array.data);
    *bytes = elements_needed(out->strides, reach, dim) * 4;
    return true;
}

// Arguments `first` onwards: parameters, spans, query, key, value, qScale, kScale, vScale, vChannelScale, mask.
bool read_arguments(ArgumentReader* args, size_t first, Arguments* out) {
    Failure* failure = args->failure();
    ParameterReader p(args->view(first, "parameters", napi_float64_array), kParameterCount, failure);
    AttentionSpec& s = out->spec;
    if (!p.ok()) return false;
    s.kernels = kernels_at(&p, kIsa);
    s.threads = static_cast<int>(p.integer(kThreads, "threads", 1, 256));
    s.precision = static_cast<Precision>(p.integer(kPrecision, "precision", 0, 4));
    s.smooth_k = p.integer(kSmoothK, "smoothK", 0, 1) != 0;
    s.heads = static_cast<int>(p.integer(kHeads, "heads", 1, 1 << 20));
    s.kv_heads = static_cast<int>(p.integer(kKvHeads, "kvHeads", 1, 1 << 20));
    s.head_dim = static_cast<int>(p.integer(kHeadDim, "headDim", 8, kMaxHeadDim));
    s.head_dim_v = static_cast<int>(p.integer(kHeadDimV, "headDimV", 8, kMaxHeadDim));
    s.scale = static_cast<float>(p.number(kScale, "scale", 1e-38, 1.3e30));
    s.softcap = static_cast<float>(p.number(kSoftcap, "softcap", 0, 3e38));
    s.window_left = p.integer_or_unlimited(kWindowLeft, "windowLeft");
    s.window_right = p.integer_or_unlimited(kWindowRight, "windowRight");
    s.bottom_right = p.integer(kBottomRight, "bottomRight", 0, 1) != 0;
    s.sequences = p.integer(kSequences, "sequences", 0, 16777216);
    s.query.type = static_cast<ElementType>(p.integer(kQueryType, "query type", 0, 3));
    s.key.type = static_cast<ElementType>(p.integer(kKeyType, "key type", 0, 3));
    s.value.type = static_cast<ElementType>(p.integer(kValueType, "value type", 0, 3));
    s.query.strides = read_strides(&p, kQueryStrides, "query strides");
    s.key.strides = read_strides(&p, kKeyStrides, "key strides");
    s.value.strides = read_strides(&p, kValueStrides, "value strides");
    s.out_strides = read_strides(&p, kOutStrides, "out strides");
    s.lse_strides = read_strides(&p, kLseStrides, "lse strides");
    s.mask_type = static_cast<MaskType>(p.integer(kMaskType, "mask type", 0, 2));
    s.checksums = p.integer(kChecksums, "checksums", 0, 1) != 0;
    if (!p.ok()) return false;
    if (s.heads % s.kv_heads != 0) return failure->set("ERR_SHAPE", "Expected heads to be a multiple of kvHeads, got %d and %d", s.heads, s.kv_heads);
    if (s.head_dim % 8 != 0 || s.head_dim_v % 8 != 0)
        return failure->set("ERR_UNSUPPORTED", "Expected head dimensions that are multiples of 8, got %d and %d", s.head_dim, s.head_dim_v);
    const bool coded = s.query.type == ElementType::kInt8;
    if ((s.key.type == ElementType::kInt8) != coded || (s.value.type == ElementType::kInt8) != coded)
        return failure->set("ERR_ARG_TYPE", "Expected query, key and value to be all int8 or all float, got a mixture");
    if (coded && s.precision != Precision::kFullInt8 && s.precision != Precision::kPaperInt8)
        return failure->set("ERR_UNSUPPORTED", "Expected full-int8 or paper-int8 for int8 operands, got another precision");
    if (!read_sequences(args, first + 1, out)) return false;

    const struct {
        Operand* operand;
        const char* name;
        const Reach& reach;
        int dim;
    } operands[] = {{&s.query, "query", out->queries, s.head_dim}, {&s.key, "key", out->keys, s.head_dim}, {&s.value, "value", out->keys, s.head_dim_v}};
    for (size_t i = 0; i < 3; i++) {
        const ArrayView array = read_operand(args, first + 2 + i, operands[i].name, operands[i].operand->type);
        const double needed = elements_needed(operands[i].operand->strides, operands[i].reach, operands[i].dim);
        if (!args->ok() || !holds(array, needed, operands[i].name, failure)) return false;
        operands[i].operand->data = array.data;
        const ElementType type = operands[i].operand->type;
        out->bytes_read[i] = needed * (type == ElementType::kFloat32 ? 4 : type == ElementType::kInt8 ? 1 : 2);
    }
    if (coded) {
        Reach per_head = out->keys;
        per_head.last_token = 0;
        if (!read_scale(args, &p, first + 5, kQueryScaleStrides, "qScale", out->queries, 1, &s.query_scale, &out->bytes_read[3]) ||
            !read_scale(args, &p, first + 6, kKeyScaleStrides, "kScale", out->keys, 1, &s.key_scale, &out->bytes_read[4]) ||
            !read_scale(args, &p, first + 7, kValueScaleStrides, "vScale", out->keys, 1, &s.value_scale, &out->bytes_read[5]))
            return false;
        if (!args->absent(first + 8) &&
            !read_scale(args, &p, first + 8, kChannelScaleStrides, "vChannelScale", per_head, s.head_dim_v, &s.channel_scale, &out->bytes_read[6]))
            return false;
        // A head without keys still has its per-head scales read.
        if (out->keys.empty) s.value_scale.data = nullptr, s.channel_scale.data = nullptr;
    }
    if (s.mask_type != MaskType::kNone) {
        const bool is_bool = s.mask_type == MaskType::kBool;
        const ArrayView array = is_bool ? args->array(first + 9, "mask", {napi_uint8_array}) : args->float32(first + 9, "mask");
        s.mask_batch = p.integer(kMaskStrides, "mask strides", 0, kMaxCount);
        s.mask_head = p.integer(kMaskStrides + 1, "mask strides", 0, kMaxCount);
        s.mask_query = p.integer(kMaskStrides + 2, "mask strides", 0, kMaxCount);
        s.mask_key = p.integer(kMaskStrides + 3, "mask strides", 0, kMaxCount);
        double needed = 0;
        if (!out->queries.empty && !out->keys.empty) {
            needed = static_cast<double>(s.sequences - 1) * static_cast<double>(s.mask_batch) + (s.heads - 1) * static_cast<double>(s.mask_head) +
                     static_cast<double>(longest(out->sequences, true) - 1) * static_cast<double>(s.mask_query) +
                     static_cast<double>(longest(out->sequences, false) - 1) * static_cast<double>(s.mask_key) + 1;
        }
        if (!args->ok() || !p.ok() || !holds(array, needed, "mask", failure)) return false;
        s.mask = array.data;
        out->bytes_read[7] = needed * (is_bool ? 1 : 4);
    }
    return args->ok() && p.ok();
}

void per_head_scales_without_keys(AttentionSpec* s) {
    static const float kOne = 1.0f;
    if (s->value.type == ElementType::kInt8 && !s->value_scale.data) s->value_scale = {&kOne, {0, 0, 0}};
}

// attention(parameters, spans, query, key, value, qScale, kScale, vScale, vChannelScale, mask, out, lse) → undefined or checksums
Napi::Value attention(const Napi::CallbackInfo& info) {
    Failure failure;
    ArgumentReader args(info, &failure);
    Arguments a;
    AttentionJob job;
    const bool read = read_arguments(&args, 0, &a) && [&] {
        const ArrayView out = args.float32(10, "out"), lse = args.optional_float32(11, "lse");
        if (!args.ok() || !holds(out, elements_needed(a.spec.out_strides, a.queries, a.spec.head_dim_v), "out", &failure)) return false;
        if (lse.given && !holds(lse, elements_needed(a.spec.lse_strides, a.queries, 1), "lse", &failure)) return false;
        a.spec.out = static_cast<float*>(out.data);
        prepare_result(out.data, out.length * sizeof(float));
        a.spec.lse = lse.given ? static_cast<float*>(lse.data) : nullptr;
        return true;
    }();
    per_head_scales_without_keys(&a.spec);
    if (!read || !job.prepare(a.spec, a.sequences.data(), &Environment::of(info.Env()).live_bytes(), &failure) || !job.run(&failure)) {
        throw_failure(info.Env(), failure);
        return {};
    }
    if (!a.spec.checksums) return info.Env().Undefined();
    char text[40];
    snprintf(text, sizeof text, "%016llx:%016llx", static_cast<unsigned long long>(job.checksums().scores), static_cast<unsigned long long>(job.checksums().products));
    return Napi::String::New(info.Env(), text);
}

class AttentionCall : public AsyncCall {
public:
    void run() override { succeeded_ = job.run(&failure); }
    void abort() override { job.abort(); }
    void settle(napi_env env, napi_deferred deferred) override {
        napi_value result = nullptr, out = nullptr, lse = nullptr;
        if (!succeeded_) {
            napi_reject_deferred(env, deferred, make_error(env, failure));
            return;
        }
        const bool made = napi_create_object(env, &result) == napi_ok && float_array(env, job.spec().out, out_length, &out) &&
                          napi_set_named_property(env, result, "out", out) == napi_ok &&
                          (!job.spec().lse || (float_array(env, job.spec().lse, lse_length, &lse) && napi_set_named_property(env, result, "lse", lse) == napi_ok));
        if (made) {
            napi_resolve_deferred(env, deferred, result);
            return;
        }
        bool pending = false;  // where an allocation failed inside V8, which says less
        napi_value error = nullptr;
        if (napi_is_exception_pending(env, &pending) == napi_ok && pending) napi_get_and_clear_last_exception(env, &error);
        failure.bytes = 4.0 * static_cast<double>(out_length + lse_length);
        failure.set("ERR_OOM", "Expected %.0f bytes of host memory for the answer, got none", failure.bytes);
        napi_reject_deferred(env, deferred, make_error(env, failure));
    }

    AttentionJob job;
    CallMemory copies;
    Failure failure;
    size_t out_length = 0, lse_length = 0;

private:
    static bool float_array(napi_env env, const float* data, size_t length, napi_value* array) {
        void* memory = nullptr;
        napi_value buffer;
        if (napi_create_arraybuffer(env, length * 4, &memory, &buffer) != napi_ok) return false;
        if (length > 0) std::memcpy(memory, data, length * 4);
        return napi_create_typedarray(env, napi_float32_array, length, buffer, 0, array) == napi_ok;
    }
    bool succeeded_ = false;
};

// Everything the job reads, copied to memory of its own: JavaScript may change or transfer its arrays while the job runs.
bool copy_operands(Arguments* a, AttentionCall* call, LiveBytes* live, Failure* failure) {
    AttentionSpec& s = a->spec;
    const void** sources[8] = {&s.query.data,
                               &s.key.data,
                               &s.value.data,
                               reinterpret_cast<const void**>(&s.query_scale.data),
                               reinterpret_cast<const void**>(&s.key_scale.data),
                               reinterpret_cast<const void**>(&s.value_scale.data),
                               reinterpret_cast<const void**>(&s.channel_scale.data),
                               &s.mask};
    double total = static_cast<double>(call->out_length + call->lse_length) * 4 + 16 * 64;
    for (const double bytes : a->bytes_read) total += bytes;
    if (total > 1e15 || !call->copies.allocate(static_cast<size_t>(total) + 10 * 64, live)) {
        failure->bytes = total;
        return failure->set("ERR_OOM", "Expected %.0f bytes of memory for copies of the inputs, got none", total);
    }
    Arena arena(call->copies.as<char>());
    for (size_t i = 0; i < 8; i++) {
        const auto bytes = static_cast<size_t>(a->bytes_read[i]);
        if (!*sources[i] || bytes == 0) continue;
        char* copy = arena.take<char>(bytes);
        std::memcpy(copy, *sources[i], bytes);
        *sources[i] = copy;
    }
    s.out = arena.take<float>(call->out_length);
    std::memset(s.out, 0, call->out_length * 4);
    if (s.lse) {
        s.lse = arena.take<float>(call->lse_length);
        std::memset(s.lse, 0, call->lse_length * 4);
    }
    return true;
}

// attentionAsync(id, parameters, spans, query, …, mask, outLength, lseLength or -1) → Promise<{out, lse}>
Napi::Value attention_async(const Napi::CallbackInfo& info) {
    Failure failure;
    ArgumentReader args(info, &failure);
    Arguments a;
    Environment& environment = Environment::of(info.Env());
    auto call = std::make_unique<AttentionCall>();
    const double id = args.number(0, "id", 0, kMaxCount);
    const bool ready = args.ok() && read_arguments(&args, 1, &a) && [&] {
        const double out_length = args.number(11, "outLength", 0, 4294967296.0), lse_length = args.number(12, "lseLength", -1, 4294967296.0);
        if (!args.ok()) return false;
        const double out_needed = elements_needed(a.spec.out_strides, a.queries, a.spec.head_dim_v);
        const double lse_needed = elements_needed(a.spec.lse_strides, a.queries, 1);
        if (out_needed > out_length) return failure.set("ERR_SHAPE", "Expected outLength to be at least %.0f, got %.0f", out_needed, out_length);
        if (lse_length >= 0 && lse_needed > lse_length) return failure.set("ERR_SHAPE", "Expected lseLength to be at least %.0f, got %.0f", lse_needed, lse_length);
        call->out_length = static_cast<size_t>(out_length);
        static float wanted;
        a.spec.lse = lse_length >= 0 ? &wanted : nullptr;  // replaced by the copy's place
        call->lse_length = lse_length >= 0 ? static_cast<size_t>(lse_length) : 0;
        a.spec.checksums = false;
        per_head_scales_without_keys(&a.spec);
        return copy_operands(&a, call.get(), &environment.live_bytes(), &failure) &&
               call->job.prepare(a.spec, a.sequences.data(), &environment.live_bytes(), &failure);
    }();
    if (!ready) {
        throw_failure(info.Env(), failure);
        return {};
    }
    const auto bytes = static_cast<int64_t>(call->copies.bytes());
    const napi_value promise = environment.start(info.Env(), std::move(call), id, a.spec.threads, bytes);
    return promise ? Napi::Value(info.Env(), promise) : info.Env().Undefined();
}

Napi::Value abort_call(const Napi::CallbackInfo& info) {
    Failure failure;
    ArgumentReader args(info, &failure);
    const double id = args.number(0, "id", 0, kMaxCount);
    if (!args.ok()) {
        throw_failure(info.Env(), failure);
        return {};
    }
    Environment::of(info.Env()).abort(id);
    return info.Env().Undefined();
}

}  // namespace

void export_attention(Napi::Env env, Napi::Object exports) {
    exports.Set("attention", Napi::Function::New<attention>(env, "attention"));
    exports.Set("attentionAsync", Napi::Function::New<attention_async>(env, "attentionAsync"));
    exports.Set("abort", Napi::Function::New<abort_call>(env, "abort"));
}

}  // namespace int_flash
