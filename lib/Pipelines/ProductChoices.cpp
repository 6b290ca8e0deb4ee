//===- ProductChoices.cpp - Which kernels products were given -------------===//

#include "ProductChoices.h"

#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Dialect/SF/Transforms/Tuning.h"
#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"
#include "sparseflow/Target/Passes.h"

#include "mlir/AsmParser/AsmParser.h"
#include "llvm/ADT/StringMap.h"

using namespace mlir;
using namespace sparseflow;

/// The number of a product, on the product and on its launches.
static constexpr llvm::StringLiteral productAttrName = "sf.product";

static std::string printAttribute(Attribute attribute) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  if (attribute)
    attribute.print(stream);
  return text;
}

void sparseflow::readChoices(ModuleOp module, MutableArrayRef<ProductChoice> choices) {
  size_t number = 0;
  module.walk([&](sf::MatmulOp op) {
    ProductChoice &choice = choices[number++];
    choice.configs = printAttribute(op.getConfigsAttr());
    choice.reasons = printAttribute(op->getAttr(sf::kReasonsAttrName));
    choice.times = printAttribute(op->getAttr(sf::kTimesAttrName));
  });
}

void sparseflow::setChoices(ModuleOp module, ArrayRef<ProductChoice> choices) {
  Builder builder(module.getContext());
  size_t number = 0;
  module.walk([&](sf::MatmulOp op) {
    const ProductChoice &choice = choices[number++];
    if (!choice.configs.empty())
      op.setConfigsAttr(cast<ArrayAttr>(parseAttribute(choice.configs, module.getContext())));
    if (!choice.reasons.empty())
      op->setAttr(sf::kReasonsAttrName, parseAttribute(choice.reasons, module.getContext()));
    if (!choice.times.empty())
      op->setAttr(sf::kTimesAttrName, parseAttribute(choice.times, module.getContext()));
    if (!choice.reason.empty())
      op->setAttr("sf.reason", builder.getStringAttr(choice.reason));
    if (!choice.slow.empty())
      op->setAttr(sf::kSlowConfigsAttrName, builder.getArrayAttr(llvm::map_to_vector(
                                                choice.slow, [&](const std::string &text) {
                                                  return parseAttribute(text, module.getContext());
                                                })));
  });
}

void sparseflow::numberProducts(ModuleOp module) {
  int64_t number = 0;
  Builder builder(module.getContext());
  module.walk(
      [&](sf::MatmulOp op) { op->setAttr(productAttrName, builder.getI64IntegerAttr(number++)); });
}

std::map<int64_t, std::vector<SlowKernel>> sparseflow::findSlowProducts(ModuleOp module) {
  llvm::StringMap<SlowKernel> slow;
  for (auto binary : module.getOps<gpu::BinaryOp>())
    for (const target::BinaryKernel &kernel : target::getBinaryKernels(binary))
      if (auto slowness = kernel.metadata.getAttr<StringAttr>("slowness"))
        slow[kernel.metadata.getName()] = {printAttribute(kernel.metadata.getAttr("sf.config")),
                                           slowness.str()};
  std::map<int64_t, std::vector<SlowKernel>> products;
  module.walk([&](sf_tile::LaunchOp launch) {
    auto known = slow.find(launch.getKernel().getLeafReference());
    if (known == slow.end())
      return;
    auto product = launch->getParentOp()->getAttrOfType<IntegerAttr>(productAttrName);
    products[product ? product.getInt() : -1].push_back(known->second);
  });
  return products;
}
