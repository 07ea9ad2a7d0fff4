// Keeps denormal numbers while it lives. Kernels must see the same values on every thread, but torch.set_flush_denormal
// changes the mode of the calling thread only.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#elif defined(__aarch64__)
#include <cstdint>
#endif

namespace fasttriplet::cpu {

#if defined(__x86_64__)
class KeepDenormals {
 public:
  KeepDenormals() : mode_(_mm_getcsr()) {
    if (mode_ & kFlush) _mm_setcsr(mode_ & ~kFlush);
  }
  ~KeepDenormals() {
    if (mode_ & kFlush) _mm_setcsr(mode_);
  }
  KeepDenormals(const KeepDenormals&) = delete;
  KeepDenormals& operator=(const KeepDenormals&) = delete;

 private:
  static constexpr unsigned kFlush = 0x8040;  // flush to zero, denormals are zeros
  unsigned mode_;
};
#elif defined(__aarch64__)
class KeepDenormals {
 public:
  KeepDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(mode_));
    if (mode_ & kFlush) asm volatile("msr fpcr, %0" ::"r"(mode_ & ~kFlush));
  }
  ~KeepDenormals() {
    if (mode_ & kFlush) asm volatile("msr fpcr, %0" ::"r"(mode_));
  }
  KeepDenormals(const KeepDenormals&) = delete;
  KeepDenormals& operator=(const KeepDenormals&) = delete;

 private:
  static constexpr uint64_t kFlush = uint64_t{1} << 24;
  uint64_t mode_;
};
#else
struct KeepDenormals {
  ~KeepDenormals() {}
};
#endif

}  // namespace fasttriplet::cpu
