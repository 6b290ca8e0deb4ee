#include "sparseflow/Runtime/Error.h"

using namespace sparseflow::runtime;

char RuntimeError::ID = 0;

llvm::Error sparseflow::runtime::makeError(Status status, const llvm::Twine &message) {
  return llvm::make_error<RuntimeError>(status, message.str());
}

Status sparseflow::runtime::takeError(llvm::Error error, std::string &message, Status fallback) {
  Status status = fallback;
  message.clear();
  llvm::handleAllErrors(
      std::move(error),
      [&](const RuntimeError &e) {
        status = e.getStatus();
        message += (message.empty() ? "" : "; ") + e.getMessage();
      },
      [&](const llvm::ErrorInfoBase &e) {
        message += (message.empty() ? "" : "; ") + e.message();
      });
  return status;
}

llvm::Error sparseflow::runtime::makeOpenError(const llvm::Twine &path, std::error_code why) {
  return makeError(why == std::errc::no_such_file_or_directory ? Status::NotFound : Status::IOError,
                   "cannot open '" + path + "': " + why.message());
}

llvm::Error sparseflow::runtime::addContext(const llvm::Twine &context, llvm::Error error) {
  if (!error)
    return error;
  std::string message;
  Status status = takeError(std::move(error), message);
  return makeError(status, context + ": " + message);
}
