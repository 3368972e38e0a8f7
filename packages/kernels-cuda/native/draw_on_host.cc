#include "draw_on_host.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace intflash {

int draw_on_host(const std::vector<float>& logits, const DrawRules& rules) {
    const float highest = *std::max_element(logits.begin(), logits.end());
    struct Candidate {
        int id;
        float logit;
        double weight;
    };
    std::vector<Candidate> kept;
    double mass = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
        const double weight = logits[i] == highest ? 1 : std::exp((static_cast<double>(logits[i]) - static_cast<double>(highest)) / rules.temperature);
        if (!(weight > 0)) continue;
        kept.push_back({static_cast<int>(i), logits[i], weight});
        mass += weight;
    }
    if (rules.top_k > 0 || rules.top_p < 1) std::sort(kept.begin(), kept.end(), [](const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; });
    const auto total = [&] {
        double sum = 0;
        for (const Candidate& candidate : kept) sum += candidate.weight;
        return sum;
    };
    if (rules.top_k > 0 && kept.size() > static_cast<size_t>(rules.top_k)) {
        kept.resize(static_cast<size_t>(rules.top_k));
        mass = total();
    }
    if (rules.top_p < 1) {
        double sum = 0;
        size_t count = 0;
        while (count < kept.size() && sum < rules.top_p * mass) sum += kept[count++].weight;
        kept.resize(std::max<size_t>(count, 1));
    }
    kept.erase(std::remove_if(kept.begin(), kept.end(), [&](const Candidate& candidate) { return candidate.weight < rules.min_p; }), kept.end());
    double rest = rules.uniform * total();
    for (const Candidate& candidate : kept)
        if ((rest -= candidate.weight) < 0) return candidate.id;
    return kept.back().id;
}

}  // namespace intflash
