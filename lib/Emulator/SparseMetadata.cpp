//===- SparseMetadata.cpp - Where kept elements stand ---------------------===//

#include "SparseMetadata.h"

using namespace sparseflow::emulator;

static constexpr unsigned rows = 16, quads = 8, lanesOfQuad = 4;

/// For tf32 the group is two elements of 32 bits, each seen as two halves.
static unsigned getGroups(unsigned k, unsigned elementBits) {
  return (elementBits == 32 ? k * 2 : k) / 4;
}

/// The lanes of a quad that hold metadata: all four, a pair, or one.
static unsigned getSources(unsigned k, unsigned elementBits) {
  return rows * getGroups(k, elementBits) * 4 / 32 / quads;
}

unsigned sparseflow::emulator::getSelectorChoices(unsigned k, unsigned elementBits) {
  return lanesOfQuad / getSources(k, elementBits);
}

std::optional<MetadataFault>
sparseflow::emulator::decodeSparseMetadata(const uint32_t *words, unsigned k, unsigned elementBits,
                                           bool ordered, uint32_t selector, uint8_t *positions) {
  bool isByte = elementBits == 8, isTF32 = elementBits == 32;
  unsigned groups = getGroups(k, elementBits), sources = getSources(k, elementBits);
  unsigned groupSize = isTF32 ? 2 : 4;
  for (unsigned row = 0; row != rows; ++row) {
    for (unsigned group = 0; group != groups; ++group) {
      unsigned source, shift;
      if (isByte) {
        // 8 groups in a register: rows g and g+8 alternate, then the next 32 elements.
        source = (row / 8) + 2 * (group / 8);
        shift = group % 8 * 4;
      } else {
        // 4 groups of row g and 4 of row g+8 in a register.
        source = group / 4;
        shift = group % 4 * 4 + row / 8 * 16;
      }
      unsigned lane = row % 8 * lanesOfQuad + selector * sources + source;
      uint32_t nibble = words[lane] >> shift & 15;
      unsigned first = nibble & 3, second = nibble >> 2;
      bool legal =
          isTF32 ? nibble == 0x4 || nibble == 0xe : (ordered ? first < second : first != second);
      if (!legal)
        return MetadataFault{lane, row, group * groupSize, group * groupSize + groupSize - 1,
                             nibble};
      if (isTF32) {
        *positions++ = group * 2 + first / 2;
      } else {
        *positions++ = group * 4 + first;
        *positions++ = group * 4 + second;
      }
    }
  }
  return std::nullopt;
}
