//===- Fiber.cpp - Stacks to switch between -------------------------------===//

#include "Fiber.h"

#include <sys/mman.h>

#if LLVM_ADDRESS_SANITIZER_BUILD
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#endif

using namespace sparseflow::emulator;

FiberStacks::~FiberStacks() {
  if (base)
    munmap(base, capacity * stride);
}

bool FiberStacks::reserve(unsigned count) {
  if (count <= capacity)
    return true;
  if (base)
    munmap(base, capacity * stride);
  base = nullptr;
  capacity = 0;
  void *memory = mmap(nullptr, count * stride, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    return false;
  base = static_cast<char *>(memory);
  capacity = count;
  for (unsigned i = 0; i != count; ++i)
    mprotect(base + i * stride, guardBytes, PROT_NONE);
  return true;
}

void Fiber::adoptStack(char *stackBottom, char *stackTop) {
#if LLVM_ADDRESS_SANITIZER_BUILD
  // An abandoned stack is still marked with the frames that it held.
  __asan_unpoison_memory_region(stackBottom, stackTop - stackBottom);
  bottom = stackBottom;
  size = stackTop - stackBottom;
  fakeStack = nullptr;
#endif
}

void Fiber::adoptCurrentStack() {
#if LLVM_ADDRESS_SANITIZER_BUILD
  pthread_attr_t attributes;
  void *lowest = nullptr;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &lowest, &size);
  pthread_attr_destroy(&attributes);
  bottom = lowest;
  fakeStack = nullptr;
#endif
}

#if defined(__x86_64__)

// The System V callee-saved registers; floating-point control words never change in a kernel.
asm(R"(
  .text
  .p2align 4
  .globl sparseflow_emulator_switch
  .hidden sparseflow_emulator_switch
  .type sparseflow_emulator_switch, @function
sparseflow_emulator_switch:
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
  retq
  .size sparseflow_emulator_switch, .-sparseflow_emulator_switch

  .p2align 4
  .globl sparseflow_emulator_start
  .hidden sparseflow_emulator_start
  .type sparseflow_emulator_start, @function
sparseflow_emulator_start:
  .cfi_startproc
  .cfi_undefined rip
  movq %r13, %rdi
  callq *%r12
  ud2
  .cfi_endproc
  .size sparseflow_emulator_start, .-sparseflow_emulator_start
)");

extern "C" void sparseflow_emulator_start();

void Fiber::start(char *stackBottom, char *stackTop, Entry entry, void *argument) {
  adoptStack(stackBottom, stackTop);
  // What sparseflow_emulator_switch pops, from the lowest address: r15, r14, r13, r12, rbx, rbp,
  // return address. The start routine is entered with an aligned stack, so that its call aligns the
  // entry.
  void **frame = reinterpret_cast<void **>(reinterpret_cast<uintptr_t>(stackTop) & ~uintptr_t(63));
  *--frame = nullptr;
  *--frame = nullptr;
  *--frame = reinterpret_cast<void *>(&sparseflow_emulator_start);
  *--frame = nullptr;
  *--frame = nullptr;
  *--frame = reinterpret_cast<void *>(entry);
  *--frame = argument;
  *--frame = nullptr;
  *--frame = nullptr;
  stackPointer = frame;
}

#else

static void startContext(unsigned entryHigh, unsigned entryLow, unsigned argumentHigh,
                         unsigned argumentLow) {
  uintptr_t entry = (uintptr_t(entryHigh) << 32) | entryLow;
  uintptr_t argument = (uintptr_t(argumentHigh) << 32) | argumentLow;
  reinterpret_cast<Fiber::Entry>(entry)(reinterpret_cast<void *>(argument));
}

void Fiber::start(char *stackBottom, char *stackTop, Entry entry, void *argument) {
  adoptStack(stackBottom, stackTop);
  getcontext(&context);
  context.uc_stack.ss_sp = stackBottom;
  context.uc_stack.ss_size = stackTop - stackBottom;
  context.uc_link = nullptr;
  uint64_t entryBits = reinterpret_cast<uintptr_t>(entry);
  uint64_t argumentBits = reinterpret_cast<uintptr_t>(argument);
  makecontext(&context, reinterpret_cast<void (*)()>(&startContext), 4, unsigned(entryBits >> 32),
              unsigned(entryBits), unsigned(argumentBits >> 32), unsigned(argumentBits));
}

#endif
