//===- Ptxas.cpp - NVIDIA's assembler, and what it reports ----------------===//
//
// The version is asked for once per program and process, and kept in the cache: starting ptxas
// costs more than a whole compile that is answered from there.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Target/Ptxas.h"

#include "sparseflow/Target/DiskCache.h"
#include "sparseflow/Target/Subprocess.h"

#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/Program.h"
#include "llvm/Support/VersionTuple.h"
#include "llvm/Support/raw_ostream.h"
#include <dlfcn.h>
#include <mutex>

using namespace llvm;
using namespace sparseflow;
using namespace sparseflow::target;

//===----------------------------------------------------------------------===//
// What it prints
//===----------------------------------------------------------------------===//

const KernelResources *PtxasReport::find(StringRef name) const {
  for (const KernelResources &kernel : kernels)
    if (kernel.name == name)
      return &kernel;
  return nullptr;
}

/// The number just before `unit` in "Used 168 registers, 4 bytes stack frame"; 0 if there is none.
static unsigned numberBefore(StringRef text, StringRef unit) {
  size_t position = text.find(unit);
  if (position == StringRef::npos)
    return 0;
  StringRef before = text.take_front(position).rtrim();
  StringRef digits = before.take_back(before.size() - 1 - before.find_last_not_of("0123456789"));
  unsigned number = 0;
  digits.getAsInteger(10, number);
  return number;
}

/// Constant memory comes in banks: "400 bytes cmem[0], 8 bytes cmem[2]".
static unsigned sumBefore(StringRef text, StringRef unit) {
  unsigned sum = 0;
  for (size_t position; (position = text.find(unit)) != StringRef::npos;
       text = text.drop_front(position + unit.size()))
    sum += numberBefore(text, unit);
  return sum;
}

PtxasReport sparseflow::target::parsePtxasOutput(StringRef output) {
  PtxasReport report;
  KernelResources *current = nullptr;
  auto kernel = [&](StringRef name) -> KernelResources * {
    for (KernelResources &known : report.kernels)
      if (known.name == name)
        return &known;
    report.kernels.emplace_back().name = name.str();
    return &report.kernels.back();
  };

  SmallVector<StringRef> lines;
  output.split(lines, '\n', -1, /*KeepEmpty=*/false);
  for (StringRef line : lines) {
    line = line.rtrim("\r");
    // "ptxas info    : text", "ptxas /tmp/k.ptx, line 7; error   : text", or a continuation.
    auto [head, text] = line.split(" : ");
    if (line.starts_with("ptxas ") && !text.empty()) {
      text = text.trim();
      StringRef kind = head.rtrim().rsplit(' ').second;
      if (kind == "error" || kind == "fatal") {
        size_t where = head.find("line ");
        report.errors.push_back(
            (where == StringRef::npos ? "" : head.drop_front(where).split(';').first.str() + ": ") +
            text.str());
        continue;
      }
      if (kind == "warning" || text.contains("Potential Performance Loss"))
        report.warnings.push_back(text.str());
      if (text.contains("wgmma") && text.contains("serialized"))
        report.serialization = text.str();
    } else {
      text = line.trim();
    }

    if (text.consume_front("Compiling entry function '")) {
      current = kernel(text.split('\'').first);
    } else if (text.consume_front("Function properties for ")) {
      // Device functions have a block of their own; it must not be taken for the kernel's.
      current = nullptr;
      for (KernelResources &known : report.kernels)
        if (known.name == text)
          current = &known;
    } else if (current && text.contains("bytes stack frame")) {
      current->stackBytes = numberBefore(text, "bytes stack frame");
      current->spillStores = numberBefore(text, "bytes spill stores");
      current->spillLoads = numberBefore(text, "bytes spill loads");
    } else if (current && text.starts_with("Used ")) {
      current->registers = numberBefore(text, "registers");
      current->barriers = numberBefore(text, "barriers");
      current->sharedBytes = numberBefore(text, "bytes smem");
      current->constantBytes = sumBefore(text, "bytes cmem");
    }
  }
  return report;
}

std::string sparseflow::target::parsePtxasVersion(StringRef output) {
  // "Cuda compilation tools, release 13.0, V13.0.88"
  size_t position = output.find(", V");
  if (position == StringRef::npos)
    return "";
  return output.drop_front(position + 3)
      .take_while([](char c) { return isdigit(static_cast<unsigned char>(c)) || c == '.'; })
      .str();
}

