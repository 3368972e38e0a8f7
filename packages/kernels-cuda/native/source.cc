#include "source.h"

#include "host_copy.h"

namespace intflash {

const void* source_on_device(Stream& stream, const Source& source, std::vector<std::shared_ptr<Buffer>>& held) {
    if (!source.present()) return nullptr;
    if (source.buffer) {
        held.push_back(source.buffer);
        return source.buffer->as<uint8_t>() + source.offset;
    }
    const auto buffer = held.emplace_back(stream.allocate(source.bytes));
    copy_from_host(stream, buffer->as(), source.host(), source.bytes);
    return buffer->as();
}

}  // namespace intflash
