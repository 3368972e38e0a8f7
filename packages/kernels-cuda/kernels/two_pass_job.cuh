// Which block of two_pass_quantize.cu does what.
#pragma once
#include "two_pass_quantize.h"

namespace intflash {

struct TwoPassJob {
    TwoPassRequest request;
    int32_t heads;           // of all sequences
    int32_t tiles;           // of a head
    int32_t gather, encode;  // blocks of a head
    int32_t lag;             // by how many heads the second pass comes after the first
    bool backwards;          // the second pass reads a head from its end
};

/** A block's work. */
struct Part {
    bool gathers;
    int32_t head, item;
};

/** First `lag` heads are gathered, then one is gathered as another is encoded, then `lag` heads are encoded. */
template <Statistic kStatistic> __device__ __forceinline__ Part part_of(const TwoPassJob& job, int block) {
    const auto encode = [&](int head, int item) { return Part{false, head, job.backwards ? job.encode - 1 - item : item}; };
    const int before = job.lag * job.gather, per_head = job.gather + job.encode, between = (job.heads - job.lag) * per_head;
    if (block < before) return {true, block / job.gather, block % job.gather};
    block -= before;
    if (block < between) {
        const int step = block / per_head, item = block - step * per_head;
        return item < job.gather ? Part{true, job.lag + step, item} : encode(step, item - job.gather);
    }
    block -= between;
    const int head = block / job.encode;
    return encode(kStatistic == Statistic::kMaximum ? job.heads - 1 - head : job.heads - job.lag + head, block % job.encode);
}

}  // namespace intflash
