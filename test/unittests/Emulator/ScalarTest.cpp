//===- ScalarTest.cpp - Conversions, arithmetic, calls, variables ---------===//

#include "TestKernel.h"

#include "sparseflow/Support/NumericTypes.h"

#include "llvm/ADT/bit.h"

#include <cmath>

using namespace sparseflow;
using namespace sparseflow::emulator;
using namespace sparseflow::emulator::test;

namespace {

/// Runs `body` in one thread; it computes %result (i32) from %x, %y, %z (i32).
uint32_t compute(const std::string &body, uint32_t x, uint32_t y = 0, uint32_t z = 0,
                 const std::string &globals = "") {
  auto module =
      compileOrFail(globals + makeKernel("%out: !llvm.ptr<1>, %x: i32, %y: i32, %z: i32",
                                         body + "\nllvm.store %result, %out : i32, !llvm.ptr<1>"));
  uint32_t result = 0xdeadbeef, *pointer = &result;
  if (!module)
    return result;
  void *params[] = {&pointer, &x, &y, &z};
  llvm::Error error = module->launch("k", {}, {}, 0, params);
  if (error)
    ADD_FAILURE() << llvm::toString(std::move(error));
  return result;
}

uint32_t bits(float value) { return llvm::bit_cast<uint32_t>(value); }
const std::string asFloats =
    "%fx = llvm.bitcast %x : i32 to f32\n%fy = llvm.bitcast %y : i32 to f32\n"
    "%fz = llvm.bitcast %z : i32 to f32\n";

std::string intrinsic(const std::string &name, const std::string &operands,
                      const std::string &types, const std::string &result) {
  return "%r = llvm.call_intrinsic \"llvm.nvvm." + name + "\"(" + operands + ") : (" + types +
         ") -> " + result + "\n";
}
const std::string fromFloat = "%result = llvm.bitcast %r : f32 to i32";
const std::string fromShort = "%result = llvm.zext %r : i16 to i32";
const std::string fromInt = "%result = llvm.or %r, %r : i32";

TEST(Scalar, pairs_keep_the_first_operand_high) {
  std::string pair = asFloats + intrinsic("ff2f16x2.rn", "%fx, %fy", "f32, f32", "vector<2xf16>") +
                     "%result = llvm.bitcast %r : vector<2xf16> to i32";
  EXPECT_EQ(compute(pair, bits(1.0f), bits(2.0f)), 0x3c004000u);
  pair = asFloats + intrinsic("ff2bf16x2.rn", "%fx, %fy", "f32, f32", "vector<2xbf16>") +
         "%result = llvm.bitcast %r : vector<2xbf16> to i32";
  EXPECT_EQ(compute(pair, bits(1.0f), bits(2.0f)), 0x3f804000u);
  pair = asFloats + intrinsic("ff.to.e4m3x2.rn", "%fx, %fy", "f32, f32", "i16") + fromShort;
  EXPECT_EQ(compute(pair, bits(1.0f), bits(1000.0f)), 0x387eu);
  pair = asFloats + intrinsic("ff.to.e5m2x2.rn", "%fx, %fy", "f32, f32", "i16") + fromShort;
  EXPECT_EQ(compute(pair, bits(-1.0f), bits(INFINITY)), 0xbc7bu);
}

TEST(Scalar, float8_to_halves) {
  std::string convert = "%s = llvm.trunc %x : i32 to i16\n" +
                        intrinsic("e4m3x2.to.f16x2.rn", "%s", "i16", "vector<2xf16>") +
                        "%result = llvm.bitcast %r : vector<2xf16> to i32";
  for (unsigned low = 0; low < 256; low += 5) {
    uint32_t result = compute(convert, low | (255 - low) << 8);
    auto same = [](uint32_t half, float expected) {
      float got = f16ToFloat(half & 0xffff);
      return got == expected || (std::isnan(got) && std::isnan(expected));
    };
    EXPECT_TRUE(same(result, e4m3ToFloat(low))) << low;
    EXPECT_TRUE(same(result >> 16, e4m3ToFloat(255 - low))) << low;
  }
}

TEST(Scalar, float_to_integer_saturates) {
  auto convert = [](const char *name, float value) {
    return compute(asFloats + intrinsic(name, "%fx", "f32", "i32") + fromInt, bits(value));
  };
  EXPECT_EQ(convert("f2i.rn", 2.5f), 2u);
  EXPECT_EQ(convert("f2i.rn", -3.5f), uint32_t(-4));
  EXPECT_EQ(convert("f2i.rz", -3.5f), uint32_t(-3));
  EXPECT_EQ(convert("f2i.rm", -3.5f), uint32_t(-4));
  EXPECT_EQ(convert("f2i.rp", 3.25f), 4u);
  EXPECT_EQ(convert("f2i.rn", 1e20f), 0x7fffffffu);
  EXPECT_EQ(convert("f2i.rn", -1e20f), 0x80000000u);
  EXPECT_EQ(convert("f2i.rn", NAN), 0u);
  EXPECT_EQ(convert("f2ui.rn", -1.0f), 0u);
  EXPECT_EQ(convert("f2ui.rz", 4e9f), 4000000000u);
}

// What LLVM leaves open, and what ends the process on many hosts.
TEST(Scalar, divisions_by_zero_and_beyond_the_range_have_results) {
  const uint32_t least = 0x80000000u, minusOne = ~0u;
  for (const char *op : {"sdiv", "udiv"}) {
    std::string divide = std::string("%result = llvm.") + op + " %x, %y : i32";
    EXPECT_EQ(compute(divide, 7, 0), 7u) << op;
    EXPECT_EQ(compute(divide, 7, 2), 3u) << op;
  }
  EXPECT_EQ(compute("%result = llvm.sdiv %x, %y : i32", least, minusOne), least);
  EXPECT_EQ(compute("%result = llvm.sdiv %x, %y : i32", 7, minusOne), uint32_t(-7));
  EXPECT_EQ(compute("%result = llvm.srem %x, %y : i32", least, minusOne), 0u);
  EXPECT_EQ(compute("%result = llvm.srem %x, %y : i32", uint32_t(-7), 4), uint32_t(-3));
  EXPECT_EQ(compute("%result = llvm.urem %x, %y : i32", 7, 0), 0u);
}

TEST(Scalar, shifts_stop_at_the_width) {
  EXPECT_EQ(compute("%result = llvm.shl %x, %y : i32", 1, 31), 0x80000000u);
  EXPECT_EQ(compute("%result = llvm.shl %x, %y : i32", 1, 33), 0u);
  EXPECT_EQ(compute("%result = llvm.lshr %x, %y : i32", ~0u, 32), 0u);
  EXPECT_EQ(compute("%result = llvm.ashr %x, %y : i32", 0x80000000u, 100), ~0u);
}

TEST(Scalar, conversions_to_integers_clamp_and_make_nan_0) {
  auto convert = [](const char *op, const char *type, float value) {
    std::string widen = std::string(type) == "i32" ? "%result = llvm.or %r, %r : i32"
                                                   : "%result = llvm.sext %r : i8 to i32";
    return compute(asFloats + "%r = llvm." + op + " %fx : f32 to " + type + "\n" + widen,
                   bits(value));
  };
  EXPECT_EQ(convert("fptosi", "i32", -2.75f), uint32_t(-2));
  EXPECT_EQ(convert("fptosi", "i32", NAN), 0u);
  EXPECT_EQ(convert("fptosi", "i32", INFINITY), 0x7fffffffu);
  EXPECT_EQ(convert("fptosi", "i32", -1e20f), 0x80000000u);
  EXPECT_EQ(convert("fptoui", "i32", -1.0f), 0u);
  EXPECT_EQ(convert("fptoui", "i32", 1e20f), ~0u);
  // By way of 16 bits.
  EXPECT_EQ(convert("fptosi", "i8", 300.0f), 44u);
  EXPECT_EQ(convert("fptosi", "i8", 1e9f), uint32_t(int8_t(0x7fff & 0xff)));
  EXPECT_EQ(convert("fptosi", "i8", NAN), 0u);
}

// PTX ISA, "cvt": with 64 bits on a side NaN is the highest bit alone.
TEST(Scalar, nan_as_an_integer_of_64_bits) {
  EXPECT_EQ(compute(asFloats + R"(
      %wide = llvm.fptosi %fx : f32 to i64
      %by = llvm.mlir.constant(32 : i64) : i64
      %high = llvm.lshr %wide, %by : i64
      %result = llvm.trunc %high : i64 to i32)",
                    bits(NAN)),
            0x80000000u);
}

