#include "host_copy.h"

#include <algorithm>
#include <cstdint>

#include "failure.h"

namespace intflash {
namespace {

constexpr size_t kPieceBytes = size_t{16} << 20;  // a millisecond or two

void copy(const Stream& stream, void* to, const void* from, size_t bytes, cudaMemcpyKind kind, const char* doing) {
    stream.synchronize();
    for (size_t at = 0; at < bytes; at += kPieceBytes)
        check_cuda(cudaMemcpyAsync(static_cast<uint8_t*>(to) + at, static_cast<const uint8_t*>(from) + at, std::min(kPieceBytes, bytes - at), kind, stream.handle()), doing);
    stream.synchronize();
}

}  // namespace

void copy_to_host(const Stream& stream, void* to, const void* from, size_t bytes) { copy(stream, to, from, bytes, cudaMemcpyDeviceToHost, "copy to the host"); }

void copy_from_host(const Stream& stream, void* to, const void* from, size_t bytes) { copy(stream, to, from, bytes, cudaMemcpyHostToDevice, "copy to the device"); }

}  // namespace intflash
