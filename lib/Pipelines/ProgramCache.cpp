//===- ProgramCache.cpp - Chips' programs in the cache --------------------===//

#include "ProgramCache.h"

#include "sparseflow/Target/Manifest.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"

using namespace llvm;
using namespace sparseflow;
using target::CacheKey;
using target::Chip;
using target::DiskCache;
namespace rt = sparseflow::runtime;

std::string sparseflow::getProgramKey(const target::Ptxas &ptxas, const Chip &chip,
                                      StringRef text) {
  return CacheKey()
      .add("program-1")
      .add(target::getProducer())
      .add(target::getBuildIdentity())
      .add(ptxas.version())
      .add(chip.name)
      .add(text)
      .str();
}

/// An entry: the manifest, then name, dtype, shape and bytes of each tensor that is not a resource
/// of the IR (kernels, and constants that stand in the text).
void sparseflow::storeProgram(DiskCache &cache, StringRef key, const ChipProgram &program) {
  std::vector<std::string> texts = {llvm::formatv("{0}", rt::toJSON(program.manifest)).str()};
  for (const rt::StoredTensor &tensor : program.tensors) {
    texts.push_back(tensor.name);
    texts.push_back(rt::stringify(tensor.dtype).str());
    texts.push_back(llvm::join(
        llvm::map_range(tensor.shape, [](int64_t size) { return std::to_string(size); }), ","));
    texts.push_back(llvm::toStringRef(tensor.data).str());
  }
  cache.put(key, SmallVector<StringRef>(texts.begin(), texts.end()));
}

std::optional<ChipProgram> sparseflow::findProgram(DiskCache &cache, StringRef key) {
  std::optional<std::vector<std::string>> fields = cache.get(key);
  if (!fields || fields->size() % 4 != 1)
    return std::nullopt;
  ChipProgram program;
  llvm::Expected<rt::Manifest> manifest = rt::parseManifest(fields->front());
  if (!manifest) {
    llvm::consumeError(manifest.takeError());
    return std::nullopt;
  }
  program.manifest = std::move(*manifest);
  for (size_t i = 1; i < fields->size(); i += 4) {
    std::optional<rt::DType> dtype = rt::parseDType((*fields)[i + 1]);
    if (!dtype)
      return std::nullopt;
    std::vector<int64_t> shape;
    for (StringRef size : llvm::split((*fields)[i + 2], ','))
      if (!size.empty() && size.getAsInteger(10, shape.emplace_back()))
        return std::nullopt;
    const std::string &bytes = (*fields)[i + 3];
    program.tensors.push_back(rt::StoredTensor::own(
        (*fields)[i], *dtype, std::move(shape), std::vector<uint8_t>(bytes.begin(), bytes.end())));
  }
  return program;
}
