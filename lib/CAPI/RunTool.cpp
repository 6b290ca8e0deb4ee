// The options are a small table of its own: llvm::cl would show every option that LLVM's libraries
// register.
#include "RunTool.h"
#include "Handles.h"
#include "Npy.h"
#include "sparseflow/Pipelines/Compiler.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"

using namespace llvm;
using namespace sparseflow;
using namespace sparseflow::capi;

/// Exit codes, as all commands have them.
static constexpr int runFailed = 1, usageError = 2;

//===-- Options ------------------------------------------------------------------------------===//

namespace {
struct Options {
  std::string file, function, device = "auto", target, config;
  std::vector<std::string> inputs, outputs;
  bool json = false, verify = false, help = false, version = false;
};

struct Option {
  StringRef name;
  StringRef value; // "" for a flag
  StringRef help;
  std::string Options::*text;
  std::vector<std::string> Options::*list;
  bool Options::*flag;
};
} // namespace

static const Option optionTable[] = {
    {"function", "NAME", "the function to run; not needed if there is one", &Options::function,
     nullptr, nullptr},
    {"input", "[NAME=]FILE.npy", "an input, once for each, in their order or by name", nullptr,
     &Options::inputs, nullptr},
    {"output", "[NAME=]FILE.npy", "where to write an output, in their order or by name", nullptr,
     &Options::outputs, nullptr},
    {"device", "auto|cuda|cuda:N|emulator|reference",
     "where to run; auto is a GPU that can run it, else the emulator", &Options::device, nullptr,
     nullptr},
    {"target", "sm_80,...", "chips to compile a .mlir file for; the first GPU's, else sm_80",
     &Options::target, nullptr, nullptr},
    {"config", "#sf.kernel_config<...>|cublaslt",
     "the configuration of every matmul of a .mlir file", &Options::config, nullptr, nullptr},
    {"verify", "", "check every tensor of a .sf file against its checksum", nullptr, nullptr,
     &Options::verify},
    {"json", "", "print the report as JSON", nullptr, nullptr, &Options::json},
    {"help", "", "print this", nullptr, nullptr, &Options::help},
    {"version", "", "print the version", nullptr, nullptr, &Options::version},
};

static void printHelp(raw_ostream &os) {
  os << "usage: sparseflow-run FILE.sf|FILE.mlir [options]\n\n"
        "Runs one function and names the kernels that ran.\n\n";
  for (const Option &option : optionTable) {
    std::string spelled =
        ("--" + option.name + (option.value.empty() ? "" : "=" + option.value)).str();
    os << formatv("  {0,-45} {1}\n", spelled, option.help);
  }
}

static Error unknownOption(StringRef given) {
  const Option *nearest = nullptr;
  unsigned best = 3;
  for (const Option &option : optionTable) {
    unsigned distance = given.edit_distance(option.name);
    if (distance < best) {
      best = distance;
      nearest = &option;
    }
  }
  return makeError(Status::InvalidArgument,
                   "expected an option that --help lists, got '--" + given + "'" +
                       (nearest ? "; did you mean '--" + nearest->name + "'?" : Twine("")));
}

/// Whether the options are for a file of this kind.
static Error checkFile(const Options &options) {
  if (options.file.empty())
    return makeError(Status::InvalidArgument, "expected a .sf or .mlir file; see --help");
  if (sys::path::extension(options.file) == ".sf") {
    StringRef given = !options.target.empty() ? "target" : !options.config.empty() ? "config" : "";
    if (!given.empty())
      return makeError(Status::InvalidArgument,
                       "expected '--" + given + "' with a .mlir file, which is compiled, got '" +
                           options.file + "'; leave the option out, or compile the source again");
  } else if (options.verify) {
    return makeError(Status::InvalidArgument,
                     "expected '--verify' with a .sf file, which holds checksums, got '" +
                         options.file + "'; leave the option out");
  }
  return Error::success();
}

static Expected<Options> parseOptions(ArrayRef<StringRef> args) {
  Options options;
  for (size_t i = 0; i < args.size(); ++i) {
    StringRef arg = args[i];
    if (!arg.starts_with("-") || arg == "-") {
      if (!options.file.empty())
        return makeError(Status::InvalidArgument,
                         "expected one file, got '" + options.file + "' and '" + arg + "'");
      options.file = arg.str();
      continue;
    }
    arg = arg.drop_front(arg.starts_with("--") ? 2 : 1);
    auto [name, value] = arg.split('=');
    const Option *found =
        find_if(optionTable, [&, name = name](const Option &o) { return o.name == name; });
    if (found == std::end(optionTable))
      return unknownOption(name);
    bool hasValue = arg.contains('=');
    if (found->flag) {
      if (hasValue)
        return makeError(Status::InvalidArgument,
                         "expected no value for '--" + name + "', got '" + value + "'");
      options.*found->flag = true;
      continue;
    }
    if (!hasValue) {
      if (i + 1 == args.size())
        return makeError(Status::InvalidArgument,
                         "expected '--" + name + "=" + found->value + "', got no value");
      value = args[++i];
    }
    if (found->text)
      options.*found->text = value.str();
    else
      (options.*found->list).push_back(value.str());
  }
  if (options.help || options.version)
    return options;
  if (Error error = checkFile(options))
    return error;
  if (Error error = checkDeviceName(options.device))
    return error;
  return options;
}

