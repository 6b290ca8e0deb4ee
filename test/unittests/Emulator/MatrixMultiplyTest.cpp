//===- MatrixMultiplyTest.cpp - mma.sync and mma.sp against float64 -------===//
//
// Each case builds random matrices, deals them out to lanes by the fragment formulas of the PTX
// ISA, runs one instruction in one warp and compares with a product in float64 (integers: exactly).
//
//===----------------------------------------------------------------------===//

#include "TestKernel.h"

#include "sparseflow/Support/NumericTypes.h"

#include <cmath>
#include <random>

using namespace sparseflow;
using namespace sparseflow::emulator;
using namespace sparseflow::emulator::test;

namespace {

enum class Type { f16, bf16, tf32, e4m3, e5m2, s8, u8, f32, s32 };

struct Case {
  const char *intrinsic;
  unsigned k;
  Type a, b, accumulator;
  bool sparse;
};

unsigned bitsOf(Type type) {
  switch (type) {
  case Type::f16:
  case Type::bf16:
    return 16;
  case Type::tf32:
  case Type::f32:
  case Type::s32:
    return 32;
  default:
    return 8;
  }
}

/// A random element: its bits and its value.
std::pair<uint32_t, double> randomElement(Type type, std::mt19937 &random) {
  std::normal_distribution<float> normal;
  float value = normal(random);
  switch (type) {
  case Type::f16: {
    uint16_t bits = floatToF16(value);
    return {bits, f16ToFloat(bits)};
  }
  case Type::bf16: {
    uint16_t bits = floatToBF16(value);
    return {bits, bf16ToFloat(bits)};
  }
  case Type::e4m3: {
    uint8_t bits = floatToE4M3Sat(value);
    return {bits, e4m3ToFloat(bits)};
  }
  case Type::e5m2: {
    uint8_t bits = floatToE5M2Sat(value);
    return {bits, e5m2ToFloat(bits)};
  }
  case Type::tf32: {
    uint32_t bits = llvm::bit_cast<uint32_t>(value) & 0xffffe000u;
    return {bits, llvm::bit_cast<float>(bits)};
  }
  case Type::f32:
    return {llvm::bit_cast<uint32_t>(value), value};
  case Type::s8: {
    int8_t bits = static_cast<int8_t>(random());
    return {uint8_t(bits), bits};
  }
  case Type::u8: {
    uint8_t bits = static_cast<uint8_t>(random());
    return {bits, bits};
  }
  case Type::s32: {
    int32_t bits = static_cast<int32_t>(random() % 2000000) - 1000000;
    return {static_cast<uint32_t>(bits), bits};
  }
  }
  return {};
}

std::string registerType(Type type) {
  if (type == Type::f16)
    return "vector<2xf16>";
  return type == Type::f32 ? "f32" : "i32";
}

void put(std::vector<uint32_t> &registers, unsigned stride, unsigned lane, unsigned element,
         unsigned bits, uint32_t value) {
  registers[lane * stride + element * bits / 32] |= value << (element * bits % 32);
}

class MatrixMultiply : public testing::TestWithParam<Case> {};

TEST_P(MatrixMultiply, equals_float64) {
  const Case &test = GetParam();
  unsigned k = test.k, kept = test.sparse ? k / 2 : k;
  unsigned aBits = bitsOf(test.a), bBits = bitsOf(test.b), cBits = bitsOf(test.accumulator);
  unsigned aCount = 16 * kept * aBits / 32 / 32, bCount = 8 * k * bBits / 32 / 32,
           cCount = 16 * 8 * cBits / 32 / 32;

  // A kernel that loads a lane's registers, executes the instruction and stores the result.
  std::string body, operands, types;
  unsigned next = 0;
  auto addOperand = [&](const std::string &type, const std::string &array, unsigned stride,
                        unsigned index) {
    std::string n = std::to_string(next++);
    body += "%c" + n + " = llvm.mlir.constant(" + std::to_string(stride) + " : i64) : i64\n" +
            "%i" + n + " = llvm.mlir.constant(" + std::to_string(index) + " : i64) : i64\n" + "%m" +
            n + " = llvm.mul %tid64, %c" + n + " : i64\n%o" + n + " = llvm.add %m" + n + ", %i" +
            n + " : i64\n%p" + n + " = llvm.getelementptr %" + array + "[%o" + n +
            "] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, i32\n%v" + n + " = llvm.load %p" + n +
            " {alignment = 4 : i64} : !llvm.ptr<1> -> " + type + "\n";
    operands += (operands.empty() ? "%v" : ", %v") + n;
    types += (types.empty() ? "" : ", ") + type;
  };
  for (unsigned i = 0; i != aCount; ++i)
    addOperand(registerType(test.a), "a", aCount, i);
  for (unsigned i = 0; i != bCount; ++i)
    addOperand(registerType(test.b), "b", bCount, i);
  std::string cType = registerType(test.accumulator), resultTypes;
  for (unsigned i = 0; i != cCount; ++i) {
    addOperand(cType, "c", cCount, i);
    resultTypes += (i ? ", " : "") + cType;
  }

  // The number of selectors: how many times the metadata fits into a quad's registers.
  unsigned metadataBits = test.a == Type::tf32 ? 2 * k : k;
  unsigned sources = std::max(1u, 16 * metadataBits / 32 / 8);
  for (unsigned selector = 0; selector != (test.sparse ? 4 / sources : 1); ++selector) {
    std::string allOperands = operands, allTypes = types, prefix = body;
    if (test.sparse) {
      prefix += "%mp = llvm.getelementptr %e[%tid64] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, i32\n"
                "%meta = llvm.load %mp : !llvm.ptr<1> -> i32\n%sel = llvm.mlir.constant(" +
                std::to_string(selector) + " : i32) : i32\n";
      allOperands += ", %meta, %sel";
      allTypes += ", i32, i32";
    }
    std::string call = "%r = llvm.call_intrinsic \"llvm.nvvm." + std::string(test.intrinsic) +
                       "\"(" + allOperands + ") : (" + allTypes + ") -> !llvm.struct<(" +
                       resultTypes + ")>\n";
    std::string tail;
    for (unsigned i = 0; i != cCount; ++i) {
      std::string n = std::to_string(i);
      tail += "%r" + n + " = llvm.extractvalue %r[" + n + "] : !llvm.struct<(" + resultTypes +
              ")>\n%sc" + n + " = llvm.mlir.constant(" + std::to_string(cCount) +
              " : i64) : i64\n%si" + n + " = llvm.mlir.constant(" + n + " : i64) : i64\n%sm" + n +
              " = llvm.mul %tid64, %sc" + n + " : i64\n%so" + n + " = llvm.add %sm" + n + ", %si" +
              n + " : i64\n%sp" + n + " = llvm.getelementptr %d[%so" + n +
              "] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, i32\nllvm.store %r" + n + ", %sp" + n +
              " {alignment = 4 : i64} : " + cType + ", !llvm.ptr<1>\n";
    }
    auto module = compileOrFail(makeKernel(
        "%a: !llvm.ptr<1>, %b: !llvm.ptr<1>, %c: !llvm.ptr<1>, %e: !llvm.ptr<1>, %d: !llvm.ptr<1>",
        prefix + call + tail));
    ASSERT_TRUE(module);

    std::mt19937 random(7 + selector);
    std::vector<double> a(16 * k), b(k * 8), c(16 * 8);
    std::vector<uint32_t> aRegisters(32 * aCount), bRegisters(32 * bCount), cRegisters(32 * cCount),
        metadata(32), dRegisters(32 * cCount);
    // Lanes that hold no metadata for this selector hold rubbish.
    for (unsigned lane = 0; lane != 32; ++lane) {
      unsigned member = lane % 4;
      if (!test.sparse || member / sources != selector)
        metadata[lane] = random();
    }
    unsigned aPerRegister = 32 / aBits, bPerRegister = 32 / bBits;
    for (unsigned row = 0; row != 16; ++row) {
      unsigned groupSize = test.a == Type::tf32 ? 2 : 4;
      std::vector<unsigned> positions;
      for (unsigned group = 0; test.sparse && group != k / groupSize; ++group) {
        unsigned first = random() % groupSize, second = random() % (groupSize - 1);
        second += second >= first;
        if (first > second)
          std::swap(first, second);
        unsigned nibble = groupSize == 4 ? first | second << 2 : 0;
        if (groupSize == 2) {
          first = random() % 2;
          nibble = first ? 0xe : 0x4;
          positions.push_back(group * 2 + first);
        } else {
          positions.push_back(group * 4 + first);
          positions.push_back(group * 4 + second);
        }
        unsigned member, shift;
        if (aBits == 8) {
          member = row / 8 + group / 8 * 2;
          shift = group % 8 * 4;
        } else {
          member = group / 4;
          shift = group % 4 * 4 + row / 8 * 16;
        }
        metadata[row % 8 * 4 + selector * sources + member] |= nibble << shift;
      }
      for (unsigned i = 0; i != kept; ++i) {
        auto [bits, value] = randomElement(test.a, random);
        a[row * k + (test.sparse ? positions[i] : i)] = value;
        // PTX ISA: element i of a row sits with lane 4*(row%8) + (i / perRegister) % 4; registers
        // run over the two halves of rows first, then over the halves of K.
        unsigned lane = row % 8 * 4 + i / aPerRegister % 4;
        unsigned reg = row / 8 + i / aPerRegister / 4 * 2;
        put(aRegisters, aCount, lane, reg * aPerRegister + i % aPerRegister, aBits, bits);
      }
    }
    for (unsigned i = 0; i != k; ++i)
      for (unsigned column = 0; column != 8; ++column) {
        auto [bits, value] = randomElement(test.b, random);
        b[i * 8 + column] = value;
        unsigned lane = column * 4 + i / bPerRegister % 4;
        put(bRegisters, bCount, lane, i / bPerRegister / 4 * bPerRegister + i % bPerRegister, bBits,
            bits);
      }
    for (unsigned row = 0; row != 16; ++row)
      for (unsigned column = 0; column != 8; ++column) {
        auto [bits, value] = randomElement(test.accumulator, random);
        c[row * 8 + column] = value;
        put(cRegisters, cCount, row % 8 * 4 + column / 2, row / 8 * 2 + column % 2, cBits, bits);
      }

    expectNoReport(launch(*module, {}, {32}, 0,
                          {aRegisters.data(), bRegisters.data(), cRegisters.data(), metadata.data(),
                           dRegisters.data()}));
    for (unsigned row = 0; row != 16; ++row)
      for (unsigned column = 0; column != 8; ++column) {
        double expected = c[row * 8 + column], magnitude = std::fabs(expected);
        for (unsigned i = 0; i != k; ++i) {
          double product = a[row * k + i] * b[i * 8 + column];
          expected += product;
          magnitude += std::fabs(product);
        }
        unsigned element = row / 8 * 2 + column % 2;
        uint32_t word = dRegisters[(row % 8 * 4 + column / 2) * cCount + element * cBits / 32];
        double got = test.accumulator == Type::s32 ? double(int32_t(word))
                     : test.accumulator == Type::f32
                         ? double(llvm::bit_cast<float>(word))
                         : double(f16ToFloat(word >> (element * 16 % 32)));
        double tolerance = test.accumulator == Type::s32   ? 0
                           : test.accumulator == Type::f32 ? magnitude * 1e-6
                                                           : magnitude * 1e-3;
        ASSERT_NEAR(got, expected, tolerance)
            << "row " << row << " column " << column << " selector " << selector;
      }
  }
}

const Case cases[] = {
    {"mma.m16n8k8.row.col.f32.f32", 8, Type::f16, Type::f16, Type::f32, false},
    {"mma.m16n8k16.row.col.f32.f32", 16, Type::f16, Type::f16, Type::f32, false},
    {"mma.m16n8k16.row.col.f16.f16", 16, Type::f16, Type::f16, Type::f16, false},
    {"mma.m16n8k8.row.col.bf16", 8, Type::bf16, Type::bf16, Type::f32, false},
    {"mma.m16n8k16.row.col.bf16", 16, Type::bf16, Type::bf16, Type::f32, false},
    {"mma.m16n8k4.row.col.tf32", 4, Type::tf32, Type::tf32, Type::f32, false},
    {"mma.m16n8k8.row.col.tf32", 8, Type::tf32, Type::tf32, Type::f32, false},
    {"mma.m16n8k16.row.col.s8", 16, Type::s8, Type::s8, Type::s32, false},
    {"mma.m16n8k32.row.col.s8", 32, Type::s8, Type::s8, Type::s32, false},
    {"mma.m16n8k32.row.col.satfinite.s8", 32, Type::s8, Type::s8, Type::s32, false},
    {"mma.m16n8k32.row.col.s8.u8", 32, Type::s8, Type::u8, Type::s32, false},
    {"mma.m16n8k32.row.col.u8", 32, Type::u8, Type::u8, Type::s32, false},
    {"mma.m16n8k32.row.col.f32.e4m3.e4m3.f32", 32, Type::e4m3, Type::e4m3, Type::f32, false},
    {"mma.m16n8k32.row.col.f32.e5m2.e4m3.f32", 32, Type::e5m2, Type::e4m3, Type::f32, false},
    {"mma.m16n8k32.row.col.f16.e4m3.e5m2.f16", 32, Type::e4m3, Type::e5m2, Type::f16, false},
    {"mma.sp.ordered.metadata.m16n8k16.row.col.f32.f32", 16, Type::f16, Type::f16, Type::f32, true},
    {"mma.sp.ordered.metadata.m16n8k32.row.col.f32.f32", 32, Type::f16, Type::f16, Type::f32, true},
    {"mma.sp.ordered.metadata.m16n8k32.row.col.f16.f16", 32, Type::f16, Type::f16, Type::f16, true},
    {"mma.sp.m16n8k32.row.col.f32.f32", 32, Type::f16, Type::f16, Type::f32, true},
    {"mma.sp.ordered.metadata.m16n8k16.row.col.bf16", 16, Type::bf16, Type::bf16, Type::f32, true},
    {"mma.sp.ordered.metadata.m16n8k32.row.col.bf16", 32, Type::bf16, Type::bf16, Type::f32, true},
    {"mma.sp.ordered.metadata.m16n8k8.row.col.tf32", 8, Type::tf32, Type::tf32, Type::f32, true},
    {"mma.sp.ordered.metadata.m16n8k16.row.col.tf32", 16, Type::tf32, Type::tf32, Type::f32, true},
    {"mma.sp.ordered.metadata.m16n8k32.row.col.s8", 32, Type::s8, Type::s8, Type::s32, true},
    {"mma.sp.ordered.metadata.m16n8k64.row.col.s8", 64, Type::s8, Type::s8, Type::s32, true},
    {"mma.sp.ordered.metadata.m16n8k64.row.col.satfinite.s8", 64, Type::s8, Type::s8, Type::s32,
     true},
    {"mma.sp.ordered.metadata.m16n8k64.row.col.u8.s8", 64, Type::u8, Type::s8, Type::s32, true},
    {"mma.sp.ordered.metadata.m16n8k64.row.col.f32.e4m3.e4m3.f32", 64, Type::e4m3, Type::e4m3,
     Type::f32, true},
    {"mma.sp.ordered.metadata.m16n8k64.row.col.f32.e5m2.e5m2.f32", 64, Type::e5m2, Type::e5m2,
     Type::f32, true},
    {"mma.sp.ordered.metadata.m16n8k64.row.col.f32.e4m3.e5m2.f32", 64, Type::e4m3, Type::e5m2,
     Type::f32, true},
};

INSTANTIATE_TEST_SUITE_P(Shapes, MatrixMultiply, testing::ValuesIn(cases),
                         [](const testing::TestParamInfo<Case> &info) {
                           std::string name = info.param.intrinsic;
                           for (char &c : name)
                             if (!std::isalnum(c))
                               c = '_';
                           return name;
                         });

} // namespace
