// NumPy's .npy files, as far as sparseflow-run needs them.
//
// NumPy has no bf16 or float8; such tensors travel as raw 2- and 1-byte elements (u2, u1, or V2, V1
// as ml_dtypes writes them), and what they mean is said by the function that reads or writes them.
#ifndef SPARSEFLOW_LIB_CAPI_NPY_H
#define SPARSEFLOW_LIB_CAPI_NPY_H

#include "sparseflow/Runtime/DType.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/Support/Error.h"
#include <string>
#include <vector>

namespace sparseflow::capi {

struct NpyArray {
  std::string descr; // "<f2", "|u1", ...
  std::vector<int64_t> shape;
  std::vector<uint8_t> data;
};

/// `what` names the file in messages.
llvm::Expected<NpyArray> parseNpy(llvm::StringRef bytes, llvm::StringRef what);
llvm::Expected<NpyArray> readNpy(llvm::StringRef path);
/// Atomic, as all writing here.
llvm::Error writeNpy(llvm::StringRef path, const NpyArray &array);

/// What NumPy calls the elements in a file that is written: "<u2" for bf16.
llvm::StringRef npyDescr(runtime::DType dtype);
/// Whether elements of this description can be taken as the dtype.
bool npyHolds(llvm::StringRef descr, runtime::DType dtype);
/// Whether NumPy lacks the dtype, so that its files hold raw bits.
bool npyIsRaw(runtime::DType dtype);

} // namespace sparseflow::capi

#endif // SPARSEFLOW_LIB_CAPI_NPY_H
