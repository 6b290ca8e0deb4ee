//===-- Passes.td - Passes on sf_tile kernels -------------------*- tablegen -*-===//
//
// Numbers 8 to 11 of the pipeline. Each decides one thing that the schedule left open: where elements live, how far
// ahead the producer runs, who waits for whom, where rings and barriers lie.
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
    are on their way while one stage is read. In order:

    1. The bytes of a stage: those of all its rings, each aligned as `sf-tile-allocate-smem` will align it.
    2. The room: the chip's shared memory for one block, less the scratch of reductions across warps. A stage of which
       two do not fit is an error.
    3. The depth: the smallest that keeps `bytes-in-flight` under way, at least 2, at most what fits and `max-stages`.
       A depth in the kernel's configuration is taken as it is, and is an error when it does not fit.
    4. The depth becomes part of the rings' types and of the pipeline.

    `sf-select-config` foresees the depth by the same rule.
  }];
  let dependentDialects = ["::sparseflow::sf::SFDialect"];
  let options = [
    Option<"bytesInFlight", "bytes-in-flight", "int64_t", /*default=*/"::sparseflow::sf::kBytesInFlight",
           "Bytes that should be under way: 128 KiB by default, about 800 ns at the share of L2 bandwidth of one "
           "multiprocessor, twice over">,
    Option<"maxStages", "max-stages", "int64_t", /*default=*/"::sparseflow::sf::kMaxPipelineStages",
           "8 by default; deeper rings than this measured no faster">];
}

def SFTileAssignRoles : Pass<"sf-tile-assign-roles", "::sparseflow::sf_tile::KernelOp"> {
  let summary = "Turn pipelines into loops with synchronization";
  let description = [{
    The instruction decides which of two ways a pipeline runs.

    Specialized, where products are asynchronous and read shared memory themselves: one thread of a warp of its own
    produces, through the copy engine; all other warps consume. What follows the pipeline is theirs, and what is loaded
    before it. For each step the producer waits until the stage is empty, announces its bytes and issues the copies; the
    consumers wait until it is full, issue its products as one group, wait for the group of the step before and say that
    its stage is empty; where the number of steps is not known, nothing stays in flight. A matrix that is copied box by
    box becomes a tensor map, which is a further argument of the kernel.

    Cooperative, where products take registers: all warps produce and consume. Before the loop the producer fills every
    stage, and the consumer reads the fragments of its first product when the first stage has landed. Each step of the
    loop then does, in order:

    1. For each product but the last: read the fragments of the next one, multiply, read the next one's metadata.
    2. Wait until the next stage has landed, for the whole block: every warp has then issued its last read of this stage.
    3. Read the fragments of the first product of the next stage; compute the last product; read the first metadata.
    4. Fill this stage again, with the step that is as many steps ahead as there are stages.

    A copy beyond the domain writes zeros, and its group is committed, so that the number of groups in flight stays the
    same and what is read ahead of the last step was written. After the loop all groups are waited for.

    From sm_90 on every kernel, with a pipeline or without, also waits for the kernel ahead of it on the stream, before its
    first access to global memory that is no constant, and lets the kernel behind it begin: so launches overlap. A producer of
    its own fills the first two stages with constants, which weights are, before it waits.
  }];
  let dependentDialects = ["::mlir::LLVM::LLVMDialect", "::mlir::scf::SCFDialect", "::mlir::arith::ArithDialect",
                           "::sparseflow::sf::SFDialect"];
}

def SFTileAllocateSmem : Pass<"sf-tile-allocate-smem", "::sparseflow::sf_tile::KernelOp"> {
  let summary = "Place rings, scratch and barriers in shared memory";
  let description = [{
    Stage s of all rings lies together, each ring's part aligned to 1024 bytes (the period of the swizzle): one register then
    addresses a stage, whichever ring is meant. The scratch of reductions across warps, which they use one after the other,
    follows the last stage, the barriers follow that. Sets `offset`, `stride`, `scratch_offset` and the kernel's `shared_bytes`.
  }];
  let dependentDialects = ["::sparseflow::sf::SFDialect"];
}

#endif // SPARSEFLOW_DIALECT_SFTILE_TRANSFORMS_PASSES_TD
