//===- Writer.h - LLVM dialect text, one value at a time --------*- C++ -*-===//
//
// For kernels that are too long to write out. Offsets and indices are i64; what a statement needs
// in another type is made where it is used.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_TEST_UNITTESTS_EMULATOR_WRITER_H
#define SPARSEFLOW_TEST_UNITTESTS_EMULATOR_WRITER_H

#include <string>
#include <vector>

namespace sparseflow::emulator::test {

/// Writes LLVM dialect text, one value at a time.
class Writer {
public:
  std::string text;

  std::string value(const std::string &operation) {
    std::string name = "%w" + std::to_string(next++);
    text += name + " = " + operation + "\n";
    return name;
  }
  void line(const std::string &operation) { text += operation + "\n"; }
  std::string constant(int64_t number) {
    return value("llvm.mlir.constant(" + std::to_string(number) + " : i64) : i64");
  }
  std::string binary(const char *name, const std::string &a, const std::string &b) {
    return value("llvm." + std::string(name) + " " + a + ", " + b + " : i64");
  }
  std::string add(const std::string &a, const std::string &b) { return binary("add", a, b); }
  std::string mul(const std::string &a, int64_t b) { return binary("mul", a, constant(b)); }
  std::string shr(const std::string &a, int64_t b) { return binary("lshr", a, constant(b)); }
  std::string mask(const std::string &a, int64_t b) { return binary("and", a, constant(b)); }
  std::string element(const char *type, const std::string &base, const std::string &byte) {
    return value("llvm.getelementptr " + base + "[" + byte + "] : (" + type + ", i64) -> " + type +
                 ", i8");
  }

  std::string i32(int64_t number) {
    return value("llvm.mlir.constant(" + std::to_string(number) + " : i32) : i32");
  }
  std::string boolean(bool number) {
    return value("llvm.mlir.constant(" + std::string(number ? "true" : "false") + ") : i1");
  }
  std::string truncate(const std::string &a) { return value("llvm.trunc " + a + " : i64 to i32"); }
  std::string compare(const char *predicate, const std::string &a, const std::string &b) {
    return value("llvm.icmp \"" + std::string(predicate) + "\" " + a + ", " + b + " : i64");
  }
  std::string shared(int64_t byte) { return element("!llvm.ptr<3>", "%smem", constant(byte)); }
  /// The 32-bit word `index` of an array in global memory.
  std::string global(const std::string &base, const std::string &index) {
    return value("llvm.getelementptr " + base + "[" + index +
                 "] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, i32");
  }
  /// An intrinsic without a result; `operands` alternate between values and types.
  void call(const std::string &intrinsic, const std::vector<std::string> &operands = {}) {
    line(callText(intrinsic, operands) + "()");
  }
  std::string call(const std::string &result, const std::string &intrinsic,
                   const std::vector<std::string> &operands) {
    return value(callText(intrinsic, operands) + result);
  }
  /// `body` is executed by those threads for which the condition holds.
  template <typename Body> void when(const std::string &condition, Body body) {
    std::string then = label(), after = label();
    line("llvm.cond_br " + condition + ", " + then + ", " + after);
    line(then + ":");
    body();
    line("llvm.br " + after);
    line(after + ":");
  }
  template <typename Body> void whenThread(int64_t thread, Body body) {
    when(compare("eq", "%tid64", constant(thread)), body);
  }
  /// A chain of blocks leads from one label to the next.
  std::string label() { return "^b" + std::to_string(nextLabel++); }

private:
  static std::string callText(const std::string &intrinsic,
                              const std::vector<std::string> &operands) {
    std::string values, types;
    for (size_t i = 0; i != operands.size(); i += 2) {
      values += (i ? ", " : "") + operands[i];
      types += (i ? ", " : "") + operands[i + 1];
    }
    return "llvm.call_intrinsic \"llvm.nvvm." + intrinsic + "\"(" + values + ") : (" + types +
           ") -> ";
  }

  unsigned next = 0, nextLabel = 0;
};

} // namespace sparseflow::emulator::test

#endif // SPARSEFLOW_TEST_UNITTESTS_EMULATOR_WRITER_H
