//===- FileSources.cpp - From a program file back to IR -------------------===//
//
// A file says what it was compiled from: the `sf` IR as it was for all chips, and for each chip
// with the configurations that were chosen. Its constants are the file's tensors.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Pipelines/FileSources.h"

#include "ChipProgram.h"
#include "ConstantTensors.h"
#include "Session.h"
#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Dialect/SF/Transforms/Tuning.h"
#include "sparseflow/Runtime/Error.h"

#include "mlir/Bytecode/BytecodeReader.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBufferRef.h"

using namespace mlir;
using namespace sparseflow;
using target::Chip;
namespace rt = sparseflow::runtime;

/// Parses a text of the file and gives its constants the file's tensors. What is made on the way
/// goes to `pieces`, which must live as long as the session's module is read.
static llvm::Error loadText(Session &session, const rt::ProgramFile &file, StringRef text,
                            StringRef name, std::vector<std::vector<char>> &pieces) {
  // The compiler writes text; bytecode would be somebody else's, and its reader is less careful.
  if (isBytecode(llvm::MemoryBufferRef(text, name)))
    return rt::makeError(rt::Status::InvalidProgram, "expected the file's source to be text");
  if (llvm::Error error = session.parse(text, name))
    return error;
  std::vector<ExternalConstant> constants;
  for (const ResourceConstant &constant : getResourceConstants(session.module())) {
    auto view = [](const rt::StoredTensor &tensor) {
      return ArrayRef<char>(reinterpret_cast<const char *>(tensor.data.data()), tensor.data.size());
    };
    const rt::StoredTensor *whole = file.find(constant.name);
    const rt::StoredTensor *values = file.find(getValuesName(constant.name));
    const rt::StoredTensor *bitmask = file.find(getBitmaskName(constant.name));
    if (isCanonicalWeight(constant.type) && values && bitmask) {
      std::vector<char> &piece = pieces.emplace_back();
      llvm::append_range(piece, view(*values));
      llvm::append_range(piece, view(*bitmask));
      constants.push_back({constant.name, piece, std::nullopt, std::nullopt});
    } else if (whole) {
      constants.push_back({constant.name, view(*whole), std::nullopt, std::nullopt});
    } else {
      return rt::makeError(rt::Status::InvalidProgram,
                           "expected a tensor '" + constant.name + "' in the file, got none");
    }
  }
  return session.bind(constants);
}

/// Keeps what the module's constants point to.
static LoadedModule keep(Session &session, std::vector<std::vector<char>> pieces) {
  struct Kept {
    std::shared_ptr<MLIRContext> context;
    std::vector<std::vector<char>> pieces;
  };
  std::shared_ptr<LoadedModule> loaded = session.share();
  auto kept = std::make_shared<Kept>(Kept{std::move(loaded->context), std::move(pieces)});
  LoadedModule result;
  result.context = std::shared_ptr<MLIRContext>(kept, kept->context.get());
  loaded->context = result.context;
  result.module = std::move(loaded->module);
  return result;
}

llvm::Expected<LoadedModule> sparseflow::loadSource(const rt::ProgramFile &file) {
  if (file.source().empty())
    return rt::makeError(rt::Status::Unsupported,
                         "this file holds no source; compile it again with this version");
  CompileOptions options;
  Session session(options);
  std::vector<std::vector<char>> pieces;
  if (llvm::Error error = loadText(session, file, file.source(), sourceTensorName, pieces))
    return std::move(error);
  return keep(session, std::move(pieces));
}

llvm::Expected<std::vector<tuning::TuningKey>> sparseflow::listProducts(const rt::ProgramFile &file,
                                                                        StringRef targetName) {
  const rt::StoredTensor *source = file.find(getChipSourceName(targetName));
  if (!source)
    return rt::makeError(rt::Status::NotFound,
                         "expected a program for " + targetName +
                             " with its source, got one without; compile it for that target");
  CompileOptions options;
  Session session(options);
  std::vector<std::vector<char>> pieces;
  if (llvm::Error error = loadText(session, file, llvm::toStringRef(source->data),
                                   getChipSourceName(targetName), pieces))
    return std::move(error);
  std::vector<tuning::TuningKey> products;
  session.module().walk([&](sf::MatmulOp op) {
    tuning::TuningKey key = sf::getTuningKey(op, sf::getTarget(session.module()));
    if (!llvm::is_contained(products, key))
      products.push_back(std::move(key));
  });
  return products;
}

/// Renames constants to where the file has them, and checks that the file's are what kernels
/// expect: from here on they are plain pointers.
static llvm::Error resolveConstants(ChipProgram &program, ArrayRef<ResourceConstant> resources,
                                    const rt::ProgramFile &file, StringRef chip) {
  llvm::StringMap<size_t> expected; // bytes
  for (const ResourceConstant &constant : resources)
    expected[constant.name] = constant.data.size();
  for (const rt::StoredTensor &constant : program.tensors)
    expected[constant.name] = constant.data.size();
  for (rt::Function &function : program.manifest.functions)
    for (rt::Buffer &buffer : function.programs.front().buffers) {
      if (buffer.kind != rt::Buffer::Kind::Constant)
        continue;
      const rt::StoredTensor *tensor = file.find((chip + "/" + buffer.tensor).str());
      if (!tensor)
        tensor = file.find(buffer.tensor);
      auto bytes = expected.find(buffer.tensor);
      if (!tensor || bytes == expected.end())
        return rt::makeError(rt::Status::InvalidProgram,
                             "expected a tensor '" + buffer.tensor + "' in the file, got none");
      if (tensor->data.size() != bytes->second)
        return rt::makeError(rt::Status::InvalidProgram,
                             llvm::formatv("tensor '{0}' expected {1} bytes, got {2}; the file was "
                                           "altered",
                                           tensor->name, bytes->second, tensor->data.size()));
      buffer.tensor = tensor->name;
    }
  return llvm::Error::success();
}

llvm::Expected<RecompiledProgram> sparseflow::recompileForEmulation(const rt::ProgramFile &file,
                                                                    StringRef targetName) {
  llvm::Expected<const Chip *> chip = target::findChip(targetName);
  if (!chip)
    return rt::makeError(rt::Status::Unsupported, llvm::toString(chip.takeError()));
  const rt::StoredTensor *source = file.find(getChipSourceName(targetName));
  if (!source)
    return rt::makeError(rt::Status::Unsupported,
                         "this file holds no source for " + targetName +
                             ", so it cannot be emulated; compile it again with this version");
  CompileOptions options;
  Session session(options, targetName.str() + "-");
  std::vector<std::vector<char>> pieces;
  if (llvm::Error error = loadText(session, file, llvm::toStringRef(source->data),
                                   getChipSourceName(targetName), pieces))
    return std::move(error);
  Dumper dumper("");
  TimingScope timing;
  PipelineOptions pipeline;
  pipeline.target = targetName.str();
  if (llvm::Error error = session.run(Phase::Pack, Phase::Lower, pipeline, dumper, timing))
    return std::move(error);
  llvm::Expected<ChipProgram> program = buildChipProgram(session, **chip);
  if (!program)
    return program.takeError();
  if (llvm::Error error =
          resolveConstants(*program, getResourceConstants(session.module()), file, targetName))
    return std::move(error);
  RecompiledProgram result;
  result.manifest = std::move(program->manifest);
  result.kernels = keep(session, std::move(pieces));
  return result;
}
