//===- SparseMetadata.h - Where kept elements stand -------------*- C++ -*-===//
//
// The metadata of sixteen rows of a sparse A, as the lanes of a warp hold it: two positions of two
// bits for each group of four elements. mma.sp and wgmma.mma_async.sp have them in the same place
// (PTX ISA, "Matrix fragments for sparse mma.m16n8k32" and "... m16n8k64"; a warp of a warpgroup
// holds its own sixteen rows).
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_EMULATOR_SPARSEMETADATA_H
#define SPARSEFLOW_LIB_EMULATOR_SPARSEMETADATA_H

#include <cstdint>
#include <optional>

namespace sparseflow::emulator {

/// A nibble that means nothing, in the word of `lane`.
struct MetadataFault {
  unsigned lane, row, firstElement, lastElement;
  uint32_t nibble;
};

/// The number of selectors: how many sets of lanes of a quad could hold the metadata.
unsigned getSelectorChoices(unsigned k, unsigned elementBits);

/// Fills positions[16][k / 2], the places along K of the kept elements, from a word of each of 32
/// lanes. `ordered` asks for ascending positions within a group.
std::optional<MetadataFault> decodeSparseMetadata(const uint32_t *words, unsigned k,
                                                  unsigned elementBits, bool ordered,
                                                  uint32_t selector, uint8_t *positions);

} // namespace sparseflow::emulator

#endif // SPARSEFLOW_LIB_EMULATOR_SPARSEMETADATA_H
