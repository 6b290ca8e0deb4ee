//===- TuningPaths.h - Where tuning databases lie ---------------*- C++ -*-===//
//
// Private to lib/Pipelines; Compiler.h has the path that the user's own lies at.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_PIPELINES_TUNINGPATHS_H
#define SPARSEFLOW_LIB_PIPELINES_TUNINGPATHS_H

#include "sparseflow/Pipelines/Compiler.h"
#include "sparseflow/Pipelines/Pipelines.h"
#include "sparseflow/Target/Chip.h"

namespace sparseflow {

/// Sets which databases configurations are chosen from: the one that the options name, or else the
/// user's and the one that ships with the library, as far as they exist.
void setTuning(PipelineOptions &pipeline, const CompileOptions &options, const target::Chip &chip);

} // namespace sparseflow

#endif // SPARSEFLOW_LIB_PIPELINES_TUNINGPATHS_H
