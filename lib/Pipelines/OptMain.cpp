//===- OptMain.cpp - sparseflow-opt ---------------------------------------===//
//
// The whole tool: upstream's driver over the dialects and passes of Registration.h.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Pipelines/Registration.h"
#include "sparseflow/Pipelines/Tools.h"

#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "llvm/Support/InitLLVM.h"

int sparseflow::optMain(int argc, char **argv) {
  llvm::InitLLVM initLLVM(argc, argv);
  mlir::DialectRegistry registry;
  registerDialects(registry);
  registerPasses();
  return mlir::asMainReturnCode(
      mlir::MlirOptMain(argc, argv, "SparseFlow's pass driver\n", registry));
}
