//===- WgmmaProduct.cpp - Operands and product of one wgmma ---------------===//
//
// A matrix in shared memory is contiguous along K. A descriptor says where its 16-byte chunks lie
// (PTX ISA, "Matrix descriptor" and "Shared memory layout"): without swizzle, eight rows of one
// chunk are contiguous, the stride offset leads to the next eight rows and the leading offset to
// the next chunk; with a swizzle, a row's chunks are contiguous, rows follow at the swizzle's
// length, the stride offset leads to the next eight rows, and the address bits are permuted last.
//
// Operands are decoded once for the warpgroup. Sums run in the order of K, in f32 with f32
// products, as in MatrixMultiply.cpp.
//
//===----------------------------------------------------------------------===//

#include "Wgmma.h"

#include "Cluster.h"
#include "SparseMetadata.h"
#include "Swizzle.h"

#include <cstring>

using namespace sparseflow;
using namespace sparseflow::emulator;
using Kind = Report::Kind;

static constexpr unsigned chunkBytes = 16, unitsPerChunk = 4, rowsPerWarp = 16;
/// Of A, dense or kept: 32 bytes a row. Of B: as much for a dense product, twice for a sparse one.
static constexpr unsigned chunksOfA = 2, maxChunksOfB = 4, maxColumns = 256, maxK = 64,
                          maxKeptK = 32;

//===----------------------------------------------------------------------===//
// Descriptors
//===----------------------------------------------------------------------===//

namespace {
struct Descriptor {
  uint32_t start, leadingOffset, strideOffset, swizzleBytes;

  explicit Descriptor(uint64_t bits)
      : start(getAddress(bits, 0)), leadingOffset(getAddress(bits, 16)),
        strideOffset(getAddress(bits, 32)), swizzleBytes(getSwizzle(bits >> 62)) {}

  /// Calls `body(row, chunk, offset in shared memory)` for each chunk of a matrix.
  template <typename Body> void forEachChunk(unsigned rows, unsigned chunks, Body body) const {
    for (unsigned row = 0; row != rows; ++row) {
      uint32_t eight = start + row / 8 * strideOffset;
      for (unsigned chunk = 0; chunk != chunks; ++chunk)
        body(row, chunk,
             swizzleBytes
                 ? swizzle(eight + row % 8 * swizzleBytes + chunk * chunkBytes, swizzleBytes)
                 : eight + row % 8 * chunkBytes + chunk * leadingOffset);
    }
  }

private:
  static uint32_t getAddress(uint64_t bits, unsigned shift) {
    return (bits >> shift & 0x3fff) << 4;
  }
  static uint32_t getSwizzle(uint64_t mode) { return mode ? 256u >> mode : 0; }
};
} // namespace

static unsigned getChunksOfB(const WgmmaOp &op) { return op.sparse ? 4 : 2; }

static void checkOperand(Thread &thread, const Warpgroup &group, const PendingWgmma &pending,
                         const Clocks &known, char operand, uint64_t bits, unsigned rows,
                         unsigned chunks) {
  const WgmmaOp &op = *pending.op;
  Block &block = *thread.block;
  SharedMemory &shared = block.getShared();
  constexpr uint64_t knownBits = 0xc000'3fff'3fff'3fffull;
  if (LLVM_UNLIKELY(bits & ~knownBits))
    block.fail(thread, Kind::IllegalOperand,
               "%s with descriptor 0x%016llx of %c; expected only the fields start, leading "
               "offset, stride offset and swizzle (bits 0-13, 16-29, 32-45 and 62-63)",
               op.name.c_str(), static_cast<unsigned long long>(bits), operand);
  Descriptor descriptor(bits);
  uint32_t spanBytes = descriptor.swizzleBytes,
           firstByte = spanBytes ? descriptor.start % spanBytes : 0;
  if (LLVM_UNLIKELY(spanBytes && firstByte + chunks * chunkBytes > spanBytes))
    block.fail(thread, Kind::IllegalOperand,
               "%s reads bytes %u to %u of each row of %c, with a swizzle of %u bytes; expected "
               "one instruction's share of K to lie within the swizzle",
               op.name.c_str(), firstByte, firstByte + chunks * chunkBytes - 1, operand, spanBytes);
  uint64_t base = reinterpret_cast<uint64_t>(shared.getBase());
  descriptor.forEachChunk(rows, chunks, [&](unsigned, unsigned, uint32_t offset) {
    shared.checkRange(thread, base + offset, chunkBytes, chunkBytes, "read", op.name.c_str());
    // A row of B only makes its own column of the product: kernels leave those out that are there
    // for no token, and their columns are not stored.
    if (operand == 'B' && shared.poisonUnwritten(offset, chunkBytes))
      return;
    shared.checkAsyncRead(thread, offset, chunkBytes, known, op.name.c_str());
    shared.recordAsyncRead(offset, chunkBytes, group.component, pending.group + 1);
  });
}

