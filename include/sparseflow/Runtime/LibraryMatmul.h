// Dense products that a library computes instead of a kernel of the file: Y[M,N] = X[M,K] ·
// W[N,K]ᵀ.
//
// Where dense was measured faster than sparse, the vendor's library is what to be compared with, so
// it is what runs. A device makes one object for each such call of a program when it loads it
// (Device::createMatmul); everything that can be slow or fail belongs there and in `warmUp`.
#ifndef SPARSEFLOW_RUNTIME_LIBRARYMATMUL_H
#define SPARSEFLOW_RUNTIME_LIBRARYMATMUL_H

#include "sparseflow/Runtime/DType.h"
#include "llvm/Support/Error.h"
#include <memory>

namespace sparseflow::runtime {

/// What products of such operands are summed in.
DType getSumType(DType operand);

/// What is multiplied, apart from the number of tokens.
struct MatmulType {
  DType operand = DType::F16; // of X and W
  DType result = DType::F16;
  DType compute = DType::F32; // of the sums: F32 or I32
  int64_t features = 0;       // N
  int64_t inner = 0;          // K

  /// What is wrong with it: "expected ..., got ...". Nothing: a library may have it.
  std::optional<std::string> findFault() const;
  /// "f16 [4096,11008] -> f16"
  std::string describe() const;
};

/// A library's product, ready to be launched. May be used from several threads at once.
class LibraryMatmul {
public:
  /// Strides are of rows, in elements.
  struct Operands {
    int64_t rows;
    const void *x;
    int64_t xStride;
    const void *weight; // [N,K] row by row, 256-byte aligned
    void *y;
    int64_t yStride;
  };

  virtual ~LibraryMatmul();

  /// Memory that a launch needs, 256-byte aligned.
  virtual size_t workspaceBytes() const { return 0; }
  /// At least one row. Must not allocate on the device or synchronize.
  virtual llvm::Error launch(const Operands &operands, void *workspace, void *stream) = 0;
  /// Finds the best way for contiguous operands of so many rows, by trying; later launches take it.
  virtual llvm::Error warmUp(int64_t rows, const void *weight) { return llvm::Error::success(); }
  /// For the report: which library, and for so many rows which of its algorithms.
  virtual std::string describe(int64_t rows) const = 0;
};

/// A plain product in host memory, which sums in double precision.
std::unique_ptr<LibraryMatmul> createHostMatmul(const MatmulType &type);

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_RUNTIME_LIBRARYMATMUL_H
