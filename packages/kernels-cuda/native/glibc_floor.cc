// What keeps the addon loadable on systems as old as Node itself allows (glibc 2.28), wherever it was compiled. The linker turns each reference to a newer
// version of these symbols, also those inside the static CUDA runtime, libstdc++ and libgcc, into one to what is below (--wrap, in CMakeLists.txt).
// `node tools/build-prebuilt.mjs kernels-cuda` measures the result.
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// glibc 2.34 moved threads, semaphores and dlopen into libc, and 2.29 took exp's error handling out of it: the first version is the same function. A jump, so that
// the caller stays the caller: dlopen and dlsym look at who asks.
#define INT_FLASH_FIRST(name, version)                                            \
    __asm__(".symver first_" #name "," #name "@GLIBC_" version "\n"               \
            ".text\n"                                                             \
            ".globl __wrap_" #name "\n.hidden __wrap_" #name "\n"                 \
            ".type __wrap_" #name ",@function\n"                                  \
            "__wrap_" #name ": jmp first_" #name "@PLT\n"                         \
            ".size __wrap_" #name ", . - __wrap_" #name "\n")
INT_FLASH_FIRST(__pthread_key_create, "2.2.5");
INT_FLASH_FIRST(dlclose, "2.2.5");
INT_FLASH_FIRST(dlerror, "2.2.5");
INT_FLASH_FIRST(dlmopen, "2.3.4");
INT_FLASH_FIRST(dlopen, "2.2.5");
INT_FLASH_FIRST(dlsym, "2.2.5");
INT_FLASH_FIRST(dlvsym, "2.2.5");
INT_FLASH_FIRST(exp, "2.2.5");
INT_FLASH_FIRST(pthread_condattr_setpshared, "2.2.5");
INT_FLASH_FIRST(pthread_create, "2.2.5");
INT_FLASH_FIRST(pthread_detach, "2.2.5");
INT_FLASH_FIRST(pthread_getspecific, "2.2.5");
INT_FLASH_FIRST(pthread_join, "2.2.5");
INT_FLASH_FIRST(pthread_key_create, "2.2.5");
INT_FLASH_FIRST(pthread_key_delete, "2.2.5");
INT_FLASH_FIRST(pthread_kill, "2.2.5");
INT_FLASH_FIRST(pthread_mutex_trylock, "2.2.5");
INT_FLASH_FIRST(pthread_mutexattr_destroy, "2.2.5");
INT_FLASH_FIRST(pthread_mutexattr_init, "2.2.5");
INT_FLASH_FIRST(pthread_mutexattr_setpshared, "2.2.5");
INT_FLASH_FIRST(pthread_mutexattr_settype, "2.2.5");
INT_FLASH_FIRST(pthread_once, "2.2.5");
INT_FLASH_FIRST(pthread_rwlock_destroy, "2.2.5");
INT_FLASH_FIRST(pthread_rwlock_init, "2.2.5");
INT_FLASH_FIRST(pthread_rwlock_rdlock, "2.2.5");
INT_FLASH_FIRST(pthread_rwlock_timedrdlock, "2.2.5");
INT_FLASH_FIRST(pthread_rwlock_timedwrlock, "2.2.5");
INT_FLASH_FIRST(pthread_rwlock_tryrdlock, "2.2.5");
INT_FLASH_FIRST(pthread_rwlock_trywrlock, "2.2.5");
INT_FLASH_FIRST(pthread_rwlock_unlock, "2.2.5");
INT_FLASH_FIRST(pthread_rwlock_wrlock, "2.2.5");
INT_FLASH_FIRST(pthread_rwlockattr_destroy, "2.2.5");
INT_FLASH_FIRST(pthread_rwlockattr_init, "2.2.5");
INT_FLASH_FIRST(pthread_rwlockattr_setpshared, "2.2.5");
INT_FLASH_FIRST(pthread_setspecific, "2.2.5");
INT_FLASH_FIRST(pthread_spin_destroy, "2.2.5");
INT_FLASH_FIRST(pthread_spin_init, "2.2.5");
INT_FLASH_FIRST(pthread_spin_lock, "2.2.5");
INT_FLASH_FIRST(pthread_spin_trylock, "2.2.5");
INT_FLASH_FIRST(pthread_spin_unlock, "2.2.5");
INT_FLASH_FIRST(sem_destroy, "2.2.5");
INT_FLASH_FIRST(sem_init, "2.2.5");
INT_FLASH_FIRST(sem_post, "2.2.5");
INT_FLASH_FIRST(sem_timedwait, "2.2.5");
INT_FLASH_FIRST(sem_trywait, "2.2.5");
INT_FLASH_FIRST(sem_wait, "2.2.5");

namespace {

/** What glibc 2.35's <dlfcn.h> calls struct dl_find_object, up to what is filled in here; the caller's goes on. */
struct FoundObject {
    unsigned long long flags;
    void *map_start, *map_end;
    struct link_map* link_map;
    void* eh_frame;
};

struct Search {
    uintptr_t address;
    FoundObject* found;
};

/** 1: the object that the address lies in; -1: it has no tables; 0: another object. */
int look_at(dl_phdr_info* info, size_t, void* data) {
    auto& search = *static_cast<Search*>(data);
    uintptr_t start = UINTPTR_MAX, end = 0, eh_frame = 0;
    bool inside = false;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        const auto& segment = info->dlpi_phdr[i];
        const uintptr_t from = info->dlpi_addr + segment.p_vaddr, to = from + segment.p_memsz;
        if (segment.p_type == PT_GNU_EH_FRAME) eh_frame = from;
        if (segment.p_type != PT_LOAD) continue;
        inside |= search.address >= from && search.address < to;
        if (from < start) start = from;
        if (to > end) end = to;
    }
    if (!inside) return 0;
    if (eh_frame == 0) return -1;
    *search.found = {0, reinterpret_cast<void*>(start), reinterpret_cast<void*>(end), nullptr, reinterpret_cast<void*>(eh_frame)};
    return 1;
}

/** Where shared memory of that name lies, into `path`; false for a name that glibc refuses. */
template <size_t kSize> bool path_of_shared_memory(const char* name, char (&path)[kSize]) {
    while (*name == '/') ++name;
    if (*name == '\0' || strchr(name, '/') != nullptr || strlen(name) > 254) {
        errno = EINVAL;
        return false;
    }
    snprintf(path, kSize, "/dev/shm/%s", name);
    return true;
}

}  // namespace

