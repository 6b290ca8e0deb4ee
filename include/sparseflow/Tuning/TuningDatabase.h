// What was measured to be the fastest configuration of a kernel, kept between processes.
//
// Two SQLite files: the user's, which grows, and one that ships with the package, which is only
// read; the user's wins. Several processes may read and write at once. A file that turns out to be
// damaged is renamed and a new one begun, since its loss costs only time; no file that is somebody
// else's is ever touched.
#ifndef SPARSEFLOW_TUNING_TUNINGDATABASE_H
#define SPARSEFLOW_TUNING_TUNINGDATABASE_H

#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/FileSystem/UniqueID.h"
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

struct sqlite3;

namespace sparseflow::tuning {

/// Everything that the fastest configuration depends on. Texts are compared byte by byte.
struct TuningKey {
  std::string chip;     // "sm_90a"
  std::string dtype;    // of the activations: "f16"
  std::string weights;  // their form: "sp24"
  int64_t features = 0; // N
  int64_t inner = 0;    // K
  std::string epilogue; // its class: "none", "bias gelu", "gated"
  int64_t tokens = 0;   // M, as the bucket that it falls into
  std::string compiler; // its version, since another may generate other code

  bool operator==(const TuningKey &other) const;
};

/// What `compiler` is for this one. Not LLVM's version too: it changes the code that is generated
/// far less than it changes.
std::string getCompilerVersion();

/// The fastest configuration that was measured, and its time.
struct TuningEntry {
  std::string config; // #sf.kernel_config text
  double microseconds = 0;
};

/// A tuner's file, or the two of a compilation. May be used from several threads at once.
class TuningDatabase {
public:
  /// `path`: the user's file, created with its folders if need be.
  static llvm::Expected<std::unique_ptr<TuningDatabase>> open(llvm::StringRef path);
  /// What stands in the first of these files goes before the second; empty paths are none. Neither
  /// is written, so both may lie where nothing can be. One that is missing, damaged or somebody
  /// else's is a warning.
  static std::unique_ptr<TuningDatabase> openToRead(llvm::StringRef user, llvm::StringRef shipped);
  ~TuningDatabase();

  llvm::Expected<std::optional<TuningEntry>> lookup(const TuningKey &key);
  /// Replaces what was recorded for the key.
  llvm::Error record(const TuningKey &key, llvm::StringRef config, double microseconds);
  /// Writes the user's entries to one file that can be shipped.
  llvm::Error exportTo(llvm::StringRef path);

  /// What a person should know and nothing has to be done about, a sentence each.
  std::vector<std::string> takeWarnings();

private:
  struct Close {
    void operator()(sqlite3 *connection) const;
  };
  using Connection = std::unique_ptr<sqlite3, Close>;

  struct ReadOnly {
    std::string path;
    Connection connection;
  };

  explicit TuningDatabase(llvm::StringRef path) : path(path) {}
  llvm::Error openUser();
  /// Opens a file for SQLite and looks for damage. False: it is empty.
  static llvm::Expected<bool> connect(const std::string &name, int flags, Connection &connection);
  llvm::Expected<Connection> connectUser() const;
  /// `without`: what there is none of when that fails.
  void openReadOnly(llvm::StringRef path, llvm::StringRef without);
  /// Runs `query` on the user's file; if that is damaged, once more on a new one.
  llvm::Error onUser(llvm::function_ref<llvm::Error(sqlite3 &)> query);

  const std::string path; // the user's; empty: nothing can be recorded
  std::mutex mutex;
  Connection user;
  std::vector<ReadOnly> others; // in the order of asking
  llvm::sys::fs::UniqueID userId;
  std::vector<std::string> warnings;
};

} // namespace sparseflow::tuning

#endif // SPARSEFLOW_TUNING_TUNINGDATABASE_H
