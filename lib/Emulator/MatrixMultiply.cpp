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

#include "Operations.h"

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

enum class Element : uint32_t { F16, BF16, TF32, E4M3, E5M2, S8, U8 };
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

static unsigned getBits(Element type) {
  switch (type) {
  case Element::F16:
  case Element::BF16:
    return 16;
  case Element::TF32:
    return 32;
  case Element::E4M3:
  case Element::E5M2:
  case Element::S8:
  case Element::U8:
    return 8;
  }
  LLVM_BUILTIN_UNREACHABLE;
}

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
// Elements to numbers
//===----------------------------------------------------------------------===//

namespace {
struct Float8Tables {
  float e4m3[256], e5m2[256];
  Float8Tables() {
    for (unsigned bits = 0; bits != 256; ++bits) {
      e4m3[bits] = e4m3ToFloat(bits);
      e5m2[bits] = e5m2ToFloat(bits);
    }
  }
};
} // namespace

static const Float8Tables &getFloat8Tables() {
  static const Float8Tables tables;
  return tables;
}

/// Exact, without branches, so that it vectorizes.
LLVM_ATTRIBUTE_ALWAYS_INLINE static float decodeF16(uint32_t bits) {
  // Shift exponent and mantissa into place and let a multiplication fix the exponent's bias: it
  // also makes subnormals right. Infinity and NaN need the full exponent.
  uint32_t magnitude = (bits & 0x7fff) << 13;
  float value = llvm::bit_cast<float>(magnitude) * 0x1p112f;
  uint32_t special = (bits & 0x7c00) == 0x7c00 ? 0x7f800000u : 0;
  return llvm::bit_cast<float>(llvm::bit_cast<uint32_t>(value) | special | (bits & 0x8000) << 16);
}

/// Spreads `units` 32-bit units of `stride` columns into elements: element e of unit u goes to row
/// u * elementsPerUnit + e. With a stride of 1 that is simply a row of elements.
template <typename Number, typename Decode>
LLVM_ATTRIBUTE_ALWAYS_INLINE static void spread(const uint32_t *source, unsigned units,
                                                unsigned stride, unsigned bits, Number *target,
                                                Decode decode) {
  unsigned perUnit = 32 / bits;
  uint32_t mask = bits == 32 ? ~0u : (1u << bits) - 1;
  for (unsigned unit = 0; unit != units; ++unit)
    for (unsigned part = 0; part != perUnit; ++part)
      for (unsigned column = 0; column != stride; ++column)
        target[(unit * perUnit + part) * stride + column] =
            decode(source[unit * stride + column] >> (part * bits) & mask);
}

template <unsigned stride>
LLVM_ATTRIBUTE_ALWAYS_INLINE static void decodeFloats(Element type, const uint32_t *source,
                                                      unsigned units, float *target) {
  switch (type) {
  case Element::F16:
    return spread(source, units, stride, 16, target, [](uint32_t bits) { return decodeF16(bits); });
  case Element::BF16:
    return spread(source, units, stride, 16, target,
                  [](uint32_t bits) { return llvm::bit_cast<float>(bits << 16); });
  case Element::TF32:
    return spread(source, units, stride, 32, target,
                  [](uint32_t bits) { return llvm::bit_cast<float>(bits & 0xffffe000u); });
  case Element::E4M3: {
    const float *table = getFloat8Tables().e4m3;
    return spread(source, units, stride, 8, target, [=](uint32_t bits) { return table[bits]; });
  }
  case Element::E5M2: {
    const float *table = getFloat8Tables().e5m2;
    return spread(source, units, stride, 8, target, [=](uint32_t bits) { return table[bits]; });
  }
  case Element::S8:
  case Element::U8:
    LLVM_BUILTIN_UNREACHABLE;
  }
}

template <unsigned stride>
LLVM_ATTRIBUTE_ALWAYS_INLINE static void decodeIntegers(Element type, const uint32_t *source,
                                                        unsigned units, int32_t *target) {
  if (type == Element::S8)
    return spread(source, units, stride, 8, target,
                  [](uint32_t bits) { return int32_t(int8_t(bits)); });
  return spread(source, units, stride, 8, target, [](uint32_t bits) { return int32_t(bits); });
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
    decodeIntegers<1>(shape.a, operands.a, aUnits, a);
    decodeIntegers<columns>(shape.b, operands.b, bUnits, b);
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
  decodeFloats<1>(shape.a, operands.a, aUnits, a);
  decodeFloats<columns>(shape.b, operands.b, bUnits, b);
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

/// Two positions of two bits for each group of four 16-bit or 8-bit elements; for tf32 the group is
/// two elements of 32 bits, each seen as two halves.
static void decodeMetadata(const WarpCall &call, const Shape &shape, unsigned metadataOperand,
                           uint8_t *positions) {
  uint32_t selector = call.arguments[0][metadataOperand + 1];
  bool isByte = getBits(shape.a) == 8, isTF32 = shape.a == Element::TF32;
  unsigned halves = isTF32 ? shape.k * 2 : shape.k;
  unsigned groups = halves / 4, perRow = shape.getKeptK();
  // The lanes of a quad that hold metadata: all four, a pair, or one.
  unsigned sources = rows * groups * 4 / 32 / 8;
  for (unsigned lane = 0; lane != warpSize; ++lane)
    if (LLVM_UNLIKELY(call.arguments[lane][metadataOperand + 1] != selector ||
                      selector >= 4 / sources))
      call.warp.block->fail(call.getThread(lane), Kind::IllegalOperand,
                            "%s with selector %u; expected one number below %u for the whole warp",
                            call.op.name.c_str(), call.arguments[lane][metadataOperand + 1],
                            4 / sources);
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
      unsigned lane = row % 8 * 4 + selector * sources + source;
      uint32_t nibble = call.arguments[lane][metadataOperand] >> shift & 15;
      unsigned first = nibble & 3, second = nibble >> 2;
      bool legal = isTF32          ? nibble == 0x4 || nibble == 0xe
                   : shape.ordered ? first < second
                                   : first != second;
      if (LLVM_UNLIKELY(!legal))
        call.warp.block->fail(
            call.getThread(lane), Kind::IllegalOperand,
            "%s with metadata 0x%x for row %u, elements %u to %u; expected %s",
            call.op.name.c_str(), nibble, row, group * (isTF32 ? 2 : 4),
            group * (isTF32 ? 2 : 4) + (isTF32 ? 1 : 3),
            isTF32 ? "0x4 or 0xe"
                   : "two different positions, the lower one first (4, 8, 9, c, d, e)");
      if (isTF32) {
        positions[row * perRow + group] = group * 2 + first / 2;
      } else {
        positions[row * perRow + group * 2] = group * 4 + first;
        positions[row * perRow + group * 2 + 1] = group * 4 + second;
      }
    }
  }
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

static std::optional<Element> parseElement(llvm::StringRef name) {
  if (name == "f16")
    return Element::F16;
  if (name == "bf16")
    return Element::BF16;
  if (name == "tf32")
    return Element::TF32;
  if (name == "e4m3")
    return Element::E4M3;
  if (name == "e5m2")
    return Element::E5M2;
  if (name == "s8")
    return Element::S8;
  if (name == "u8")
    return Element::U8;
  return std::nullopt;
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
