//===- sparseflow-opt.cpp - The pass driver -------------------------------===//
//
// A main over the library; the tool itself is lib/Pipelines/OptMain.cpp.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Pipelines/Tools.h"

int main(int argc, char **argv) { return sparseflow::optMain(argc, argv); }
