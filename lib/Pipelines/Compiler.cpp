//===- Compiler.cpp - From MLIR text to a program -------------------------===//
//
// What is the same for every chip runs once; then each chip is compiled by itself, and the parts
// are put together.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Pipelines/Compiler.h"

#include "ChipCompiler.h"
#include "ConstantTensors.h"
#include "InputChecks.h"
#include "Session.h"
#include "sparseflow/Runtime/Error.h"
#include "sparseflow/Support/Threads.h"
#include "sparseflow/Target/DiskCache.h"

#include "llvm/ADT/StringMap.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/Threading.h"
#include <atomic>
#include <mutex>

using namespace mlir;
using namespace sparseflow;
using target::Chip;
using target::DiskCache;
namespace rt = sparseflow::runtime;

//===----------------------------------------------------------------------===//
// Before the chips
//===----------------------------------------------------------------------===//

static llvm::Expected<SmallVector<const Chip *>> findChips(ArrayRef<std::string> names) {
  SmallVector<const Chip *> chips;
  for (StringRef name : names) {
    llvm::Expected<const Chip *> chip = target::findChip(name.trim());
    if (!chip)
      return rt::makeError(rt::Status::InvalidArgument, llvm::toString(chip.takeError()));
    if (!llvm::is_contained(chips, *chip))
      chips.push_back(*chip);
  }
  if (chips.empty())
    return rt::makeError(rt::Status::InvalidArgument,
                         "expected at least one target, got none; known targets are " +
                             sf::listChips());
  return chips;
}

static std::string getCacheDir(const CompileOptions &options) {
  return options.cacheDir ? *options.cacheDir : DiskCache::defaultDirectory();
}

/// A cache that cannot be written is no error, but whoever named its folder wants to know.
static void warnOfCacheDir(const CompileOptions &options, StringRef directory) {
  bool isNamed = options.cacheDir || llvm::sys::Process::GetEnv("SPARSEFLOW_CACHE_DIR");
  if (!isNamed || directory.empty() || !options.diagnostics)
    return;
  std::error_code error = llvm::sys::fs::create_directories(directory);
  if (!error && !llvm::sys::fs::is_directory(directory))
    error = std::make_error_code(std::errc::not_a_directory);
  if (error)
    options.diagnostics(Severity::Warning,
                        llvm::formatv("expected a folder for the cache, got '{0}': {1}; nothing is "
                                      "kept for the next time",
                                      directory, error.message())
                            .str());
}

/// Parses, binds, and runs what is the same for every chip.
static llvm::Error runGraphPhase(Session &session, StringRef source, StringRef name,
                                 ArrayRef<ExternalConstant> constants, Dumper &dumper,
                                 TimingScope &timing) {
  if (llvm::Error error = session.parse(source, name))
    return error;
  if (llvm::Error error = session.bind(constants))
    return error;
  if (llvm::Error error = dumper.dump("input.mlir", session.module()))
    return error;
  if (llvm::Error error = session.run(Phase::Graph, Phase::Graph, {}, dumper, timing))
    return error;
  if (llvm::Error error = session.guard([&] { return checkFunctions(session.module()); }))
    return error;
  return checkConstantNames(getResourceConstants(session.module()));
}

/// What the chips start from, after runGraphPhase; kernels are neither assembled nor cached.
static CommonInput getCommonInput(Session &session, const CompileOptions &options) {
  CommonInput input{options, printModule(session.module(), Print::Locations), {}, {}, ""};
  for (const ResourceConstant &constant : getResourceConstants(session.module()))
    input.constants.push_back({constant.name, constant.data, std::nullopt, std::nullopt});
  return input;
}

//===----------------------------------------------------------------------===//
// Several chips
//===----------------------------------------------------------------------===//

