//===- sparseflow-compile.cpp - The compiler's command line ---------------===//
//
// A main over the library; the tool itself is lib/Pipelines/CompileMain.cpp.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Pipelines/Tools.h"

int main(int argc, char **argv) { return sparseflow::compileMain(argc, argv); }
