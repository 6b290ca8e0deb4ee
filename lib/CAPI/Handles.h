// What stands behind the C ABI's handles, and the wall that keeps errors and exceptions on this
// side of it.
#ifndef SPARSEFLOW_LIB_CAPI_HANDLES_H
#define SPARSEFLOW_LIB_CAPI_HANDLES_H

#include "sparseflow-c/sparseflow.h"
#include "sparseflow/Runtime/Error.h"
#include "sparseflow/Runtime/Executable.h"
#include "llvm/ADT/SmallVector.h"
#include <atomic>
#include <cstring>
#include <new>

struct SfProgram {
  std::atomic<int> references{1};
  sparseflow::runtime::ProgramFile::Ptr file;
};

struct SfExecutable {
  std::unique_ptr<sparseflow::runtime::Executable> executable;
  std::string deviceName;
};

struct SfGraph {
  std::unique_ptr<sparseflow::runtime::GraphRun> run;
};

namespace sparseflow::capi {

using runtime::makeError;
using runtime::Status;
using runtime::TensorRef;

/// Sets this thread's message. Does not throw.
SfStatus fail(SfStatus status, const std::string &message) noexcept;
SfStatus failOutOfMemory() noexcept;
SfStatus failWith(llvm::Error error, Status fallback) noexcept;

/// Runs a body that returns llvm::Error; everything that goes wrong in it becomes a status.
/// `fallback` is the status of errors that carry none.
template <typename Body>
SfStatus guarded(Body body, Status fallback = Status::InternalError) noexcept {
  try {
    llvm::Error error = body();
    if (LLVM_LIKELY(!error))
      return SF_OK;
    return failWith(std::move(error), fallback);
  } catch (const std::bad_alloc &) {
    return failOutOfMemory();
  } catch (const std::exception &e) {
    return fail(SF_INTERNAL_ERROR, e.what());
  } catch (...) {
    return fail(SF_INTERNAL_ERROR, "an unknown exception");
  }
}

inline llvm::Error expectNotNull(const void *pointer, llvm::StringRef name) {
  if (LLVM_LIKELY(pointer != nullptr))
    return llvm::Error::success();
  return makeError(Status::InvalidArgument, "expected " + name + ", got NULL");
}

/// Brings a caller's struct of any age to today's: fields that it lacks are zero. `oldest` is the
/// size of the struct's first version.
template <typename T>
llvm::Expected<T> readStruct(const T *given, llvm::StringRef name, size_t oldest = sizeof(T)) {
  T result;
  std::memset(&result, 0, sizeof(T));
  result.struct_size = sizeof(T);
  if (!given)
    return result;
  if (given->struct_size < oldest)
    return makeError(Status::InvalidArgument,
                     name + " expected a struct_size of at least " + llvm::Twine(oldest) +
                         ", got " + llvm::Twine(given->struct_size) + "; set it with SF_INIT");
  std::memcpy(&result, given, std::min(given->struct_size, sizeof(T)));
  return result;
}

/// Of SfTensor in the first version.
inline constexpr size_t oldestTensorSize = offsetof(SfTensor, gpu);

/// One tensor of a caller.
llvm::Error readTensor(const SfTensor &given, TensorRef &result);

/// A caller's array of tensors, without allocation for the usual few.
class TensorList {
public:
  llvm::Error read(const SfTensor *given, size_t count);
  operator llvm::ArrayRef<TensorRef>() const { return list; }

private:
  llvm::SmallVector<TensorRef, 8> list;
};

/// malloc'd copies, for sfFree.
llvm::Error copyOut(llvm::StringRef text, char **result);
/// The text with a replacement character for what is no UTF-8: callers decode all that they get,
/// and a path or the source in an altered file may hold any bytes.
std::string makeUTF8(llvm::StringRef text);

/// Whether a device may have such a name; it need not be there.
llvm::Error checkDeviceName(llvm::StringRef name);
/// Opens a device by the name that users give; "auto" chooses for this program.
llvm::Expected<std::shared_ptr<runtime::Device>> openDevice(llvm::StringRef name,
                                                            const runtime::ProgramFile &program);
/// The newest chip whose kernels the first GPU runs ("sm_90"), or "sm_80" when there is none.
std::string defaultTarget();

} // namespace sparseflow::capi

#endif // SPARSEFLOW_LIB_CAPI_HANDLES_H