TEST(Scalar, byte_permutation) {
  std::string permute = intrinsic("prmt", "%x, %y, %z", "i32, i32, i32", "i32") + fromInt;
  EXPECT_EQ(compute(permute, 0x33221100, 0x77665544, 0x7410), 0x77441100u);
  // Bit 3 of a selector takes the sign of the byte.
  EXPECT_EQ(compute(permute, 0x80007f01, 0, 0xb3a8), 0xff800000u);
}

TEST(Scalar, dot_product_of_bytes) {
  std::string dot = intrinsic("idp4a.s.s", "%x, %y, %z", "i32, i32, i32", "i32") + fromInt;
  EXPECT_EQ(int32_t(compute(dot, 0xff010203, 0x02fe0304, 10)), -2 - 2 + 6 + 12 + 10);
  dot = intrinsic("idp4a.u.s", "%x, %y, %z", "i32, i32, i32", "i32") + fromInt;
  EXPECT_EQ(int32_t(compute(dot, 0xff000000, 0xff000000, 0)), -255);
}

TEST(Scalar, approximate_functions) {
  auto apply = [](const char *name, float value) {
    return llvm::bit_cast<float>(
        compute(asFloats + intrinsic(name, "%fx", "f32", "f32") + fromFloat, bits(value)));
  };
  EXPECT_FLOAT_EQ(apply("ex2.approx.ftz.f", 1.5f), std::exp2(1.5f));
  EXPECT_FLOAT_EQ(apply("lg2.approx.f", 10.0f), std::log2(10.0f));
  EXPECT_FLOAT_EQ(apply("rcp.approx.ftz.f", 3.0f), 1.0f / 3.0f);
  EXPECT_FLOAT_EQ(apply("rsqrt.approx.f", 2.0f), 1.0f / std::sqrt(2.0f));
  // A subnormal operand counts as zero.
  EXPECT_EQ(apply("rcp.approx.ftz.f", 1e-40f), INFINITY);
  EXPECT_FLOAT_EQ(llvm::bit_cast<float>(compute(
                      asFloats +
                          "%r = llvm.inline_asm \"tanh.approx.f32 $0, $1;\", \"=f,f\" %fx : "
                          "(f32) -> f32\n" +
                          fromFloat,
                      bits(0.3f))),
                  std::tanh(0.3f));
}

