#include "cpu/isa/amx.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace fasttriplet::cpu {
namespace {

// Intel's manual, volume 2, CPUID leaf 7: EDX bits.
constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
// Linux, Documentation/arch/x86/xstate.rst
constexpr long kArchRequestPermission = 0x1023;
constexpr long kTileData = 18;

}  // namespace

bool amx_permitted() {
  static const bool permitted = [] {
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
    if ((edx & kAmxTile) == 0 || (edx & kAmxBf16) == 0) return false;
    return syscall(SYS_arch_prctl, kArchRequestPermission, kTileData) == 0;
  }();
  return permitted;
}

}  // namespace fasttriplet::cpu
#else
namespace fasttriplet::cpu {
bool amx_permitted() { return false; }
}  // namespace fasttriplet::cpu
#endif
