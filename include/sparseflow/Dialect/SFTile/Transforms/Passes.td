//===-- Passes.td - Passes on sf_tile kernels -------------------*- tablegen -*-===//
//
// Numbers 8 to 11 of the pipeline. Each decides one thing that the schedule left open: where elements live, how far
// ahead the producer runs, where rings lie, who waits for whom.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_DIALECT_SFTILE_TRANSFORMS_PASSES_TD
#define SPARSEFLOW_DIALECT_SFTILE_TRANSFORMS_PASSES_TD

include "mlir/Pass/PassBase.td"

def SFTileAssignLayouts : Pass<"sf-tile-assign-layouts", "::sparseflow::sf_tile::KernelOp"> {
  let summary = "Give every tile and ring a layout, and prove shared memory free of bank conflicts";
  let description = [{
    Layouts start where the hardware dictates them: a matrix instruction fixes the fragments of its operands and of its
    accumulator; a kernel without one gets tiles in which a thread holds 16 contiguous bytes and a warp contiguous rows.
    They spread along the values that an operation needs in one layout (`map`, `reduce`, carried values).

    A ring that feeds `a` or its metadata has the packed weight's own order; a ring that feeds `b` has rows of 128 bytes
    whose 16-byte pieces are permuted by the row (the XOR swizzle). Every read of a ring is then checked: a warp may need
    no more passes over the banks than its bytes require. A kernel that fails is rejected.
  }];
}

def SFTilePlanPipeline : Pass<"sf-tile-plan-pipeline", "::sparseflow::sf_tile::KernelOp"> {
  let summary = "Pipeline depth: choose how many stages the rings have";
  let description = [{
    The producer must run far enough ahead to hide the latency of global memory: enough stages that `bytes-in-flight`
    are on their way while one stage is read. The depth is the smallest that does so, at least 2, at most what
    the chip's shared memory holds and what the loop can use. A depth in the kernel's configuration is taken as it is, and
    is an error when it does not fit.
  }];
  let dependentDialects = ["::sparseflow::sf::SFDialect"];
  let options = [
    Option<"bytesInFlight", "bytes-in-flight", "int64_t", /*default=*/"131072",
           "Bytes that should be under way: about 800 ns at the share of L2 bandwidth of one multiprocessor, twice over">,
    Option<"maxStages", "max-stages", "int64_t", /*default=*/"8",
           "Deeper rings than this measured no faster">];
}

def SFTileAllocateSmem : Pass<"sf-tile-allocate-smem", "::sparseflow::sf_tile::KernelOp"> {
  let summary = "Place rings and scratch in shared memory";
  let description = [{
    Stage s of all rings lies together, each ring's part aligned to 1024 bytes (the period of the swizzle): one register then
    addresses a stage, whichever ring is meant. The scratch of a reduction across warps aliases the rings: it is used when
    no stage is live. Sets `offset`, `stride`, `scratch_offset` and the kernel's `shared_bytes`.
  }];
  let dependentDialects = ["::sparseflow::sf::SFDialect"];
}

def SFTileAssignRoles : Pass<"sf-tile-assign-roles", "::sparseflow::sf_tile::KernelOp"> {
  let summary = "Turn pipelines into loops with synchronization";
  let description = [{
    Cooperative: all warps produce and consume. Before the loop the producer fills every stage. In each step the consumer
    reads the fragments of a product while the one before it is computed; before the last product it waits until the next
    stage has landed (for the whole block, which also frees the stage just read), refills the freed stage, and reads
    ahead into the next one. A copy beyond the domain writes zeros, and its group is committed, so that the number of
    groups in flight stays the same.
  }];
  let dependentDialects = ["::mlir::LLVM::LLVMDialect", "::mlir::scf::SCFDialect", "::mlir::arith::ArithDialect"];
}

#endif // SPARSEFLOW_DIALECT_SFTILE_TRANSFORMS_PASSES_TD