//===-- Running ------------------------------------------------------------------------------===//

static Expected<runtime::ProgramFile::Ptr> loadProgram(const Options &options) {
  if (sys::path::extension(options.file) == ".sf")
    return runtime::ProgramFile::open(options.file, options.verify);
  ErrorOr<std::unique_ptr<MemoryBuffer>> file = MemoryBuffer::getFileOrSTDIN(options.file);
  if (!file)
    return runtime::makeOpenError(options.file, file.getError());
  CompileOptions compileOptions;
  std::string targets = options.target.empty() ? defaultTarget() : options.target;
  compileOptions.targets.clear();
  for (StringRef target : split(targets, ','))
    compileOptions.targets.push_back(target.trim().str());
  compileOptions.config = options.config;
  return compile((*file)->getBuffer(), options.file, {}, compileOptions);
}

/// Sorts `[NAME=]FILE` arguments into the function's order. Entries without a file stay empty.
static Expected<std::vector<std::string>>
assignFiles(ArrayRef<std::string> given, ArrayRef<runtime::TensorSpec> specs, StringRef option) {
  std::vector<std::string> files(specs.size());
  size_t next = 0;
  for (StringRef argument : given) {
    auto [name, file] = argument.split('=');
    size_t position = next;
    if (argument.contains('=')) {
      position = find_if(specs, [&, name = name](const auto &spec) { return spec.name == name; }) -
                 specs.begin();
    } else {
      file = argument;
      ++next;
    }
    if (file.empty())
      return makeError(Status::InvalidArgument, "expected '--" + option +
                                                    "=[NAME=]FILE.npy', got '" + argument +
                                                    "', which names no file");
    if (position >= specs.size() || !files[position].empty()) {
      std::string names;
      for (const runtime::TensorSpec &spec : specs)
        names += (names.empty() ? "" : ", ") + spec.name;
      return makeError(Status::InvalidArgument, "expected --" + option + " once for each of (" +
                                                    names + "), got '" + argument + "'");
    }
    files[position] = file.str();
  }
  return files;
}

namespace {
/// The tensors of a call and their memory.
struct Call {
  std::vector<NpyArray> inputs, outputs;
  std::vector<TensorRef> inputRefs, outputRefs;
};
} // namespace

static Error readInputs(const runtime::Function &function, ArrayRef<std::string> files,
                        Call &call) {
  for (auto [spec, file] : zip(function.inputs, files)) {
    if (file.empty())
      return makeError(
          Status::InvalidArgument,
          formatv("expected --input={0}=FILE.npy for each input of '{1}', got none for '{0}'",
                  spec.name, function.name));
    Expected<NpyArray> array = readNpy(file);
    if (!array)
      return array.takeError();
    if (!npyHolds(array->descr, spec.dtype))
      return makeError(Status::InvalidArgument,
                       formatv("input '{0}' of '{1}' expected {2} ('{3}'), got '{4}' in '{5}'",
                               spec.name, function.name, stringify(spec.dtype),
                               npyDescr(spec.dtype), array->descr, file));
    call.inputs.push_back(std::move(*array));
  }
  for (auto [spec, array] : zip(function.inputs, call.inputs))
    call.inputRefs.push_back({array.data.data(), spec.dtype, array.shape, {}});
  return Error::success();
}

static Error makeOutputs(const runtime::Executable &executable, size_t number,
                         const runtime::Function &function, Call &call) {
  for (auto [i, spec] : enumerate(function.outputs)) {
    Expected<runtime::TensorShape> shape = executable.outputShape(number, call.inputRefs, i);
    if (!shape)
      return shape.takeError();
    std::optional<uint64_t> bytes = runtime::checkedByteSize(spec.dtype, shape->shape);
    if (!bytes)
      return makeError(Status::OutOfMemory, "output '" + spec.name + "' does not fit memory");
    call.outputs.push_back(
        {npyDescr(spec.dtype).str(), shape->shape, std::vector<uint8_t>(*bytes)});
  }
  for (auto [spec, array] : zip(function.outputs, call.outputs))
    call.outputRefs.push_back({array.data.data(), spec.dtype, array.shape, {}});
  return Error::success();
}

