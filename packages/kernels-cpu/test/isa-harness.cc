// Every instruction set that this CPU runs against portable C++, bit for bit, without Node: for machines that are emulated. Prints one
// line a kernel table and exits 1 on any difference.
//   aarch64-linux-gnu-g++ … && qemu-aarch64 -L /usr/aarch64-linux-gnu ./isa-harness      (test/arm64-harness.sh does both)
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "arithmetic.h"
#include "attention_job.h"
#include "cache_append.h"
#include "cache_attention.h"
#include "cpu_features.h"
#include "linear_layer.h"

using namespace int_flash;

namespace {

uint32_t state = 1;
float random_float() {
    state = state * 1664525u + 1013904223u;
    const float x = static_cast<float>(static_cast<int32_t>(state)) / 2147483648.0f;
    return (state & 0x3f00u) == 0 ? 6 * x : x;
}
std::vector<float> random_floats(size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = random_float();
    return values;
}

LiveBytes live{0};
int failures = 0, cases = 0;

void compare(const char* isa, const char* what, int a, int b, int c, const std::vector<float>& actual, const std::vector<float>& expected, bool same_integers) {
    cases++;
    const bool same = same_integers && memcmp(actual.data(), expected.data(), actual.size() * sizeof(float)) == 0;
    if (same) return;
    failures++;
    if (failures < 20) printf("  %s differs: %s %d %d %d\n", isa, what, a, b, c);
}

struct Answer {
    std::vector<float> out;
    Checksums sums{0, 0};
};

Answer attend(const KernelTable* table, Precision precision, int dim, int64_t queries, int64_t keys, int mask) {
    state = static_cast<uint32_t>(dim * 131 + queries * 17 + keys);
    constexpr int kHeads = 4, kKvHeads = 2;
    const auto q = random_floats(kHeads * queries * dim), k = random_floats(kKvHeads * keys * dim), v = random_floats(kKvHeads * keys * dim);
    std::vector<float> bias = random_floats(queries * keys);
    Answer answer;
    answer.out.assign(kHeads * queries * dim + kHeads * queries, 7.0f);
    AttentionSpec spec;
    spec.kernels = table;
    spec.precision = precision;
    spec.heads = kHeads, spec.kv_heads = kKvHeads, spec.head_dim = dim, spec.head_dim_v = dim;
    spec.scale = 1.0f / std::sqrt(static_cast<float>(dim));
    spec.sequences = 1;
    spec.query = {q.data(), ElementType::kFloat32, {0, queries * dim, dim}};
    spec.key = {k.data(), ElementType::kFloat32, {0, keys * dim, dim}};
    spec.value = {v.data(), ElementType::kFloat32, {0, keys * dim, dim}};
    if (mask == 1) spec.window_right = 0, spec.bottom_right = true;
    if (mask == 2) spec.window_left = 40, spec.window_right = 9;
    if (mask == 3) {
        spec.mask_type = MaskType::kFloat32, spec.mask = bias.data(), spec.mask_query = keys, spec.mask_key = 1, spec.softcap = 8;
        for (size_t i = 0; i < bias.size(); i += 3) bias[i] = -INFINITY;
    }
    spec.out = answer.out.data(), spec.out_strides = {0, queries * dim, dim};
    spec.lse = answer.out.data() + kHeads * queries * dim, spec.lse_strides = {0, queries, 1};
    spec.checksums = true;
    const Sequence sequence{0, queries, 0, keys};
    AttentionJob job;
    Failure failure;
    if (!job.prepare(spec, &sequence, &live, &failure) || !job.run(&failure)) {
        printf("  %s: %s\n", table->name, failure.message);
        failures++;
    }
    answer.sums = job.checksums();
    return answer;
}

std::vector<float> attend_cache(const KernelTable* table, ElementType type, int dim, int64_t tokens, int64_t length) {
    state = static_cast<uint32_t>(dim + tokens + length);
    constexpr int kHeads = 4, kKvHeads = 2;
    const auto q = random_floats(tokens * kHeads * dim), fk = random_floats(kKvHeads * length * dim), fv = random_floats(kKvHeads * length * dim);
    auto scales = random_floats(kKvHeads * length);
    for (float& scale : scales) scale = 0.01f + std::fabs(scale);
    std::vector<int8_t> ck(fk.size()), cv(fk.size());
    for (size_t i = 0; i < fk.size(); i++) {
        ck[i] = static_cast<int8_t>(type == ElementType::kInt4 ? static_cast<uint8_t>((static_cast<int>(fk[i] * 7) & 15) | ((static_cast<int>(fv[i] * 7) & 15) << 4)) : static_cast<int>(fk[i] * 20));
        cv[i] = static_cast<int8_t>(type == ElementType::kInt4 ? static_cast<uint8_t>((static_cast<int>(fv[i] * 7) & 15) | ((static_cast<int>(fk[i] * 7) & 15) << 4)) : static_cast<int>(fv[i] * 20));
    }
    std::vector<float> out(tokens * kHeads * dim, 7.0f);
    CacheSpec spec;
    spec.kernels = table;
    spec.type = type;
    const bool is_float = type == ElementType::kFloat32;
    spec.keys = is_float ? static_cast<const void*>(fk.data()) : ck.data();
    spec.values = is_float ? static_cast<const void*>(fv.data()) : cv.data();
    if (!is_float) spec.key_scales = scales.data(), spec.value_scales = scales.data();
    spec.kv_heads = kKvHeads, spec.capacity = length, spec.length = length;
    spec.head_dim = dim, spec.heads = kHeads, spec.tokens = tokens;
    spec.query = q.data(), spec.out = out.data(), spec.scale = 0.1f;
    Failure failure;
    if (!cache_attention(spec, &live, &failure)) printf("  %s: %s\n", table->name, failure.message), failures++;
    return out;
}

std::vector<float> run_linear(const KernelTable* table, int bits, bool swiglu, int rows, int cols, int64_t tokens) {
    state = static_cast<uint32_t>(rows + cols);
    auto weights = random_floats(static_cast<size_t>(rows) * cols);
    const auto input = random_floats(tokens * cols), bias = random_floats(rows);
    std::vector<int8_t> codes(weights.size());
    std::vector<float> scales(rows);
    for (size_t i = 0; i < codes.size(); i++) codes[i] = static_cast<int8_t>(weights[i] * 20);
    for (float& scale : scales) scale = 0.01f + std::fabs(random_float());
    std::vector<float> out(tokens * rows, 7.0f);
    LinearLayer layer;
    Failure failure;
    LinearSource source{rows, cols};
    const std::vector<float> group_scales(static_cast<size_t>(rows) * cols, 0.02f);
    if (bits == 4) source.nibbles = reinterpret_cast<const uint8_t*>(codes.data()), source.group = 32, source.scales = group_scales.data();
    if (bits == 8) source.codes = codes.data(), source.scales = scales.data();
    if (bits == 16)  // numbers of bfloat16, which are kept so
        for (float& weight : weights) weight = float_of(bits_of(weight) & 0xffff0000u);
    if (bits >= 16) source.floats = weights.data();
    source.bias = bias.data();
    LinearSteps steps;
    steps.swiglu = swiglu;
    const bool made = layer.create(table, 1, source, &live, &failure);
    if (!made || !layer.forward(input.data(), tokens, out.data(), steps, &failure)) printf("  %s: %s\n", table->name, failure.message), failures++;
    layer.dispose();
    return out;
}

// Codes, scales and turned rows of a sequence that begins with zeros.
std::vector<float> append_rows(const KernelTable* table, bool int4, int dim, int64_t tokens) {
    state = static_cast<uint32_t>(dim + tokens);
    constexpr int64_t kHeads = 2;
    auto rows = random_floats(static_cast<size_t>(2 * kHeads * dim * tokens));
    const auto shift = random_floats(static_cast<size_t>(kHeads * dim));
    for (int64_t i = 0; i < 2 * kHeads * dim && tokens > 1; i++) rows[static_cast<size_t>(i)] = 0.0f;
    std::vector<int8_t> codes(static_cast<size_t>(2 * kHeads * tokens * dim));
    std::vector<float> scales(static_cast<size_t>(2 * kHeads * tokens)), largest(kHeads, 0.0f), turned(rows.size());
    AppendSpec spec;
    spec.kernels = table;
    spec.int4 = int4;
    spec.keys = rows.data(), spec.values = rows.data() + kHeads * dim;
    spec.tokens = spec.capacity = tokens, spec.stride = 2 * kHeads * dim;
    spec.key_shift = shift.data(), spec.largest_value_scale = largest.data();
    spec.kv_heads = kHeads, spec.head_dim = dim;
    spec.key_codes = codes.data(), spec.value_codes = codes.data() + codes.size() / 2;
    spec.key_scales = scales.data(), spec.value_scales = scales.data() + scales.size() / 2;
    if (!append_cache(spec) || !turn_rows(*table, 1, rows.data(), 2 * kHeads * tokens, dim, turned.data())) failures++;
    std::vector<float> out(codes.begin(), codes.end());
    for (const auto* part : {&scales, &largest, &turned}) out.insert(out.end(), part->begin(), part->end());
    return out;
}

}  // namespace

