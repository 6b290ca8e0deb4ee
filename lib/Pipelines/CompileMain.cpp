//===- CompileMain.cpp - sparseflow-compile -------------------------------===//
//
// MLIR in, an .sf file out. The command line is parsed by hand rather than with llvm::cl, whose
// global registry would offer every option that LLVM and MLIR have. Output is written at the end
// and atomically: a failed compile leaves what was there before.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Pipelines/Compiler.h"
#include "sparseflow/Pipelines/Tools.h"
#include "sparseflow/Runtime/Error.h"
#include "sparseflow/Target/Chip.h"
#include "sparseflow/Target/Manifest.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/InitLLVM.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/WithColor.h"
#include "llvm/Support/raw_ostream.h"

#include <csignal>

using namespace llvm;
using namespace sparseflow;
namespace rt = sparseflow::runtime;

static constexpr StringLiteral usage = R"(usage: sparseflow-compile INPUT.mlir -o OUTPUT [options]

Compiles sf IR (or what imports into it) for one or more GPUs. INPUT may be - for stdin, OUTPUT - for stdout.

  --target=sm_80,sm_90       chips to compile for (default sm_80)
  --emit=KIND                sf-file (default): the compiled program
                             sf, sf-tile, nvvm: the IR at that point
                             llvm, ptx, cubin: each kernel (OUTPUT is a folder when there are several)
  --config='#sf.kernel_config<...>'
                             use this configuration for every matmul; --config=cublaslt: dense products by the library
  --tuning=PATH|none         the tuning database; default: SPARSEFLOW_CACHE_DIR or ~/.cache/sparseflow has the user's
                             as tuning.sqlite, another ships with the library
  --constants=FILE.safetensors
                             bytes of the constants that the IR names as dense_resource
  --dump-intermediates=DIR   write the IR after every pass, numbered, and each kernel's .ll, .ptx, .cubin
  --mlir-timing              print where the time went, to stderr
  --ptxas=PATH               the assembler (default: SPARSEFLOW_PTXAS, CUDA_HOME, PATH, the Python package)
  --cache-dir=DIR            default SPARSEFLOW_CACHE_DIR or ~/.cache/sparseflow; empty turns the cache off
  --reproducer=FILE          where a failing pass leaves its reproducer
  --version, --help
)";

namespace {
enum class Emit { SF, SFTile, NVVM, LLVM, PTX, Cubin, File };

struct Arguments {
  std::string input, output, constants;
  Emit emit = Emit::File;
  CompileOptions compile;
};
} // namespace

/// Exit codes: 1 when the input does not compile, 2 when the command line is wrong.
static constexpr int compileFailed = 1, usageError = 2;

static Error badUsage(const Twine &message) {
  return createStringError(message + "; see sparseflow-compile --help");
}

