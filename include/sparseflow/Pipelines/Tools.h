//===- Tools.h - The bodies of the command-line tools -----------*- C++ -*-===//
//
// The programs are ten-line mains over libsparseflow.so, so that LLVM is shipped once; these are
// the functions behind the exported sfOptMain and sfCompileMain.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_PIPELINES_TOOLS_H
#define SPARSEFLOW_PIPELINES_TOOLS_H

namespace sparseflow {

/// sparseflow-opt: parses MLIR, runs the passes named on the command line, prints the result.
int optMain(int argc, char **argv);

/// sparseflow-compile: MLIR to an .sf file, or to any form on the way.
int compileMain(int argc, char **argv);

} // namespace sparseflow

#endif // SPARSEFLOW_PIPELINES_TOOLS_H
