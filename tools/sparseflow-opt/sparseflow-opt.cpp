//===- sparseflow-opt.cpp - The pass driver -------------------------------===//
//
// A main over libsparseflow.so; the tool itself is lib/Pipelines/OptMain.cpp.
//
//===----------------------------------------------------------------------===//

#include "sparseflow-c/sparseflow.h"

int main(int argc, char **argv) { return sfOptMain(argc, argv); }
