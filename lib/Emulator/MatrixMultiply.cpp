//===- MatrixMultiply.cpp - mma.sync and mma.sp ---------------------------===//
//
// Every m16n8 shape has the same fragments, once elements are seen in 32-bit units along K:
// register r of A in lane 4g+t is unit t + 4(r/2) of row g + 8(r%2), register r of B is unit t + 4r
// of column g. The sparse forms are the same over the kept half of A (PTX ISA, "Matrix fragments
// for mma.m16n8k16" and "... for sparse mma.m16n8k32"). So one gather serves all types, and the
// product is a loop over rows, kept elements and eight columns that the host's vector unit takes at
// once.
//
// Sums run in the order of K, from the accumulator on, in f32 with f32 products (exact for the 8-
// and 16-bit types and tf32), so that the same input always gives the same bits.
//
//===----------------------------------------------------------------------===//

#include "Elements.h"
#include "Operations.h"
#include "SparseMetadata.h"

#include "sparseflow/Support/NumericTypes.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/bit.h"
#include "llvm/Support/Compiler.h"

#include <cstring>
#include <optional>

using namespace sparseflow;
using namespace sparseflow::emulator;
using Kind = Report::Kind;

namespace {

enum class Accumulator : uint32_t { F32, F16, S32 };

constexpr unsigned rows = 16, columns = 8, maxK = 64;

/// What CollectiveOp::traits holds for this family.
struct Shape {
  unsigned k;
  Element a, b;
  Accumulator accumulator;
  bool saturate;
  bool sparse;
  /// mma.sp::ordered_metadata: positions within a group ascend.
  bool ordered;

  unsigned getKeptK() const { return sparse ? k / 2 : k; }
};

} // namespace

static Shape getShape(const CollectiveOp &op) {
  const auto &traits = op.traits;
  return {traits[0],
          static_cast<Element>(traits[1]),
          static_cast<Element>(traits[2]),
          static_cast<Accumulator>(traits[3]),
          traits[4] != 0,
          traits[5] != 0,
          traits[6] != 0};
}

//===----------------------------------------------------------------------===//
// The product
//===----------------------------------------------------------------------===//

/// Where each kept element of A stands along K. `count` is the number of kept elements of a row.
template <typename Number>
LLVM_ATTRIBUTE_ALWAYS_INLINE static void accumulate(const Number *a, const Number *b,
                                                    const uint8_t *positions, unsigned count,
                                                    Number (*result)[columns]) {
  for (unsigned row = 0; row != rows; ++row) {
    Number sums[columns];
    std::memcpy(sums, result[row], sizeof(sums));
    for (unsigned kept = 0; kept != count; ++kept) {
      Number factor = a[row * count + kept];
      const Number *bRow = b + positions[row * count + kept] * columns;
      for (unsigned column = 0; column != columns; ++column)
        sums[column] += factor * bRow[column];
    }
    std::memcpy(result[row], sums, sizeof(sums));
  }
}

namespace {
/// One warp's operands, by row and column.
struct Operands {
  /// Units of A by row, and of B by unit and column.
  uint32_t a[rows * maxK / 2];
  uint32_t b[maxK * columns];
  uint8_t positions[rows * maxK];
  union {
    float floats[rows][columns];
    int32_t integers[rows][columns];
  };
};
} // namespace