//===----------------------------------------------------------------------===//
// Where it is
//===----------------------------------------------------------------------===//

/// Produces wrong code for kernels like ours.
static constexpr StringLiteral miscompiling = "12.6.77";

/// Whether a version such as "12.8.93" comes before a release such as "12.9".
static bool isBefore(StringRef version, StringRef release) {
  VersionTuple left, right;
  return left.tryParse(version) || right.tryParse(release) || left < right;
}

/// The chip that asks for the newest ptxas.
static const Chip &getMostDemanding(ArrayRef<const Chip *> chips) {
  const Chip *most = &sf::getChips().front();
  for (const Chip *chip : chips)
    if (isBefore(most->minimumPtxas, chip->minimumPtxas))
      most = chip;
  return *most;
}

/// What keeps a version from being used, or "".
static std::string whyUnusable(StringRef version, const Chip &chip) {
  if (version == miscompiling)
    return "is known to miscompile";
  if (isBefore(version, chip.minimumPtxas))
    return ("is too old for " + chip.name).str();
  return "";
}

/// "12.5 or later except 12.6.77"
static std::string listUsable(const Chip &chip) {
  std::string text = (chip.minimumPtxas + " or later").str();
  return isBefore(miscompiling, chip.minimumPtxas) ? text : text + " except " + miscompiling.str();
}

/// What changes when the program at this path does; empty when that cannot be told.
static std::string getIdentity(StringRef path) {
  sys::fs::file_status status;
  if (sys::fs::status(path, status))
    return "";
  return CacheKey()
      .add("ptxas-version-1")
      .add(path)
      .add(std::to_string(status.getSize()))
      .add(std::to_string(status.getLastModificationTime().time_since_epoch().count()))
      .str();
}

static Expected<std::string> versionOf(const std::string &path, DiskCache *cache) {
  static std::mutex mutex;
  static StringMap<std::string> versions;
  std::lock_guard<std::mutex> lock(mutex);
  auto known = versions.find(path);
  if (known != versions.end())
    return known->second;
  std::string identity = cache && cache->enabled() ? getIdentity(path) : "";
  if (!identity.empty())
    if (auto fields = cache->get(identity); fields && fields->size() == 1)
      return versions[path] = fields->front();
  constexpr unsigned versionTimeoutSeconds = 20;
  Expected<SubprocessResult> result = runSubprocess({path, "--version"}, versionTimeoutSeconds);
  if (!result)
    return result.takeError();
  std::string version = parsePtxasVersion(result->output);
  if (version.empty())
    return createStringError("'" + path + "' does not answer --version as ptxas does");
  if (!identity.empty())
    cache->put(identity, {version});
  return versions[path] = version;
}

/// The site-packages folder that this library was installed into, if any: the wheel puts it into
/// site-packages/sparseflow/<folder>.
static std::string ownSitePackages() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void *>(&parsePtxasVersion), &info) || !info.dli_fname)
    return "";
  SmallString<256> path(info.dli_fname);
  sys::fs::make_absolute(path);
  for (int level = 0; level < 3; ++level)
    sys::path::remove_filename(path);
  return path.str().str();
}

/// CUDA 12's wheel has nvidia/cuda_nvcc/bin, CUDA 13's nvidia/cu13/bin.
static void addPackageCandidates(StringRef sitePackages, std::vector<std::string> &candidates) {
  for (StringRef folder : {"cu13", "cuda_nvcc"}) {
    SmallString<256> path(sitePackages);
    sys::path::append(path, "nvidia", folder, "bin", "ptxas");
    candidates.push_back(path.str().str());
  }
}

/// Where it may be, in the order of search.
static std::vector<std::string> getCandidates(ArrayRef<std::string> packageFolders) {
  std::vector<std::string> candidates;
  for (const char *variable : {"CUDA_HOME", "CUDA_PATH"})
    if (std::optional<std::string> home = sys::Process::GetEnv(variable))
      candidates.push_back(*home + "/bin/ptxas");
  if (ErrorOr<std::string> inPath = sys::findProgramByName("ptxas"))
    candidates.push_back(*inPath);
  for (const std::string &folder : packageFolders)
    addPackageCandidates(folder, candidates);
  addPackageCandidates(ownSitePackages(), candidates);
  candidates.push_back("/usr/local/cuda/bin/ptxas");
  return candidates;
}