static Error parseArguments(ArrayRef<const char *> argv, Arguments &arguments) {
  for (size_t i = 1; i < argv.size(); ++i) {
    StringRef argument = argv[i];
    if (argument == "-" || !argument.starts_with("-")) {
      if (!arguments.input.empty())
        return badUsage("expected one input, got '" + Twine(arguments.input) + "' and '" +
                        argument + "'");
      arguments.input = argument.str();
      continue;
    }
    // -o x, --output=x, --target x, --target=x.
    auto [flag, value] = argument.split('=');
    bool hasValue = argument.contains('=');
    if (argument == "--mlir-timing") {
      arguments.compile.timing = true;
      continue;
    }
    flag = flag.starts_with("--") ? flag.drop_front(2) : flag.drop_front(1);
    if (!is_contained({"o", "output", "target", "emit", "config", "constants", "dump-intermediates",
                       "ptxas", "cache-dir", "reproducer", "tuning"},
                      flag))
      return badUsage("unknown option '" + argument + "'");
    if (!hasValue) {
      if (++i == argv.size())
        return badUsage("expected a value after '" + argument + "', got none");
      value = argv[i];
    }
    if (flag == "o" || flag == "output") {
      arguments.output = value.str();
    } else if (flag == "target") {
      arguments.compile.targets.clear();
      for (StringRef chip : split(value, ',')) {
        if (Error error = target::findChip(chip).takeError())
          return badUsage(toString(std::move(error)));
        arguments.compile.targets.push_back(chip.str());
      }
    } else if (flag == "emit") {
      std::optional<Emit> emit = StringSwitch<std::optional<Emit>>(value)
                                     .Case("sf", Emit::SF)
                                     .Case("sf-tile", Emit::SFTile)
                                     .Case("nvvm", Emit::NVVM)
                                     .Case("llvm", Emit::LLVM)
                                     .Case("ptx", Emit::PTX)
                                     .Case("cubin", Emit::Cubin)
                                     .Case("sf-file", Emit::File)
                                     .Default(std::nullopt);
      if (!emit)
        return badUsage("expected --emit to be sf, sf-tile, nvvm, llvm, ptx, cubin or sf-file, "
                        "got '" +
                        value + "'");
      arguments.emit = *emit;
    } else if (flag == "config") {
      arguments.compile.config = value.str();
    } else if (flag == "constants") {
      arguments.constants = value.str();
    } else if (flag == "dump-intermediates") {
      arguments.compile.dumpDir = value.str();
    } else if (flag == "ptxas") {
      arguments.compile.ptxas = value.str();
    } else if (flag == "tuning") {
      arguments.compile.tuning = value == "none" ? "" : value.str();
    } else if (flag == "cache-dir") {
      arguments.compile.cacheDir = value.str();
    } else {
      arguments.compile.reproducer = value.str();
    }
  }
  if (arguments.input.empty())
    return badUsage("expected an input, got none");
  if (arguments.output.empty()) {
    if (arguments.emit == Emit::File || arguments.emit == Emit::Cubin)
      return badUsage("expected -o OUTPUT, got none");
    arguments.output = "-";
  }
  return Error::success();
}

/// A result that would replace what it is made of.
static Error checkOutput(const Arguments &arguments) {
  for (StringRef given : {StringRef(arguments.input), StringRef(arguments.constants)})
    if (!given.empty() && sys::fs::equivalent(given, arguments.output))
      return badUsage("expected an output beside '" + given + "', got that file itself");
  return Error::success();
}

/// A place for the reproducer that nobody asked for; it is only written when it is needed.
static std::string defaultReproducer(StringRef input) {
  SmallString<128> path;
  sys::path::system_temp_directory(/*erasedOnReboot=*/true, path);
  StringRef stem = input == "-" ? "stdin" : sys::path::stem(input);
  sys::path::append(path, "sparseflow-" + stem + "-" + Twine(sys::Process::getProcessId()) +
                              ".reproducer.mlir");
  return path.str().str();
}

static Error writeOutput(StringRef path, StringRef contents) {
  if (path == "-") {
    outs() << contents;
    outs().flush();
    return Error::success();
  }
  return rt::writeFileAtomically(path, [&](raw_ostream &stream) {
    stream << contents;
    return Error::success();
  });
}

static Error writeStage(ArrayRef<StageOutput> outputs, StringRef path) {
  if (outputs.empty())
    return createStringError("the input has no function that becomes a kernel");
  if (outputs.size() == 1 && !sys::fs::is_directory(path))
    return writeOutput(path, outputs.front().contents);
  if (path == "-") {
    for (const StageOutput &output : outputs) {
      if (StringRef(output.name).ends_with(".cubin"))
        return createStringError("expected -o FOLDER for several cubins, got -");
      outs() << "// " << output.name << "\n" << output.contents;
    }
    outs().flush();
    return Error::success();
  }
  if (std::error_code error = sys::fs::create_directories(path))
    return createStringError(error, "cannot create the folder '" + path + "'");
  for (const StageOutput &output : outputs) {
    SmallString<256> file(path);
    sys::path::append(file, output.name);
    if (Error error = writeOutput(file, output.contents))
      return error;
  }
  return Error::success();
}

