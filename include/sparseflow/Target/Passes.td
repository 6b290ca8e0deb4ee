//===- Passes.td - From kernels to binaries ----------------*- tablegen -*-===//
//
// The last two passes of the pipeline: what they leave in the IR is all that the runtime needs.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_TARGET_PASSES
#define SPARSEFLOW_TARGET_PASSES

include "mlir/Pass/PassBase.td"

def SFEmitBinary : Pass<"sf-emit-binary", "mlir::ModuleOp"> {
  let summary = "compile each gpu.module to PTX and cubin, and keep ptxas's report";
  let description = [{
    Replaces every `gpu.module` that is in the LLVM and NVVM dialects by a `gpu.binary` of the same
    name. Each kernel is compiled on its own, in parallel, and contributes a PTX object
    (`assembly`) and, unless `format=ptx`, a cubin object (`bin`), both with a kernel table of one
    entry whose metadata holds what ptxas reported:

    ```
    metadata = {mma_sp = 8, registers = 96, shared_bytes = 0, spill_bytes = 0, stack_bytes = 0, ...}
    ```

    The metadata also keeps the kernel's own discardable attributes, among them
    `nvvm.reqntid` and its configuration.

    A kernel that spills registers is an error, and so is one whose `wgmma` instructions ptxas
    serialized: both run, several times too slow. With `allow-slow` they are kept, and the metadata
    says why: `slowness = "spilled 16 bytes of registers"`. A failure names the kernel and its
    configuration and never ends the process.

    Composed of (in order): isolate the kernel, translate to LLVM IR, O3, NVPTX code generation,
    `ptxas -v`.

    ```
    sparseflow-opt --sf-emit-binary="target=sm_80 format=ptx" kernels.mlir
    ```
  }];
  let options = [
    Option<"target", "target", "std::string", /*default=*/"\"\"",
           "The chip, for example sm_80 or sm_90a; empty: the module's sf.target">,
    Option<"format", "format", "std::string", /*default=*/"\"cubin\"",
           "Where to stop: ptx, or cubin (which needs ptxas)">,
    Option<"ptxas", "ptxas", "std::string", /*default=*/"\"\"",
           "Path of ptxas; empty: found as the compiler finds it">,
    Option<"cacheDir", "cache-dir", "std::string", /*default=*/"\"\"",
           "Folder of the kernel cache; empty: no cache, so that a test sees its own ptxas run">,
    Option<"allowSlow", "allow-slow", "bool", /*default=*/"false",
           "Accept kernels that spill registers or whose wgmma instructions ptxas serialized">,
  ];
  let dependentDialects = ["mlir::gpu::GPUDialect", "mlir::NVVM::NVVMDialect"];
}

def SFEmitManifest : Pass<"sf-emit-manifest", "mlir::ModuleOp"> {
  let summary = "write down what the runtime replays: buffers, workspace, steps, kernels";
  let description = [{
    Walks every function of `sf_tile.launch` and `sf_tile.dispatch` operations and writes the
    manifest of docs/Formats.md as the string attribute `sf.manifest` of the module.

    - Every tensor gets a buffer: an input, an output, a constant (named by its resource) or a piece
      of workspace.
    - Workspace is shared by liveness: two intermediates share a slot when no launch needs both.
      Variants of one dispatch exclude each other, so theirs always may.
    - Dynamic dimensions that meet in one launch are one symbol. The first is called M.
    - A dispatch becomes a step with one variant for each range of the symbol; a launch on its own
      is a step with one variant.

    Preconditions: kernels are in `gpu.binary` (`sf-emit-binary`), results are not arguments or
    constants.

    ```
    sparseflow-opt --sf-emit-manifest=print compiled.mlir -o /dev/null
    ```
  }];
  let options = [
    Option<"target", "target", "std::string", /*default=*/"\"\"",
           "The chip; empty: the module's sf.target">,
    Option<"print", "print", "bool", /*default=*/"false",
           "Print the manifest to stdout instead of keeping it in the module">,
  ];
}

#endif // SPARSEFLOW_TARGET_PASSES
