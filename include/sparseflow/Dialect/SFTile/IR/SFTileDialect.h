//===- SFTileDialect.h - The sf_tile dialect --------------------*- C++ -*-===//
//
// Types, attributes and operations of `sf_tile`: how one kernel computes. See SFTileOps.td.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_DIALECT_SFTILE_IR_SFTILEDIALECT_H
#define SPARSEFLOW_DIALECT_SFTILE_IR_SFTILEDIALECT_H

#include "sparseflow/Dialect/SFTile/IR/Atoms.h"
#include "sparseflow/Support/LinearLayout.h"

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/ControlFlowInterfaces.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h.inc"

#include "sparseflow/Dialect/SFTile/IR/SFTileEnums.h.inc"

#define GET_ATTRDEF_CLASSES
#include "sparseflow/Dialect/SFTile/IR/SFTileAttributes.h.inc"

#define GET_TYPEDEF_CLASSES
#include "sparseflow/Dialect/SFTile/IR/SFTileTypes.h.inc"

#define GET_OP_CLASSES
#include "sparseflow/Dialect/SFTile/IR/SFTileOps.h.inc"

#endif // SPARSEFLOW_DIALECT_SFTILE_IR_SFTILEDIALECT_H
