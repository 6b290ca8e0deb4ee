//===- ManifestKernel.cpp - A kernel as data ------------------------------===//

#include "ManifestKernel.h"

#include "sparseflow/Dialect/SF/IR/SFAttributes.h"
#include "sparseflow/Dialect/SF/Transforms/Tuning.h"
#include "sparseflow/Target/Manifest.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::target;
namespace rt = sparseflow::runtime;

std::string sparseflow::target::getKernelTensorName(StringRef chip, StringRef kernel,
                                                    StringRef kind) {
  return (chip + "/" + kernel + "." + kind).str();
}

/// "#sf.kernel_config<...>", or nothing.
static std::string getConfigText(const BinaryKernel &kernel) {
  std::string text;
  if (Attribute config = kernel.metadata.getAttr("sf.config")) {
    llvm::raw_string_ostream stream(text);
    config.print(stream);
  }
  return text;
}

rt::Kernel sparseflow::target::describeKernel(sf_tile::LaunchOp launch,
                                              const BinaryKernel &compiled, const Chip &chip,
                                              const RowSymbols &symbols) {
  rt::Kernel kernel;
  kernel.name = compiled.metadata.getName().str();
  if (auto block = compiled.metadata.getAttr<DenseI32ArrayAttr>("nvvm.reqntid"))
    for (auto [extent, size] : llvm::zip(kernel.block, block.asArrayRef()))
      extent = size;
  sf_tile::GridAttr grid = launch.getGrid();
  kernel.grid = {rt::GridDim::constant(grid.getBlocks()), rt::GridDim::constant(1),
                 rt::GridDim::constant(1)};
  if (grid.getRowsOf()) {
    Value rows = launch.getInputs()[*grid.getRowsOf()];
    int64_t perBlock = *grid.getRowsPerBlock();
    auto type = cast<RankedTensorType>(rows.getType());
    if (type.isDynamicDim(0))
      kernel.grid[0] = {symbols.of(rows), perBlock, grid.getBlocks()};
    else
      kernel.grid[0].mul *= llvm::divideCeil(type.getDimSize(0), perBlock);
  }
  kernel.shared = compiled.number("sf.shared_bytes");
  kernel.dependentLaunch = compiled.metadata.getAttr("sf.dependent_launch") != nullptr;
  kernel.config = getConfigText(compiled);
  kernel.registers = compiled.number("registers");
  kernel.spillBytes = compiled.number("spill_bytes");
  kernel.mmaSp = compiled.number("mma_sp");
  if (!compiled.ptx.empty())
    kernel.ptx = getKernelTensorName(chip.name, kernel.name, "ptx");
  if (!compiled.cubin.empty()) {
    kernel.cubin = getKernelTensorName(chip.name, kernel.name, "cubin");
    kernel.ptxas = compiled.metadata.getAttr<StringAttr>("ptxas").str();
  }

  if (compiled.metadata.getAttr("sf.persistent")) {
    rt::GridDim &blocks = kernel.grid[0];
    int64_t resident =
        sf::getResidentBlocks(chip, kernel.block[0], kernel.registers, kernel.shared);
    int64_t most = chip.multiprocessors * std::max<int64_t>(resident, 1);
    if (blocks.symbol.empty())
      blocks.mul = std::min(blocks.mul, most);
    else
      blocks.max = most;
  }
  return kernel;
}
