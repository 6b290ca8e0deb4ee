//===- Pipelines.cpp - The compiler's passes, in order --------------------===//
//
// The one place where the order is written down. Each entry says why it stands where it stands.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Pipelines/Pipelines.h"

#include "sparseflow/Conversion/Passes.h"
#include "sparseflow/Dialect/SF/IR/SFAttributes.h"
#include "sparseflow/Dialect/SF/Transforms/Passes.h"
#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"
#include "sparseflow/Dialect/SFTile/Transforms/Passes.h"
#include "sparseflow/Target/Passes.h"

#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/Linalg/Passes.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Transforms/Passes.h"

using namespace mlir;
using namespace sparseflow;

static OpPassManager &kernels(OpPassManager &manager) {
  return manager.nest<gpu::GPUModuleOp>().nest<sf_tile::KernelOp>();
}

static constexpr PassEntry entries[] = {
    // 1. What other front ends write becomes sf, so that everything below knows one form.
    {Phase::Graph, "sf-import-sparse-tensor",
     [](OpPassManager &manager, const PipelineOptions &) {
       manager.addPass(sf::createSFImportSparseTensorPass());
     }},
    // 2. Before anything is derived from the weights: a weight that is not 2:4 is the user's news.
    {Phase::Graph, "sf-verify-sparsity",
     [](OpPassManager &manager, const PipelineOptions &) {
       manager.addPass(sf::createSFVerifySparsityPass());
     }},
    // 3. Transpositions appear here, and must be gone or visible before fusion looks around.
    {Phase::Graph, "sf-orient-operands",
     [](OpPassManager &manager, const PipelineOptions &) {
       manager.addPass(sf::createSFOrientOperandsPass());
     }},
    // 4. Elementwise operations in one form, then into the matmuls; what is left becomes as few
    //    kernels as possible.
    {Phase::Graph, "sf-fuse-epilogue",
     [](OpPassManager &manager, const PipelineOptions &) {
       manager.addNestedPass<func::FuncOp>(createConvertElementwiseToLinalgPass());
       manager.addPass(sf::createSFFuseEpiloguePass());
       manager.addNestedPass<func::FuncOp>(createLinalgGeneralizeNamedOpsPass());
       // The first time frees operations from destinations, which count as another use of what they
       // are the shape of; the second time fuses those.
       for (int i = 0; i < 2; ++i) {
         manager.addNestedPass<func::FuncOp>(createLinalgElementwiseOpFusionPass());
         manager.addPass(createCanonicalizerPass());
       }
       manager.addPass(createCSEPass());
     }},
    // 5. After fusion, whose epilogues cost registers and bytes that the choice depends on.
    {Phase::Select, "sf-select-config",
     [](OpPassManager &manager, const PipelineOptions &options) {
       sf::SFSelectConfigPassOptions select;
       select.target = options.target;
       select.config = options.config;
       if (options.maxAccumulators)
         select.maxAccumulators = *options.maxAccumulators;
       select.tuning = options.tuning;
       select.shippedTuning = options.shippedTuning;
       select.explain = options.explain;
       manager.addPass(sf::createSFSelectConfigPass(select));
     }},
    // 6. After the choice, which may change the type of the elements and with it the packed order:
    //    not every chip multiplies 8-bit floats.
    {Phase::Pack, "sf-pack-weights",
     [](OpPassManager &manager, const PipelineOptions &) {
       manager.addPass(sf::createSFPackWeightsPass());
     }},
    // 7. From here on there are kernels.
    {Phase::Tile, "convert-sf-to-sf-tile",
     [](OpPassManager &manager, const PipelineOptions &) {
       manager.addPass(createConvertSFToSFTile());
       manager.addPass(createCSEPass());
     }},
    // 8. Everything below asks a layout something.
    {Phase::Tile, "sf-tile-assign-layouts",
     [](OpPassManager &manager, const PipelineOptions &) {
       kernels(manager).addPass(sf_tile::createSFTileAssignLayouts());
     }},
    // 9. Needs the bytes of a stage, which the layouts fix.
    {Phase::Tile, "sf-tile-plan-pipeline",
     [](OpPassManager &manager, const PipelineOptions &) {
       kernels(manager).addPass(sf_tile::createSFTilePlanPipeline());
     }},
    // 10. Needs the number of stages.
    {Phase::Tile, "sf-tile-assign-roles",
     [](OpPassManager &manager, const PipelineOptions &) {
       kernels(manager).addPass(sf_tile::createSFTileAssignRoles());
     }},
    // 11. Needs the number of stages, and the barriers that the roles brought.
    {Phase::Tile, "sf-tile-allocate-smem",
     [](OpPassManager &manager, const PipelineOptions &) {
       kernels(manager).addPass(sf_tile::createSFTileAllocateSmem());
     }},
    // 12. Tiles become registers.
    {Phase::Lower, "convert-sf-tile-to-nvvm",
     [](OpPassManager &manager, const PipelineOptions &) {
       manager.addNestedPass<gpu::GPUModuleOp>(createConvertSFTileToNVVM());
     }},
    // 13. Upstream's. Repeated index arithmetic goes before it is spread over LLVM operations. No
    //     canonicalization before the loops are gone: it tries the loops' many carried values
    //     against each other (a fifth of the time to PTX), and O3 gives the same PTX without.
    {Phase::Lower, "to-llvm",
     [](OpPassManager &manager, const PipelineOptions &) {
       // Steps and stages fit 32 bits, and registers are scarce; addresses are made 64 bits wide by
       // the lowering.
       constexpr unsigned indexBits = 32;
       OpPassManager &kernels = manager.nest<gpu::GPUModuleOp>();
       kernels.addPass(createCSEPass());
       kernels.addPass(createSCFToControlFlowPass());
       kernels.addPass(createConvertMathToLLVMPass());
       ArithToLLVMConversionPassOptions arith;
       arith.indexBitwidth = indexBits;
       kernels.addPass(createArithToLLVMConversionPass(arith));
       // Upstream allows this one on a builtin.module alone.
       ConvertControlFlowToLLVMPassOptions controlFlow;
       controlFlow.indexBitwidth = indexBits;
       manager.addPass(createConvertControlFlowToLLVMPass(controlFlow));
       OpPassManager &lowered = manager.nest<gpu::GPUModuleOp>();
       lowered.addPass(createReconcileUnrealizedCastsPass());
       lowered.addPass(createCanonicalizerPass());
       lowered.addPass(createCSEPass());
     }},
    // 14. The only pass that leaves the process (ptxas).
    {Phase::Binary, "sf-emit-binary",
     [](OpPassManager &manager, const PipelineOptions &options) {
       target::SFEmitBinaryOptions binary;
       binary.target = options.target;
       binary.format = options.format;
       binary.ptxas = options.ptxas;
       binary.cacheDir = options.cacheDir;
       binary.allowSlow = options.allowSlow;
       manager.addPass(target::createSFEmitBinary(binary, options.isCancelled));
     }},
    // 15. Records registers and spills, so after ptxas.
    {Phase::Manifest, "sf-emit-manifest",
     [](OpPassManager &manager, const PipelineOptions &options) {
       target::SFEmitManifestOptions manifest;
       manifest.target = options.target;
       manager.addPass(target::createSFEmitManifest(manifest));
     }},
};

