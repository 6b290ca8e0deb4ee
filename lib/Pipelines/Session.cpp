//===- Session.cpp - A context with its diagnostics and constants ---------===//
//
// Constants are bound by filling in the blob of a resource handle that the parser declared: nothing
// is copied, and the IR stays small whatever the model weighs.
//
//===----------------------------------------------------------------------===//

#include "Session.h"
#include "UntrustedText.h"

#include "sparseflow/Dialect/SF/IR/SFConstants.h"
#include "sparseflow/Dialect/SF/IR/SFDialect.h"
#include "sparseflow/Pipelines/Registration.h"
#include "sparseflow/Runtime/ElementType.h"
#include "sparseflow/Runtime/Error.h"

#include "mlir/Bytecode/BytecodeReader.h"
#include "mlir/IR/AsmState.h"
#include "mlir/IR/BuiltinDialect.h"
#include "mlir/IR/DialectResourceBlobManager.h"
#include "mlir/Parser/Parser.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBufferRef.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"

using namespace mlir;
using namespace sparseflow;
namespace rt = sparseflow::runtime;

/// Constants beyond this many bytes are left out of reproducers: they are rarely what failed.
static constexpr int64_t reproducedConstantBytes = 1 << 20;

//===----------------------------------------------------------------------===//
// Text
//===----------------------------------------------------------------------===//

std::string sparseflow::printModule(ModuleOp module, Print how) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  OpPrintingFlags flags;
  if (how != Print::Full)
    flags.elideLargeResourceString(0);
  if (how == Print::Locations)
    flags.enableDebugInfo();
  module.print(stream, flags);
  // What is left of the section of elided resources.
  StringRef kept = StringRef(text).rtrim();
  if (how != Print::Full && kept.consume_back("#-}")) {
    kept = kept.rtrim();
    if (kept.consume_back("{-#"))
      text.resize(kept.rtrim().size());
  }
  if (!StringRef(text).ends_with("\n"))
    text += '\n';
  return text;
}

llvm::Error Dumper::dump(const llvm::Twine &name, StringRef contents) {
  if (!enabled())
    return llvm::Error::success();
  if (std::error_code error = llvm::sys::fs::create_directories(directory))
    return rt::makeError(rt::Status::IOError,
                         "cannot create the folder '" + directory + "': " + error.message());
  SmallString<256> path(directory);
  llvm::sys::path::append(path, llvm::formatv("{0:02}-", next++) + name);
  return rt::writeFileAtomically(path, [&](llvm::raw_ostream &stream) {
    stream << contents;
    return llvm::Error::success();
  });
}

llvm::Error Dumper::dump(const llvm::Twine &name, ModuleOp module) {
  if (!enabled())
    return llvm::Error::success();
  return dump(name, printModule(module, Print::Source));
}

//===----------------------------------------------------------------------===//
// Diagnostics
//===----------------------------------------------------------------------===//

/// "model.mlir:3:8", "model.mlir" for the module around its text, or "" for a location without a
/// place.
static std::string placeOf(Location location) {
  if (auto place = location->findInstanceOf<FileLineColLoc>())
    return place.getLine() == 0 ? place.getFilename().str()
                                : llvm::formatv("{0}:{1}:{2}", place.getFilename().getValue(),
                                                place.getLine(), place.getColumn())
                                      .str();
  return "";
}

static void append(std::string &text, StringRef kind, Location location,
                   const llvm::Twine &message) {
  std::string place = placeOf(location);
  text += place + (place.empty() ? "" : ": ") + kind.str() + message.str();
}

static std::string render(Diagnostic &diagnostic, StringRef kind) {
  std::string text;
  append(text, kind, diagnostic.getLocation(), diagnostic.str());
  for (Diagnostic &note : diagnostic.getNotes())
    append(text += '\n', "note: ", note.getLocation(), note.str());
  return text;
}

Session::Session(const CompileOptions &options, std::string stem)
    : options(options), stem(std::move(stem)), loaded(std::make_shared<LoadedModule>()) {
  DialectRegistry registry;
  registerDialects(registry);
  registerPasses();
  loaded->context = std::make_shared<MLIRContext>(registry);
  // Upstream IR that names no sf operation gets a target all the same.
  loaded->context->getOrLoadDialect<sf::SFDialect>();
  // The message says what is wrong; a dump of the operation would bury it.
  loaded->context->printOpOnDiagnostic(false);
  handler = loaded->context->getDiagEngine().registerHandler([this](Diagnostic &diagnostic) {
    DiagnosticSeverity severity = diagnostic.getSeverity();
    if (severity == DiagnosticSeverity::Error)
      errors.push_back(render(diagnostic, ""));
    if (this->options.diagnostics && severity != DiagnosticSeverity::Note)
      this->options.diagnostics(severity == DiagnosticSeverity::Error     ? Severity::Error
                                : severity == DiagnosticSeverity::Warning ? Severity::Warning
                                                                          : Severity::Remark,
                                render(diagnostic, ""));
    return success();
  });
}

