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

    A kernel that spills registers is an error (`allow-spills` lifts that), and so is one whose
    `wgmma` instructions ptxas serialized: both run, several times too slow. A failure names the
    kernel and its configuration and never ends the process.

    Composed of (in order): isolate the kernel, translate to LLVM IR, O3, NVPTX code generation,
    `ptxas -v`.

    ```
    sparseflow-opt --sf-emit-binary="target=sm_80 format=ptx" kernels.mlir
    ```
  }];
  let options = [
    Option<"target", "target", "std::string", /*default=*/"\"sm_80\"",
           "The chip, for example sm_80 or sm_90a">,
    Option<"format", "format", "std::string", /*default=*/"\"cubin\"",
           "Where to stop: ptx, or cubin (which needs ptxas)">,
    Option<"ptxas", "ptxas", "std::string", /*default=*/"\"\"",
           "Path of ptxas; empty: found as the compiler finds it">,
    Option<"cacheDir", "cache-dir", "std::string", /*default=*/"\"\"",
           "Folder of the kernel cache; empty: no cache, so that a test sees its own ptxas run">,
    Option<"allowSpills", "allow-spills", "bool", /*default=*/"false",
           "Accept kernels that spill registers">,
  ];
  let dependentDialects = ["mlir::gpu::GPUDialect", "mlir::NVVM::NVVMDialect"];
}

#endif // SPARSEFLOW_TARGET_PASSES