LLVM_ATTRIBUTE_ALWAYS_INLINE static void multiply(const Shape &shape, Operands &operands) {
  unsigned keptK = shape.getKeptK();
  unsigned aUnits = rows * keptK * getBits(shape.a) / 32, bUnits = shape.k * getBits(shape.b) / 32;
  if (shape.accumulator == Accumulator::S32) {
    int32_t a[rows * maxK], b[maxK * columns];
    decodeIntegers(shape.a, operands.a, aUnits, 1, a);
    decodeIntegers(shape.b, operands.b, bUnits, columns, b);
    if (!shape.saturate)
      // Wraps, hence unsigned.
      return accumulate<uint32_t>(reinterpret_cast<uint32_t *>(a), reinterpret_cast<uint32_t *>(b),
                                  operands.positions, keptK,
                                  reinterpret_cast<uint32_t (*)[columns]>(operands.integers));
    int64_t wideA[rows * maxK], wideB[maxK * columns], sums[rows][columns];
    std::copy(a, a + rows * keptK, wideA);
    std::copy(b, b + shape.k * columns, wideB);
    for (unsigned row = 0; row != rows; ++row)
      std::copy(operands.integers[row], operands.integers[row] + columns, sums[row]);
    accumulate<int64_t>(wideA, wideB, operands.positions, keptK, sums);
    for (unsigned row = 0; row != rows; ++row)
      for (unsigned column = 0; column != columns; ++column)
        operands.integers[row][column] = static_cast<int32_t>(
            std::min<int64_t>(std::max<int64_t>(sums[row][column], INT32_MIN), INT32_MAX));
    return;
  }
  float a[rows * maxK], b[maxK * columns];
  decodeFloats(shape.a, operands.a, aUnits, 1, a);
  decodeFloats(shape.b, operands.b, bUnits, columns, b);
  accumulate<float>(a, b, operands.positions, keptK, operands.floats);
}

static void multiplyBaseline(const Shape &shape, Operands &operands) { multiply(shape, operands); }

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void multiplyAvx2(const Shape &shape, Operands &operands) {
  multiply(shape, operands);
}
#endif

/// Neither variant fuses a product with its sum, so they agree to the last bit.
static void multiplyHere(const Shape &shape, Operands &operands) {
#if defined(__x86_64__)
  static const bool hasAvx2 = __builtin_cpu_supports("avx2");
  if (hasAvx2)
    return multiplyAvx2(shape, operands);
#endif
  multiplyBaseline(shape, operands);
}

//===----------------------------------------------------------------------===//
// Metadata
//===----------------------------------------------------------------------===//

static void decodeMetadata(const WarpCall &call, const Shape &shape, unsigned metadataOperand,
                           uint8_t *positions) {
  uint32_t selector = call.arguments[0][metadataOperand + 1];
  unsigned bits = getBits(shape.a), choices = getSelectorChoices(shape.k, bits);
  uint32_t words[warpSize];
  for (unsigned lane = 0; lane != warpSize; ++lane) {
    words[lane] = call.arguments[lane][metadataOperand];
    if (LLVM_UNLIKELY(call.arguments[lane][metadataOperand + 1] != selector || selector >= choices))
      call.warp.block->fail(call.getThread(lane), Kind::IllegalOperand,
                            "%s with selector %u; expected one number below %u for the whole warp",
                            call.op.name.c_str(), call.arguments[lane][metadataOperand + 1],
                            choices);
  }
  std::optional<MetadataFault> fault =
      decodeSparseMetadata(words, shape.k, bits, shape.ordered, selector, positions);
  if (LLVM_UNLIKELY(fault.has_value()))
    call.warp.block->fail(
        call.getThread(fault->lane), Kind::IllegalOperand,
        "%s with metadata 0x%x for row %u, elements %u to %u; expected %s", call.op.name.c_str(),
        fault->nibble, fault->row, fault->firstElement, fault->lastElement,
        bits == 32 ? "0x4 or 0xe"
                   : "two different positions, the lower one first (4, 8, 9, c, d, e)");
}

//===----------------------------------------------------------------------===//
// The operation
//===----------------------------------------------------------------------===//

