//===- Chip.cpp - Which GPU code is generated for -------------------------===//
//
// Only the message is here: an old chip deserves another answer than a misspelled one.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Target/Chip.h"

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

llvm::Expected<const sparseflow::target::Chip *>
sparseflow::target::findChip(mlir::ModuleOp module, llvm::StringRef option) {
  if (!option.empty())
    return findChip(option);
  if (auto target = module->getAttrOfType<sf::TargetAttr>("sf.target"))
    return findChip(target.getChip());
  return llvm::createStringError("expected a target, got none; give the pass target=sm_80 or the "
                                 "module the attribute sf.target = #sf.target<sm_80>");
}
