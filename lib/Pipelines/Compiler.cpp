//===- Compiler.cpp - From MLIR text to a program -------------------------===//
//
// Per chip the work is: choose configurations, pack weights, and then either find the kernels in
// the cache or make them. What a cached entry holds does not depend on the values of the weights,
// only on their shapes and names, so a model that was trained a little more compiles in no time.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Pipelines/Compiler.h"

#include "ProductChoices.h"
#include "Session.h"
#include "sparseflow/Dialect/SF/IR/SFConstants.h"
#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Dialect/SF/Transforms/Passes.h"
#include "sparseflow/Dialect/SF/Transforms/Tuning.h"
#include "sparseflow/Runtime/ElementType.h"
#include "sparseflow/Runtime/Error.h"
#include "sparseflow/Support/Sparse24.h"
#include "sparseflow/Support/Threads.h"
#include "sparseflow/Target/DiskCache.h"
#include "sparseflow/Target/Manifest.h"
#include "sparseflow/Target/Passes.h"

#include "mlir/Bytecode/BytecodeReader.h"
#include "mlir/IR/DialectResourceBlobManager.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBufferRef.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/Threading.h"
#include <atomic>
#include <dlfcn.h>
#include <map>
#include <mutex>

using namespace mlir;
using namespace sparseflow;
using target::CacheKey;
using target::Chip;
using target::DiskCache;
namespace rt = sparseflow::runtime;

static constexpr llvm::StringLiteral sourceTensorName = "source.mlir";

/// The tensor with the source of one chip: the `sf` IR after configurations were chosen.
static std::string chipSourceName(StringRef chip) { return (chip + "/source.mlir").str(); }

namespace {

/// One chip's part of a program.
struct ChipProgram {
  rt::Manifest manifest; // every function with one program
  std::vector<rt::StoredTensor> tensors;
};

/// What all chips share. Read by their threads.
struct Shared {
  const CompileOptions &options;
  std::string source;                      // with locations
  std::vector<ExternalConstant> constants; // views of the graph session's blobs
  target::Ptxas ptxas;
  std::string cacheDir;
};

} // namespace

//===----------------------------------------------------------------------===//
// Constants as tensors of the file
//===----------------------------------------------------------------------===//

static ArrayRef<uint8_t> asBytes(ArrayRef<char> data) {
  return {reinterpret_cast<const uint8_t *>(data.data()), data.size()};
}

static rt::StoredTensor makeTensor(std::string name, rt::DType dtype, std::vector<int64_t> shape,
                                   ArrayRef<char> data, std::shared_ptr<const void> owner) {
  if (!owner)
    return rt::StoredTensor::own(std::move(name), dtype, std::move(shape),
                                 std::vector<uint8_t>(data.begin(), data.end()));
  rt::StoredTensor tensor;
  tensor.name = std::move(name);
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  tensor.data = asBytes(data);
  tensor.owner = std::move(owner);
  return tensor;
}

static bool isCanonicalWeight(RankedTensorType type) {
  sf::WeightAttr weight = sf::getWeightEncoding(type);
  return weight && weight.isCanonical();
}

/// A canonical weight is two tensors, so that any safetensors tool sees what it is; everything else
/// encoded is bytes. Without an owner the bytes are copied.
static void addConstant(std::vector<rt::StoredTensor> &tensors, const ResourceConstant &constant,
                        std::shared_ptr<const void> owner) {
  std::optional<DType> dtype = sf::getDType(constant.type.getElementType());
  if (isCanonicalWeight(constant.type) && dtype) {
    int64_t n = constant.type.getDimSize(0), k = constant.type.getDimSize(1);
    size_t valueBytes = canonicalValuesBytes(n, k, *dtype);
    tensors.push_back(makeTensor(constant.name + ".values", rt::fromElementType(*dtype), {n, k / 2},
                                 constant.data.take_front(valueBytes), owner));
    tensors.push_back(makeTensor(constant.name + ".bitmask", rt::DType::U8, {n, (k + 7) / 8},
                                 constant.data.drop_front(valueBytes), owner));
    return;
  }
  if (constant.type.getEncoding() || !dtype) {
    tensors.push_back(makeTensor(constant.name, rt::DType::U8,
                                 {static_cast<int64_t>(constant.data.size())}, constant.data,
                                 owner));
    return;
  }
  tensors.push_back(makeTensor(constant.name, rt::fromElementType(*dtype),
                               constant.type.getShape().vec(), constant.data, owner));
}

