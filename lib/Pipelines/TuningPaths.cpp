//===- TuningPaths.cpp - Where tuning databases lie -----------------------===//

#include "TuningPaths.h"

#include "sparseflow/Target/DiskCache.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include <dlfcn.h>

using namespace llvm;
using namespace sparseflow;
using target::Chip;

/// The file that this code was loaded from; empty if that is not known.
static StringRef libraryPath() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void *>(&getDefaultTuningPath), &info) || !info.dli_fname)
    return "";
  return info.dli_fname;
}

std::string sparseflow::getDefaultTuningPath() {
  std::string folder = target::DiskCache::defaultDirectory();
  if (folder.empty())
    return "";
  SmallString<128> path(folder);
  llvm::sys::path::append(path, "tuning.sqlite");
  return path.str().str();
}

/// In the package: sparseflow/data/ beside sparseflow/lib/.
static std::string getShippedTuningPath(const Chip &chip) {
  SmallString<128> path(llvm::sys::path::parent_path(libraryPath()));
  llvm::sys::path::append(path, "..", "data", "tuning-" + chip.name + ".sqlite");
  return path.str().str();
}

void sparseflow::setTuning(PipelineOptions &pipeline, const CompileOptions &options,
                           const Chip &chip) {
  // What was asked for and is not there is said by the pass; the defaults may be missing.
  if (options.tuning) {
    pipeline.tuning = *options.tuning;
    return;
  }
  if (std::string path = getDefaultTuningPath(); llvm::sys::fs::exists(path))
    pipeline.tuning = path;
  if (std::string path = getShippedTuningPath(chip); llvm::sys::fs::exists(path))
    pipeline.shippedTuning = path;
}
