#include "source.h"

#include "failure.h"

namespace intflash {

const void* source_on_device(Stream& stream, const Source& source, std::vector<std::shared_ptr<Buffer>>& held) {
    if (!source.present()) return nullptr;
    if (source.buffer) {
        held.push_back(source.buffer);
        return source.buffer->as<uint8_t>() + source.offset;
    }
    const auto buffer = held.emplace_back(stream.allocate(source.bytes));
    if (source.bytes > 0) check_cuda(cudaMemcpyAsync(buffer->as(), source.host(), source.bytes, cudaMemcpyHostToDevice, stream.handle()), "copy an input to the device");
    return buffer->as();
}

}  // namespace intflash