Session::~Session() { loaded->context->getDiagEngine().eraseHandler(*handler); }

llvm::Error Session::takeErrors(StringRef what) {
  std::string message =
      errors.empty() ? (what + " failed without a message").str() : llvm::join(errors, "\n");
  errors.clear();
  return rt::makeError(rt::Status::InvalidProgram, message);
}

llvm::Error Session::guard(llvm::function_ref<LogicalResult()> action) {
  if (succeeded(action()))
    return llvm::Error::success();
  return takeErrors("the compiler");
}

//===----------------------------------------------------------------------===//
// Parsing and constants
//===----------------------------------------------------------------------===//

llvm::Error Session::parse(StringRef source, StringRef name) {
  if (!isBytecode(llvm::MemoryBufferRef(source, name)))
    if (std::optional<std::string> why = findUnparsable(source))
      return rt::makeError(rt::Status::InvalidProgram, name + ":" + *why);
  ParserConfig config(loaded->context.get());
  loaded->module = parseSourceString<ModuleOp>(source, config, name);
  if (!loaded->module)
    return takeErrors("parsing '" + name.str() + "'");
  parsedText = source.str();
  parsedName = name.str();
  return llvm::Error::success();
}

std::vector<ResourceConstant> sparseflow::getResourceConstants(ModuleOp module) {
  llvm::MapVector<StringRef, ResourceConstant> found;
  module.walk([&](arith::ConstantOp op) {
    auto resource = dyn_cast<DenseResourceElementsAttr>(op.getValue());
    auto type = dyn_cast<RankedTensorType>(op.getType());
    if (!resource || !type)
      return;
    StringRef name = resource.getRawHandle().getKey();
    AsmResourceBlob *blob = resource.getRawHandle().getBlob();
    found.insert({name, {name.str(), type, blob ? blob->getData() : ArrayRef<char>()}});
  });
  std::vector<ResourceConstant> constants;
  for (auto &[name, constant] : found)
    constants.push_back(std::move(constant));
  return constants;
}

static std::string describe(ArrayRef<int64_t> shape) {
  return "[" +
         llvm::join(llvm::map_range(shape, [](int64_t size) { return std::to_string(size); }),
                    ", ") +
         "]";
}

/// What is wrong with giving this constant these bytes, or "".
static std::string whyUnfit(const ResourceConstant &constant, const ExternalConstant &given) {
  std::string type;
  llvm::raw_string_ostream(type) << constant.type;
  std::optional<DType> dtype = sf::getDType(constant.type.getElementType());
  if (given.dtype && dtype && *given.dtype != rt::fromElementType(*dtype))
    return llvm::formatv("expected {0} for {1}, got {2}", stringifyDType(*dtype), type,
                         stringify(*given.dtype));
  if (given.shape && ArrayRef<int64_t>(*given.shape) != constant.type.getShape())
    return llvm::formatv("expected the shape {0}, got {1}", describe(constant.type.getShape()),
                         describe(*given.shape));
  std::optional<size_t> bytes = sf::getStorageBytes(constant.type);
  if (bytes && *bytes != given.data.size())
    return llvm::formatv("expected {0} bytes for {1}, got {2}", *bytes, type, given.data.size());
  return "";
}

