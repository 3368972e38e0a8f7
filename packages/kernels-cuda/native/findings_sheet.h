// What kernels noticed about the data, collected from many operations in one copy.
#pragma once
#include <memory>

#include "buffer.h"
#include "landing.h"
#include "quantize.h"

namespace intflash {

class FindingsSheet {
public:
    /** @param capacity operations that fit. On the worker thread of `home`. */
    FindingsSheet(Stream& home, int capacity);

    /** The place of one more operation. @throws Failure when the sheet is full */
    int take();
    int used() const { return used_; }
    /** Of operations that came to nothing: places from `first` on are free again. */
    void take_back(int first) { used_ = first; }
    Findings* on_device(int place) const { return buffer_->as<Findings>() + place; }
    const Findings& on_host(int place) const { return host_.as<Findings>()[place]; }

    /** Before the operations' launches. */
    void clear(cudaStream_t stream) const;
    /** After them: copies everything to the host, where it is once the stream was waited for. */
    void collect(cudaStream_t stream);

private:
    size_t used_bytes() const { return static_cast<size_t>(used_) * sizeof(Findings); }

    std::shared_ptr<Buffer> buffer_;
    Landing host_;
    const int capacity_;
    int used_ = 0;
};

}  // namespace intflash
