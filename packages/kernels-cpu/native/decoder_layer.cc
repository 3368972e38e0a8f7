#include "decoder_layer.h"

#include <cstring>

#include "cache_attention.h"

namespace int_flash {
namespace {

thread_local ThreadMemory workspace;

bool turn(const LayerFacts& f, float* rows, int64_t tokens, Failure* failure) {
    return turn_rows(*f.kernels, f.threads, rows, tokens * f.heads, f.head_dim, rows) ||
           failure->set("ERR_NONFINITE", "Expected queries and values that stay finite when they are turned");
}

}  // namespace

bool DecoderLayer::create(const LayerFacts& facts, const LayerParts& parts, const float* attention_gain, const float* mlp_gain, LiveBytes* live, Failure* failure) {
    facts_ = facts;
    parts_ = parts;
    const int hidden = parts.qkv->cols();
    const int64_t mixed = int64_t{facts.heads} * facts.head_dim;
    const auto expect = [&](const LinearLayer& layer, const char* name, int64_t rows, int64_t cols) {
        return (layer.rows() == rows && layer.cols() == cols) || failure->set("ERR_SHAPE", "Expected %s of %lld rows and %lld columns, got %d and %d", name, static_cast<long long>(rows),
                                                                              static_cast<long long>(cols), layer.rows(), layer.cols());
    };
    if (!expect(*parts.qkv, "qkv", facts.row(), hidden) || !expect(*parts.attention_output, "attentionOutput", hidden, mixed) ||
        !expect(*parts.mlp_up, "mlpUp", 2 * int64_t{parts.mlp_down->cols()}, hidden) || !expect(*parts.mlp_down, "mlpDown", hidden, parts.mlp_down->cols()))
        return false;
    const size_t bytes = static_cast<size_t>(hidden) * sizeof(float);
    if (!gains_.allocate(2 * bytes, live)) {
        failure->bytes = 2.0 * static_cast<double>(bytes);
        return failure->set("ERR_OOM", "Expected %zu bytes of memory for the norms, got none", 2 * bytes);
    }
    std::memcpy(gains_.as<float>(), attention_gain, bytes);
    std::memcpy(gains_.as<float>() + hidden, mlp_gain, bytes);
    return true;
}

void DecoderLayer::dispose() {
    parts_ = {};
    gains_.release();
}

LayerOutcome DecoderLayer::forward(const LayerStep& step, LiveBytes* live, Failure* failure) const {
    const auto& [qkv, attention_output, mlp_up, mlp_down] = parts_;
    const LayerFacts& f = facts_;
    const int64_t tokens = step.append.tokens, width = int64_t{f.heads} * f.head_dim;
    if (!qkv->expect_in_use(failure) || !attention_output->expect_in_use(failure) || !mlp_up->expect_in_use(failure) || !mlp_down->expect_in_use(failure)) return LayerOutcome::kFailed;
    const auto cut = [&](Arena arena, float** query, float** mixed, float** widened) {
        *query = arena.take<float>(static_cast<size_t>(tokens * width));
        *mixed = arena.take<float>(static_cast<size_t>(tokens * width));
        *widened = arena.take<float>(static_cast<size_t>(tokens * mlp_down->cols()));
        return arena.used();
    };
    float *query, *mixed, *widened;
    const size_t bytes = cut(Arena(nullptr), &query, &mixed, &widened);
    if (!workspace.reserve(bytes)) {
        failure->bytes = static_cast<double>(bytes);
        failure->set("ERR_OOM", "Expected %zu bytes of memory for a layer's numbers, got none", bytes);
        return LayerOutcome::kFailed;
    }
    cut(Arena(workspace.as<char>()), &query, &mixed, &widened);

    LinearSteps normed;
    normed.norm_gain = gains_.as<float>();
    normed.epsilon = f.epsilon;
    if (!qkv->forward(step.hidden, tokens, step.rows, normed, failure)) return LayerOutcome::kFailed;

    float *keys = step.rows + width, *values = keys + int64_t{f.kv_heads} * f.head_dim;
    f.kernels->rotate_heads({step.rows, step.cos, step.sin, query, tokens, f.row(), width, f.heads, f.head_dim, f.half});
    f.kernels->rotate_heads({keys, step.cos, step.sin, keys, tokens, f.row(), f.row(), f.kv_heads, f.head_dim, f.half});

    AppendSpec append = step.append;
    append.kernels = f.kernels;
    append.threads = f.threads;
    append.kv_heads = f.kv_heads;
    append.head_dim = f.head_dim;
    append.keys = keys;
    append.values = values;
    append.stride = f.row();
    if (!append_cache(append)) return LayerOutcome::kNotFinite;

    CacheSpec cache;
    cache.kernels = f.kernels;
    cache.threads = f.threads;
    cache.type = append.int4 ? ElementType::kInt4 : ElementType::kInt8;
    cache.keys = append.key_codes;
    cache.values = append.value_codes;
    cache.key_scales = append.key_scales;
    cache.value_scales = append.value_scales;
    cache.kv_heads = f.kv_heads;
    cache.capacity = append.capacity;
    cache.length = append.length + tokens;
    cache.pages = append.pages;
    cache.head_dim = f.head_dim;
    cache.heads = f.heads;
    cache.tokens = tokens;
    cache.query = query;
    cache.out = mixed;
    cache.scale = f.scale;
    cache.window_left = f.window_left;
    if ((append.int4 && !turn(f, query, tokens, failure)) || !cache_attention(cache, live, failure) || (append.int4 && !turn(f, mixed, tokens, failure))) return LayerOutcome::kFailed;

    LinearSteps added, gated = normed;
    added.accumulate = true;
    gated.norm_gain = normed.norm_gain + qkv->cols();
    gated.swiglu = true;
    const bool done = attention_output->forward(mixed, tokens, step.hidden, added, failure) && mlp_up->forward(step.hidden, tokens, widened, gated, failure) &&
                      mlp_down->forward(widened, tokens, step.hidden, added, failure);
    return done ? LayerOutcome::kDone : LayerOutcome::kFailed;
}

}  // namespace int_flash