/// As many chips at once as there are processors; each keeps its own answer.
static std::vector<llvm::Expected<ChipProgram>> compileForChips(const CommonInput &input,
                                                                ArrayRef<const Chip *> chips,
                                                                Dumper &dumper,
                                                                TimingScope &timing) {
  std::vector<std::optional<llvm::Expected<ChipProgram>>> results(chips.size());
  std::atomic<size_t> next{0};
  auto work = [&] {
    for (size_t i = next++; i < chips.size(); i = next++)
      results[i].emplace(compileForChip(input, *chips[i], dumper, timing));
  };
  // Dumps are numbered and timings nested in the order of events; both want one thread.
  bool ordered = dumper.enabled() || input.options.timing;
  size_t count =
      ordered ? 1
              : std::min<size_t>(chips.size(), llvm::hardware_concurrency().compute_thread_count());
  runOnThreads(count, work);
  std::vector<llvm::Expected<ChipProgram>> answers;
  for (auto &result : results)
    answers.push_back(std::move(*result));
  return answers;
}

namespace {
/// What becomes the file: the chips' parts put together.
class FileBuilder {
public:
  /// Those of `lent` are copied: the caller's memory is lent for this compilation only.
  void addConstants(ArrayRef<ResourceConstant> constants, ArrayRef<ExternalConstant> lent,
                    const std::shared_ptr<const void> &owner);
  /// Weights that several chips pack alike are kept once; one that a chip packs in its own way gets
  /// a name of its own.
  void addChip(ChipProgram &&program, StringRef chip);
  llvm::Expected<rt::ProgramFile::Ptr> finish(StringRef source);

private:
  void addTensor(rt::StoredTensor &&tensor) {
    index[tensor.name] = tensors.size();
    tensors.push_back(std::move(tensor));
  }

  rt::Manifest manifest;
  std::vector<rt::StoredTensor> tensors;
  llvm::StringMap<size_t> index; // of tensors, by name
};
} // namespace

void FileBuilder::addConstants(ArrayRef<ResourceConstant> constants,
                               ArrayRef<ExternalConstant> lent,
                               const std::shared_ptr<const void> &owner) {
  std::vector<rt::StoredTensor> added;
  for (const ResourceConstant &constant : constants) {
    bool isLent = llvm::any_of(lent, [&](const ExternalConstant &other) {
      return other.data.data() == constant.data.data();
    });
    addConstant(added, constant, isLent ? nullptr : owner);
  }
  for (rt::StoredTensor &tensor : added)
    addTensor(std::move(tensor));
}

void FileBuilder::addChip(ChipProgram &&program, StringRef chip) {
  for (rt::StoredTensor &tensor : program.tensors) {
    auto known = index.find(tensor.name);
    if (known != index.end()) {
      const rt::StoredTensor &other = tensors[known->second];
      if (other.dtype == tensor.dtype && other.shape == tensor.shape && other.data == tensor.data)
        continue;
      std::string name = (chip + "/" + tensor.name).str();
      for (rt::Function &function : program.manifest.functions)
        for (rt::Buffer &buffer : function.programs.front().buffers)
          if (buffer.kind == rt::Buffer::Kind::Constant && buffer.tensor == tensor.name)
            buffer.tensor = name;
      tensor.name = name;
    }
    addTensor(std::move(tensor));
  }
  if (manifest.functions.empty()) {
    manifest = std::move(program.manifest);
    return;
  }
  for (auto [function, other] : llvm::zip_equal(manifest.functions, program.manifest.functions))
    function.programs.push_back(std::move(other.programs.front()));
}

llvm::Expected<rt::ProgramFile::Ptr> FileBuilder::finish(StringRef source) {
  manifest.source = sourceTensorName.str();
  addTensor(rt::StoredTensor::text(manifest.source, source));
  return rt::ProgramFile::create(std::move(manifest), std::move(tensors));
}

//===----------------------------------------------------------------------===//
// A program file
//===----------------------------------------------------------------------===//

