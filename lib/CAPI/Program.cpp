// Compiling, and programs as files and in memory.
#include "Handles.h"
#include "sparseflow/Pipelines/Compiler.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include <cstddef>
#include <cstdlib>

using namespace llvm;
using namespace sparseflow;
using namespace sparseflow::capi;

/// Stores the handle, or reports.
static Error returnProgram(Expected<runtime::ProgramFile::Ptr> file, SfProgram **program) {
  if (!file)
    return file.takeError();
  auto handle = std::make_unique<SfProgram>();
  handle->file = std::move(*file);
  *program = handle.release();
  return Error::success();
}

//===-- Compile ------------------------------------------------------------------------------===//

static Error readConstants(const SfConstant *given, size_t count,
                           std::vector<ExternalConstant> &constants) {
  if (count > 0)
    if (Error error = expectNotNull(given, "constants"))
      return error;
  const char *address = reinterpret_cast<const char *>(given);
  for (size_t i = 0; i < count; ++i) {
    Expected<SfConstant> constant =
        readStruct(reinterpret_cast<const SfConstant *>(address), "a constant");
    if (!constant)
      return constant.takeError();
    address += given->struct_size;
    if (Error error = expectNotNull(constant->name, "a constant's name"))
      return error;
    if (!constant->data && constant->bytes > 0)
      return makeError(Status::InvalidArgument,
                       formatv("constant '{0}' expected a pointer to {1} bytes, got NULL",
                               constant->name, constant->bytes));
    ExternalConstant result;
    result.name = constant->name;
    result.data = ArrayRef<char>(static_cast<const char *>(constant->data), constant->bytes);
    if (constant->shape) {
      result.dtype = runtime::dtypeFromNumber(constant->dtype);
      if (!result.dtype || constant->rank < 0 || constant->rank > SF_MAX_RANK)
        return makeError(Status::InvalidArgument,
                         formatv("constant '{0}' expected a dtype (SF_F16, ...) and a rank from 0 "
                                 "to {1}, got {2} and {3}",
                                 constant->name, SF_MAX_RANK, constant->dtype, constant->rank));
      result.shape.emplace(constant->shape, constant->shape + constant->rank);
    }
    constants.push_back(std::move(result));
  }
  return Error::success();
}

static Expected<CompileOptions> readOptions(const SfCompileOptions *given) {
  Expected<SfCompileOptions> read =
      readStruct(given, "the compile options", offsetof(SfCompileOptions, tuning));
  if (!read)
    return read.takeError();
  auto text = [](const char *value) { return value ? std::string(value) : std::string(); };
  CompileOptions options;
  options.targets.clear();
  SmallVector<StringRef> targets;
  std::string list = text(read->targets);
  SplitString(list, targets, ",");
  for (StringRef target : targets)
    if (!target.trim().empty())
      options.targets.push_back(target.trim().str());
  if (options.targets.empty())
    options.targets.push_back(defaultTarget());
  options.config = text(read->config);
  options.ptxas = text(read->ptxas);
  SmallVector<StringRef> folders;
  std::string packages = text(read->package_folders);
  SplitString(packages, folders, ":");
  for (StringRef folder : folders)
    options.packageFolders.push_back(folder.str());
  if (read->cache_dir)
    options.cacheDir = read->cache_dir;
  if (read->tuning)
    options.tuning = read->tuning;
  options.dumpDir = text(read->dump_intermediates);
  options.reproducer = text(read->reproducer);
  if (read->cancelled)
    options.isCancelled = [cancelled = read->cancelled] {
      return __atomic_load_n(cancelled, __ATOMIC_RELAXED) != 0;
    };
  if (read->diagnostic)
    options.diagnostics = [handler = read->diagnostic,
                           user = read->diagnostic_user](Severity severity, StringRef message) {
      int32_t number = severity == Severity::Error     ? SF_SEVERITY_ERROR
                       : severity == Severity::Warning ? SF_SEVERITY_WARNING
                                                       : SF_SEVERITY_REMARK;
      handler(user, number, makeUTF8(message).c_str());
    };
  return options;
}

static Error compileText(StringRef source, StringRef name, const SfConstant *constants,
                         size_t numConstants, const SfCompileOptions *options,
                         SfProgram **program) {
  std::vector<ExternalConstant> external;
  if (Error error = readConstants(constants, numConstants, external))
    return error;
  Expected<CompileOptions> compileOptions = readOptions(options);
  if (!compileOptions)
    return compileOptions.takeError();
  return returnProgram(compile(source, name, external, *compileOptions), program);
}

SfStatus sfCompile(const char *mlir, size_t mlir_bytes, const SfConstant *constants,
                   size_t num_constants, const SfCompileOptions *options, SfProgram **program) {
  return guarded(
      [&]() -> Error {
        if (Error error = expectNotNull(mlir, "mlir"))
          return error;
        if (Error error = expectNotNull(program, "program"))
          return error;
        // The parser wants a terminator, which the caller's bytes need not have.
        std::string source(mlir, mlir_bytes);
        return compileText(source, "<mlir>", constants, num_constants, options, program);
      },
      Status::InvalidProgram);
}

