//===- Chip.cpp - The GPUs that code can be generated for -----------------===//
//
// PTX 8.5 is the first version with mma.sp::ordered_metadata; the Blackwell chips need 8.8. Older
// is better otherwise: it is what the oldest driver and ptxas can read.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Target/Chip.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"

using namespace sparseflow::target;

static constexpr Chip chips[] = {
    {"sm_80", 80, "+ptx85"},    {"sm_86", 86, "+ptx85"},    {"sm_87", 87, "+ptx85"},
    {"sm_89", 89, "+ptx85"},    {"sm_90", 90, "+ptx85"},    {"sm_90a", 90, "+ptx85"},
    {"sm_100", 100, "+ptx88"},  {"sm_100a", 100, "+ptx88"}, {"sm_103", 103, "+ptx88"},
    {"sm_103a", 103, "+ptx88"}, {"sm_120", 120, "+ptx88"},  {"sm_120a", 120, "+ptx88"},
    {"sm_121", 121, "+ptx88"},  {"sm_121a", 121, "+ptx88"},
};

unsigned Chip::ptxVersion() const {
  unsigned version = 0;
  features.drop_front(strlen("+ptx")).getAsInteger(10, version);
  return version;
}

llvm::ArrayRef<Chip> sparseflow::target::knownChips() { return chips; }

llvm::Expected<const Chip *> sparseflow::target::findChip(llvm::StringRef name) {
  for (const Chip &chip : chips)
    if (chip.name == name)
      return &chip;
  std::string names = llvm::join(
      llvm::map_range(chips, [](const Chip &chip) { return chip.name.str(); }), ", ");
  unsigned number = 0;
  if (name.starts_with("sm_") && !name.drop_front(3).getAsInteger(10, number) && number < 80)
    return llvm::createStringError("target '" + name +
                                   "' has no 2:4 sparse tensor cores; expected sm_80 or later: " +
                                   names);
  return llvm::createStringError("unknown target '" + name + "'; expected one of " + names);
}
