//===- sparseflow-compile.cpp - The compiler's command line ---------------===//
//
// A main over libsparseflow.so; the tool itself is lib/Pipelines/CompileMain.cpp.
//
//===----------------------------------------------------------------------===//

#include "sparseflow-c/sparseflow.h"

int main(int argc, char **argv) { return sfCompileMain(argc, argv); }
