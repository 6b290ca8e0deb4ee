//===- OptMain.cpp - sparseflow-opt ---------------------------------------===//
//
// The whole tool: upstream's driver over the dialects and passes of Registration.h, behind the same
// look at a file's text that the compiler takes.
//
//===----------------------------------------------------------------------===//

#include "UntrustedText.h"
#include "sparseflow/Pipelines/Registration.h"
#include "sparseflow/Pipelines/Tools.h"

#include "mlir/Bytecode/BytecodeReader.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "llvm/Support/InitLLVM.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"

int sparseflow::optMain(int argc, char **argv) {
  llvm::InitLLVM initLLVM(argc, argv);
  mlir::DialectRegistry registry;
  registerDialects(registry);
  registerPasses();
  auto [input, output] =
      mlir::registerAndParseCLIOptions(argc, argv, "SparseFlow's pass driver\n", registry);
  // A file that does not open is the driver's to complain about, and so is what comes by a pipe.
  if (input != "-")
    if (auto file = llvm::MemoryBuffer::getFile(input); file && !mlir::isBytecode(**file))
      if (std::optional<std::string> fault = findUnparsable((*file)->getBuffer())) {
        llvm::errs() << input << ":" << *fault << "\n";
        return 1;
      }
  return mlir::asMainReturnCode(mlir::MlirOptMain(argc, argv, input, output, registry));
}