//===----------------------------------------------------------------------===//
// Cache
//===----------------------------------------------------------------------===//

/// The file that this code was loaded from; empty if that is not known.
static StringRef libraryPath() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void *>(&sparseflow::compile), &info) || !info.dli_fname)
    return "";
  return info.dli_fname;
}

static std::string programKey(const Shared &shared, const Chip &chip, StringRef text) {
  return CacheKey()
      .add("program-1")
      .add(target::getProducer())
      .add(target::getBuildIdentity())
      .add(shared.ptxas.version())
      .add(chip.name)
      .add(text)
      .str();
}

/// An entry: the manifest, then name, dtype, shape and bytes of each tensor that is not a resource
/// of the IR (kernels, and constants that stand in the text).
static void store(DiskCache &cache, StringRef key, const ChipProgram &program) {
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

static std::optional<ChipProgram> lookUp(DiskCache &cache, StringRef key) {
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

//===----------------------------------------------------------------------===//
// Tuning databases
//===----------------------------------------------------------------------===//

std::string sparseflow::getDefaultTuningPath() {
  std::string folder = DiskCache::defaultDirectory();
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

static void setTuning(PipelineOptions &pipeline, const CompileOptions &options, const Chip &chip) {
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

//===----------------------------------------------------------------------===//
// One chip
//===----------------------------------------------------------------------===//

/// Kernels and inline constants; what the IR holds as resources is added from there.
static llvm::Expected<ChipProgram> buildChipProgram(Session &session, const Chip &chip) {
  ChipProgram program;
  FailureOr<target::ModuleProgram> built = failure();
  if (llvm::Error error = session.guard([&]() -> LogicalResult {
        built = target::buildManifest(session.module(), chip);
        return success(succeeded(built));
      }))
    return std::move(error);
  program.manifest = std::move(built->manifest);

  for (auto binary : session.module().getOps<gpu::BinaryOp>())
    for (const target::BinaryKernel &kernel : target::getBinaryKernels(binary)) {
      StringRef name = kernel.metadata.getName();
      for (auto [kind, bytes] : {std::pair("ptx", kernel.ptx), std::pair("cubin", kernel.cubin)})
        if (!bytes.empty())
          program.tensors.push_back(
              rt::StoredTensor::text(target::getKernelTensorName(chip.name, name, kind), bytes));
    }
  for (target::ProgramConstant &constant : built->constants) {
    if (isa<DenseResourceElementsAttr>(constant.op.getValue()))
      continue;
    FailureOr<sf::ConstantData> data = failure();
    if (llvm::Error error = session.guard([&]() -> LogicalResult {
          data = sf::readConstant(constant.op);
          return success(succeeded(data));
        }))
      return std::move(error);
    addConstant(program.tensors,
                {constant.name, cast<RankedTensorType>(constant.op.getType()), data->getBytes()},
                nullptr);
  }
  return program;
}

/// The tensors that the programs' buffers name and that are resources of the packed IR.
static llvm::Error addResources(ChipProgram &program, ArrayRef<ResourceConstant> resources,
                                const Shared &shared, std::shared_ptr<const void> packed) {
  llvm::StringSet<> present;
  for (const rt::StoredTensor &tensor : program.tensors)
    present.insert(tensor.name);
  for (const rt::Function &function : program.manifest.functions)
    for (const rt::Buffer &buffer : function.programs.front().buffers) {
      if (buffer.kind != rt::Buffer::Kind::Constant || !present.insert(buffer.tensor).second)
        continue;
      auto resource = llvm::find_if(
          resources, [&](const ResourceConstant &other) { return other.name == buffer.tensor; });
      if (resource == resources.end())
        return rt::makeError(rt::Status::InternalError,
                             "constant '" + buffer.tensor + "' was lost on the way");
      // What came in from outside is copied: it may be lent for this call only.
      bool isShared = llvm::any_of(shared.constants, [&](const ExternalConstant &given) {
        return given.data.data() == resource->data.data();
      });
      std::shared_ptr<const void> owner = isShared ? nullptr : packed;
      // Kernels take the bytes of a canonical weight in one piece.
      if (isCanonicalWeight(resource->type))
        program.tensors.push_back(makeTensor(resource->name, rt::DType::U8,
                                             {static_cast<int64_t>(resource->data.size())},
                                             resource->data, owner));
      else
        addConstant(program.tensors, *resource, owner);
    }
  return llvm::Error::success();
}

static void setTarget(ModuleOp module, const Chip &chip) {
  module->setAttr("sf.target", sf::TargetAttr::get(module.getContext(), chip.name));
}

static PipelineOptions getPipelineOptions(const Shared &shared, const Chip &chip) {
  PipelineOptions pipeline;
  pipeline.target = chip.name.str();
  pipeline.config = shared.options.config;
  pipeline.ptxas = shared.ptxas.path().str();
  pipeline.cacheDir = shared.cacheDir;
  pipeline.explain = true;
  pipeline.isCancelled = shared.options.isCancelled;
  setTuning(pipeline, shared.options, chip);
  return pipeline;
}

static llvm::Expected<std::vector<StageOutput>>
getKernels(Session &session, Stage stage, const Chip &chip, const target::Ptxas *ptxas);

/// What lies between the last IR and the program: each kernel's LLVM IR, PTX and cubin, the
/// manifest.
static llvm::Error dumpKernels(Session &session, const ChipProgram &program, const Chip &chip,
                               ArrayRef<StageOutput> llvmIR, Dumper &dumper) {
  for (const StageOutput &kernel : llvmIR)
    if (llvm::Error error = dumper.dump(kernel.name, kernel.contents))
      return error;
  for (const rt::StoredTensor &tensor : program.tensors) {
    StringRef name = tensor.name;
    if (name.consume_front((chip.name + "/").str()))
      if (llvm::Error error = dumper.dump(chip.name + "-" + name, llvm::toStringRef(tensor.data)))
        return error;
  }
  return dumper.dump(chip.name + "-manifest.json",
                     llvm::formatv("{0:2}\n", rt::toJSON(program.manifest)).str());
}

/// A session with the text that all chips start from.
static llvm::Error openForChip(Session &session, const Shared &shared, const Chip &chip) {
  if (llvm::Error error = session.parse(shared.source, sourceTensorName))
    return error;
  if (llvm::Error error = session.bind(shared.constants))
    return error;
  setTarget(session.module(), chip);
  return llvm::Error::success();
}

/// From packed weights to kernels.
static llvm::Expected<ChipProgram> buildKernels(Session &session, const Chip &chip,
                                                const PipelineOptions &pipeline, Dumper &dumper,
                                                TimingScope &timing) {
  if (llvm::Error error = session.run(Phase::Tile, Phase::Lower, pipeline, dumper, timing))
    return std::move(error);
  std::vector<StageOutput> llvmIR;
  if (dumper.enabled()) {
    llvm::Expected<std::vector<StageOutput>> kernels =
        getKernels(session, Stage::LLVM, chip, nullptr);
    if (!kernels)
      return kernels.takeError();
    llvmIR = std::move(*kernels);
  }
  if (llvm::Error error = session.run(Phase::Binary, Phase::Binary, pipeline, dumper, timing))
    return std::move(error);
  llvm::Expected<ChipProgram> program = buildChipProgram(session, chip);
  if (!program)
    return program.takeError();
  if (llvm::Error error = dumpKernels(session, *program, chip, llvmIR, dumper))
    return std::move(error);
  return program;
}

//===----------------------------------------------------------------------===//
// Configurations that are slow
//===----------------------------------------------------------------------===//

// How many registers an epilogue needs is known to ptxas alone. Where a kernel of a configuration
// that the compiler chose is slow, spilling or with serialized wgmma, the product gets another
// choice: at first without what needs as many registers, in the end among small tiles alone.

/// Accumulators a thread, from try to try; the first only leaves out what is known to be slow. The
/// smallest tiles have 16, which leaves room for any epilogue that was met.
static constexpr int64_t fewerAccumulators[] = {sf::kMostAccumulators, 112, 64, 48, 32, 16};

/// Whether the options say which kernel computes every matmul; a library leaves the kernels open.
static bool isKernelGiven(Session &session, const PipelineOptions &pipeline) {
  return !pipeline.config.empty() && isa_and_present<sf::KernelConfigAttr>(sf::parseVariantConfig(
                                         session.module().getContext(), pipeline.config));
}

/// From packed weights, in `session`, to kernels of which none is slow; in sessions of its own
/// where one of the first choice is. `chipSource` is the IR that tells the choice.
static llvm::Expected<ChipProgram> buildWithoutSlowKernels(Session &session, const Shared &shared,
                                                           const Chip &chip,
                                                           MutableArrayRef<ProductChoice> choices,
                                                           std::string chipSource, Dumper &dumper,
                                                           TimingScope &timing) {
  PipelineOptions pipeline = getPipelineOptions(shared, chip);
  auto build = [&](Session &session) {
    readChoices(session.module(), choices);
    numberProducts(session.module());
    llvm::Expected<ChipProgram> program = buildKernels(session, chip, pipeline, dumper, timing);
    if (program)
      program->tensors.push_back(rt::StoredTensor::text(chipSourceName(chip.name), chipSource));
    return program;
  };
  // A configuration that somebody wants is not replaced.
  pipeline.allowSlow = !isKernelGiven(session, pipeline);
  llvm::Expected<ChipProgram> program = build(session);
  if (!program)
    return program;
  auto slow = findSlowProducts(session.module());
  for (int64_t accumulators : fewerAccumulators) {
    if (slow.empty())
      break;
    pipeline.maxAccumulators = accumulators;
    for (auto &[product, kernels] : slow) {
      // What is not ours to change is an error this time.
      if (product < 0 || choices[product].isGiven) {
        pipeline.allowSlow = false;
        continue;
      }
      ProductChoice &choice = choices[product];
      choice.configs = choice.reasons = choice.times = "";
      for (auto &[config, slowness] : kernels)
        choice.slow.insert(config);
      choice.reason = llvm::formatv("the fastest without {0}, which {1}", kernels.front().first,
                                    kernels.front().second);
    }
    Session again(shared.options, llvm::formatv("{0}-{1}-", chip.name, accumulators).str());
    if (llvm::Error error = openForChip(again, shared, chip))
      return std::move(error);
    setChoices(again.module(), choices);
    if (llvm::Error error = again.run(Phase::Select, Phase::Select, pipeline, dumper, timing))
      return std::move(error);
    chipSource = printModule(again.module(), Print::Source);
    if (llvm::Error error = again.run(Phase::Pack, Phase::Pack, pipeline, dumper, timing))
      return std::move(error);
    // Kernels that stay the same are found in the cache.
    program = build(again);
    if (!program)
      return program;
    slow = findSlowProducts(again.module());
  }
  if (!slow.empty())
    return rt::makeError(
        rt::Status::InvalidProgram,
        llvm::formatv("expected a configuration for {0} whose kernel neither spills registers nor "
                      "has its wgmma instructions serialized, got none: with the fewest "
                      "accumulators, {1} {2}; a shorter epilogue would fit",
                      chip.name, slow.begin()->second.front().first,
                      slow.begin()->second.front().second));
  return program;
}

static llvm::Expected<ChipProgram> compileForChip(const Shared &shared, const Chip &chip,
                                                  Dumper &dumper, TimingScope &timing) {
  Session session(shared.options, chip.name.str() + "-");
  if (llvm::Error error = openForChip(session, shared, chip))
    return std::move(error);
  std::vector<ProductChoice> choices;
  session.module().walk(
      [&](sf::MatmulOp op) { choices.emplace_back().isGiven = op.getConfigs().has_value(); });
  PipelineOptions pipeline = getPipelineOptions(shared, chip);
  if (llvm::Error error = session.run(Phase::Select, Phase::Select, pipeline, dumper, timing))
    return std::move(error);
  std::string chipSource = printModule(session.module(), Print::Source);
  if (llvm::Error error = session.run(Phase::Pack, Phase::Pack, pipeline, dumper, timing))
    return std::move(error);
  // Weights are packed alike for whatever kernels are built, and a slow kernel changes only those:
  // who calls a library, and reads dense weights, stays.
  std::vector<ResourceConstant> resources = getResourceConstants(session.module());

  DiskCache cache(dumper.enabled() ? "" : shared.cacheDir);
  std::string key =
      cache.enabled() ? programKey(shared, chip, printModule(session.module(), Print::Source)) : "";
  std::optional<ChipProgram> program;
  if (cache.enabled())
    program = lookUp(cache, key);
  if (!program) {
    llvm::Expected<ChipProgram> built = buildWithoutSlowKernels(
        session, shared, chip, choices, std::move(chipSource), dumper, timing);
    if (!built)
      return built.takeError();
    program = std::move(*built);
    store(cache, key, *program);
  }
  if (llvm::Error error = addResources(*program, resources, shared, session.share()))
    return std::move(error);
  return std::move(*program);
}

//===----------------------------------------------------------------------===//
// Several chips
//===----------------------------------------------------------------------===//

/// As many chips at once as there are processors; each keeps its own answer.
static std::vector<llvm::Expected<ChipProgram>> compileForChips(const Shared &shared,
                                                                ArrayRef<const Chip *> chips,
                                                                Dumper &dumper,
                                                                TimingScope &timing) {
  std::vector<std::optional<llvm::Expected<ChipProgram>>> results(chips.size());
  std::atomic<size_t> next{0};
  auto work = [&] {
    for (size_t i = next++; i < chips.size(); i = next++)
      results[i].emplace(compileForChip(shared, *chips[i], dumper, timing));
  };
  // Dumps are numbered and timings nested in the order of events; both want one thread.
  bool ordered = dumper.enabled() || shared.options.timing;
  size_t count =
      ordered ? 1
              : std::min<size_t>(chips.size(), llvm::hardware_concurrency().compute_thread_count());
  runOnThreads(count, work);
  std::vector<llvm::Expected<ChipProgram>> answers;
  for (auto &result : results)
    answers.push_back(std::move(*result));
  return answers;
}

/// Adds a chip's tensors to the program's. Weights that several chips pack alike are kept once; one
/// that a chip packs in its own way gets a name of its own.
static void mergeTensors(std::vector<rt::StoredTensor> &tensors, llvm::StringMap<size_t> &index,
                         ChipProgram &program, StringRef chip) {
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
    index[tensor.name] = tensors.size();
    tensors.push_back(std::move(tensor));
  }
}

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

/// A name that a manifest, which is JSON, and a command line can carry.
static bool isName(StringRef name) {
  auto isControl = [](unsigned char c) { return c < 0x20 || c == 0x7f; };
  return !name.empty() && llvm::json::isUTF8(name) && llvm::none_of(name, isControl);
}

/// Checks the names that a function's inputs or outputs are asked for.
static LogicalResult checkNames(func::FuncOp function, std::optional<ArrayAttr> attributes,
                                StringRef what) {
  llvm::StringSet<> seen;
  for (auto [i, dictionary] :
       llvm::enumerate(attributes.value_or(ArrayAttr::get(function.getContext(), {}))
                           .getAsRange<DictionaryAttr>())) {
    Attribute attribute = dictionary.get("sf.name");
    if (!attribute)
      continue;
    auto name = dyn_cast<StringAttr>(attribute);
    if (!name || !isName(name))
      return function.emitError() << "expected sf.name of " << what << " " << i << " of '"
                                  << function.getSymName()
                                  << "' to be text without control characters, got " << attribute;
    if (!seen.insert(name).second)
      return function.emitError() << "expected each " << what << " of '" << function.getSymName()
                                  << "' to have an sf.name of its own, got " << name << " twice";
  }
  return success();
}

/// What the compiler can take: functions of tensors whose element types have a name at run time.
/// Said here, by the functions' own types, rather than by the first pass that stumbles over them.
static LogicalResult checkFunctions(ModuleOp module) {
  unsigned count = 0;
  for (auto function : module.getOps<func::FuncOp>()) {
    if (function.isExternal() || !function.isPublic())
      continue;
    ++count;
    if (!isName(function.getSymName()))
      return function.emitError()
             << "expected a function's name to be text without control characters, got "
             << function.getSymNameAttr();
    if (failed(checkNames(function, function.getArgAttrs(), "argument")) ||
        failed(checkNames(function, function.getResAttrs(), "result")))
      return failure();
    auto check = [&](TypeRange types, StringRef what) -> LogicalResult {
      for (auto [i, type] : llvm::enumerate(types)) {
        auto tensor = dyn_cast<RankedTensorType>(type);
        if (!tensor || !sf::getDType(tensor.getElementType()))
          return function.emitError()
                 << "expected " << what << " " << i << " of '" << function.getSymName()
                 << "' to be a ranked tensor of f16, bf16, f32, i8, f8E4M3FN, f8E5M2 or i32, got "
                 << type;
      }
      return success();
    };
    if (failed(check(function.getArgumentTypes(), "argument")) ||
        failed(check(function.getResultTypes(), "result")))
      return failure();
  }
  if (!count)
    return module.emitError("expected a public function with a body, got none");
  return success();
}

/// The tensors that a constant becomes in the file.
static SmallVector<std::string> getTensorNames(const ResourceConstant &constant) {
  if (isCanonicalWeight(constant.type))
    return {constant.name + ".values", constant.name + ".bitmask"};
  return {constant.name};
}

/// Constants lie in the file beside sources and kernels, by name: a constant of such a name would
/// be taken for one, and two of one name for each other.
static llvm::Error checkConstants(ArrayRef<ResourceConstant> constants) {
  llvm::StringMap<StringRef> owners; // of tensors
  for (const ResourceConstant &constant : constants)
    for (const std::string &tensor : getTensorNames(constant)) {
      auto [folder, rest] = StringRef(tensor).split('/');
      bool isInFolder = folder.size() < tensor.size() && rt::parseChip(folder);
      if (!llvm::json::isUTF8(tensor) || tensor == sourceTensorName || isInFolder)
        return rt::makeError(
            rt::Status::InvalidArgument,
            llvm::formatv("expected a constant's name to be UTF-8, other than '{0}' and outside of "
                          "the targets' folders, such as 'sm_90a/', got '{1}'; rename the constant",
                          sourceTensorName, llvm::json::fixUTF8(constant.name)));
      auto [owner, isNew] = owners.insert({tensor, constant.name});
      if (!isNew)
        return rt::makeError(
            rt::Status::InvalidArgument,
            llvm::formatv("expected constants whose tensors in the file have different names, got "
                          "'{0}' for '{1}' and for '{2}'; rename one of them",
                          tensor, owner->second, constant.name));
    }
  return llvm::Error::success();
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
  return checkConstants(getResourceConstants(session.module()));
}

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

  Shared shared{options, printModule(session.module(), Print::Locations), {}, *ptxas, cacheDir};
  std::vector<rt::StoredTensor> tensors;
  llvm::StringMap<size_t> index;
  std::vector<ResourceConstant> resources = getResourceConstants(session.module());
  for (const ResourceConstant &constant : resources) {
    shared.constants.push_back({constant.name, constant.data, std::nullopt, std::nullopt});
    // The caller's memory is only lent for this call.
    bool isBorrowed = llvm::any_of(constants, [&](const ExternalConstant &lent) {
      return lent.data.data() == constant.data.data();
    });
    addConstant(tensors, constant, isBorrowed ? nullptr : session.share());
  }
  for (auto [i, tensor] : llvm::enumerate(tensors))
    index[tensor.name] = i;

  rt::Manifest manifest;
  std::vector<llvm::Expected<ChipProgram>> programs =
      compileForChips(shared, *chips, dumper, timing);
  llvm::Error failures = llvm::Error::success();
  for (auto [program, chip] : llvm::zip(programs, *chips)) {
    if (!program) {
      // Chips fail alike more often than not; the first says it.
      llvm::Error error = program.takeError();
      if (failures)
        llvm::consumeError(std::move(error));
      else
        failures = std::move(error);
      continue;
    }
    mergeTensors(tensors, index, *program, chip->name);
    if (manifest.functions.empty()) {
      manifest = std::move(program->manifest);
      continue;
    }
    for (auto [function, other] : llvm::zip(manifest.functions, program->manifest.functions))
      function.programs.push_back(std::move(other.programs.front()));
  }
  if (failures)
    return std::move(failures);

  tensors.push_back(
      rt::StoredTensor::text(sourceTensorName.str(), printModule(session.module(), Print::Source)));
  manifest.source = sourceTensorName.str();
  return rt::ProgramFile::create(std::move(manifest), std::move(tensors));
}

//===----------------------------------------------------------------------===//
// Parts of the way
//===----------------------------------------------------------------------===//

static llvm::Expected<std::vector<StageOutput>>
getKernels(Session &session, Stage stage, const Chip &chip, const target::Ptxas *ptxas) {
  target::CodeGenOptions codegen;
  codegen.chip = &chip;
  codegen.ptxas = ptxas;
  codegen.keepLLVMIR = stage == Stage::LLVM;
  std::vector<StageOutput> outputs;
  for (auto module : session.module().getOps<gpu::GPUModuleOp>()) {
    FailureOr<std::vector<target::CompiledKernel>> kernels = failure();
    if (llvm::Error error = session.guard([&]() -> LogicalResult {
          kernels = target::compileKernels(module, codegen);
          return success(succeeded(kernels));
        }))
      return std::move(error);
    for (target::CompiledKernel &kernel : *kernels) {
      std::string stem = chip.name.str() + "-" + kernel.name;
      if (stage == Stage::LLVM)
        outputs.push_back({stem + ".ll", std::move(kernel.llvmIR)});
      else if (stage == Stage::PTX)
        outputs.push_back({stem + ".ptx", std::move(kernel.ptx)});
      else
        outputs.push_back({stem + ".cubin", std::move(kernel.cubin)});
    }
  }
  return outputs;
}

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

  Shared shared{options, printModule(session.module(), Print::Locations), {}, {}, ""};
  for (const ResourceConstant &constant : getResourceConstants(session.module()))
    shared.constants.push_back({constant.name, constant.data, std::nullopt, std::nullopt});
  std::vector<StageOutput> outputs;
  for (const Chip *chip : *chips) {
    Session forChip(options, chip->name.str() + "-");
    if (llvm::Error error = openForChip(forChip, shared, *chip))
      return std::move(error);
    if (llvm::Error error =
            forChip.run(Phase::Select, stage == Stage::SFTile ? Phase::Tile : Phase::Lower,
                        getPipelineOptions(shared, *chip), dumper, timing))
      return std::move(error);
    if (stage <= Stage::NVVM) {
      outputs.push_back({chip->name.str() + ".mlir", printModule(forChip.module(), Print::Source)});
      continue;
    }
    llvm::Expected<std::vector<StageOutput>> kernels =
        getKernels(forChip, stage, *chip, ptxas ? &*ptxas : nullptr);
    if (!kernels)
      return kernels.takeError();
    llvm::append_range(outputs, *kernels);
  }
  return outputs;
}

//===----------------------------------------------------------------------===//
// From a file back to IR
//===----------------------------------------------------------------------===//

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
    const rt::StoredTensor *values = file.find(constant.name + ".values");
    const rt::StoredTensor *bitmask = file.find(constant.name + ".bitmask");
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
  const rt::StoredTensor *source = file.find(chipSourceName(targetName));
  if (!source)
    return rt::makeError(rt::Status::NotFound,
                         "expected a program for " + targetName +
                             " with its source, got one without; compile it for that target");
  CompileOptions options;
  Session session(options);
  std::vector<std::vector<char>> pieces;
  if (llvm::Error error = loadText(session, file, llvm::toStringRef(source->data),
                                   chipSourceName(targetName), pieces))
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
  const rt::StoredTensor *source = file.find(chipSourceName(targetName));
  if (!source)
    return rt::makeError(rt::Status::Unsupported,
                         "this file holds no source for " + targetName +
                             ", so it cannot be emulated; compile it again with this version");
  CompileOptions options;
  Session session(options, targetName.str() + "-");
  std::vector<std::vector<char>> pieces;
  if (llvm::Error error = loadText(session, file, llvm::toStringRef(source->data),
                                   chipSourceName(targetName), pieces))
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
