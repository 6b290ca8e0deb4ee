//===- Swizzle.h - The swizzles of the copy engine and wgmma ----*- C++ -*-===//

#ifndef SPARSEFLOW_LIB_EMULATOR_SWIZZLE_H
#define SPARSEFLOW_LIB_EMULATOR_SWIZZLE_H

#include <cstdint>

namespace sparseflow::emulator {

/// Where the byte at `offset` of shared memory lies under a swizzle of 32, 64 or 128 bytes: address
/// bits 4 to 6 (as many as the swizzle has 16-byte chunks) are XORed with bits 7 to 9.
constexpr uint32_t swizzle(uint32_t offset, uint32_t swizzleBytes) {
  uint32_t chunks = swizzleBytes / 16;
  return chunks < 2 ? offset : offset ^ ((offset >> 7 & (chunks - 1)) << 4);
}

} // namespace sparseflow::emulator

#endif // SPARSEFLOW_LIB_EMULATOR_SWIZZLE_H
