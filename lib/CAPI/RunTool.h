// sparseflow-run: one function of a .sf or .mlir file, with .npy files in and out.
#ifndef SPARSEFLOW_LIB_CAPI_RUNTOOL_H
#define SPARSEFLOW_LIB_CAPI_RUNTOOL_H

namespace sparseflow::capi {
int runTool(int argc, char **argv);
} // namespace sparseflow::capi

#endif // SPARSEFLOW_LIB_CAPI_RUNTOOL_H