ArrayRef<PassEntry> sparseflow::getPassEntries() { return entries; }

void sparseflow::buildPipeline(OpPassManager &manager, const PipelineOptions &options, Phase first,
                               Phase last) {
  for (const PassEntry &entry : entries)
    if (entry.phase >= first && entry.phase <= last)
      entry.add(manager, options);
}

namespace {
/// The options of `--sf-compile`, as the command line has them.
struct CommandLineOptions : PassPipelineOptions<CommandLineOptions> {
  Option<std::string> target{*this, "target", llvm::cl::desc("The chip, for example sm_80"),
                             llvm::cl::init("sm_80")};
  Option<std::string> config{
      *this, "config",
      llvm::cl::desc("#sf.kernel_config<...>, or cublaslt, for every matmul instead of the "
                     "compiler's choice")};
  Option<std::string> format{*this, "format", llvm::cl::desc("Where to stop: ptx or cubin"),
                             llvm::cl::init("cubin")};
  Option<std::string> ptxas{*this, "ptxas", llvm::cl::desc("Path of ptxas")};
  Option<std::string> cacheDir{*this, "cache-dir", llvm::cl::desc("Folder of the kernel cache")};
  Option<std::string> tuning{*this, "tuning", llvm::cl::desc("Path of a tuning database")};
};
} // namespace

void sparseflow::registerPipelines() {
  PassPipelineRegistration<CommandLineOptions>(
      "sf-compile", "the whole compiler: passes 1 to 15, from sf to cubins and a manifest",
      [](OpPassManager &manager, const CommandLineOptions &options) {
        PipelineOptions pipeline;
        pipeline.target = options.target;
        pipeline.config = options.config;
        pipeline.format = options.format;
        pipeline.ptxas = options.ptxas;
        pipeline.cacheDir = options.cacheDir;
        pipeline.tuning = options.tuning;
        buildPipeline(manager, pipeline);
      });
}
