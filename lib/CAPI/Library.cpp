// Version, errors, dtypes, memory.
#include "Handles.h"
#include "llvm/Support/ErrorHandling.h"
#include <cstdlib>

using namespace llvm;
using namespace sparseflow;
using namespace sparseflow::capi;

namespace {
/// A thread's message: its own text, or a constant when there was no memory for one.
struct LastError {
  std::string text;
  const char *constant = "";
};
} // namespace

static LastError &lastError() {
  static thread_local LastError error;
  return error;
}

/// LLVM's containers report a failed allocation here, and would end the process; unwinding to the
/// caller's status is what LLVM's documentation allows instead.
static const bool throwsBadAlloc = [] {
  install_bad_alloc_error_handler([](void *, const char *, bool) { throw std::bad_alloc(); });
  return true;
}();

SfStatus capi::fail(SfStatus status, const std::string &message) noexcept {
  try {
    lastError().text = makeUTF8(message);
    lastError().constant = nullptr;
  } catch (...) {
    lastError().constant = "out of memory while writing an error message";
  }
  return status;
}

SfStatus capi::failOutOfMemory() noexcept {
  lastError().constant = "out of host memory; use smaller tensors or fewer threads";
  return SF_OUT_OF_MEMORY;
}

SfStatus capi::failWith(Error error, Status fallback) noexcept {
  try {
    std::string message;
    Status status = runtime::takeError(std::move(error), message, fallback);
    return fail(SfStatus(status), message);
  } catch (...) {
    return failOutOfMemory();
  }
}

std::string capi::makeUTF8(StringRef text) {
  return json::isUTF8(text) ? text.str() : json::fixUTF8(text);
}

Error capi::copyOut(StringRef given, char **result) {
  std::string text = makeUTF8(given);
  char *copy = static_cast<char *>(std::malloc(text.size() + 1));
  if (!copy)
    throw std::bad_alloc();
  std::memcpy(copy, text.c_str(), text.size() + 1);
  *result = copy;
  return Error::success();
}

Error capi::readTensor(const SfTensor &given, TensorRef &result) {
  if (LLVM_UNLIKELY(given.struct_size < oldestTensorSize))
    return makeError(Status::InvalidArgument,
                     "a tensor expected a struct_size of at least " + Twine(oldestTensorSize) +
                         ", got " + Twine(given.struct_size) + "; set it with SF_INIT");
  std::optional<runtime::DType> dtype = runtime::dtypeFromNumber(given.dtype);
  if (LLVM_UNLIKELY(!dtype))
    return makeError(Status::InvalidArgument,
                     "a tensor expected a dtype (SF_F16, ...), got " + Twine(given.dtype));
  if (LLVM_UNLIKELY(given.rank < 0 || given.rank > SF_MAX_RANK))
    return makeError(Status::InvalidArgument, "a tensor expected a rank from 0 to " +
                                                  Twine(SF_MAX_RANK) + ", got " +
                                                  Twine(given.rank));
  if (LLVM_UNLIKELY(given.rank > 0 && !given.shape))
    return makeError(Status::InvalidArgument,
                     "a tensor of rank " + Twine(given.rank) + " expected a shape, got NULL");
  int32_t gpu = given.struct_size >= sizeof(SfTensor) ? given.gpu : 0;
  if (LLVM_UNLIKELY(gpu < 0))
    return makeError(Status::InvalidArgument,
                     "a tensor expected 0 or 1 + the ordinal of a GPU as its gpu, got " +
                         Twine(gpu));
  result.data = given.data;
  result.gpu = gpu ? std::optional<int>(gpu - 1) : std::nullopt;
  result.dtype = *dtype;
  result.shape = ArrayRef<int64_t>(given.shape, given.rank);
  result.strides =
      given.strides ? ArrayRef<int64_t>(given.strides, given.rank) : ArrayRef<int64_t>();
  return Error::success();
}

Error TensorList::read(const SfTensor *given, size_t count) {
  if (LLVM_UNLIKELY(count > runtime::maxTensors))
    return makeError(Status::InvalidArgument, "expected at most " + Twine(runtime::maxTensors) +
                                                  " tensors, got " + Twine(count));
  if (count > 0)
    if (Error error = expectNotNull(given, "tensors"))
      return error;
  list.resize(count);
  const char *address = reinterpret_cast<const char *>(given);
  for (size_t i = 0; i < count; ++i) {
    // Apart by the caller's idea of the size, which may be larger than ours.
    const auto &tensor = *reinterpret_cast<const SfTensor *>(address);
    if (Error error = readTensor(tensor, list[i]))
      return error;
    address += given->struct_size;
  }
  return Error::success();
}

const char *sfVersion(void) { return SPARSEFLOW_VERSION; }

uint32_t sfAbiVersion(void) { return SF_ABI_VERSION; }

const char *sfLastError(void) {
  const LastError &error = lastError();
  return error.constant ? error.constant : error.text.c_str();
}

const char *sfStatusName(SfStatus status) {
  switch (status) {
  case SF_OK:
    return "ok";
  case SF_INVALID_ARGUMENT:
    return "invalid argument";
  case SF_INVALID_PROGRAM:
    return "invalid program";
  case SF_NOT_FOUND:
    return "not found";
  case SF_UNSUPPORTED:
    return "unsupported";
  case SF_OUT_OF_MEMORY:
    return "out of memory";
  case SF_DEVICE_ERROR:
    return "device error";
  case SF_IO_ERROR:
    return "i/o error";
  case SF_INTERRUPTED:
    return "interrupted";
  case SF_INTERNAL_ERROR:
    return "internal error";
  default:
    return "unknown status";
  }
}

const char *sfDTypeName(SfDType number) {
  std::optional<runtime::DType> dtype = runtime::dtypeFromNumber(number);
  // The table's names are string literals.
  return dtype ? stringify(*dtype).data() : nullptr;
}

size_t sfDTypeSize(SfDType number) {
  std::optional<runtime::DType> dtype = runtime::dtypeFromNumber(number);
  return dtype ? byteSize(*dtype) : 0;
}

void sfFree(void *memory) { std::free(memory); }
