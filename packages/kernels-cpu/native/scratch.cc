#include "scratch.h"

#include <new>

#include "owned_memory.h"

namespace int_flash {
namespace {

struct Holder {
    void* memory = nullptr;
    ~Holder() { free_aligned_memory(memory); }
};

thread_local Holder holder;

}  // namespace

Scratch* thread_scratch() {
    if (!holder.memory) {
        holder.memory = aligned_memory(alignof(Scratch), sizeof(Scratch));
        if (holder.memory) new (holder.memory) Scratch;
    }
    return static_cast<Scratch*>(holder.memory);
}

}  // namespace int_flash
