// createDecoder, createCacheSequence, decoderForward and what else JS asks of a Decoder, its sequences and their pages, behind handles.
#include <algorithm>
#include <cfloat>
#include <memory>
#include <string>

#include "binding.h"
#include "cache_timing.h"
#include "decoder.h"
#include "failure.h"
#include "linear_handle.h"
#include "read_request.h"
#include "sequence_handle.h"

namespace intflash {

/** What JS handles hold; empty once disposed. */
struct DecoderHandle {
    std::shared_ptr<Decoder> decoder;
};
struct PageHandle {
    std::optional<CachePage> page;
};
INTFLASH_HANDLE(DecoderHandle, "a decoder", 10);
INTFLASH_HANDLE(PageHandle, "a page", 12);

namespace {

constexpr int64_t kMost = 1 << 24, kMostParts = 1024;

std::shared_ptr<Decoder> decoder_of(const Napi::Value& js) {
    auto decoder = read_handle<DecoderHandle>(js, "decoder").decoder;
    if (!decoder) throw argument_error(js.Env(), "ERR_DISPOSED", "Expected a live decoder, got a disposed one");
    return decoder;
}

int fact(const Napi::Object& js, const char* name, int64_t min = 1) { return static_cast<int>(read_integer(js, name, min, kMost)); }

/** The Float32Array `name` of `count` elements; empty where it is undefined and `optional`. */
HostFloats floats(const Napi::Object& js, const char* name, int64_t count, bool optional = false) {
    const Napi::Value value = js.Get(name);
    if (value.IsUndefined() && optional) return {};
    if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array)
        throw argument_error(js.Env(), "ERR_ARG_TYPE", std::string("Expected ") + name + " to be a Float32Array");
    auto array = value.As<Napi::Float32Array>();
    if (!array.ArrayBuffer().IsArrayBuffer()) throw argument_error(js.Env(), "ERR_BUFFER_SHARED", std::string("Expected ") + name + " to own its memory, got shared memory");
    if (static_cast<int64_t>(array.ElementLength()) != count)
        throw argument_error(js.Env(), "ERR_ARG_RANGE", std::string("Expected ") + name + " to hold " + std::to_string(count) + " elements, got " + std::to_string(array.ElementLength()));
    return {array.Data(), array.ElementLength()};
}

Napi::Object object(const Napi::Object& js, const char* name) {
    if (!js.Get(name).IsObject()) throw argument_error(js.Env(), "ERR_ARG_TYPE", std::string("Expected ") + name + " to be an object");
    return js.Get(name).As<Napi::Object>();
}

HostNorm norm(const Napi::Object& js, const char* name, int64_t width) {
    const Napi::Object norm = object(js, name);
    return {floats(norm, "gain", width), floats(norm, "bias", width, true)};
}

std::shared_ptr<LinearLayer> linear(const Napi::Object& js, const char* name, int64_t rows, int64_t cols) {
    auto layer = linear_of(js.Get(name));
    if (layer->rows() != rows || layer->cols() != cols)
        throw argument_error(js.Env(), "ERR_ARG_RANGE", std::string("Expected ") + name + " to be " + std::to_string(rows) + " x " + std::to_string(cols));
    return layer;
}

DecoderFacts read_facts(const Napi::Object& js) {
    DecoderFacts facts{};
    facts.hidden = fact(js, "hidden");
    facts.heads = fact(js, "heads");
    facts.kv_heads = fact(js, "kvHeads");
    facts.head_dim = fact(js, "headDim");
    facts.intermediate = fact(js, "intermediate");
    facts.vocabulary = fact(js, "vocabulary");
    facts.max_tokens = fact(js, "maxTokens");
    facts.rotary_half = fact(js, "rotaryHalf", 0);
    facts.scale = static_cast<float>(read_number(js, "scale"));
    facts.epsilon = read_number(js, "epsilon");
    facts.centered = js.Get("centered").ToBoolean();
    facts.activation = static_cast<Activation>(read_integer(js, "activation", 0, 3));
    if (facts.head_dim > 256 || facts.heads % facts.kv_heads != 0 || 2 * facts.rotary_half > facts.head_dim)
        throw argument_error(js.Env(), "ERR_ARG_RANGE", "Expected head dimensions up to 256, whole groups of heads and a rotation within a head");
    return facts;
}

HostDecoder read_decoder(const Napi::Object& js) {
    HostDecoder host{};
    const DecoderFacts& facts = host.facts = read_facts(js);
    const int64_t queries = int64_t{facts.heads} * facts.head_dim, keys = int64_t{facts.kv_heads} * facts.head_dim, angles = int64_t{facts.max_tokens} * facts.rotary_half;
    const int64_t up = int64_t{facts.intermediate} * (facts.activation == Activation::kSwiglu ? 2 : 1);
    host.embedding = floats(js, "embedding", int64_t{facts.vocabulary} * facts.hidden, true);
    host.positions = floats(js, "positions", int64_t{facts.max_tokens} * facts.hidden, true);
    if (facts.rotary_half > 0) host.cos = floats(js, "cos", angles), host.sin = floats(js, "sin", angles);
    if (!js.Get("layers").IsArray()) throw argument_error(js.Env(), "ERR_ARG_TYPE", "Expected layers to be an array");
    const Napi::Array layers = js.Get("layers").As<Napi::Array>();
    for (uint32_t i = 0; i < layers.Length(); ++i) {
        const Napi::Object layer = read_object(layers.Get(i), "a layer");
        HostLayer from{};
        from.attention_norm = norm(layer, "attentionNorm", facts.hidden);
        from.mlp_norm = norm(layer, "mlpNorm", facts.hidden);
        from.query_norm = floats(layer, "queryNorm", facts.head_dim, true);
        from.key_norm = floats(layer, "keyNorm", facts.head_dim, true);
        from.qkv = linear(layer, "qkv", queries + 2 * keys, facts.hidden);
        from.attention_output = linear(layer, "attentionOutput", facts.hidden, queries);
        from.mlp_up = linear(layer, "mlpUp", up, facts.hidden);
        from.mlp_down = linear(layer, "mlpDown", facts.hidden, facts.intermediate);
        from.window_left = read_integer(layer, "windowLeft", -1, kMost);
        host.layers.push_back(std::move(from));
    }
    host.output_norm = norm(js, "outputNorm", facts.hidden);
    host.output = linear(js, "output", facts.vocabulary, facts.hidden);
    if (host.embedding.data == nullptr && host.output->is_int8()) throw argument_error(js.Env(), "ERR_ARG_TYPE", "Expected an embedding beside INT8 output weights");
    return host;
}

// createDecoder(device, facts and weights) → handle; blocks until the weights are copied
Napi::Value create_decoder(const Napi::CallbackInfo& info) {
    Stream& stream = *device_of(info).stream;
    const HostDecoder host = read_decoder(read_object(info[1], "the decoder"));
    std::shared_ptr<Decoder> decoder;
    run_blocking(info.Env(), stream, [&] { decoder = std::make_shared<Decoder>(stream, host); });
    return wrap_handle<DecoderHandle>(info.Env(), {std::move(decoder)});
}

// createCacheSequence(device, decoder, int4, channelScales) → handle
Napi::Value create_sequence(const Napi::CallbackInfo& info) {
    Stream& stream = *device_of(info).stream;
    const auto decoder = decoder_of(info[1]);
    const CacheShape shape = decoder->cache_shape(info[2].ToBoolean(), info[3].ToBoolean());
    std::shared_ptr<CacheSequence> sequence;
    run_blocking(info.Env(), stream, [&] { sequence = std::make_shared<CacheSequence>(stream, shape); });
    return wrap_handle<SequenceHandle>(info.Env(), {std::move(sequence)});
}

template <class T> Napi::Array list_of(Napi::Env env, const std::vector<T>& values) {
    Napi::Array list = Napi::Array::New(env, values.size());
    for (size_t i = 0; i < values.size(); ++i) list.Set(static_cast<uint32_t>(i), Napi::Number::New(env, static_cast<double>(values[i])));
    return list;
}

/** The typed array `js`, whose memory is its own. */
template <class Array> Array array_of(const Napi::Value& js, napi_typedarray_type type, const char* what) {
    if (!js.IsTypedArray() || js.As<Napi::TypedArray>().TypedArrayType() != type) throw argument_error(js.Env(), "ERR_ARG_TYPE", std::string("Expected ") + what + " to be a typed array of another kind");
    auto array = js.As<Array>();
    if (!array.ArrayBuffer().IsArrayBuffer()) throw argument_error(js.Env(), "ERR_BUFFER_SHARED", std::string("Expected ") + what + " to own its memory, got shared memory");
    return array;
}

constexpr size_t kRules = 6;

/** temperature, topK, topP, minP, a number in [0, 1), how many ids may be drawn. */
DrawRules read_rules(Napi::Env env, const double* of, int vocabulary) {
    const double temperature = of[0], top_k = of[1], top_p = of[2], min_p = of[3], uniform = of[4], named = of[5];
    if (!(temperature >= 0 && temperature <= DBL_MAX && top_k >= 0 && top_p > 0 && top_p <= 1 && min_p >= 0 && min_p <= 1 && uniform >= 0 && uniform < 1 && named >= 1 && named <= vocabulary))
        throw argument_error(env, "ERR_ARG_RANGE", "Expected a temperature >= 0, a topK >= 0, a topP in (0, 1], a minP in [0, 1], a number in [0, 1) and ids of the vocabulary");
    return {temperature, top_p, min_p, uniform, static_cast<int32_t>(std::min(top_k, static_cast<double>(kMost))), static_cast<int32_t>(named)};
}

/** Sequences and their tokens, in the order of the step; `rules`, where it is given, becomes what `draw` of each says for as many of its last tokens. */
std::vector<StepPart> read_parts(const Napi::Value& js, const DecoderFacts& facts, std::vector<DrawRules>* rules = nullptr) {
    const Napi::Env env = js.Env();
    if (!js.IsArray()) throw argument_error(env, "ERR_ARG_TYPE", "Expected parts to be an array");
    const Napi::Array list = js.As<Napi::Array>();
    std::vector<StepPart> parts;
    size_t tokens = 0;
    for (uint32_t i = 0; i < list.Length(); ++i) {
        const Napi::Object part = read_object(list.Get(i), "a part");
        auto sequence = sequence_of(part.Get("sequence"));
        for (const StepPart& other : parts)
            if (other.sequence == sequence) throw argument_error(env, "ERR_ARG_RANGE", "Expected different sequences, got one twice");
        const auto ids = array_of<Napi::Int32Array>(part.Get("ids"), napi_int32_array, "ids");
        if (ids.ElementLength() == 0) throw argument_error(env, "ERR_ARG_RANGE", "Expected at least one token, got none");
        for (size_t t = 0; t < ids.ElementLength(); ++t)
            if (ids.Data()[t] < 0 || ids.Data()[t] >= facts.vocabulary) throw argument_error(env, "ERR_ARG_RANGE", "Expected token ids inside the vocabulary, got " + std::to_string(ids.Data()[t]));
        tokens += ids.ElementLength();
        int64_t wanted = 0;
        if (rules != nullptr) {
            const auto draw = array_of<Napi::Float64Array>(part.Get("draw"), napi_float64_array, "draw");
            if (draw.ElementLength() % kRules != 0) throw argument_error(env, "ERR_ARG_RANGE", "Expected six numbers a token that is drawn");
            wanted = static_cast<int64_t>(draw.ElementLength() / kRules);
            for (int64_t row = 0; row < wanted; ++row) rules->push_back(read_rules(env, draw.Data() + static_cast<size_t>(row) * kRules, facts.vocabulary));
        } else {
            wanted = read_integer(part, "wanted", 1, kMost);
        }
        if (wanted < 1 || wanted > static_cast<int64_t>(ids.ElementLength())) throw argument_error(env, "ERR_ARG_RANGE", "Expected to want what follows one or more of a part's tokens");
        parts.push_back({std::move(sequence), {ids.Data(), ids.Data() + ids.ElementLength()}, static_cast<int>(wanted)});
    }
    if (parts.empty() || parts.size() > static_cast<size_t>(kMostParts) || tokens > static_cast<size_t>(kMost))
        throw argument_error(env, "ERR_ARG_RANGE", "Expected 1 to 1024 sequences with up to 2^24 tokens");
    return parts;
}

std::vector<int64_t> bytes_of(const std::vector<StepPart>& parts) {
    std::vector<int64_t> bytes;
    for (const StepPart& part : parts) bytes.push_back(part.sequence->bytes());
    return bytes;
}

// decoderForward(device, decoder, parts: { sequence, ids: Int32Array, wanted }[], logits: Float32Array) → Promise<bytes of each sequence's cache>
Napi::Value forward(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Stream& stream = *device_of(info).stream;
    const auto decoder = decoder_of(info[1]);
    auto parts = std::make_shared<std::vector<StepPart>>(read_parts(info[2], decoder->facts()));
    size_t rows = 0;
    for (const StepPart& part : *parts) rows += static_cast<size_t>(part.wanted);
    auto logits = array_of<Napi::Float32Array>(info[3], napi_float32_array, "logits");
    if (logits.ElementLength() != rows * static_cast<size_t>(decoder->facts().vocabulary)) throw argument_error(env, "ERR_ARG_RANGE", "Expected room for the logits");
    float* out = logits.Data();
    auto bytes = std::make_shared<std::vector<int64_t>>();
    return queue(info, stream,
                 [&stream, decoder, parts, out, bytes] {
                     decoder->forward(stream, *parts, out);
                     *bytes = bytes_of(*parts);
                     parts->clear();
                 },
                 [bytes](Napi::Env env) -> Napi::Value { return list_of(env, *bytes); }, {logits});
}

// decoderDraw(device, decoder, parts: { sequence, ids, draw: Float64Array }[]) → Promise<{ drawn: Int32Array, bytes }>
Napi::Value draw(const Napi::CallbackInfo& info) {
    Stream& stream = *device_of(info).stream;
    const auto decoder = decoder_of(info[1]);
    auto rules = std::make_shared<std::vector<DrawRules>>();
    auto parts = std::make_shared<std::vector<StepPart>>(read_parts(info[2], decoder->facts(), rules.get()));
    auto drawn = std::make_shared<std::vector<int32_t>>();
    auto bytes = std::make_shared<std::vector<int64_t>>();
    return queue(info, stream,
                 [&stream, decoder, parts, rules, drawn, bytes] {
                     *drawn = decoder->draw(stream, *parts, *rules);
                     *bytes = bytes_of(*parts);
                     parts->clear();
                 },
                 [drawn, bytes](Napi::Env env) -> Napi::Value {
                     Napi::Int32Array tokens = Napi::Int32Array::New(env, drawn->size());
                     std::copy(drawn->begin(), drawn->end(), tokens.Data());
                     Napi::Object result = Napi::Object::New(env);
                     result.Set("drawn", tokens);
                     result.Set("bytes", list_of(env, *bytes));
                     return result;
                 });
}

/** What became of a sequence: { length, bytes }. */
Napi::Value state_of(Napi::Env env, const CacheSequence& sequence) {
    Napi::Object state = Napi::Object::New(env);
    state.Set("length", Napi::Number::New(env, sequence.length()));
    state.Set("bytes", Napi::Number::New(env, static_cast<double>(sequence.bytes())));
    return state;
}

// truncateCacheSequence(device, sequence, length) → { length, bytes }
Napi::Value truncate(const Napi::CallbackInfo& info) {
    const auto sequence = sequence_of(info[1]);
    const int64_t length = read_count(info[2], "length");
    if (length > kMost) throw argument_error(info.Env(), "ERR_ARG_RANGE", "Expected a length");
    run_blocking(info.Env(), *device_of(info).stream, [&] { sequence->truncate(static_cast<int>(length)); });
    return state_of(info.Env(), *sequence);
}

// shareCachePage(device, sequence, page) → handle, or undefined where later tokens may still change what the page holds
Napi::Value share_page(const Napi::CallbackInfo& info) {
    Stream& stream = *device_of(info).stream;
    const auto sequence = sequence_of(info[1]);
    const int64_t index = read_count(info[2], "page");
    if (index > kMost) throw argument_error(info.Env(), "ERR_ARG_RANGE", "Expected a page of the sequence");
    std::optional<CachePage> page;
    run_blocking(info.Env(), stream, [&] { page = sequence->share(stream, static_cast<int>(index)); });
    if (!page) return info.Env().Undefined();
    return wrap_handle<PageHandle>(info.Env(), {std::move(page)});
}

// adoptCachePages(device, sequence, page, pages: handle[]) → { length, bytes }
Napi::Value adopt_pages(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Stream& stream = *device_of(info).stream;
    const auto sequence = sequence_of(info[1]);
    const int64_t index = read_count(info[2], "page");
    if (index > kMost || !info[3].IsArray()) throw argument_error(env, "ERR_ARG_RANGE", "Expected pages, and where they go");
    const Napi::Array list = info[3].As<Napi::Array>();
    std::vector<CachePage> pages;
    for (uint32_t i = 0; i < list.Length(); ++i) {
        const auto& page = read_handle<PageHandle>(list.Get(i), "page").page;
        if (!page) throw argument_error(env, "ERR_DISPOSED", "Expected a live page, got a disposed one");
        pages.push_back(*page);
    }
    run_blocking(env, stream, [&] { sequence->adopt(stream, static_cast<int>(index), pages); });
    return state_of(env, *sequence);
}

// timeCacheAttention(device, { sequences, length, heads, kvHeads, headDim, int4, runs, repeats }) → Promise<number[]>: see cache_timing.h
Napi::Value time_cache_attention(const Napi::CallbackInfo& info) {
    Stream& stream = *device_of(info).stream;
    const Napi::Object js = read_object(info[1], "the request");
    CacheTiming what{};
    what.sequences = static_cast<int>(read_integer(js, "sequences", 1, kMostParts));
    what.length = fact(js, "length");
    what.heads = fact(js, "heads");
    what.kv_heads = fact(js, "kvHeads");
    what.head_dim = static_cast<int>(read_integer(js, "headDim", 1, 256));
    what.int4 = js.Get("int4").ToBoolean();
    what.split = js.Get("runs").ToBoolean() ? KeySplit::kRuns : KeySplit::kTiles;
    what.repeats = static_cast<int>(read_integer(js, "repeats", 1, 10000));
    if (what.heads % what.kv_heads != 0) throw argument_error(info.Env(), "ERR_ARG_RANGE", "Expected whole groups of heads");
    auto times = std::make_shared<std::vector<float>>();
    return queue(info, stream, [&stream, what, times] { *times = cache_attention_times(stream, what); },
                 [times](Napi::Env env) -> Napi::Value { return list_of(env, *times); });
}

// disposeDecoder(decoder), disposeCacheSequence(sequence), disposeCachePage(page): twice is a no-op; a forward under way keeps them alive
Napi::Value dispose_decoder(const Napi::CallbackInfo& info) {
    read_handle<DecoderHandle>(info[0], "decoder").decoder.reset();
    return info.Env().Undefined();
}
Napi::Value dispose_sequence(const Napi::CallbackInfo& info) {
    read_handle<SequenceHandle>(info[0], "sequence").sequence.reset();
    return info.Env().Undefined();
}

Napi::Value dispose_page(const Napi::CallbackInfo& info) {
    read_handle<PageHandle>(info[0], "page").page.reset();
    return info.Env().Undefined();
}

}  // namespace

std::shared_ptr<CacheSequence> sequence_of(const Napi::Value& js) {
    auto sequence = read_handle<SequenceHandle>(js, "sequence").sequence;
    if (!sequence) throw argument_error(js.Env(), "ERR_DISPOSED", "Expected a live sequence, got a disposed one");
    return sequence;
}

std::vector<ExportedFunction> decoder_functions() {
    return {{"createDecoder", create_decoder}, {"createCacheSequence", create_sequence}, {"decoderForward", forward}, {"decoderDraw", draw}, {"truncateCacheSequence", truncate},
            {"shareCachePage", share_page}, {"adoptCachePages", adopt_pages}, {"timeCacheAttention", time_cache_attention}, {"disposeDecoder", dispose_decoder},
            {"disposeCacheSequence", dispose_sequence}, {"disposeCachePage", dispose_page}};
}

}  // namespace intflash
