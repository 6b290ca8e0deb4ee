//===- Chip.cpp - Which GPU code is generated for -------------------------===//
//
// Answers for names and GPUs that are not in the table: an old chip deserves another message than a
// misspelled one, and a new GPU runs what an older chip's kernels are.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Target/Chip.h"

#include "llvm/ADT/StringExtras.h"

llvm::Expected<const sparseflow::target::Chip *>
sparseflow::target::findChip(llvm::StringRef name) {
  if (const Chip *chip = sf::lookupChip(name))
    return chip;
  unsigned number = 0;
  if (name.starts_with("sm_") && !name.drop_front(3).getAsInteger(10, number) && number < 80)
    return llvm::createStringError("target '" + name + "' has no 2:4 sparse tensor cores; " +
                                   "expected sm_80 or later: " + sf::listChips());
  return llvm::createStringError("unknown target '" + name + "'; expected one of " +
                                 sf::listChips());
}

const sparseflow::target::Chip *sparseflow::target::findNewestRunnable(unsigned computeCapability) {
  const Chip *newest = nullptr;
  for (const Chip &chip : sf::getChips()) {
    // sm_90a and its like run on that chip alone, where they have more instructions than sm_90.
    bool runs = llvm::isDigit(chip.name.back()) ? chip.computeCapability <= computeCapability
                                                : chip.computeCapability == computeCapability;
    if (runs && (!newest || newest->computeCapability <= chip.computeCapability))
      newest = &chip;
  }
  return newest;
}

llvm::Expected<const sparseflow::target::Chip *>
sparseflow::target::findChip(mlir::ModuleOp module, llvm::StringRef option) {
  if (!option.empty())
    return findChip(option);
  if (auto target = module->getAttrOfType<sf::TargetAttr>("sf.target"))
    return findChip(target.getChip());
  return llvm::createStringError("expected a target, got none; give the pass target=sm_80 or the "
                                 "module the attribute sf.target = #sf.target<sm_80>");
}
