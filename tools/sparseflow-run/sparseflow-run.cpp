// A main over libsparseflow.so; the tool itself is lib/CAPI/RunTool.cpp.
#include "sparseflow-c/sparseflow.h"

int main(int argc, char **argv) { return sfRunMain(argc, argv); }
