#include "scratch.h"

#include <cstdlib>
#include <new>
#if defined(_MSC_VER)
#include <malloc.h>
#endif

namespace int_flash {
namespace {

struct Holder {
    void* memory = nullptr;
    ~Holder() {
#if defined(_MSC_VER)
        _aligned_free(memory);
#else
        free(memory);
#endif
    }
};

thread_local Holder holder;

}  // namespace

Scratch* thread_scratch() {
    if (!holder.memory) {
#if defined(_MSC_VER)
        holder.memory = _aligned_malloc(sizeof(Scratch), alignof(Scratch));
#else
        if (posix_memalign(&holder.memory, alignof(Scratch), sizeof(Scratch)) != 0) holder.memory = nullptr;
#endif
        if (holder.memory) new (holder.memory) Scratch;
    }
    return static_cast<Scratch*>(holder.memory);
}

}  // namespace int_flash