llvm::Error Session::bind(ArrayRef<ExternalConstant> constants) {
  std::vector<ResourceConstant> wanted = getResourceConstants(module());
  auto names = [&] {
    return wanted.empty()
               ? std::string("no constants")
               : llvm::join(llvm::map_range(wanted, [](auto &c) { return "'" + c.name + "'"; }),
                            ", ");
  };
  auto &manager =
      DenseResourceElementsHandle::getManagerInterface(loaded->context.get()).getBlobManager();
  for (const ExternalConstant &given : constants) {
    auto constant = llvm::find_if(wanted, [&](auto &other) { return other.name == given.name; });
    if (constant == wanted.end())
      return rt::makeError(rt::Status::InvalidArgument,
                           "expected constants that the IR names, got '" + given.name +
                               "'; it names " + names());
    if (std::string why = whyUnfit(*constant, given); !why.empty())
      return rt::makeError(rt::Status::InvalidArgument, "constant '" + given.name + "': " + why);
    constexpr size_t knownAlignment = 1; // the caller's memory may lie anywhere
    manager.update(given.name, UnmanagedAsmResourceBlob::allocateWithAlign(
                                   given.data, knownAlignment, /*deleter=*/{},
                                   /*dataIsMutable=*/false));
    constant->data = given.data;
  }
  for (const ResourceConstant &constant : wanted) {
    if (!constant.type.hasStaticShape()) {
      std::string type;
      llvm::raw_string_ostream(type) << constant.type;
      return rt::makeError(rt::Status::InvalidProgram, "constant '" + constant.name +
                                                           "': expected a static shape, got " +
                                                           type);
    }
    if (!constant.data.data() && !llvm::is_contained(constant.type.getShape(), 0))
      return rt::makeError(rt::Status::InvalidArgument,
                           "expected the bytes of constant '" + constant.name +
                               "', got none; pass them beside the IR, or carry them in its "
                               "dialect_resources");
  }
  bound.assign(constants.begin(), constants.end());
  return llvm::Error::success();
}

//===----------------------------------------------------------------------===//
// Passes
//===----------------------------------------------------------------------===//

std::string Session::writeReproducer(PassManager &manager) {
  if (options.reproducer.empty())
    return "";
  // Parsed again: the passes have changed, and perhaps broken, the module that failed.
  CompileOptions quiet;
  Session fresh(quiet);
  if (llvm::Error error = fresh.parse(parsedText, parsedName)) {
    llvm::consumeError(std::move(error));
    return "";
  }
  if (llvm::Error error = fresh.bind(bound))
    llvm::consumeError(std::move(error));
  std::string text;
  llvm::raw_string_ostream stream(text);
  fresh.module().print(stream,
                       OpPrintingFlags().elideLargeResourceString(2 * reproducedConstantBytes));
  stream << "\n{-#\n  external_resources: {\n    mlir_reproducer: {\n      pipeline: \"";
  std::string pipeline;
  llvm::raw_string_ostream pipelineStream(pipeline);
  manager.printAsTextualPipeline(pipelineStream);
  llvm::printEscapedString(pipeline, stream);
  stream << "\",\n      disable_threading: true,\n      verify_each: true\n    }\n  }\n#-}\n";
  if (llvm::Error error = rt::writeFileAtomically(options.reproducer, [&](llvm::raw_ostream &file) {
        file << text;
        return llvm::Error::success();
      })) {
    return "\nno reproducer was written: " + llvm::toString(std::move(error));
  }
  return "\nto replay this failure: sparseflow-opt --run-reproducer " + options.reproducer;
}

llvm::Error Session::run(Phase first, Phase last, const PipelineOptions &pipeline, Dumper &dumper,
                         TimingScope &timing) {
  // The text that a reproducer starts from stands before the first phase that ran.
  if (!firstPhase)
    firstPhase = first;
  auto isCancelled = [&] { return options.isCancelled && options.isCancelled(); };
  auto runPasses = [&](llvm::function_ref<void(OpPassManager &)> add) -> llvm::Error {
    if (isCancelled())
      return rt::makeError(rt::Status::Interrupted, "the compilation was cancelled");
    PassManager manager(loaded->context.get(), ModuleOp::getOperationName());
    manager.enableTiming(timing);
    add(manager);
    if (succeeded(manager.run(module())))
      return llvm::Error::success();
    if (isCancelled())
      return rt::makeError(rt::Status::Interrupted, llvm::toString(takeErrors("a pass")));
    PassManager whole(loaded->context.get(), ModuleOp::getOperationName());
    buildPipeline(whole, pipeline, *firstPhase, last);
    std::string reproducer = writeReproducer(whole);
    llvm::Error error = takeErrors("a pass");
    if (reproducer.empty())
      return error;
    return rt::makeError(rt::Status::InvalidProgram, llvm::toString(std::move(error)) + reproducer);
  };
  if (!dumper.enabled())
    return runPasses(
        [&](OpPassManager &manager) { buildPipeline(manager, pipeline, first, last); });

  // With dumps, one pass manager an entry, so that there is a moment to look.
  for (const PassEntry &entry : getPassEntries()) {
    if (entry.phase < first || entry.phase > last)
      continue;
    if (llvm::Error error =
            runPasses([&](OpPassManager &manager) { entry.add(manager, pipeline); }))
      return error;
    if (entry.phase < Phase::Binary)
      if (llvm::Error error = dumper.dump(stem + entry.name + ".mlir", module()))
        return error;
  }
  return llvm::Error::success();
}