int main() {
    const KernelTable* tables[kMaxIsas];
    const int count = supported_kernels(tables);
    const KernelTable* portable = tables[count - 1];
    const int dims[] = {8, 16, 24, 40, 64, 80, 128, 200, 256};
    const int64_t pairs[][2] = {{1, 1}, {1, 130}, {5, 128}, {17, 300}, {67, 257}};
    for (int i = 0; i < count - 1; i++) {
        const int before = failures, first = cases;
        for (int precision = 0; precision < 5; precision++)
            for (int dim : dims)
                for (const auto& pair : pairs)
                    for (int mask = 0; mask < 4; mask++) {
                        const auto p = static_cast<Precision>(precision);
                        const Answer a = attend(tables[i], p, dim, pair[0], pair[1], mask), e = attend(portable, p, dim, pair[0], pair[1], mask);
                        const bool same = a.sums.scores == e.sums.scores && a.sums.products == e.sums.products;
                        compare(tables[i]->name, "attention precision, dim, keys", precision, dim, static_cast<int>(pair[1]), a.out, e.out, same);
                    }
        for (ElementType type : {ElementType::kInt8, ElementType::kInt4, ElementType::kFloat32})
            for (int dim : dims)
                for (int64_t tokens : {1, 3, 12})
                    for (int64_t length : {12, 129, 1500})
                        compare(tables[i]->name, "cache type, dim, length", static_cast<int>(type), dim, static_cast<int>(length),
                                attend_cache(tables[i], type, dim, tokens, length), attend_cache(portable, type, dim, tokens, length), true);
        for (bool int4 : {false, true})
            for (int dim : dims)
                for (int64_t tokens : {1, 7, 70})
                    compare(tables[i]->name, "append int4, dim, tokens", int4, dim, static_cast<int>(tokens), append_rows(tables[i], int4, dim, tokens),
                            append_rows(portable, int4, dim, tokens), true);
        for (int bits : {4, 8, 16, 32})
            for (int rows : {1, 2, 6, 7, 64, 96, 150})
                for (int cols : {8, 24, 64, 96, 200})
                    for (int64_t tokens : {1, 5, 37})
                        for (bool swiglu : {false, true}) {
                            if ((swiglu && rows % 2 != 0) || (bits == 4 && cols % 32 != 0)) continue;
                            compare(tables[i]->name, swiglu ? "swiglu bits, rows, cols" : "linear bits, rows, cols", bits, rows, cols,
                                    run_linear(tables[i], bits, swiglu, rows, cols, tokens), run_linear(portable, bits, swiglu, rows, cols, tokens), true);
                        }
        printf("%s: %d cases against %s, %d differ\n", tables[i]->name, cases - first, portable->name, failures - before);
    }
    printf("%lld bytes left\n", static_cast<long long>(live.load()));
    return failures != 0 || live.load() != 0;
}