void sparseflow::emulator::checkWgmmaOperands(Thread &thread, const Warpgroup &group,
                                              const PendingWgmma &pending, const Clocks &known) {
  const WgmmaOp &op = *pending.op;
  if (!op.hasRegisterA)
    checkOperand(thread, group, pending, known, 'A', pending.descriptorA, wgmmaRows, chunksOfA);
  checkOperand(thread, group, pending, known, 'B', pending.descriptorB, op.n, getChunksOfB(op));
}

//===----------------------------------------------------------------------===//
// The product
//===----------------------------------------------------------------------===//

/// The operands of one wgmma: too much for a fiber's stack.
struct sparseflow::emulator::WgmmaWorkspace {
  template <typename Number> struct Matrices {
    Number a[wgmmaRows * maxKeptK], b[maxK * maxColumns];
  };
  /// 32-bit units of A, [row][unit], and of B, [unit][column].
  uint32_t unitsA[wgmmaRows * chunksOfA * unitsPerChunk];
  uint32_t unitsB[maxChunksOfB * unitsPerChunk * maxColumns];
  /// Where each kept element of A stands along K, [row][kept].
  uint8_t positions[wgmmaRows * maxKeptK];
  /// The same as numbers: A by [row][kept], B by [k][column].
  union {
    Matrices<float> floats;
    Matrices<int32_t> integers;
  };
};

Warpgroup::Warpgroup() = default;
Warpgroup::~Warpgroup() = default;

/// The first fault of the warpgroup's metadata.
static std::optional<MetadataFault> decodeMetadata(const PendingWgmma &pending,
                                                   uint8_t *positions) {
  const WgmmaOp &op = *pending.op;
  unsigned bits = getBits(op.a);
  for (unsigned warp = 0; warp != 4; ++warp)
    if (auto fault = decodeSparseMetadata(pending.metadata.data() + warp * warpSize, op.k, bits,
                                          /*ordered=*/false, pending.selector,
                                          positions + warp * rowsPerWarp * op.getKeptK())) {
      fault->lane += warp * warpSize;
      fault->row += warp * rowsPerWarp;
      return fault;
    }
  return std::nullopt;
}

void sparseflow::emulator::checkWgmmaMetadata(Block &block, const Warpgroup &group,
                                              const PendingWgmma &pending) {
  uint8_t positions[wgmmaRows * maxKeptK];
  if (auto fault = decodeMetadata(pending, positions))
    block.fail(block.getThread(group.index * warpgroupSize + fault->lane), Kind::IllegalOperand,
               "%s with metadata 0x%x for row %u, elements %u to %u; expected two different "
               "positions",
               pending.op->name.c_str(), fault->nibble, fault->row, fault->firstElement,
               fault->lastElement);
}