TEST(Scalar, library_functions_of_llvm) {
  std::string body = asFloats + R"(
    %a = llvm.intr.exp(%fx) : (f32) -> f32
    %b = llvm.intr.maxnum(%a, %fy) : (f32, f32) -> f32
    %r = llvm.intr.fma(%b, %fy, %fz) : (f32, f32, f32) -> f32
  )" + fromFloat;
  EXPECT_FLOAT_EQ(llvm::bit_cast<float>(compute(body, bits(1.0f), bits(2.0f), bits(3.0f))),
                  std::exp(1.0f) * 2.0f + 3.0f);
}

TEST(Scalar, sixteen_bit_arithmetic) {
  const std::string body = asFloats + R"(
    %h = llvm.fptrunc %fx : f32 to f16
    %e = llvm.fpext %h : f16 to f32
    %b = llvm.fptrunc %fy : f32 to bf16
    %f = llvm.fpext %b : bf16 to f32
    %r = llvm.fadd %e, %f : f32
  )" + fromFloat;
  float x = 1.0009f, y = 300.7f;
  EXPECT_EQ(compute(body, bits(x), bits(y)),
            bits(f16ToFloat(floatToF16(x)) + bf16ToFloat(floatToBF16(y))));
}

//===----------------------------------------------------------------------===//
// The module around a kernel
//===----------------------------------------------------------------------===//

TEST(Scalar, device_functions_and_constant_tables) {
  const std::string globals = R"(
    llvm.mlir.global internal constant @table(dense<[10, 20, 30, 40]> : tensor<4xi32>) {addr_space = 4 : i32} : !llvm.array<4 x i32>
    llvm.func internal @lookup(%index: i32) -> i32 {
      %t = llvm.mlir.addressof @table : !llvm.ptr<4>
      %wide = llvm.zext %index : i32 to i64
      %p = llvm.getelementptr %t[%wide] : (!llvm.ptr<4>, i64) -> !llvm.ptr<4>, i32
      %v = llvm.load %p : !llvm.ptr<4> -> i32
      llvm.return %v : i32
    }
  )";
  EXPECT_EQ(compute("%result = llvm.call @lookup(%x) : (i32) -> i32", 2, 0, 0, globals), 30u);
}

