// Passes 1 to 6 of the pipeline, on the `sf` dialect.

#ifndef SPARSEFLOW_DIALECT_SF_TRANSFORMS_PASSES_TD
#define SPARSEFLOW_DIALECT_SF_TRANSFORMS_PASSES_TD

include "mlir/Pass/PassBase.td"

#endif // SPARSEFLOW_DIALECT_SF_TRANSFORMS_PASSES_TD