static void gather(const uint8_t *shared, const PendingWgmma &pending, WgmmaWorkspace &workspace) {
  const WgmmaOp &op = *pending.op;
  constexpr unsigned unitsOfA = chunksOfA * unitsPerChunk;
  if (op.hasRegisterA) {
    // As the fragments of mma.sync: register r of lane 4g+t is unit t + 4(r/2) of row g + 8(r%2).
    for (unsigned thread = 0; thread != warpgroupSize; ++thread)
      for (unsigned r = 0; r != 4; ++r) {
        unsigned lane = thread % warpSize;
        unsigned row = thread / warpSize * rowsPerWarp + lane / 4 + r % 2 * 8;
        workspace.unitsA[row * unitsOfA + lane % 4 + r / 2 * 4] = pending.registersA[thread][r];
      }
  } else {
    Descriptor(pending.descriptorA)
        .forEachChunk(wgmmaRows, chunksOfA, [&](unsigned row, unsigned chunk, uint32_t offset) {
          std::memcpy(workspace.unitsA + row * unitsOfA + chunk * unitsPerChunk, shared + offset,
                      chunkBytes);
        });
  }
  Descriptor(pending.descriptorB)
      .forEachChunk(op.n, getChunksOfB(op), [&](unsigned column, unsigned chunk, uint32_t offset) {
        uint32_t units[unitsPerChunk];
        std::memcpy(units, shared + offset, chunkBytes);
        for (unsigned unit = 0; unit != unitsPerChunk; ++unit)
          workspace.unitsB[(chunk * unitsPerChunk + unit) * op.n + column] = units[unit];
      });
  if (op.sparse)
    decodeMetadata(pending, workspace.positions);
  else
    for (unsigned row = 0; row != wgmmaRows; ++row)
      for (unsigned i = 0; i != op.k; ++i)
        workspace.positions[row * op.k + i] = i;
}

template <typename Number>
LLVM_ATTRIBUTE_ALWAYS_INLINE static void accumulate(const PendingWgmma &pending, const Number *a,
                                                    const Number *b, const uint8_t *positions) {
  unsigned columns = pending.op->n, kept = pending.op->getKeptK();
  for (unsigned row = 0; row != wgmmaRows; ++row) {
    uint32_t *result = pending.tile->values.data() + row * columns;
    Number sums[maxColumns];
    if (pending.addsToTile)
      std::memcpy(sums, result, columns * sizeof(Number));
    else
      std::memset(sums, 0, columns * sizeof(Number));
    for (unsigned i = 0; i != kept; ++i) {
      Number factor = a[row * kept + i];
      const Number *bRow = b + positions[row * kept + i] * columns;
      for (unsigned column = 0; column != columns; ++column)
        sums[column] += factor * bRow[column];
    }
    std::memcpy(result, sums, columns * sizeof(Number));
  }
}

LLVM_ATTRIBUTE_ALWAYS_INLINE static void multiply(const PendingWgmma &pending,
                                                  WgmmaWorkspace &workspace) {
  const WgmmaOp &op = *pending.op;
  constexpr unsigned unitsA = wgmmaRows * chunksOfA * unitsPerChunk;
  unsigned unitsB = getChunksOfB(op) * unitsPerChunk;
  if (op.isInteger) {
    auto &[a, b] = workspace.integers;
    decodeIntegers(op.a, workspace.unitsA, unitsA, 1, a);
    decodeIntegers(op.b, workspace.unitsB, unitsB, op.n, b);
    // Wraps, hence unsigned.
    return accumulate(pending, reinterpret_cast<const uint32_t *>(a),
                      reinterpret_cast<const uint32_t *>(b), workspace.positions);
  }
  auto &[a, b] = workspace.floats;
  decodeFloats(op.a, workspace.unitsA, unitsA, 1, a);
  decodeFloats(op.b, workspace.unitsB, unitsB, op.n, b);
  if (op.isNegated)
    for (unsigned i = 0; i != wgmmaRows * op.getKeptK(); ++i)
      a[i] = -a[i];
  accumulate(pending, a, b, workspace.positions);
}

static void multiplyBaseline(const PendingWgmma &pending, WgmmaWorkspace &workspace) {
  multiply(pending, workspace);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void multiplyAvx2(const PendingWgmma &pending,
                                                         WgmmaWorkspace &workspace) {
  multiply(pending, workspace);
}
#endif

/// Neither variant fuses a product with its sum, so they agree to the last bit.
void sparseflow::emulator::executeWgmma(Block &block, Warpgroup &group,
                                        const PendingWgmma &pending) {
  if (!group.workspace)
    group.workspace = std::make_unique<WgmmaWorkspace>();
  WgmmaWorkspace &workspace = *group.workspace;
  gather(block.getShared().getBase(), pending, workspace);
#if defined(__x86_64__)
  static const bool hasAvx2 = __builtin_cpu_supports("avx2");
  if (hasAvx2)
    return multiplyAvx2(pending, workspace);
#endif
  multiplyBaseline(pending, workspace);
}