TEST(Scalar, static_and_dynamic_shared_memory_do_not_overlap) {
  auto module = compileOrFail(R"(
    llvm.mlir.global internal @fixed() {addr_space = 3 : i32, alignment = 16 : i64} : !llvm.array<40 x i8>
  )" + makeKernel("%out: !llvm.ptr<1>", R"(
    %fixed = llvm.mlir.addressof @fixed : !llvm.ptr<3>
    %one = llvm.mlir.constant(1 : i32) : i32
    %two = llvm.mlir.constant(2 : i32) : i32
    %last = llvm.getelementptr %fixed[9] : (!llvm.ptr<3>) -> !llvm.ptr<3>, i32
    llvm.store %one, %last : i32, !llvm.ptr<3>
    llvm.store %two, %smem : i32, !llvm.ptr<3>
    %a = llvm.load %last : !llvm.ptr<3> -> i32
    %b = llvm.load %smem : !llvm.ptr<3> -> i32
    %sum = llvm.sub %b, %a : i32
    llvm.store %sum, %out : i32, !llvm.ptr<1>
  )"));
  ASSERT_TRUE(module);
  uint32_t result = 0;
  // The dynamic array is aligned to 1024 bytes.
  expectNoReport(launch(*module, {}, {}, 4, {&result}));
  EXPECT_EQ(result, 1u);
}

TEST(Scalar, generic_pointers_and_32_bit_shared_addresses) {
  auto module = compileOrFail(makeKernel("%out: !llvm.ptr<1>", R"(
    %seven = llvm.mlir.constant(7 : i32) : i32
    %four = llvm.mlir.constant(4 : i32) : i32
    %address = llvm.ptrtoint %smem : !llvm.ptr<3> to i32
    %next = llvm.xor %address, %four : i32
    %p = llvm.inttoptr %next : i32 to !llvm.ptr<3>
    llvm.store %seven, %p : i32, !llvm.ptr<3>
    %g = llvm.addrspacecast %smem : !llvm.ptr<3> to !llvm.ptr
    %q = llvm.getelementptr %g[1] : (!llvm.ptr) -> !llvm.ptr, i32
    %v = llvm.load %q : !llvm.ptr -> i32
    %o = llvm.addrspacecast %out : !llvm.ptr<1> to !llvm.ptr
    llvm.store %v, %o : i32, !llvm.ptr
  )"));
  ASSERT_TRUE(module);
  uint32_t result = 0;
  expectNoReport(launch(*module, {}, {}, 64, {&result}));
  EXPECT_EQ(result, 7u);
  expectReport(launch(*module, {}, {}, 4, {&result}), Report::Kind::SharedOutOfBounds, "offset 4");
}

TEST(Scalar, atomics_across_blocks) {
  auto module = compileOrFail(makeKernel("%out: !llvm.ptr<1>", R"(
    %one = llvm.mlir.constant(1 : i32) : i32
    %old = llvm.atomicrmw add %out, %one syncscope("device") monotonic : !llvm.ptr<1>, i32
    %s = llvm.atomicrmw add %smem, %one syncscope("block") monotonic : !llvm.ptr<3>, i32
  )"));
  ASSERT_TRUE(module);
  uint32_t result = 0;
  // Nothing has initialized the counter in shared memory.
  expectReport(launch(*module, {}, {}, 64, {&result}), Report::Kind::UninitializedShared, "atomic");
  module = compileOrFail(makeKernel("%out: !llvm.ptr<1>", R"(
    %one = llvm.mlir.constant(1 : i32) : i32
    %old = llvm.atomicrmw add %out, %one syncscope("device") monotonic : !llvm.ptr<1>, i32
  )"));
  result = 0;
  expectNoReport(launch(*module, {100}, {256}, 0, {&result}));
  EXPECT_EQ(result, 25600u);
}

TEST(Scalar, local_arrays) {
  EXPECT_EQ(compute(R"(
    %n = llvm.mlir.constant(8 : i32) : i32
    %array = llvm.alloca %n x i32 : (i32) -> !llvm.ptr
    %wide = llvm.zext %y : i32 to i64
    %p = llvm.getelementptr %array[%wide] : (!llvm.ptr, i64) -> !llvm.ptr, i32
    llvm.store %x, %p : i32, !llvm.ptr
    %result = llvm.load %p : !llvm.ptr -> i32
  )",
                    5, 3),
            5u);
}

} // namespace
