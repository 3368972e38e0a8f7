#include "attention_spec.h"

#include <cmath>

namespace int_flash {
namespace {

bool is_finite(const Operand& operand, int64_t element, double* value) {
    if (operand.type == ElementType::kFloat32) {
        *value = static_cast<const float*>(operand.data)[element];
        return std::isfinite(*value);
    }
    const uint16_t bits = static_cast<const uint16_t*>(operand.data)[element];
    const bool half = operand.type == ElementType::kFloat16;
    const uint16_t exponent = half ? 0x7c00 : 0x7f80;
    if ((bits & exponent) != exponent) return true;
    const bool nan = (bits & static_cast<uint16_t>(~exponent & 0x7fff)) != 0;
    *value = nan ? NAN : (bits & 0x8000) ? -INFINITY : INFINITY;
    return false;
}

}  // namespace

// The hot loops only notice that something is wrong; this finds the first culprit, in the order a reader would look.
bool report_nonfinite(const AttentionSpec& spec, const Sequence* sequences, Failure* failure) {
    const Operand* operands[] = {&spec.query, &spec.key, &spec.value};
    const char* names[] = {"query", "key", "value"};
    for (int i = 0; i < 3; i++) {
        const Operand& operand = *operands[i];
        if (operand.type == ElementType::kInt8) continue;
        const int heads = i == 0 ? spec.heads : spec.kv_heads, dim = i == 2 ? spec.head_dim_v : spec.head_dim;
        int64_t worst = -1;
        double value = 0;
        for (int64_t s = 0; s < spec.sequences; s++) {
            const int64_t start = i == 0 ? sequences[s].q_start : sequences[s].k_start, count = i == 0 ? sequences[s].q_len : sequences[s].k_len;
            for (int h = 0; h < heads; h++) {
                for (int64_t n = start; n < start + count; n++) {
                    const int64_t row = operand.strides.at(s, h, n);
                    for (int64_t element = row; element < row + dim; element++) {
                        double found;
                        if (is_finite(operand, element, &found) || (worst >= 0 && element >= worst)) continue;
                        worst = element;
                        value = found;
                    }
                }
            }
        }
        if (worst >= 0) {
            const char* what = std::isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
            return failure->set("ERR_NONFINITE", "Expected %s to hold finite numbers, got %s at element %lld", names[i], what, static_cast<long long>(worst));
        }
    }
    return failure->set("ERR_NONFINITE", "Expected finite numbers, got NaN or Infinity");
}

}  // namespace int_flash
