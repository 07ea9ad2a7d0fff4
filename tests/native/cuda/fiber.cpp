#include "cuda/fiber.h"

#include <cstdint>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace fasttriplet::cuda::shim {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 * 1024;
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif

}  // namespace

#if defined(__x86_64__)
// What a call preserves goes onto the stack, the stacks are exchanged, and the other's comes back: 5 ns, where
// swapcontext asks the kernel twice.
extern "C" void fasttriplet_switch_stacks(void** from, void* to);
asm(R"(
.text
.globl fasttriplet_switch_stacks
.hidden fasttriplet_switch_stacks
.type fasttriplet_switch_stacks, @function
fasttriplet_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fasttriplet_switch_stacks, .-fasttriplet_switch_stacks
)");

// Below the saved registers lies where to go on: here, with the body and its argument in rbx and r12.
extern "C" void fasttriplet_begin_fiber();
asm(R"(
.text
.globl fasttriplet_begin_fiber
.hidden fasttriplet_begin_fiber
.type fasttriplet_begin_fiber, @function
fasttriplet_begin_fiber:
  movq %r12, %rdi
  callq *%rbx
  ud2
.size fasttriplet_begin_fiber, .-fasttriplet_begin_fiber
)");
#endif

Fiber::Fiber() : stack_(new char[kStackBytes]) {
  context.bottom = stack_.get();
  context.size = kStackBytes;
}

// What ran on the stack before may have been left in the middle.
static void forget_frames([[maybe_unused]] const Context& context) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(context.bottom, context.size);
#endif
}

#if defined(__x86_64__)
void Fiber::start(void (*body)(void*), void* argument) {
  forget_frames(context);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(stack_.get()) + kStackBytes) / 16 * 16;
  uint64_t* const top = reinterpret_cast<uint64_t*>(end) - 7;  // six registers and the address
  std::memset(top, 0, 7 * sizeof *top);
  top[3] = reinterpret_cast<uint64_t>(argument);  // r12
  top[4] = reinterpret_cast<uint64_t>(body);      // rbx
  top[6] = reinterpret_cast<uint64_t>(&fasttriplet_begin_fiber);
  context.top = top;
}
#else
void Fiber::begin(unsigned high, unsigned low) {
  const Fiber* const fiber = reinterpret_cast<Fiber*>(static_cast<uintptr_t>(high) << 32 | low);
  fiber->body_(fiber->argument_);
}

void Fiber::start(void (*body)(void*), void* argument) {
  forget_frames(context);
  body_ = body;
  argument_ = argument;
  getcontext(&context.registers);
  context.registers.uc_stack.ss_sp = stack_.get();
  context.registers.uc_stack.ss_size = kStackBytes;
  context.registers.uc_link = nullptr;
  const uintptr_t address = reinterpret_cast<uintptr_t>(this);
  makecontext(&context.registers, reinterpret_cast<void (*)()>(begin), 2, static_cast<unsigned>(address >> 32),
              static_cast<unsigned>(address));
}
#endif

void entered_fiber([[maybe_unused]] Context& from) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &from.bottom, &from.size);
#endif
}

void switch_context(Context& from, Context& to, bool finished) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(finished ? nullptr : &from.fake_stack, to.bottom, to.size);
#else
  (void)finished;
#endif
#if defined(__x86_64__)
  fasttriplet_switch_stacks(&from.top, to.top);
#else
  swapcontext(&from.registers, &to.registers);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

}  // namespace fasttriplet::cuda::shim
