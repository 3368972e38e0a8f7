#include "cpu_features.h"

#if defined(INT_FLASH_X86)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#if defined(INT_FLASH_HAS_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif
#if defined(INT_FLASH_ARM64) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(INT_FLASH_ARM64) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace int_flash {
namespace {

#if defined(INT_FLASH_X86)
struct Registers {
    uint32_t eax, ebx, ecx, edx;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
    Registers r{0, 0, 0, 0};
#if defined(_MSC_VER)
    int values[4];
    __cpuidex(values, static_cast<int>(leaf), static_cast<int>(subleaf));
    r = {static_cast<uint32_t>(values[0]), static_cast<uint32_t>(values[1]), static_cast<uint32_t>(values[2]), static_cast<uint32_t>(values[3])};
#else
    __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
#endif
    return r;
}

// XCR0: the register states that the operating system saves on a context switch.
uint64_t saved_states() {
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<uint64_t>(high) << 32) | low;
#endif
}

bool has(uint32_t value, int bit) { return (value >> bit & 1u) != 0; }

struct X86Features {
    bool avx2 = false, avx_vnni = false, avx512_vnni = false, amx_int8 = false;
};

#if defined(INT_FLASH_HAS_AMX)
// Linux gives a process the registers of AMX, eight kilobytes a thread, when it asks; it refuses where a signal's stack would be too small, and from then on refuses
// signals' stacks that are too small. There is no way back.
bool may_use_tiles() {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

X86Features detect() {
    X86Features found;
    if (cpuid(0, 0).eax < 7) return found;
    const Registers basic = cpuid(1, 0);
    if (!has(basic.ecx, 27)) return found;  // OSXSAVE: xgetbv may be executed
    const uint64_t states = saved_states();
    constexpr uint64_t kYmm = 0x6, kZmm = 0xe6;
    const Registers extended = cpuid(7, 0);
    const bool fma = has(basic.ecx, 12), f16c = has(basic.ecx, 29), avx = has(basic.ecx, 28);
    found.avx2 = (states & kYmm) == kYmm && avx && fma && f16c && has(extended.ebx, 5);
    const bool has_leaf_1 = extended.eax >= 1;
    found.avx_vnni = found.avx2 && has_leaf_1 && has(cpuid(7, 1).eax, 4);
    const bool f = has(extended.ebx, 16), dq = has(extended.ebx, 17), bw = has(extended.ebx, 30), vl = has(extended.ebx, 31);
    found.avx512_vnni = found.avx2 && (states & kZmm) == kZmm && f && dq && bw && vl && has(extended.ecx, 11);
#if defined(INT_FLASH_HAS_AMX)
    constexpr uint64_t kTiles = 0x60000;
    found.amx_int8 = found.avx512_vnni && (states & kTiles) == kTiles && has(extended.edx, 24) && has(extended.edx, 25) && may_use_tiles();
#endif
    return found;
}
#endif

#if defined(INT_FLASH_ARM64)
bool has_dot_product() {
#if defined(__linux__)
    constexpr unsigned long kAsimdDp = 1ul << 20;
    return (getauxval(AT_HWCAP) & kAsimdDp) != 0;
#elif defined(__APPLE__)
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &value, &size, nullptr, 0) == 0 && value != 0;
#else
    return false;
#endif
}
#endif

}  // namespace

int supported_kernels(const KernelTable* tables[kMaxIsas]) {
    int count = 0;
#if defined(INT_FLASH_X86)
    static const X86Features found = detect();  // once: under a hypervisor each cpuid costs tens of microseconds
#if defined(INT_FLASH_HAS_AMX)
    if (found.amx_int8) tables[count++] = amx_int8_kernels();
#endif
    if (found.avx512_vnni) tables[count++] = avx512_vnni_kernels();
#if defined(INT_FLASH_HAS_AVX_VNNI)
    if (found.avx_vnni) tables[count++] = avx_vnni_kernels();
#endif
    if (found.avx2) tables[count++] = avx2_kernels();
#endif
#if defined(INT_FLASH_ARM64)
    if (has_dot_product()) tables[count++] = neon_dot_kernels();
    tables[count++] = neon_kernels();
#endif
    tables[count++] = portable_kernels();
    return count;
}

}  // namespace int_flash
