//===-- SFTileOps.td - Operations of the sf_tile dialect --------*- tablegen -*-===//
//
// Five families: the kernel and its place in the grid; memory (rings, copies, loads, stores); synchronization, which
// only sf-tile-assign-roles inserts; arithmetic on tiles; and the host side (launch, library_matmul, dispatch), which keeps
// tensors and says which kernels a function became.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_DIALECT_SFTILE_IR_SFTILEOPS_TD
#define SPARSEFLOW_DIALECT_SFTILE_IR_SFTILEOPS_TD

include "mlir/IR/BuiltinAttributes.td"
include "mlir/IR/OpAsmInterface.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/CallInterfaces.td"
include "mlir/Interfaces/ControlFlowInterfaces.td"
include "mlir/Interfaces/FunctionInterfaces.td"
include "mlir/Interfaces/SideEffectInterfaces.td"
include "sparseflow/Dialect/SFTile/IR/SFTileAttributes.td"
include "sparseflow/Dialect/SFTile/IR/SFTileTypes.td"

class SFTile_Op<string mnemonic, list<Trait> traits = []> : Op<SFTile_Dialect, mnemonic, traits>;

//===----------------------------------------------------------------------===//
// The kernel
//===----------------------------------------------------------------------===//

def SFTile_KernelOp : SFTile_Op<"kernel", [
    FunctionOpInterface, IsolatedFromAbove, SingleBlock, HasParent<"::mlir::gpu::GPUModuleOp">]> {
  let summary = "one GPU kernel";
  let description = [{
    A function that a grid of blocks executes. Arguments are memrefs in global memory (a dynamic leading dimension and
    row stride become further parameters, in that order, behind each pointer) and scalars.

    Attributes: `threads` is the block size; `config` (optional) the `#sf.kernel_config` it was built from;
    `shared_bytes` is set by `sf-tile-allocate-smem`. A `persistent` kernel computes all tiles with any number of blocks,
    so it is launched with as many as the chip holds. With `cluster`, so many blocks reach each other's shared memory.
    An argument with `sf_tile.constant` is a constant of the program, which no kernel writes.

    Example:
    ```mlir
    gpu.module @kernels {
      sf_tile.kernel @copy(%x: memref<?x64xf16>, %y: memref<?x64xf16>) attributes {threads = 32 : i64} {
        %c0 = arith.constant 0 : index
        %t = sf_tile.load %x[%c0, %c0] : memref<?x64xf16> -> !sf_tile.tile<16x64xf16>
        sf_tile.store %t, %y[%c0, %c0] : !sf_tile.tile<16x64xf16>, memref<?x64xf16>
        sf_tile.return
      }
    }
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, TypeAttrOf<FunctionType>:$function_type,
    OptionalAttr<DictArrayAttr>:$arg_attrs, OptionalAttr<DictArrayAttr>:$res_attrs,
    I64Attr:$threads, OptionalAttr<AnyAttr>:$config, OptionalAttr<I64Attr>:$shared_bytes,
    UnitAttr:$persistent, OptionalAttr<I64Attr>:$cluster);
  let regions = (region SizedRegion<1>:$body);
  let hasCustomAssemblyFormat = 1;
  let hasVerifier = 1;
  let skipDefaultBuilders = 1;
  let builders = [OpBuilder<(ins "::llvm::StringRef":$name, "::mlir::TypeRange":$inputs, "int64_t":$threads,
                                 "::mlir::Attribute":$config)>];
  let extraClassDeclaration = [{
    ::llvm::ArrayRef<::mlir::Type> getArgumentTypes() { return getFunctionType().getInputs(); }
    ::llvm::ArrayRef<::mlir::Type> getResultTypes() { return getFunctionType().getResults(); }
    ::mlir::Region *getCallableRegion() { return &getBody(); }

    static constexpr ::llvm::StringLiteral kConstantAttrName = "sf_tile.constant";
    /// Whether `memref`, an argument or a view of one, shows a constant of the program.
    bool isConstant(::mlir::Value memref);
  }];
}

def SFTile_ReturnOp : SFTile_Op<"return", [Pure, Terminator, HasParent<"KernelOp">]> {
  let summary = "ends a kernel";
  let assemblyFormat = "attr-dict";
}

def SFTile_TileIdOp : SFTile_Op<"tile_id", [Pure]> {
  let summary = "which output tile, and which part of the inner dimension, is computed";
  let description = [{
    Decomposes a tile's number, by default the block index, into a feature tile, a token tile and a split. Numbers walk
    panels of `raster` feature tiles: inside a panel features vary fastest, then tokens, so that tiles that are computed
    together share weights and activations in L2. There are `feature_tiles * ceil(tokens / tile_tokens) * splits`
    numbers; the split is their slowest part.

    In a cluster of blocks a number stands for as many feature tiles, side by side, as the cluster has blocks: each block
    computes the one of its rank. If there are splits, it stands for all splits of one tile, one for each block of the
    cluster.
  }];
  let arguments = (ins Index:$tokens, Optional<Index>:$number, I64Attr:$feature_tiles, I64Attr:$tile_tokens,
                       I64Attr:$splits, I64Attr:$raster, DefaultValuedAttr<I64Attr, "1">:$cluster);
  let results = (outs Index:$feature, Index:$token, Index:$split);
  let builders = [OpBuilder<(ins "::mlir::Value":$tokens, "int64_t":$featureTiles, "int64_t":$tileTokens,
                                 "int64_t":$splits, "int64_t":$raster, CArg<"int64_t", "1">:$cluster), [{
    ::mlir::Type index = $_builder.getIndexType();
    build($_builder, $_state, index, index, index, tokens, ::mlir::Value(), featureTiles, tileTokens, splits, raster,
          cluster);
  }]>];
  let assemblyFormat = "$tokens (`number` $number^)? attr-dict";
  let hasVerifier = 1;
}

def SFTile_TileRangeOp : SFTile_Op<"tile_range", [Pure]> {
  let summary = "which tiles a block computes, one after the other, when there are fewer blocks than tiles";
  let description = [{
    Tiles `first`, `first + step`, ... below `end`, the number of tiles that `tile_id` with the same attributes tells
    apart: the block's or cluster's index, and the number of blocks or clusters as the step.
  }];
  let arguments = (ins Index:$tokens, I64Attr:$feature_tiles, I64Attr:$tile_tokens, I64Attr:$splits,
                       DefaultValuedAttr<I64Attr, "1">:$cluster);
  let results = (outs Index:$first, Index:$end, Index:$step);
  let assemblyFormat = "$tokens attr-dict";
}

def SFTile_GridWaitOp : SFTile_Op<"grid_wait", [MemoryEffects<[MemRead, MemWrite]>]> {
  let summary = "waits until the kernels ahead on the stream have ended";
  let description = [{
    A kernel with this operation is launched while the one ahead of it on the stream ends (programmatic dependent launch,
    sm_90), and each of its threads waits before it touches global memory that is no constant: then what was written is
    visible, and what was read may be overwritten. It waits for one kernel, which has waited for the one ahead of it, so that all have ended.
  }];
  let assemblyFormat = "attr-dict";
}

def SFTile_LaunchDependentsOp : SFTile_Op<"launch_dependents", [MemoryEffects<[MemWrite]>]> {
  let summary = "lets the kernel behind on the stream begin";
  let description = [{
    Once all blocks have come here or have ended, blocks of the next kernel that waits by itself are launched into what
    room there is.
  }];
  let assemblyFormat = "attr-dict";
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

def SFTile_RingOp : SFTile_Op<"ring", [MemoryEffects<[MemAlloc]>]> {
  let summary = "a ring of stages in shared memory";
  let description = [{
    `sf-tile-allocate-smem` places it: stage s begins `offset + s * stride` bytes into the block's shared memory.

    Example: `%r = sf_tile.ring : !sf_tile.ring<4 x 128x64xf16>`
  }];
  let arguments = (ins OptionalAttr<I64Attr>:$offset, OptionalAttr<I64Attr>:$stride);
  let results = (outs SFTile_RingType:$result);
  let builders = [OpBuilder<(ins "::sparseflow::sf_tile::RingType":$type), [{
    build($_builder, $_state, type, ::mlir::IntegerAttr(), ::mlir::IntegerAttr());
  }]>];
  let assemblyFormat = "attr-dict `:` type($result)";
}

def SFTile_CopyAsyncOp : SFTile_Op<"copy_async", [MemoryEffects<[MemRead, MemWrite]>, AttrSizedOperandSegments]> {
  let summary = "copies a box of global memory to a stage, asynchronously";
  let description = [{
    Copies the box of `sizes` elements at `offsets` of `source` to stage `stage` of `ring`. Elements outside of
    `source`, and everything when `predicate` is false, arrive as zeros; with `clamped`, elements outside are copies of
    others, since zeros are no legal metadata. `order = logical` keeps coordinates (the box has
    the stage's shape); `order = storage` keeps bytes: the box, flattened, is the stage in storage order, which is
    how packed weights travel.

    With `barriers` the copy is one of the copy engine's, issued by one thread, and tells the stage's full barrier the
    bytes that have landed. In storage order it then needs boxes that lie inside; in logical order its source is a
    tensor map, whose boxes have at most as many rows as the matrix: the rest of the stage keeps what it has. With
    `multicast` that map's boxes have only the rows of one block's share: each of so many blocks of a
    cluster copies its own share to the stages of all.

    Preconditions: every row of the box starts at a multiple of the copy's vector, which is the largest of 16, 8
    and 4 bytes that divides the source's rows.
    Postconditions: the stage may be read after a `wait` that covers the copy's `commit`, or after an `await` of its
    barrier.
  }];
  let arguments = (ins AnyType:$source, Variadic<Index>:$offsets, SFTile_RingType:$ring, Index:$stage,
                       Optional<I1>:$predicate, Optional<SFTile_BarriersType>:$barriers, DenseI64ArrayAttr:$sizes,
                       SFTile_CopyOrderAttr:$order, DefaultValuedAttr<I64Attr, "1">:$multicast,
                       UnitAttr:$clamped);
  let builders = [
    OpBuilder<(ins "::mlir::Value":$source, "::mlir::ValueRange":$offsets, "::mlir::Value":$ring,
                   "::mlir::Value":$stage, "::llvm::ArrayRef<int64_t>":$sizes, "CopyOrder":$order)>
  ];
  let assemblyFormat = [{
    $source `[` $offsets `]` $sizes `to` $ring `[` $stage `]` (`if` $predicate^)? (`signals` $barriers^)? $order attr-dict
    `:` type($source) `to` type($ring) (`,` type($barriers)^)?
  }];
  let hasVerifier = 1;
}

def SFTile_CommitOp : SFTile_Op<"commit", [MemoryEffects<[MemWrite]>]> {
  let summary = "closes the group of copies issued since the last commit";
  let assemblyFormat = "attr-dict";
}

def SFTile_WaitOp : SFTile_Op<"wait", [MemoryEffects<[MemRead, MemWrite]>]> {
  let summary = "waits until at most `pending` groups are in flight, for the whole block";
  let description = [{
    Every thread waits for its own copies, then all meet at a barrier: what the older groups copied is visible to
    the block, and every stage read before the wait may be written again.
  }];
  let arguments = (ins I64Attr:$pending);
  let assemblyFormat = "attr-dict";
}

def SFTile_ViewOp : SFTile_Op<"view", [Pure]> {
  let summary = "part of a packed weight as a typed memref";
  let description = [{
    A packed weight is one buffer: values, then metadata. The view starts at `byte_offset` and has the result's static
    shape.

    Example: `%v = sf_tile.view %w {byte_offset = 4096 : i64} : memref<4608xi8> to memref<1x1x512xi8>`
  }];
  let arguments = (ins AnyMemRef:$source, I64Attr:$byte_offset);
  let results = (outs AnyMemRef:$result);
  let assemblyFormat = "$source attr-dict `:` type($source) `to` type($result)";
  let hasVerifier = 1;
}

def SFTile_IsContiguousOp : SFTile_Op<"is_contiguous", [Pure]> {
  let summary = "whether a matrix's rows lie one behind the other";
  let description = [{
    Where they do, a `memref.cast` to the type without strides makes addresses of neighbouring rows differ by constants.

    Example: `%c = sf_tile.is_contiguous %y : memref<?x64xf16, strided<[?, 1]>>`
  }];
  let arguments = (ins AnyMemRef:$source);
  let results = (outs I1:$result);
  let assemblyFormat = "$source attr-dict `:` type($source)";
}

def SFTile_LoadOp : SFTile_Op<"load", [MemoryEffects<[MemRead]>]> {
  let summary = "a tile from global memory or from a stage";
  let description = [{
    From a memref: element (i0, i1, ...) of the tile is `source[indices + (i[dims[0]], i[dims[1]], ...)]`: `dims` says
    which tile dimension runs along each memref dimension (-1: none; default: the same order). Elements outside of the
    source are 0; `in_bounds` says that there are none. Elements of a tile whose dimension no memref dimension uses are equal (a broadcast) and the tile has
    size 1 there.

    From a ring: `indices` is the stage, and the tile starts at the static `start` coordinates of the stage.
  }];
  let arguments = (ins AnyType:$source, Variadic<Index>:$indices, OptionalAttr<DenseI64ArrayAttr>:$dims,
                       OptionalAttr<DenseI64ArrayAttr>:$start, UnitAttr:$in_bounds);
  let results = (outs SFTile_TileType:$result);
  let assemblyFormat = [{
    $source `[` $indices `]` (`start` $start^)? (`dims` $dims^)? attr-dict `:` type($source) `->` type($result)
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    bool isFromRing() { return ::llvm::isa<RingType>(getSource().getType()); }
    /// `dims`, with its default filled in.
    ::llvm::SmallVector<int64_t> getDimMap();
  }];
}

def SFTile_StoreOp : SFTile_Op<"store", [AttrSizedOperandSegments, MemoryEffects<[MemWrite]>]> {
  let summary = "a tile to global memory";
  let description = [{
    The inverse of `load` from a memref; elements outside of the destination, of which with `in_bounds` there are none,
    are dropped, and so are those whose first index lies below `from`: another tile stores them. With `packing`, a layout
    from `offset` to tile coordinates, the tile is stored in that order from `indices` on, in the last dimension.
  }];
  let arguments = (ins SFTile_TileType:$value, AnyMemRef:$dest, Variadic<Index>:$indices, Optional<Index>:$from,
                       OptionalAttr<DenseI64ArrayAttr>:$dims, OptionalAttr<SFTile_LayoutAttr>:$packing,
                       UnitAttr:$in_bounds);
  let builders = [OpBuilder<(ins "::mlir::Value":$value, "::mlir::Value":$dest, "::mlir::ValueRange":$indices,
                                 "::mlir::DenseI64ArrayAttr":$dims, CArg<"bool", "false">:$inBounds,
                                 CArg<"::mlir::Value", "{}">:$from), [{
    build($_builder, $_state, value, dest, indices, from, dims, LayoutAttr(), inBounds);
  }]>];
  let assemblyFormat = [{
    $value `,` $dest `[` $indices `]` (`from` $from^)? (`dims` $dims^)? (`packing` $packing^)? attr-dict `:` type($value) `,` type($dest)
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    ::llvm::SmallVector<int64_t> getDimMap();
  }];
}

//===----------------------------------------------------------------------===//
// The pipeline
//===----------------------------------------------------------------------===//

def SFTile_PipelineOp : SFTile_Op<"pipeline", [AttrSizedOperandSegments, RecursiveMemoryEffects, SingleBlock]> {
  let summary = "a producer that fills stages ahead of a consumer that reads them";
  let description = [{
    For every step of the domain `lower <= step < upper` the producer issues the asynchronous copies of the step into one
    stage of each ring, and the consumer, once they have landed, reads the stage and updates the carried values.
    Nothing here says how the two are synchronized or how far ahead the producer runs: `sf-tile-plan-pipeline` chooses
    the depth (`stages`), `sf-tile-assign-roles` the mechanism.

    The producer's arguments are the step and the stage; the consumer's are the step, the stage and the carried values,
    which its `yield` replaces.
  }];
  let arguments = (ins Index:$lower, Index:$upper, Variadic<AnyType>:$inits, Variadic<SFTile_RingType>:$rings,
                       OptionalAttr<I64Attr>:$stages);
  let results = (outs Variadic<AnyType>:$results);
  let regions = (region SizedRegion<1>:$producer, SizedRegion<1>:$consumer);
  let assemblyFormat = [{
    $lower `to` $upper (`init` `(` $inits^ `:` type($inits) `)`)? (`rings` `(` $rings^ `:` type($rings) `)`)?
    `producer` $producer `consumer` $consumer attr-dict (`->` type($results)^)?
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    /// Whether the consumer multiplies with warpgroups' atoms.
    bool hasAsynchronousProducts();
  }];
}

def SFTile_YieldOp : SFTile_Op<"yield", [Pure, Terminator, ReturnLike,
    ParentOneOf<["PipelineOp", "MapOp", "DispatchOp"]>]> {
  let summary = "ends a region and gives its values";
  let arguments = (ins Variadic<AnyType>:$values);
  let assemblyFormat = "attr-dict ($values^ `:` type($values))?";
}

//===----------------------------------------------------------------------===//
// Roles and barriers
//===----------------------------------------------------------------------===//

def SFTile_BarriersOp : SFTile_Op<"barriers", [MemoryEffects<[MemAlloc, MemWrite]>]> {
  let summary = "the barriers between a producer and its consumers";
  let description = [{
    Initializes them, for the whole block: a stage is full when the bytes that `acquire` announced have landed, and empty
    when each of `consumers` warps, of every block of the `cluster` that shares stages, has released it. Before the first
    use a stage counts as empty. With `senders` there is one more, the inbox: complete when so many warps of other blocks
    have sent what `reduce_scatter` adds. `sf-tile-allocate-smem` places them at `offset`.
  }];
  let arguments = (ins I64Attr:$consumers, OptionalAttr<I64Attr>:$offset, DefaultValuedAttr<I64Attr, "1">:$cluster,
                       OptionalAttr<I64Attr>:$senders);
  let results = (outs SFTile_BarriersType:$result);
  let assemblyFormat = "attr-dict `:` type($result)";
  let extraClassDeclaration = [{
    /// Of shared memory, the inbox included.
    int64_t getBytes();
  }];
}

def SFTile_RoleOp : SFTile_Op<"role", [SingleBlock, NoTerminator, RecursiveMemoryEffects]> {
  let summary = "what some of the block's threads do";
  let description = [{
    The first `consumers` warps of the block, which are whole warpgroups, or one thread of the warp behind them, the
    `producer`.
  }];
  let arguments = (ins SFTile_RoleKindAttr:$kind, I64Attr:$consumers);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = "$kind $body attr-dict";
  let hasVerifier = 1;
}

def SFTile_AcquireOp : SFTile_Op<"acquire", [MemoryEffects<[MemRead, MemWrite]>]> {
  let summary = "waits until a stage is empty, and announces the bytes that will fill it";
  let arguments = (ins SFTile_BarriersType:$barriers, Index:$stage, I32:$parity, I32:$bytes);
  let assemblyFormat = "$barriers `[` $stage `]` `parity` $parity `bytes` $bytes attr-dict `:` type($barriers)";
}

def SFTile_AwaitOp : SFTile_Op<"await", [MemoryEffects<[MemRead, MemWrite]>]> {
  let summary = "waits until a stage is full";
  let arguments = (ins SFTile_BarriersType:$barriers, Index:$stage, I32:$parity);
  let assemblyFormat = "$barriers `[` $stage `]` `parity` $parity attr-dict `:` type($barriers)";
}

def SFTile_ReleaseOp : SFTile_Op<"release", [MemoryEffects<[MemWrite]>]> {
  let summary = "says, for a warp, that a stage has been read";
  let description = [{
    To the producers of all blocks of the cluster, since each fills a share of every block's stage.
  }];
  let arguments = (ins SFTile_BarriersType:$barriers, Index:$stage, Optional<I1>:$predicate,
                       DefaultValuedAttr<I64Attr, "1">:$cluster);
  let assemblyFormat = "$barriers `[` $stage `]` (`if` $predicate^)? attr-dict `:` type($barriers)";
}

//===----------------------------------------------------------------------===//
// Arithmetic
//===----------------------------------------------------------------------===//

def SFTile_SplatOp : SFTile_Op<"splat", [Pure]> {
  let summary = "a tile with one value everywhere";
  let arguments = (ins AnyType:$value);
  let results = (outs SFTile_TileType:$result);
  let assemblyFormat = "$value attr-dict `:` type($value) `->` type($result)";
  let hasVerifier = 1;
}

def SFTile_IotaOp : SFTile_Op<"iota", [Pure]> {
  let summary = "every element's position along one dimension";
  let arguments = (ins I64Attr:$dim);
  let results = (outs SFTile_TileType:$result);
  let assemblyFormat = "$dim attr-dict `:` type($result)";
  let hasVerifier = 1;
}

def SFTile_SliceOp : SFTile_Op<"slice", [Pure]> {
  let summary = "part of a tile, with the registers that hold it";
  let description = [{
    The elements from the coordinates `start` on. Nothing moves: every thread keeps what it holds of the part.

    Preconditions: elements of 32 bits; whole dimensions, or sizes that are powers of two and starts that are multiples of them. A dimension
    that warps divide is whole.

    Example: `%h = sf_tile.slice %t[0, 64] : !sf_tile.tile<128x256xf32> -> !sf_tile.tile<128x64xf32>`
  }];
  let arguments = (ins SFTile_TileType:$source, DenseI64ArrayAttr:$start);
  let results = (outs SFTile_TileType:$result);
  let assemblyFormat = "$source `` $start attr-dict `:` type($source) `->` type($result)";
  let hasVerifier = 1;
}

def SFTile_MmaOp : SFTile_Op<"mma", [Pure]> {
  let summary = "matrix multiply-accumulate on tensor cores";
  let description = [{
    `result[f, t] = acc[f, t] + sum_k a[f, k] * b[t, k]`. With `metadata`, `a` holds the two kept elements of every four
    along k, and nibble (f, g) of the metadata holds their positions in group g, the first in the low two bits.
    The metadata tile may cover more of k than `a` does: `a` begins at its column `metadata_start`.

    A warpgroup's atom is asynchronous: `a` and `b` stay in shared memory, and between `mma_fence` and `mma_wait` the
    result may only be carried on to further products.

    Supported: the atoms of `Atoms.cpp`; f16, bf16, e4m3 and e5m2 accumulate in f32, i8 in i32.
  }];
  let arguments = (ins SFTile_TileType:$a, SFTile_TileType:$b, SFTile_TileType:$acc,
                       Optional<SFTile_TileType>:$metadata, DefaultValuedAttr<I64Attr, "0">:$metadata_start,
                       SFTile_AtomAttr:$atom);
  let results = (outs SFTile_TileType:$result);
  let assemblyFormat = [{
    $atom $a `,` $b `,` $acc (`metadata` $metadata^)? attr-dict `:` type($a) `,` type($b) `,` type($acc)
    (`,` type($metadata)^)? `->` type($result)
  }];
  let hasVerifier = 1;
}

def SFTile_MmaFenceOp : SFTile_Op<"mma_fence", [MemoryEffects<[MemRead, MemWrite]>]> {
  let summary = "lets asynchronous products see the registers that were written";
  let assemblyFormat = "attr-dict";
}

def SFTile_MmaCommitOp : SFTile_Op<"mma_commit", [MemoryEffects<[MemRead, MemWrite]>]> {
  let summary = "closes the group of the asynchronous products issued since the last one";
  let assemblyFormat = "attr-dict";
}

def SFTile_MmaWaitOp : SFTile_Op<"mma_wait", [MemoryEffects<[MemRead, MemWrite]>]> {
  let summary = "waits until at most `pending` groups of products are in flight";
  let description = [{
    What the older groups read may be overwritten. Accumulators may be used only as results of a wait that leaves
    nothing pending. Metadata, too, is read while a product runs: given to the wait that covers its group, its registers
    are kept until then.
  }];
  let arguments = (ins I64Attr:$pending, Variadic<SFTile_TileType>:$registers);
  let results = (outs Variadic<SFTile_TileType>:$results);
  let assemblyFormat = "$pending (`(` $registers^ `:` type($registers) `)`)? attr-dict (`->` type($results)^)?";
  let hasVerifier = 1;
}

def SFTile_MapOp : SFTile_Op<"map", [Pure, SingleBlock]> {
  let summary = "a scalar function of every element";
  let description = [{
    Applies the region's `arith` and `math` operations to every element. Inputs broadcast along dimensions of size 1; the
    region may use scalars from outside.

    Example:
    ```mlir
    func.func @add(%a: !sf_tile.tile<64x8xf32>, %b: !sf_tile.tile<64x1xf32>) -> !sf_tile.tile<64x8xf32> {
      %r = sf_tile.map %a, %b : !sf_tile.tile<64x8xf32>, !sf_tile.tile<64x1xf32> -> !sf_tile.tile<64x8xf32> {
      ^bb0(%x: f32, %y: f32):
        %s = arith.addf %x, %y : f32
        sf_tile.yield %s : f32
      }
      return %r : !sf_tile.tile<64x8xf32>
    }
    ```
  }];
  let arguments = (ins Variadic<SFTile_TileType>:$inputs);
  let results = (outs Variadic<SFTile_TileType>:$results);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = "($inputs^ `:` type($inputs) `->`)? type($results) $body attr-dict";
  let hasVerifier = 1;
}

def SFTile_ReduceOp : SFTile_Op<"reduce", [Pure]> {
  let summary = "combines a tile along one dimension";
  let description = [{
    The result has size 1 in `dim`. The order of combination is fixed by the layout, so equal inputs give equal bits.
    Where the layout divides `dim` among warps, they combine their parts in shared memory at `scratch_offset`, which
    `sf-tile-allocate-smem` sets.
  }];
  let arguments = (ins SFTile_ReduceKindAttr:$kind, SFTile_TileType:$input, I64Attr:$dim,
                       OptionalAttr<I64Attr>:$scratch_offset);
  let results = (outs SFTile_TileType:$result);
  let assemblyFormat = "$kind $input attr-dict `:` type($input) `->` type($result)";
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    /// Whether the input's layout divides `dim` among warps.
    bool crossesWarps();
  }];
}

def SFTile_ReduceScatterOp : SFTile_Op<"reduce_scatter", [AttrSizedOperandSegments, MemoryEffects<[MemRead, MemWrite]>]> {
  let summary = "adds tiles over the blocks of a cluster, each of which gets its share of the sums";
  let description = [{
    Every block of the cluster has tiles of the same types, and gets, in the order of ranks, one of as many equal parts
    along the last dimension: the sum of that part over all blocks. The order of addition is fixed, so equal inputs give
    equal bits.

    The consumers send the other blocks' parts to `scratch_offset` of their shared memory, which `sf-tile-allocate-smem`
    sets, and arrive at the inbox of their `barriers`. There is one phase of that: a kernel does it once.

    Preconditions: elements of 32 bits; a part is a multiple of 8 elements, whose registers are contiguous in the layout.

    Example, in a cluster of two blocks:
    `%s = sf_tile.reduce_scatter(%t) : (!sf_tile.tile<64x32xf32>) -> !sf_tile.tile<64x16xf32>`
  }];
  let arguments = (ins Variadic<SFTile_TileType>:$inputs, Optional<SFTile_BarriersType>:$barriers,
                       OptionalAttr<I64Attr>:$scratch_offset);
  let results = (outs Variadic<SFTile_TileType>:$results);
  let assemblyFormat = [{
    `(` $inputs `)` (`signals` $barriers^ `:` type($barriers))? attr-dict `:` functional-type($inputs, $results)
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    /// Blocks of the cluster.
    int64_t getBlocks();
    /// Bytes that one block sends to another.
    int64_t getBytesSent();
    /// Bytes that a block receives.
    int64_t getScratchBytes() { return (getBlocks() - 1) * getBytesSent(); }
  }];
}

def SFTile_CompressOp : SFTile_Op<"compress", [Pure]> {
  let summary = "keeps two of every four elements along the last dimension";
  let description = [{
    Keeps the two largest magnitudes of each group, ties to the lower position, in ascending position; -0 becomes +0.
    `kept` has half the columns; `metadata` holds one nibble a group, first position in the low two bits.

    Supported: f16, bf16, i8, e4m3, e5m2.
  }];
  let arguments = (ins SFTile_TileType:$input);
  let results = (outs SFTile_TileType:$kept, SFTile_TileType:$metadata);
  let assemblyFormat = "$input attr-dict `:` type($input) `->` type($kept) `,` type($metadata)";
  let hasVerifier = 1;
}

def SFTile_DecompressOp : SFTile_Op<"decompress", [Pure]> {
  let summary = "puts kept elements back to their positions, with zeros between";
  let description = [{
    The inverse of `compress`.
  }];
  let arguments = (ins SFTile_TileType:$kept, SFTile_TileType:$metadata);
  let results = (outs SFTile_TileType:$result);
  let assemblyFormat = "$kept `,` $metadata attr-dict `:` type($kept) `,` type($metadata) `->` type($result)";
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// The host side
//===----------------------------------------------------------------------===//

def SFTile_LaunchOp : SFTile_Op<"launch"> {
  let summary = "runs a kernel on tensors";
  let description = [{
    The kernel's arguments are the operands, then the results, in this order. A result's leading dimension, when it
    is dynamic, equals that of the operand `grid.rows_of`.
  }];
  let arguments = (ins SymbolRefAttr:$kernel, Variadic<AnyType>:$inputs, SFTile_GridAttr:$grid);
  let results = (outs Variadic<AnyType>:$results);
  let assemblyFormat = "$kernel `(` $inputs `)` $grid attr-dict `:` functional-type($inputs, $results)";
  let hasVerifier = 1;
}

def SFTile_LibraryMatmulOp : SFTile_Op<"library_matmul", [HasParent<"DispatchOp">]> {
  let summary = "a dense product, `y = x * weight^T`, by a library";
  let description = [{
    The weight lies row by row. The sums, f32 or i32 for i8 operands, are rounded to the result's elements.
  }];
  let arguments = (ins AnyRankedTensor:$x, AnyRankedTensor:$weight);
  let results = (outs AnyRankedTensor:$result);
  let assemblyFormat = "$x `,` $weight attr-dict `:` type($x) `,` type($weight) `->` type($result)";
  let hasVerifier = 1;
}

def SFTile_DispatchOp : SFTile_Op<"dispatch", [RecursiveMemoryEffects]> {
  let summary = "one of several ways to compute a result, chosen by the number of rows";
  let description = [{
    Region i serves row counts up to `max_rows[i]`, which ascend; -1, for the last, means any. `rows` is the tensor whose
    leading dimension is counted. `label` names the operation for reports.

    A region that calls a library is passed over where the library is missing: behind it stands another, for the same
    row counts or for more.
  }];
  let arguments = (ins AnyType:$rows, DenseI64ArrayAttr:$max_rows, StrAttr:$label);
  let results = (outs Variadic<AnyType>:$results);
  let regions = (region VariadicRegion<SizedRegion<1>>:$variants);
  let assemblyFormat = "$label $rows $max_rows attr-dict `:` type($rows) `->` type($results) $variants";
  let hasVerifier = 1;
}

#endif // SPARSEFLOW_DIALECT_SFTILE_IR_SFTILEOPS_TD
