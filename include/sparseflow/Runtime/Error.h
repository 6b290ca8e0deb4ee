// The runtime's error: one sentence and the class of failure that the C ABI reports as its status.
//
// The numbers are SfStatus (sparseflow-c/sparseflow.h), so that nothing has to be guessed from a
// message.
#ifndef SPARSEFLOW_RUNTIME_ERROR_H
#define SPARSEFLOW_RUNTIME_ERROR_H

#include "llvm/ADT/StringRef.h"
#include "llvm/ADT/Twine.h"
#include "llvm/Support/Error.h"
#include <string>

namespace sparseflow::runtime {

/// SfStatus of sparseflow.h, which says what each means.
enum class Status : int {
  InvalidArgument = 1,
  InvalidProgram = 2,
  NotFound = 3,
  Unsupported = 4,
  OutOfMemory = 5,
  DeviceError = 6,
  IOError = 7,
  InternalError = 8,
  Interrupted = 9,
};

/// A sentence for a person and a status for a program.
class RuntimeError : public llvm::ErrorInfo<RuntimeError> {
public:
  static char ID;
  RuntimeError(Status status, std::string message) : status(status), text(std::move(message)) {}
  void log(llvm::raw_ostream &os) const override { os << text; }
  std::error_code convertToErrorCode() const override { return llvm::inconvertibleErrorCode(); }
  Status getStatus() const { return status; }
  const std::string &getMessage() const { return text; }

private:
  Status status;
  std::string text;
};

/// `message`: what was expected, what came, and what would work.
llvm::Error makeError(Status status, const llvm::Twine &message);
/// Why a file could not be opened: NotFound if there is none, else IOError.
llvm::Error makeOpenError(const llvm::Twine &path, std::error_code why);
/// Puts `context: ` before the message and keeps the status.
llvm::Error addContext(const llvm::Twine &context, llvm::Error error);
/// The status of any error; `fallback` for those of other libraries.
Status takeError(llvm::Error error, std::string &message, Status fallback = Status::InternalError);

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_RUNTIME_ERROR_H
