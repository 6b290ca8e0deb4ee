//===- Hopper.h - Pieces of kernels for Hopper ------------------*- C++ -*-===//
//
// mbarriers, bulk copies and wgmma as statements of a Writer, in the form in which the compiler
// emits them.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_TEST_UNITTESTS_EMULATOR_HOPPER_H
#define SPARSEFLOW_TEST_UNITTESTS_EMULATOR_HOPPER_H

#include "Writer.h"

#include <string>
#include <vector>

namespace sparseflow::emulator::test {

const std::string sharedPtr = "!llvm.ptr<3>", clusterPtr = "!llvm.ptr<7>";
const std::string blockBarrier = "nvvm.barrier0";

/// A parameter of a kernel that takes a tensor map.
inline std::string mapParameter(const std::string &name) {
  return "%" + name +
         ": !llvm.ptr {llvm.byval = !llvm.array<128 x i8>, llvm.align = 64 : i64, "
         "nvvm.grid_constant}";
}

class HopperWriter : public Writer {
public:
  void initBarrier(const std::string &barrier, int count) {
    call("mbarrier.init.shared", {barrier, sharedPtr, i32(count), "i32"});
  }
  void fenceInit() { call("fence.mbarrier_init.release.cluster"); }
  void fenceProxy() { call("fence.proxy.async.shared_cta"); }
  void arrive(const std::string &barrier, int count = 1) {
    call("i64", "mbarrier.arrive.scope.cta.space.cta", {barrier, sharedPtr, i32(count), "i32"});
  }
  void arriveExpect(const std::string &barrier, int64_t bytes) {
    call("i64", "mbarrier.arrive.expect.tx.scope.cta.space.cta",
         {barrier, sharedPtr, i32(bytes), "i32"});
  }
  /// Spins, as kernels do. `parity` is an i32; the scope is "cta" or "cluster".
  void wait(const std::string &barrier, const std::string &parity,
            const std::string &scope = "cta") {
    std::string spin = label(), done = label();
    line("llvm.br " + spin);
    line(spin + ":");
    std::string complete = call("i1", "mbarrier.try.wait.parity.scope." + scope + ".space.cta",
                                {barrier, sharedPtr, parity, "i32"});
    line("llvm.cond_br " + complete + ", " + done + ", " + spin);
    line(done + ":");
  }
  std::string toCluster(const std::string &pointer) {
    return value("llvm.addrspacecast " + pointer + " : !llvm.ptr<3> to !llvm.ptr<7>");
  }
  /// Contiguous bytes.
  void load(const std::string &to, const std::string &barrier, const std::string &from,
            int64_t bytes, int mask = 0) {
    call("cp.async.bulk.global.to.shared.cluster",
         {toCluster(to), clusterPtr, barrier, sharedPtr, from, "!llvm.ptr<1>", i32(bytes), "i32",
          i16(mask), "i16", constant(0), "i64", boolean(mask), "i1", boolean(false), "i1"});
  }
  /// A box; column and row are i32.
  void loadBox(const std::string &to, const std::string &barrier, const std::string &map,
               const std::string &column, const std::string &row, int mask = 0) {
    call("cp.async.bulk.tensor.g2s.tile.2d",
         {toCluster(to), clusterPtr, barrier,        sharedPtr, map,    "!llvm.ptr", column,
          "i32",         row,        "i32",          i16(mask), "i16",  constant(0), "i64",
          boolean(mask), "i1",       boolean(false), "i1",      i32(0), "i32"});
  }
  void storeBox(const std::string &from, const std::string &map, const std::string &column,
                const std::string &row) {
    call("cp.async.bulk.tensor.s2g.tile.2d", {from, sharedPtr, map, "!llvm.ptr", column, "i32", row,
                                              "i32", constant(0), "i64", boolean(false), "i1"});
  }
  void commitStores() { call("cp.async.bulk.commit.group"); }
  void waitStores(int mayRemain = 0) {
    call("cp.async.bulk.wait.group.read", {i32(mayRemain), "i32"});
  }
  std::string i16(int number) {
    return value("llvm.mlir.constant(" + std::to_string(number) + " : i16) : i16");
  }

  void fenceWgmma() { call("wgmma.fence.sync.aligned"); }
  void commitWgmma() { call("wgmma.commit_group.sync.aligned"); }
  void waitWgmma(int mayRemain = 0) {
    call("wgmma.wait_group.sync.aligned", {constant(mayRemain), "i64"});
  }
  /// The matrix descriptor of the operand at `pointer`; offsets are in bytes, the mode is that of
  /// the PTX ISA: 0 (no swizzle), 1 (128 bytes), 2 (64) or 3 (32).
  std::string descriptor(const std::string &pointer, int64_t leading, int64_t stride,
                         uint64_t mode) {
    std::string address = value("llvm.ptrtoint " + pointer + " : !llvm.ptr<3> to i32");
    std::string start = shr(value("llvm.zext " + address + " : i32 to i64"), 4);
    uint64_t fields = uint64_t(leading / 16) << 16 | uint64_t(stride / 16) << 32 | mode << 62;
    return binary("or", start, constant(static_cast<int64_t>(fields)));
  }
  /// One wgmma; `inputs` follow the accumulators as in `operands` ("$128, $129, 1, ..."), and
  /// alternate between values and their types. Returns the new accumulators.
  std::vector<std::string> wgmma(const std::string &name, const std::string &type,
                                 const std::vector<std::string> &accumulators,
                                 const std::string &operands,
                                 const std::vector<std::string> &inputs) {
    std::string list;
    for (size_t i = 0; i != accumulators.size(); ++i)
      list += (i ? ",$" : "$") + std::to_string(i);
    std::string constraints;
    for (size_t i = 1; i < inputs.size(); i += 2)
      constraints += inputs[i] == "i64" ? ",l" : ",r";
    return assembly(name + " {" + list + "}, " + operands + ";", constraints, inputs, type,
                    accumulators);
  }
  /// The read of accumulators.
  std::vector<std::string> touch(const std::string &type,
                                 const std::vector<std::string> &accumulators) {
    return assembly("", "", {}, type, accumulators);
  }

private:
  std::vector<std::string> assembly(const std::string &text, const std::string &constraints,
                                    const std::vector<std::string> &inputs, const std::string &type,
                                    const std::vector<std::string> &tied) {
    std::string outputs, ties, values, types, results;
    auto add = [](std::string &list, const std::string &item) {
      list += (list.empty() ? "" : ", ") + item;
    };
    for (size_t i = 0; i != inputs.size(); i += 2) {
      add(values, inputs[i]);
      add(types, inputs[i + 1]);
    }
    for (size_t i = 0; i != tied.size(); ++i) {
      outputs += std::string(i ? "," : "") + (type == "f32" ? "=f" : "=r");
      ties += "," + std::to_string(i);
      add(values, tied[i]);
      add(types, type);
      add(results, type);
    }
    std::string result = "!llvm.struct<(" + results + ")>";
    std::string all =
        value("llvm.inline_asm has_side_effects \"" + text + "\", \"" + outputs + constraints +
              ties + "\" " + values + " : (" + types + ") -> " + result);
    std::vector<std::string> parts;
    for (size_t i = 0; i != tied.size(); ++i)
      parts.push_back(
          value("llvm.extractvalue " + all + "[" + std::to_string(i) + "] : " + result));
    return parts;
  }
};

} // namespace sparseflow::emulator::test

#endif // SPARSEFLOW_TEST_UNITTESTS_EMULATOR_HOPPER_H
