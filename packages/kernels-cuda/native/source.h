// Where an input of a call lies.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "buffer.h"
#include "pinned_memory.h"
#include "stream.h"

namespace intflash {

/** Memory of the caller: on the device already, or on the host, to be copied. */
struct Source {
    std::shared_ptr<Buffer> buffer;              // on the device, or …
    std::shared_ptr<PinnedMemory> pinned;        // … page-locked, or …
    std::shared_ptr<std::vector<uint8_t>> copy;  // … a copy on the host, or …
    const void* borrowed = nullptr;              // … the caller's own memory, while the caller waits
    size_t bytes = 0, offset = 0;                // offset: into `buffer` or `pinned`

    bool present() const { return buffer || pinned || copy || borrowed != nullptr; }
    const void* host() const { return pinned ? pinned->data() + offset : copy ? copy->data() : borrowed; }
};

/** Where `source` lies on the device, a copy where it came from the host; null without one. What it lies in goes to `held`. On the worker thread of `stream`. @throws Failure */
const void* source_on_device(Stream& stream, const Source& source, std::vector<std::shared_ptr<Buffer>>& held);

}  // namespace intflash
