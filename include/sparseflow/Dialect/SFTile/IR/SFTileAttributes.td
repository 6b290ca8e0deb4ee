//===-- SFTileAttributes.td - Layouts, atoms, grids -------------*- tablegen -*-===//
//
// The attributes that carry the sharing: one layout object and one atom name, from which the packing on the host,
// the addresses on the device and the fragments in registers all derive.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_DIALECT_SFTILE_IR_SFTILEATTRIBUTES_TD
#define SPARSEFLOW_DIALECT_SFTILE_IR_SFTILEATTRIBUTES_TD

include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"
include "sparseflow/Dialect/SFTile/IR/SFTileDialect.td"

class SFTile_Attr<string name, string attrMnemonic> : AttrDef<SFTile_Dialect, name> {
  let mnemonic = attrMnemonic;
}

def SFTile_LayoutAttr : SFTile_Attr<"Layout", "layout"> {
  let summary = "a GF(2)-linear map onto a tile's coordinates, repeated over a grid of warps";
  let description = [{
    Maps bits of named inputs to coordinates of a tile: the image of an input is the XOR of the bases of its set
    bits. A tile in registers has the inputs `register` and `lane` and describes what one warp holds; `warps` is the
    grid of warps that repeats it over the tile (row-major: the last dimension varies fastest with the warp index).
    A stage in shared memory has the input `offset`, counted in elements.

    Bases tell powers of two apart. A tile that is not as large leaves the last registers out: of those of
    `m64n96`, whose bases count 64 of a lane, `used = 48` exist. A stage leaves out its last offsets.

    ```mlir
    // The accumulator of mma.m16n8: two adjacent columns a register pair, rows r and r + 8.
    #c = #sf_tile.layout<register = [[0, 1], [8, 0]], lane = [[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]], warps = [4, 2], along = [0, 1]>
    ```
  }];
  let parameters = (ins
    ArrayRefParameter<"::mlir::StringAttr">:$inputs,
    ArrayRefParameter<"::mlir::DenseI32ArrayAttr">:$bases,
    "unsigned":$rank,
    ArrayRefParameter<"int64_t">:$warps,
    ArrayRefParameter<"int64_t">:$along,
    DefaultValuedParameter<"unsigned", "0", "registers that exist; 0: all that the bases tell apart">:$used);
  let builders = [
    AttrBuilder<(ins "::llvm::ArrayRef<::mlir::StringAttr>":$inputs,
                     "::llvm::ArrayRef<::mlir::DenseI32ArrayAttr>":$bases, "unsigned":$rank,
                     "::llvm::ArrayRef<int64_t>":$warps, "::llvm::ArrayRef<int64_t>":$along), [{
      return $_get($_ctxt, inputs, bases, rank, warps, along, 0);
    }]>
  ];
  let hasCustomAssemblyFormat = 1;
  let extraClassDeclaration = [{
    /// The linear map of one warp's tile (or of a shared-memory stage); output dimensions are named dim0, dim1, ...
    /// with the smallest power-of-two sizes that hold the image.
    ::sparseflow::LinearLayout toLinearLayout() const;
    /// `rank` output dimensions; `map` must have outputs named dim0, dim1, ...
    static LayoutAttr fromLinearLayout(::mlir::MLIRContext *context, const ::sparseflow::LinearLayout &map,
                                       ::llvm::ArrayRef<int64_t> warps, ::llvm::ArrayRef<int64_t> along);
    /// What is left for a tile whose dimensions outside of `kept` have size 1: registers that only told those
    /// dimensions apart are dropped.
    LayoutAttr slice(::llvm::ArrayRef<bool> kept) const;
    /// The bases of `input`: one vector of `rank` coordinates a bit, lowest bit first; empty if it has none.
    ::llvm::SmallVector<::llvm::ArrayRef<int32_t>> getBases(::llvm::StringRef input) const;
    /// Coordinates that `value` of `input` contributes.
    ::llvm::SmallVector<int32_t> apply(::llvm::StringRef input, unsigned value) const;
    /// The extent of what one warp covers, by dimension.
    ::llvm::SmallVector<int64_t> getWarpTile() const;
    /// The extent of what the block covers, by dimension.
    ::llvm::SmallVector<int64_t> getBlockTile() const;
    unsigned getNumRegisters() const { return getUsed() ? getUsed() : 1u << getBases("register").size(); }
    /// The same map with the first `count` registers only.
    LayoutAttr withRegisters(unsigned count) const;
    bool isDistributed() const { return !getWarps().empty(); }
  }];
}

def SFTile_AtomAttr : SFTile_Attr<"Atom", "atom"> {
  let summary = "one tensor-core instruction, by name";
  let description = [{
    Names an entry of the atom table (`Atoms.cpp`), which gives the instruction's shape, element types, the fragment
    layouts of its operands, the intrinsic that emits it and the first chip that has it.
  }];
  let parameters = (ins StringRefParameter<"the atom's name, e.g. mma_sp_m16n8k32_f16">:$name);
  let assemblyFormat = "`<` $name `>`";
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    const ::sparseflow::sf_tile::Atom &getAtom() const;
  }];
}

def SFTile_GridAttr : SFTile_Attr<"Grid", "grid"> {
  let summary = "how many blocks a launch has: ceil(rows / rows_per_block) * blocks";
  let description = [{
    `rows` is the leading dimension of the launch operand with that index; without it the grid is `blocks` alone.
  }];
  let parameters = (ins
    "int64_t":$blocks,
    OptionalParameter<"::std::optional<int64_t>">:$rows_of,
    OptionalParameter<"::std::optional<int64_t>">:$rows_per_block);
  let assemblyFormat = "`<` struct(params) `>`";
}

def SFTile_CopyOrder : I32EnumAttr<"CopyOrder", "how a copied box maps to the stage", [
  I32EnumAttrCase<"Logical", 0, "logical">, I32EnumAttrCase<"Storage", 1, "storage">]> {
  let cppNamespace = "::sparseflow::sf_tile";
  let genSpecializedAttr = 0;
}
def SFTile_CopyOrderAttr : EnumAttr<SFTile_Dialect, SFTile_CopyOrder, "order"> {
  let assemblyFormat = "$value";
}

def SFTile_RoleKind : I32EnumAttr<"RoleKind", "part of a block in a pipeline", [
  I32EnumAttrCase<"Producer", 0, "producer">, I32EnumAttrCase<"Consumer", 1, "consumer">]> {
  let cppNamespace = "::sparseflow::sf_tile";
  let genSpecializedAttr = 0;
}
def SFTile_RoleKindAttr : EnumAttr<SFTile_Dialect, SFTile_RoleKind, "role"> {
  let assemblyFormat = "$value";
}

def SFTile_ReduceKind : I32EnumAttr<"ReduceKind", "associative combination", [
  I32EnumAttrCase<"Add", 0, "add">, I32EnumAttrCase<"Max", 1, "max">]> {
  let cppNamespace = "::sparseflow::sf_tile";
  let genSpecializedAttr = 0;
}
def SFTile_ReduceKindAttr : EnumAttr<SFTile_Dialect, SFTile_ReduceKind, "reduce"> {
  let assemblyFormat = "$value";
}

#endif // SPARSEFLOW_DIALECT_SFTILE_IR_SFTILEATTRIBUTES_TD
