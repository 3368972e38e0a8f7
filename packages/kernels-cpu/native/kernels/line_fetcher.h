// Rows of memory brought nearer one cache line at a time, between other work: nothing waits for them, and the bus is never flooded.
#pragma once
#include "../arithmetic.h"
#include "../kernel_table.h"

namespace int_flash {
namespace {

template <bool kWrite>
class LineFetcher {
public:
    explicit LineFetcher(const RowsAhead& rows) : rows_(rows), left_(rows.row_bytes > 0 ? rows.count : 0) {}

    void step() {
        if (left_ == 0) return;
        fetch_ahead<kWrite>(rows_.data + at_, 1);
        at_ += kLineBytes;
        if (at_ < rows_.row_bytes) return;
        at_ = 0;
        rows_.data += rows_.stride;
        left_--;
    }

private:
    static constexpr int kLineBytes = 64;
    RowsAhead rows_;
    int left_, at_ = 0;
};

}  // namespace
}  // namespace int_flash
