//===- Fiber.h - Stacks to switch between -----------------------*- C++ -*-===//
//
// One fiber for each GPU thread. On x86-64 a switch saves the callee-saved registers by hand, which
// is several times faster than ucontext (that one makes a system call for the signal mask);
// elsewhere ucontext serves. A fiber may be abandoned at any switch: its stack is simply started
// anew.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_EMULATOR_FIBER_H
#define SPARSEFLOW_LIB_EMULATOR_FIBER_H

#include <cstddef>
#include <cstdint>
#include <memory>

#include "llvm/Support/Compiler.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if LLVM_ADDRESS_SANITIZER_BUILD
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
/// Saves the callee-saved registers and the stack pointer to `*from`, and continues at `to`.
extern "C" void sparseflow_emulator_switch(void **from, void *to);
#endif

namespace sparseflow::emulator {

/// Memory for the stacks of all fibers of a block, each with a guard page below it.
class FiberStacks {
public:
  ~FiberStacks();
  /// Makes room for `count` stacks. Returns false if the system has no memory left.
  bool reserve(unsigned count);
  char *getTop(unsigned index) const { return base + (index + 1) * stride; }
  char *getBottom(unsigned index) const { return getTop(index) - stackBytes; }

private:
  /// Untouched pages cost nothing, so this only has to be ample.
  static constexpr size_t stackBytes = 256 * 1024;
  static constexpr size_t guardBytes = 4096;
  static constexpr size_t stride = stackBytes + guardBytes;

  char *base = nullptr;
  unsigned capacity = 0;
};

class Fiber {
public:
  using Entry = void (*)(void *argument);

  /// (Re)starts the fiber at `entry`, which must never return.
  void start(char *stackBottom, char *stackTop, Entry entry, void *argument);

  /// Continues `to`; the call returns when something switches back to `from`.
  static void switchTo(Fiber &from, Fiber &to) {
#if LLVM_ADDRESS_SANITIZER_BUILD
    // The sanitizer has to know on which stack it is.
    __sanitizer_start_switch_fiber(&from.fakeStack, to.bottom, to.size);
#endif
#if defined(__x86_64__)
    sparseflow_emulator_switch(&from.stackPointer, to.stackPointer);
#else
    swapcontext(&from.context, &to.context);
#endif
    from.finishSwitch();
  }
  /// The first thing that an entry does.
  void finishSwitch() {
#if LLVM_ADDRESS_SANITIZER_BUILD
    __sanitizer_finish_switch_fiber(fakeStack, nullptr, nullptr);
#endif
  }
  /// Makes this the fiber of the stack that the caller runs on.
  void adoptCurrentStack();

private:
  /// Tells the address sanitizer, if there is one, where the fiber's stack lies.
  void adoptStack(char *stackBottom, char *stackTop);

#if defined(__x86_64__)
  void *stackPointer = nullptr;
#else
  ucontext_t context;
#endif
#if LLVM_ADDRESS_SANITIZER_BUILD
  void *fakeStack = nullptr;
  const void *bottom = nullptr;
  size_t size = 0;
#endif
};

} // namespace sparseflow::emulator

#endif // SPARSEFLOW_LIB_EMULATOR_FIBER_H
