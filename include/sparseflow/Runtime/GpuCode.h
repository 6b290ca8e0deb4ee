// Which code runs on which GPU. Needs no driver.
#ifndef SPARSEFLOW_RUNTIME_GPUCODE_H
#define SPARSEFLOW_RUNTIME_GPUCODE_H

#include "sparseflow/Runtime/Manifest.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/Support/Error.h"

namespace sparseflow::runtime {

/// Cubins run on their own chip and on later minors of its major ('a': only on its own; 'f': within
/// the major). PTX runs on its own chip and every later one ('a', 'f': as cubins).
bool cubinRunsOn(Chip code, unsigned chip);
bool ptxRunsOn(Chip code, unsigned chip);
/// The best program for the chip: cubins before PTX, the nearest target first. An error lists what
/// there is.
llvm::Expected<const Program *> chooseProgram(const Function &function, unsigned chip);

/// Checks that a cubin is an ELF file for CUDA whose sections lie within it: the driver takes a
/// pointer without a size.
llvm::Error checkCubin(llvm::ArrayRef<uint8_t> cubin);

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_RUNTIME_GPUCODE_H