llvm::Expected<rt::ProgramFile::Ptr> sparseflow::compile(StringRef source, StringRef name,
                                                         ArrayRef<ExternalConstant> constants,
                                                         const CompileOptions &given) {
  llvm::Expected<SmallVector<const Chip *>> chips = findChips(given.targets);
  if (!chips)
    return chips.takeError();
  std::string cacheDir = getCacheDir(given);
  DiskCache cache(cacheDir);
  llvm::Expected<target::Ptxas> ptxas =
      target::Ptxas::find({given.ptxas, given.packageFolders, *chips, &cache});
  if (!ptxas)
    return rt::makeError(rt::Status::Unsupported, llvm::toString(ptxas.takeError()));

  // Chips compile in parallel; whoever listens hears one diagnostic at a time.
  CompileOptions options = given;
  std::mutex listening;
  if (given.diagnostics)
    options.diagnostics = [&](Severity severity, StringRef message) {
      std::lock_guard<std::mutex> lock(listening);
      given.diagnostics(severity, message);
    };

  warnOfCacheDir(options, cacheDir);
  DefaultTimingManager timingManager;
  timingManager.setEnabled(options.timing);
  TimingScope timing = timingManager.getRootScope();
  Dumper dumper(options.dumpDir);
  Session session(options);
  if (llvm::Error error = runGraphPhase(session, source, name, constants, dumper, timing))
    return std::move(error);

  CommonInput input = getCommonInput(session, options);
  input.ptxas = *ptxas;
  input.cacheDir = cacheDir;
  std::vector<llvm::Expected<ChipProgram>> programs =
      compileForChips(input, *chips, dumper, timing);

  FileBuilder file;
  file.addConstants(getResourceConstants(session.module()), constants, session.share());
  llvm::Error failures = llvm::Error::success();
  for (auto [program, chip] : llvm::zip_equal(programs, *chips)) {
    if (program)
      file.addChip(std::move(*program), chip->name);
    else if (failures) // chips fail alike more often than not; the first says it
      llvm::consumeError(program.takeError());
    else
      failures = program.takeError();
  }
  if (failures)
    return std::move(failures);
  return file.finish(printModule(session.module(), Print::Source));
}

//===----------------------------------------------------------------------===//
// Stages on the way
//===----------------------------------------------------------------------===//

llvm::Expected<std::vector<StageOutput>> sparseflow::compileTo(Stage stage, StringRef source,
                                                               StringRef name,
                                                               ArrayRef<ExternalConstant> constants,
                                                               const CompileOptions &options) {
  llvm::Expected<SmallVector<const Chip *>> chips = findChips(options.targets);
  if (!chips)
    return chips.takeError();
  std::optional<target::Ptxas> ptxas;
  if (stage == Stage::Cubin) {
    llvm::Expected<target::Ptxas> found =
        target::Ptxas::find({options.ptxas, options.packageFolders, *chips});
    if (!found)
      return rt::makeError(rt::Status::Unsupported, llvm::toString(found.takeError()));
    ptxas = *found;
  }
  DefaultTimingManager timingManager;
  timingManager.setEnabled(options.timing);
  TimingScope timing = timingManager.getRootScope();
  Dumper dumper(options.dumpDir);
  Session session(options);
  if (llvm::Error error = runGraphPhase(session, source, name, constants, dumper, timing))
    return std::move(error);
  if (stage == Stage::SF)
    return std::vector<StageOutput>{{"sf.mlir", printModule(session.module(), Print::Full)}};

  CommonInput input = getCommonInput(session, options);
  std::vector<StageOutput> outputs;
  for (const Chip *chip : *chips) {
    Session forChip(options, chip->name.str() + "-");
    if (llvm::Error error = openForChip(forChip, input, *chip))
      return std::move(error);
    if (llvm::Error error =
            forChip.run(Phase::Select, stage == Stage::SFTile ? Phase::Tile : Phase::Lower,
                        getPipelineOptions(input, *chip), dumper, timing))
      return std::move(error);
    if (stage <= Stage::NVVM) {
      outputs.push_back({chip->name.str() + ".mlir", printModule(forChip.module(), Print::Source)});
      continue;
    }
    llvm::Expected<std::vector<StageOutput>> kernels =
        translateKernels(forChip, stage, *chip, ptxas ? &*ptxas : nullptr);
    if (!kernels)
      return kernels.takeError();
    llvm::append_range(outputs, *kernels);
  }
  return outputs;
}
