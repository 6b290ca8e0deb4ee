//===- Ptxas.h - NVIDIA's assembler, and what it reports --------*- C++ -*-===//
//
// PTX goes through ptxas as a subprocess because that is the only way to see what the hardware will
// really run: registers, spills and the warning that wgmma was serialized. Upstream's
// gpu-module-to-binary drops that report; here it is parsed and carried along with the cubin.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_TARGET_PTXAS_H
#define SPARSEFLOW_TARGET_PTXAS_H

#include "sparseflow/Target/Chip.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include <string>
#include <vector>

namespace sparseflow::target {

class DiskCache;

/// What `ptxas -v` says about one entry function.
struct KernelResources {
  std::string name;
  unsigned registers = 0;
  unsigned stackBytes = 0;
  unsigned spillStores = 0; // bytes
  unsigned spillLoads = 0;  // bytes
  unsigned sharedBytes = 0; // static
  unsigned constantBytes = 0;
  unsigned barriers = 0;
};

/// What one call of ptxas printed.
struct PtxasReport {
  std::vector<KernelResources> kernels;
  std::vector<std::string> errors;   // "error" and "fatal" lines, without ptxas's prefix
  std::vector<std::string> warnings; // warnings, and infos about lost performance
  /// The warning that wgmma runs one at a time, which is correct and several times too slow; empty:
  /// it does not.
  std::string serialization;

  const KernelResources *find(llvm::StringRef name) const;
};

/// Reads the output of `ptxas -v`.
PtxasReport parsePtxasOutput(llvm::StringRef output);

/// "13.0.88" out of the output of `ptxas --version`; empty if it is not there.
std::string parsePtxasVersion(llvm::StringRef output);

/// A cubin and what ptxas said about it.
struct AssembledKernel {
  std::string cubin;
  PtxasReport report;
};

/// Where ptxas is looked for, and what it has to be able to do.
struct PtxasSearch {
  llvm::StringRef explicitPath = "";
  /// Folders of Python packages, where the package nvidia-cuda-nvcc may be.
  llvm::ArrayRef<std::string> packageFolders = {};
  /// What it assembles for; empty: the chips with the least demands.
  llvm::ArrayRef<const Chip *> chips = {};
  /// With it, a program that has not changed is not started to learn its version.
  DiskCache *cache = nullptr;
};

/// A ptxas that was found and whose version is known.
class Ptxas {
public:
  /// Looks at the explicit path, then $SPARSEFLOW_PTXAS, $CUDA_HOME/bin, $CUDA_PATH/bin, PATH, the
  /// Python package nvidia-cuda-nvcc in the folders or beside this library, and the toolkit's usual
  /// place. Versions known to miscompile, and too old for a chip, are passed over, and refused when
  /// named explicitly.
  static llvm::Expected<Ptxas> find(const PtxasSearch &search = {});

  llvm::StringRef path() const { return programPath; }
  llvm::StringRef version() const { return programVersion; }

  /// Assembles PTX for a chip. A report with errors is a failure and comes back as one; warnings
  /// and spills are the caller's to judge.
  llvm::Expected<AssembledKernel> assemble(llvm::StringRef ptx, llvm::StringRef chip,
                                           unsigned timeoutSeconds = 120) const;

private:
  std::string programPath;
  std::string programVersion;
};

} // namespace sparseflow::target

#endif // SPARSEFLOW_TARGET_PTXAS_H