SfStatus sfCompileFile(const char *path, const SfConstant *constants, size_t num_constants,
                       const SfCompileOptions *options, SfProgram **program) {
  return guarded(
      [&]() -> Error {
        if (Error error = expectNotNull(path, "path"))
          return error;
        if (Error error = expectNotNull(program, "program"))
          return error;
        ErrorOr<std::unique_ptr<MemoryBuffer>> file = MemoryBuffer::getFile(path);
        if (!file)
          return runtime::makeOpenError(path, file.getError());
        return compileText((*file)->getBuffer(), path, constants, num_constants, options, program);
      },
      Status::InvalidProgram);
}

//===-- Programs -----------------------------------------------------------------------------===//

SfStatus sfProgramOpen(const char *path, uint32_t flags, SfProgram **program) {
  return guarded([&]() -> Error {
    if (Error error = expectNotNull(path, "path"))
      return error;
    if (Error error = expectNotNull(program, "program"))
      return error;
    return returnProgram(runtime::ProgramFile::open(path, flags & SF_OPEN_VERIFY), program);
  });
}

SfStatus sfProgramFromMemory(const void *data, size_t bytes, uint32_t flags, SfProgram **program) {
  return guarded([&]() -> Error {
    if (Error error = expectNotNull(data, "data"))
      return error;
    if (Error error = expectNotNull(program, "program"))
      return error;
    ArrayRef<uint8_t> view(static_cast<const uint8_t *>(data), bytes);
    std::shared_ptr<std::vector<uint8_t>> copy;
    if (flags & SF_OPEN_COPY) {
      copy = std::make_shared<std::vector<uint8_t>>(view.begin(), view.end());
      view = *copy;
    }
    return returnProgram(runtime::ProgramFile::fromMemory(view, flags & SF_OPEN_VERIFY, copy),
                         program);
  });
}

SfStatus sfProgramSave(const SfProgram *program, const char *path) {
  return guarded([&]() -> Error {
    if (Error error = expectNotNull(program, "program"))
      return error;
    if (Error error = expectNotNull(path, "path"))
      return error;
    return program->file->save(path);
  });
}

namespace {
/// Collects output in malloc'd memory, so that what may be gigabytes is not copied once more for
/// sfFree.
class MallocStream : public raw_ostream {
public:
  MallocStream() { SetUnbuffered(); }
  ~MallocStream() override { std::free(data); }
  char *release() { return std::exchange(data, nullptr); }
  size_t size() const { return used; }

private:
  void write_impl(const char *bytes, size_t count) override {
    if (count > capacity - used) {
      size_t wanted = std::max(capacity + capacity / 2, used + count);
      void *larger = std::realloc(data, wanted);
      if (!larger)
        throw std::bad_alloc();
      data = static_cast<char *>(larger);
      capacity = wanted;
    }
    std::memcpy(data + used, bytes, count);
    used += count;
  }
  uint64_t current_pos() const override { return used; }

  char *data = nullptr;
  size_t used = 0, capacity = 0;
};
} // namespace

SfStatus sfProgramToMemory(const SfProgram *program, void **data, size_t *bytes) {
  return guarded([&]() -> Error {
    if (Error error = expectNotNull(program, "program"))
      return error;
    if (Error error = expectNotNull(data && bytes ? data : nullptr, "data and bytes"))
      return error;
    MallocStream os;
    if (Error error = program->file->write(os))
      return error;
    *bytes = os.size();
    *data = os.release();
    return Error::success();
  });
}

SfStatus sfProgramDescribe(const SfProgram *program, char **json) {
  return guarded([&]() -> Error {
    if (Error error = expectNotNull(program, "program"))
      return error;
    if (Error error = expectNotNull(json, "json"))
      return error;
    return copyOut(formatv("{0}", program->file->describe()).str(), json);
  });
}

SfStatus sfProgramTensor(const SfProgram *program, const char *name, SfTensor *tensor) {
  return guarded([&]() -> Error {
    if (Error error = expectNotNull(program, "program"))
      return error;
    if (Error error = expectNotNull(name, "name"))
      return error;
    if (Error error = expectNotNull(tensor, "tensor"))
      return error;
    if (Expected<SfTensor> known = readStruct(tensor, "the tensor", oldestTensorSize); !known)
      return known.takeError();
    const runtime::StoredTensor *stored = program->file->find(name);
    if (!stored)
      return makeError(Status::NotFound,
                       formatv("expected a tensor of the program, got '{0}'", name));
    tensor->data = const_cast<uint8_t *>(stored->data.data());
    tensor->dtype = SfDType(stored->dtype);
    tensor->rank = int32_t(stored->shape.size());
    tensor->shape = stored->shape.data();
    tensor->strides = nullptr;
    return Error::success();
  });
}

SfStatus sfProgramSource(const SfProgram *program, char **mlir) {
  return guarded([&]() -> Error {
    if (Error error = expectNotNull(program, "program"))
      return error;
    if (Error error = expectNotNull(mlir, "mlir"))
      return error;
    return copyOut(program->file->source(), mlir);
  });
}

SfProgram *sfProgramRetain(SfProgram *program) {
  if (program)
    program->references.fetch_add(1, std::memory_order_relaxed);
  return program;
}

void sfProgramRelease(SfProgram *program) {
  if (program && program->references.fetch_sub(1, std::memory_order_acq_rel) == 1)
    delete program;
}