/// "sf.matmul 4096x4096 f16 2:4 + bias: sparse mma.sp, k0 (config; 168 registers, 0 spill bytes, 64
/// mma.sp): reason, sparse 12.50 us, dense 9.75 us"
static void printReport(const llvm::json::Value &report, raw_ostream &os) {
  const llvm::json::Object &object = *report.getAsObject();
  const llvm::json::Array &steps = *object.getArray("steps");
  if (steps.empty())
    os << object.getString("function").value_or("") << ": computed as a whole on "
       << object.getString("device").value_or("") << ", without kernels\n";
  for (const llvm::json::Value &value : steps) {
    const llvm::json::Object &step = *value.getAsObject();
    os << step.getString("label").value_or("") << ": " << step.getString("path").value_or("");
    for (const llvm::json::Value &launch : *step.getArray("kernels")) {
      const llvm::json::Object &kernel = *launch.getAsObject();
      os << formatv(", {0} ({1}{2}{3} registers, {4} spill bytes, {5} mma.sp)",
                    kernel.getString("name").value_or(""), kernel.getString("config").value_or(""),
                    kernel.getString("config").value_or("").empty() ? "" : "; ",
                    kernel.getInteger("registers").value_or(0),
                    kernel.getInteger("spill_bytes").value_or(0),
                    kernel.getInteger("mma_sp").value_or(0));
    }
    StringRef reason = step.getString("reason").value_or("");
    os << (reason.empty() ? "" : ": ") << reason;
    const llvm::json::Object &times = *step.getObject("time_us");
    for (StringRef form : {"sparse", "dense"})
      if (std::optional<double> time = times.getNumber(form))
        os << formatv(", {0} {1:f2} us", form, *time);
    os << "\n";
  }
}

static Error run(const Options &options) {
  Expected<runtime::ProgramFile::Ptr> program = loadProgram(options);
  if (!program)
    return program.takeError();
  Expected<std::shared_ptr<runtime::Device>> device = capi::openDevice(options.device, **program);
  if (!device)
    return device.takeError();
  Expected<std::unique_ptr<runtime::Executable>> executable =
      runtime::Executable::create(*program, *device);
  if (!executable)
    return executable.takeError();
  Expected<size_t> number = (*executable)->find(options.function);
  if (!number)
    return number.takeError();
  const runtime::Function &function = (*program)->manifest().functions[*number];

  Expected<std::vector<std::string>> inputs = assignFiles(options.inputs, function.inputs, "input");
  if (!inputs)
    return inputs.takeError();
  Expected<std::vector<std::string>> outputs =
      assignFiles(options.outputs, function.outputs, "output");
  if (!outputs)
    return outputs.takeError();
  for (const std::string &output : *outputs)
    for (const std::string &input : *inputs)
      if (!output.empty() && !input.empty() && sys::fs::equivalent(input, output))
        return makeError(Status::InvalidArgument, "expected an output beside the input '" + input +
                                                      "', got that file itself");
  Call call;
  if (Error error = readInputs(function, *inputs, call))
    return error;
  if (Error error = makeOutputs(**executable, *number, function, call))
    return error;
  if (Error error = (*executable)->runHost(*number, call.inputRefs, call.outputRefs))
    return error;
  for (auto [file, array, spec] : zip(*outputs, call.outputs, function.outputs)) {
    if (file.empty())
      continue;
    if (Error error = writeNpy(file, array))
      return error;
    if (npyIsRaw(spec.dtype))
      errs() << formatv("note: '{0}' holds {1} as raw '{2}'; view it with ml_dtypes in NumPy\n",
                        file, stringify(spec.dtype), array.descr);
  }
  Expected<llvm::json::Value> report = (*executable)->report(*number, std::nullopt);
  if (!report)
    return report.takeError();
  if (options.json)
    outs() << formatv("{0:2}", *report) << "\n";
  else
    printReport(*report, outs());
  outs().flush();
  return Error::success();
}

int capi::runTool(int argc, char **argv) {
  auto fail = [](Error error, int code) {
    errs() << "sparseflow-run: error: " << toString(std::move(error)) << "\n";
    return code;
  };
  std::vector<StringRef> args(argv + std::min(argc, 1), argv + argc);
  Expected<Options> options = parseOptions(args);
  if (!options)
    return fail(options.takeError(), usageError);
  if (options->help)
    printHelp(outs());
  else if (options->version)
    outs() << "sparseflow-run " << sfVersion() << "\n";
  else if (Error error = run(*options))
    return fail(std::move(error), runFailed);
  return 0;
}
