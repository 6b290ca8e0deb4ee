//===-- SFTileDialect.td - The sf_tile dialect ------------------*- tablegen -*-===//
//
// `sf_tile` says how one kernel computes: tiles in registers, rings of stages in shared memory, one pipeline that
// fills and drains them, and tensor-core instructions described by atoms. Layouts are absent when a schedule is
// built, assigned by `sf-tile-assign-layouts`, and gone after `convert-sf-tile-to-nvvm`.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_DIALECT_SFTILE_IR_SFTILEDIALECT_TD
#define SPARSEFLOW_DIALECT_SFTILE_IR_SFTILEDIALECT_TD

include "mlir/IR/OpBase.td"

def SFTile_Dialect : Dialect {
  let name = "sf_tile";
  let cppNamespace = "::sparseflow::sf_tile";
  let summary = "How one kernel computes: tiles, rings, pipelines, atoms";
  let description = [{
    A kernel works on *tiles*: values that a block's threads hold together in registers. A tile's layout is a
    GF(2)-linear map from (register, lane) to coordinates, repeated over a grid of warps. Shared memory is a *ring*
    of stages, filled asynchronously by a pipeline's producer and read by its consumer. A tensor-core instruction is
    an *atom*: shape, element types and fragment layouts. Synchronization does not exist in the IR until
    `sf-tile-assign-roles` inserts it.
  }];
  let useDefaultAttributePrinterParser = 1;
  let useDefaultTypePrinterParser = 1;
  let extraClassDeclaration = [{
    void registerTypes();
    void registerAttributes();
  }];
}

#endif // SPARSEFLOW_DIALECT_SFTILE_IR_SFTILEDIALECT_TD
