//===-- SFTileTypes.td - Tiles and rings ------------------------*- tablegen -*-===//
//
// A tile lives in registers, a ring in shared memory. Both carry a layout once one is assigned. Barriers and tensor maps
// are what the asynchronous copies of Hopper are told by.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_DIALECT_SFTILE_IR_SFTILETYPES_TD
#define SPARSEFLOW_DIALECT_SFTILE_IR_SFTILETYPES_TD

include "mlir/IR/AttrTypeBase.td"
include "sparseflow/Dialect/SFTile/IR/SFTileDialect.td"

class SFTile_Type<string name, string typeMnemonic> : TypeDef<SFTile_Dialect, name> {
  let mnemonic = typeMnemonic;
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
}

def SFTile_TileType : SFTile_Type<"Tile", "tile"> {
  let summary = "a block's tile, distributed over its threads' registers";
  let description = [{
    `!sf_tile.tile<256x128xf32, #layout>`. A dimension of 1 broadcasts against a larger one. Elements of fewer than
    32 bits are packed into 32-bit registers, lowest register bits first.

    With a layout over `offset`, the ring's, the tile stays in the stage that it is loaded from, and instructions that
    read shared memory themselves get its descriptor.
  }];
  let parameters = (ins
    ArrayRefParameter<"int64_t">:$shape, "::mlir::Type":$elementType, "::sparseflow::sf_tile::LayoutAttr":$layout);
  let builders = [
    TypeBuilderWithInferredContext<(ins "::llvm::ArrayRef<int64_t>":$shape, "::mlir::Type":$elementType,
                                        CArg<"::sparseflow::sf_tile::LayoutAttr", "{}">:$layout), [{
      return $_get(elementType.getContext(), shape, elementType, layout);
    }]>];
  let skipDefaultBuilders = 1;
  let extraClassDeclaration = [{
    int64_t getRank() const { return getShape().size(); }
    TileType withLayout(::sparseflow::sf_tile::LayoutAttr layout) const {
      return get(getShape(), getElementType(), layout);
    }
    /// Whether the tile has a layout and stays in shared memory.
    bool isInSharedMemory() const { return getLayout() && !getLayout().isDistributed(); }
  }];
}

def SFTile_RingType : SFTile_Type<"Ring", "ring"> {
  let summary = "a ring of equal stages in shared memory";
  let description = [{
    `!sf_tile.ring<4 x 128x64xf16, #layout>`: four stages of 128x64 elements. `? x` until `sf-tile-plan-pipeline` has
    chosen the depth. The layout maps an element offset inside a stage to the stage's coordinates.
  }];
  let parameters = (ins
    "int64_t":$stages, ArrayRefParameter<"int64_t">:$shape, "::mlir::Type":$elementType,
    "::sparseflow::sf_tile::LayoutAttr":$layout);
  let builders = [
    TypeBuilderWithInferredContext<(ins "int64_t":$stages, "::llvm::ArrayRef<int64_t>":$shape,
                                        "::mlir::Type":$elementType,
                                        CArg<"::sparseflow::sf_tile::LayoutAttr", "{}">:$layout), [{
      return $_get(elementType.getContext(), stages, shape, elementType, layout);
    }]>];
  let skipDefaultBuilders = 1;
  let extraClassDeclaration = [{
    int64_t getRank() const { return getShape().size(); }
    /// Bytes of one stage.
    int64_t getStageBytes() const;
    RingType withLayout(::sparseflow::sf_tile::LayoutAttr layout) const {
      return get(getStages(), getShape(), getElementType(), layout);
    }
    RingType withStages(int64_t stages) const {
      return get(stages, getShape(), getElementType(), getLayout());
    }
  }];
}

def SFTile_BarriersType : TypeDef<SFTile_Dialect, "Barriers"> {
  let mnemonic = "barriers";
  let summary = "for every stage of a pipeline, one barrier that says full and one that says empty";
  let description = [{
    `!sf_tile.barriers<5>`: mbarrier objects in shared memory, 16 bytes a stage. Each passes through phases; a wait names
    the parity of the phase whose end it waits for. PTX ISA, 9.7.13.15.
  }];
  let parameters = (ins "int64_t":$stages);
  let assemblyFormat = "`<` $stages `>`";
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    int64_t getBytes() const { return 16 * getStages(); }
  }];
}

def SFTile_TensorMapType : TypeDef<SFTile_Dialect, "TensorMap"> {
  let mnemonic = "tensor_map";
  let summary = "a matrix in global memory as the copy engine sees it";
  let description = [{
    `!sf_tile.tensor_map<256x64xf16, of = 0>`: boxes of 256x64 elements of the kernel's argument 0, written to shared
    memory with the 128-byte swizzle; what lies outside of the matrix reads as zero. The runtime builds it for each
    pointer and shape and passes it by value. PTX ISA, 5.5 "Tensors".
  }];
  let parameters = (ins ArrayRefParameter<"int64_t">:$box, "::mlir::Type":$elementType, "int64_t":$of);
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
}

#endif // SPARSEFLOW_DIALECT_SFTILE_IR_SFTILETYPES_TD
