// Between the types that are stored (runtime::DType) and the few of them that are computed with
// (sparseflow::DType), over which the compiler's and the emulator's switches are complete.
#ifndef SPARSEFLOW_RUNTIME_ELEMENTTYPE_H
#define SPARSEFLOW_RUNTIME_ELEMENTTYPE_H

#include "sparseflow/Runtime/DType.h"
#include "sparseflow/Support/NumericTypes.h"

namespace sparseflow::runtime {

/// Each type that is computed with is one that is stored.
DType fromElementType(sparseflow::DType type);
/// Nothing for a type that is only stored.
std::optional<sparseflow::DType> toElementType(DType type);

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_RUNTIME_ELEMENTTYPE_H
