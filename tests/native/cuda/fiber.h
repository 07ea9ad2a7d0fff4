// Stacks that take turns on one thread of the host.
#pragma once

#include <cstddef>
#include <memory>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace fasttriplet::cuda::shim {

// A place to come back to: on x86-64 the end of a stack that has the registers, elsewhere ucontext's copy of them; and
// what the address sanitizer must be told of that stack.
struct Context {
#if defined(__x86_64__)
  void* top = nullptr;
#else
  ucontext_t registers;
#endif
  const void* bottom = nullptr;
  size_t size = 0;
  void* fake_stack = nullptr;
};

class Fiber {
 public:
  Fiber();
  // The next switch to it calls body(argument), which must never return.
  void start(void (*body)(void*), void* argument);

  Context context;

 private:
#if !defined(__x86_64__)
  static void begin(unsigned high, unsigned low);
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
#endif
  std::unique_ptr<char[]> stack_;
};

// The first thing a fiber's body does: `from` is what it was switched to from.
void entered_fiber(Context& from);

// Leaves `from` and goes on at `to`; returns when something switches to `from`. Nothing comes back to a context that is
// `finished`.
void switch_context(Context& from, Context& to, bool finished = false);

}  // namespace fasttriplet::cuda::shim