Expected<Ptxas> Ptxas::find(const PtxasSearch &search) {
  const Chip &chip = getMostDemanding(search.chips);
  Ptxas result;
  std::string chosen = search.explicitPath.str();
  StringRef chosenBy = "the given path";
  if (chosen.empty()) {
    chosen = sys::Process::GetEnv("SPARSEFLOW_PTXAS").value_or("");
    chosenBy = "SPARSEFLOW_PTXAS";
  }
  if (!chosen.empty()) {
    if (!sys::fs::can_execute(chosen))
      return createStringError("expected " + chosenBy + " to name ptxas, got '" + chosen +
                               "', which is no program that can be run");
    Expected<std::string> version = versionOf(chosen, search.cache);
    if (!version)
      return version.takeError();
    if (std::string why = whyUnusable(*version, chip); !why.empty())
      return createStringError("ptxas " + *version + " at '" + chosen + "' " + why +
                               "; expected ptxas " + listUsable(chip) +
                               ", for instance from the nvidia-cuda-nvcc Python package");
    result.programPath = chosen;
    result.programVersion = *version;
    return result;
  }

  std::string refused;
  for (const std::string &candidate : getCandidates(search.packageFolders)) {
    if (!sys::fs::can_execute(candidate))
      continue;
    Expected<std::string> version = versionOf(candidate, search.cache);
    if (!version) {
      refused += "; " + toString(version.takeError());
      continue;
    }
    if (std::string why = whyUnusable(*version, chip); !why.empty()) {
      refused += "; '" + candidate + "' is version " + *version + ", which " + why;
      continue;
    }
    result.programPath = candidate;
    result.programVersion = *version;
    return result;
  }
  return createStringError("no usable ptxas was found; install the CUDA toolkit (" +
                           listUsable(chip) +
                           ") or the Python package nvidia-cuda-nvcc, or set SPARSEFLOW_PTXAS to "
                           "the program" +
                           refused);
}

//===----------------------------------------------------------------------===//
// Running it
//===----------------------------------------------------------------------===//

static std::error_code writeFile(const std::string &path, StringRef text) {
  std::error_code error;
  raw_fd_ostream stream(path, error);
  if (error)
    return error;
  stream << text;
  stream.close();
  error = stream.error();
  stream.clear_error();
  return error;
}

Expected<AssembledKernel> Ptxas::assemble(StringRef ptx, StringRef chip,
                                          unsigned timeoutSeconds) const {
  SmallString<128> directory;
  auto noRoom = [](const std::string &why) {
    SmallString<128> folder;
    sys::path::system_temp_directory(/*erasedOnReboot=*/true, folder);
    return createStringError("expected room for ptxas in the temporary folder '" + folder +
                             "', got: " + why + "; make room, or name another one in TMPDIR");
  };
  if (std::error_code error = sys::fs::createUniqueDirectory("sparseflow-ptxas", directory))
    return noRoom(error.message());
  scope_exit cleanup([&] { sys::fs::remove_directories(directory); });
  std::string input = (directory + "/kernel.ptx").str();
  std::string output = (directory + "/kernel.cubin").str();
  if (std::error_code error = writeFile(input, ptx))
    return noRoom(error.message());

  Expected<SubprocessResult> run = runSubprocess(
      {programPath, "-v", "-O3", "--gpu-name=" + chip.str(), "-o", output, input}, timeoutSeconds);
  if (!run)
    return run.takeError();

  AssembledKernel result;
  result.report = parsePtxasOutput(run->output);
  if (run->exitCode != 0 || !result.report.errors.empty()) {
    std::string why = result.report.errors.empty() ? "exit code " + std::to_string(run->exitCode) +
                                                         ": " + StringRef(run->output).trim().str()
                                                   : result.report.errors.front();
    return createStringError("ptxas " + programVersion + " failed for " + chip + ": " + why);
  }
  ErrorOr<std::unique_ptr<MemoryBuffer>> cubin =
      MemoryBuffer::getFile(output, /*IsText=*/false, /*RequiresNullTerminator=*/false);
  if (!cubin || (*cubin)->getBufferSize() == 0)
    return createStringError("ptxas " + programVersion + " wrote no cubin for " + chip + ": " +
                             StringRef(run->output).trim());
  result.cubin = (*cubin)->getBuffer().str();
  return result;
}
