// The tools' main functions. An exception that reaches them is a message and an exit code, as for
// any other failure.
#include "sparseflow/Pipelines/Tools.h"
#include "Handles.h"
#include "RunTool.h"
#include "llvm/Support/raw_ostream.h"

using namespace sparseflow;

static int guardedMain(int (*body)(int, char **), int argc, char **argv) {
  int code = 1;
  SfStatus status = capi::guarded([&]() -> llvm::Error {
    code = body(argc, argv);
    return llvm::Error::success();
  });
  if (status == SF_OK)
    return code;
  llvm::errs() << (argc > 0 ? argv[0] : "sparseflow") << ": error: " << sfLastError() << "\n";
  return 1;
}

int sfOptMain(int argc, char **argv) { return guardedMain(optMain, argc, argv); }

int sfCompileMain(int argc, char **argv) { return guardedMain(compileMain, argc, argv); }

int sfRunMain(int argc, char **argv) { return guardedMain(capi::runTool, argc, argv); }
