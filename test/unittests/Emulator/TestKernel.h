//===- TestKernel.h - Kernels written as MLIR text --------------*- C++ -*-===//
//
// Compiles a gpu.module from text and launches its kernels over ordinary vectors. Kernels are
// written in the LLVM and NVVM dialects by hand, so that the tests depend on no other part of the
// compiler.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_TEST_UNITTESTS_EMULATOR_TESTKERNEL_H
#define SPARSEFLOW_TEST_UNITTESTS_EMULATOR_TESTKERNEL_H

#include "sparseflow/Emulator/Emulator.h"

#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/Parser/Parser.h"
#include "gtest/gtest.h"

#include <optional>
#include <string>
#include <vector>

namespace sparseflow::emulator::test {

/// `body` is what stands inside the gpu.module.
inline llvm::Expected<std::unique_ptr<Module>> compile(const std::string &body) {
  static mlir::MLIRContext &context = *[] {
    auto *context = new mlir::MLIRContext();
    context->loadDialect<mlir::gpu::GPUDialect, mlir::LLVM::LLVMDialect, mlir::NVVM::NVVMDialect>();
    return context;
  }();
  auto parsed =
      mlir::parseSourceString<mlir::ModuleOp>("gpu.module @kernels {\n" + body + "\n}", &context);
  if (!parsed)
    return llvm::createStringError("the test's MLIR does not parse");
  return Module::create(*parsed->getOps<mlir::gpu::GPUModuleOp>().begin());
}

inline std::unique_ptr<Module> compileOrFail(const std::string &body) {
  auto module = compile(body);
  if (!module) {
    ADD_FAILURE() << llvm::toString(module.takeError());
    return nullptr;
  }
  return std::move(*module);
}

/// A whole kernel from the statements of its body; `parameters` as in "%out: !llvm.ptr<1>". The
/// values %tid (i32), %tid64 and, if the kernel names it, %smem (the dynamic shared memory) are
/// there to be used.
inline std::string makeKernel(const std::string &parameters, const std::string &body,
                              const std::string &name = "k") {
  return "llvm.mlir.global external @sf_smem() {addr_space = 3 : i32, alignment = 1024 : i64} : "
         "!llvm.array<0 x i8>\n"
         "llvm.func @" +
         name + "(" + parameters + ") attributes {gpu.kernel, nvvm.kernel} {\n" +
         "%tid = nvvm.read.ptx.sreg.tid.x : i32\n"
         "%tid64 = llvm.zext %tid : i32 to i64\n"
         "%smem = llvm.mlir.addressof @sf_smem : !llvm.ptr<3>\n" +
         body + "\nllvm.return\n}\n";
}

/// What a launch reported, if anything. `params` point to the values.
inline std::optional<Report> launchWith(const Module &module, Dim3 grid, Dim3 block,
                                        uint32_t shared, llvm::ArrayRef<void *> params,
                                        const LaunchOptions &options = {},
                                        llvm::StringRef kernel = "k") {
  llvm::Error error = module.launch(kernel, grid, block, shared, params, options);
  std::optional<Report> report;
  llvm::handleAllErrors(
      std::move(error), [&](const ReportError &failure) { report = failure.getReport(); },
      [&](const llvm::ErrorInfoBase &other) { ADD_FAILURE() << other.message(); });
  return report;
}

/// The same for a kernel that takes pointers alone.
inline std::optional<Report> launch(const Module &module, Dim3 grid, Dim3 block, uint32_t shared,
                                    std::vector<void *> pointers, const LaunchOptions &options = {},
                                    llvm::StringRef kernel = "k") {
  std::vector<void *> params;
  for (void *&pointer : pointers)
    params.push_back(&pointer);
  return launchWith(module, grid, block, shared, params, options, kernel);
}

inline void expectNoReport(const std::optional<Report> &report) {
  EXPECT_FALSE(report.has_value()) << report->str();
}

inline void expectReport(const std::optional<Report> &report, Report::Kind kind,
                         const std::string &part) {
  ASSERT_TRUE(report.has_value()) << "expected a report of " << stringifyKind(kind).str();
  EXPECT_EQ(stringifyKind(report->kind), stringifyKind(kind)) << report->str();
  EXPECT_NE(report->str().find(part), std::string::npos) << report->str();
}

} // namespace sparseflow::emulator::test

#endif // SPARSEFLOW_TEST_UNITTESTS_EMULATOR_TESTKERNEL_H