/// Registers: A, B, C, and for the sparse forms metadata and selector.
static void matrixMultiply(const WarpCall &call) {
  Shape shape = getShape(call.op);
  Operands operands;
  unsigned aRowUnits = shape.getKeptK() * getBits(shape.a) / 32;
  unsigned aRegisters = aRowUnits / 2, bRegisters = shape.k * getBits(shape.b) / 32 / 4;
  unsigned cOperand = aRegisters + bRegisters;
  bool isHalf = shape.accumulator == Accumulator::F16;
  for (unsigned lane = 0; lane != warpSize; ++lane) {
    const uint32_t *registers = call.arguments[lane];
    unsigned group = lane / 4, member = lane % 4;
    for (unsigned i = 0; i != aRegisters; ++i)
      operands.a[(group + i % 2 * 8) * aRowUnits + member + i / 2 * 4] = registers[i];
    for (unsigned i = 0; i != bRegisters; ++i)
      operands.b[(member + i * 4) * columns + group] = registers[aRegisters + i];
    for (unsigned half = 0; half != 2; ++half) {
      float *pair = &operands.floats[group + half * 8][member * 2];
      if (isHalf) {
        pair[0] = decodeF16(registers[cOperand + half] & 0xffff);
        pair[1] = decodeF16(registers[cOperand + half] >> 16);
      } else {
        std::memcpy(pair, registers + cOperand + half * 2, 8);
      }
    }
  }
  if (shape.sparse)
    decodeMetadata(call, shape, cOperand + (isHalf ? 2 : 4), operands.positions);
  else
    for (unsigned row = 0; row != rows; ++row)
      for (unsigned i = 0; i != shape.k; ++i)
        operands.positions[row * shape.k + i] = i;

  multiplyHere(shape, operands);

  for (unsigned lane = 0; lane != warpSize; ++lane) {
    unsigned group = lane / 4, member = lane % 4;
    for (unsigned half = 0; half != 2; ++half) {
      const float *pair = &operands.floats[group + half * 8][member * 2];
      if (isHalf)
        call.results[lane][half] = floatToF16(pair[0]) | uint32_t(floatToF16(pair[1])) << 16;
      else
        std::memcpy(call.results[lane] + half * 2, pair, 8);
    }
  }
}

/// Names are mma[.sp[.ordered.metadata]].m16n8kK.row.col[.satfinite][.kind.f8f6f4].TYPES, where
/// TYPES is D.C for f16 operands, A[.B] for integers, bf16 and tf32, and D.A.B.C for 8-bit floats.
bool sparseflow::emulator::parseMatrixMultiply(llvm::StringRef name, CollectiveOp &op) {
  llvm::StringRef rest = name;
  Shape shape = {};
  if (!rest.consume_front("mma."))
    return false;
  shape.sparse = rest.consume_front("sp.");
  shape.ordered = shape.sparse && rest.consume_front("ordered.metadata.");
  if (!rest.consume_front("m16n8k") || rest.consumeInteger(10, shape.k) ||
      !rest.consume_front(".row.col."))
    return false;
  shape.saturate = rest.consume_front("satfinite.");
  rest.consume_front("kind.f8f6f4.");
  llvm::SmallVector<llvm::StringRef> types;
  rest.split(types, '.');
  llvm::StringRef result;
  std::optional<Element> a, b;
  if (types.size() == 4) {
    result = types[0];
    if (types[3] != result)
      return false;
    a = parseElement(types[1]);
    b = parseElement(types[2]);
  } else if (types.size() == 2 && (types[0] == "f16" || types[0] == "f32")) {
    result = types[0];
    if (types[1] != result)
      return false;
    a = b = Element::F16;
  } else if (types.size() <= 2) {
    a = parseElement(types[0]);
    b = parseElement(types.back());
    result = a && (*a == Element::S8 || *a == Element::U8) ? "s32" : "f32";
  }
  if (!a || !b)
    return false;
  shape.a = *a;
  shape.b = *b;
  if (result == "f32")
    shape.accumulator = Accumulator::F32;
  else if (result == "f16")
    shape.accumulator = Accumulator::F16;
  else if (result == "s32")
    shape.accumulator = Accumulator::S32;
  else
    return false;
  // Two or four registers of A.
  unsigned keptBits = shape.getKeptK() * getBits(shape.a);
  if (keptBits != 128 && keptBits != 256)
    return false;
  op.name = name.str();
  op.function = matrixMultiply;
  op.aligned = true;
  op.traits = {shape.k,
               static_cast<uint32_t>(shape.a),
               static_cast<uint32_t>(shape.b),
               static_cast<uint32_t>(shape.accumulator),
               shape.saturate,
               shape.sparse,
               shape.ordered};
  return true;
}