extern "C" {

// libgcc's unwinder asks it for a frame's tables. Before glibc 2.35 it looked through the objects itself, as this does.
__attribute__((visibility("hidden"))) int __wrap__dl_find_object(void* address, FoundObject* found) {
    Search search{reinterpret_cast<uintptr_t>(address), found};
    return dl_iterate_phdr(look_at, &search) == 1 ? 0 : -1;
}

// In librt before glibc 2.34, which Node does not load.
__attribute__((visibility("hidden"))) int __wrap_shm_open(const char* name, int flags, mode_t mode) {
    char path[300];
    return path_of_shared_memory(name, path) ? open(path, flags | O_NOFOLLOW | O_CLOEXEC, mode) : -1;
}
__attribute__((visibility("hidden"))) int __wrap_shm_unlink(const char* name) {
    char path[300];
    return path_of_shared_memory(name, path) ? unlink(path) : -1;
}

// Part of libstdc++'s std::random_device.
__attribute__((visibility("hidden"))) uint32_t __wrap_arc4random() {
    uint32_t bits;
    if (getentropy(&bits, sizeof bits) != 0) __builtin_trap();
    return bits;
}

// libstdc++ counts references without atomics while a process has one thread. Node never has.
extern __attribute__((visibility("hidden"))) char __wrap___libc_single_threaded;
char __wrap___libc_single_threaded = 0;

}  // extern "C"