/// The tensors of a safetensors file as constants. A canonical weight's two tensors, `w.values` and
/// `w.bitmask`, are joined to `w`; `pieces` keeps what was joined.
static std::vector<ExternalConstant> getConstants(const rt::SafeTensors &file,
                                                  std::vector<std::vector<char>> &pieces) {
  std::vector<ExternalConstant> constants;
  auto view = [](const rt::StoredTensor &tensor) {
    return ArrayRef<char>(reinterpret_cast<const char *>(tensor.data.data()), tensor.data.size());
  };
  for (const rt::StoredTensor &tensor : file.tensors()) {
    StringRef name = tensor.name;
    if (name.ends_with(".bitmask") && file.find((name.drop_back(8) + ".values").str()))
      continue;
    StringRef stem = name;
    if (stem.consume_back(".values"))
      if (const rt::StoredTensor *bitmask = file.find((stem + ".bitmask").str())) {
        std::vector<char> &piece = pieces.emplace_back();
        append_range(piece, view(tensor));
        append_range(piece, view(*bitmask));
        constants.push_back({stem.str(), piece, std::nullopt, std::nullopt});
        continue;
      }
    constants.push_back({name.str(), view(tensor), tensor.dtype, tensor.shape});
  }
  return constants;
}

static Error run(const Arguments &arguments) {
  ErrorOr<std::unique_ptr<MemoryBuffer>> input = MemoryBuffer::getFileOrSTDIN(arguments.input);
  if (!input)
    return createStringError("cannot read '" + arguments.input +
                             "': " + input.getError().message());
  std::optional<rt::SafeTensors> file;
  std::vector<std::vector<char>> pieces;
  std::vector<ExternalConstant> constants;
  if (!arguments.constants.empty()) {
    Expected<rt::SafeTensors> opened = rt::SafeTensors::open(arguments.constants);
    if (!opened)
      return opened.takeError();
    file = std::move(*opened);
    constants = getConstants(*file, pieces);
  }
  StringRef source = (*input)->getBuffer();
  StringRef name = arguments.input == "-" ? "<stdin>" : StringRef(arguments.input);

  if (arguments.emit != Emit::File) {
    Expected<std::vector<StageOutput>> outputs =
        compileTo(static_cast<Stage>(arguments.emit), source, name, constants, arguments.compile);
    if (!outputs)
      return outputs.takeError();
    return writeStage(*outputs, arguments.output);
  }
  Expected<rt::ProgramFile::Ptr> program = compile(source, name, constants, arguments.compile);
  if (!program)
    return program.takeError();
  if (arguments.output != "-")
    return (*program)->save(arguments.output);
  Error error = (*program)->write(outs());
  outs().flush();
  return error;
}

int sparseflow::compileMain(int argc, char **argv) {
  InitLLVM initLLVM(argc, argv);
#ifdef SIGXFSZ
  // A file that may not grow is an error of writing, not a crash.
  std::signal(SIGXFSZ, SIG_IGN);
#endif
  ArrayRef<const char *> words(argv, argc);
  for (StringRef word : words.drop_front()) {
    if (word == "--help" || word == "-h") {
      outs() << usage;
      return 0;
    }
    if (word == "--version") {
      outs() << target::getProducer() << "\n";
      return 0;
    }
  }
  Arguments arguments;
  Error error = parseArguments(words, arguments);
  if (!error)
    error = checkOutput(arguments);
  if (error) {
    WithColor::error(errs(), "sparseflow-compile") << toString(std::move(error)) << "\n";
    return usageError;
  }
  if (arguments.compile.reproducer.empty())
    arguments.compile.reproducer = defaultReproducer(arguments.input);
  arguments.compile.diagnostics = [](Severity severity, StringRef message) {
    if (severity == Severity::Warning)
      WithColor::warning() << message << "\n";
  };
  if (Error error = run(arguments)) {
    WithColor::error() << toString(std::move(error)) << "\n";
    return compileFailed;
  }
  return 0;
}
