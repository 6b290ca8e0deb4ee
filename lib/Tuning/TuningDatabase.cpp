// The database over SQLite.
//
// Writers meet in SQLite's write-ahead log, which lets readers go on. Opening, and what becomes of
// a damaged file, happens under a lock file of its own: of two processes that both find the damage
// one renames the file, and the other finds a good one.
#include "sparseflow/Tuning/TuningDatabase.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Chrono.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Process.h"
#include <chrono>
#include <cmath>
#include <sqlite3.h>
#include <tuple>

using namespace llvm;
using namespace sparseflow::tuning;

/// Longer than any writer holds the file, so that who waits for it gets it.
static constexpr int busyMilliseconds = 30000;
/// "SFT" and the version of the table, in SQLite's field for who a file belongs to.
static constexpr int applicationId = 0x53465401;

static constexpr const char *createTable = R"(
  CREATE TABLE IF NOT EXISTS choices (
    chip TEXT NOT NULL, dtype TEXT NOT NULL, weights TEXT NOT NULL, features INTEGER NOT NULL,
    inner INTEGER NOT NULL, epilogue TEXT NOT NULL, tokens INTEGER NOT NULL,
    compiler TEXT NOT NULL, config TEXT NOT NULL, microseconds REAL NOT NULL,
    PRIMARY KEY (chip, dtype, weights, features, inner, epilogue, tokens, compiler)
  ) WITHOUT ROWID)";
static constexpr const char *selectEntry = R"(
  SELECT config, microseconds FROM choices
  WHERE chip = ?1 AND dtype = ?2 AND weights = ?3 AND features = ?4 AND inner = ?5
    AND epilogue = ?6 AND tokens = ?7 AND compiler = ?8)";
static constexpr const char *insertEntry =
    "INSERT OR REPLACE INTO choices VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

namespace {
/// What SQLite answered, with its code, by which damage is told from other failures.
class DatabaseError : public ErrorInfo<DatabaseError> {
public:
  static char ID;
  DatabaseError(int code, std::string text) : code(code), text(std::move(text)) {}
  void log(raw_ostream &os) const override { os << text; }
  std::error_code convertToErrorCode() const override { return inconvertibleErrorCode(); }
  bool isDamage() const {
    int primary = code & 0xff;
    return primary == SQLITE_CORRUPT || primary == SQLITE_NOTADB;
  }

private:
  int code;
  std::string text;
};
char DatabaseError::ID = 0;
} // namespace

bool TuningKey::operator==(const TuningKey &other) const {
  auto fields = [](const TuningKey &key) {
    return std::tie(key.chip, key.dtype, key.weights, key.features, key.inner, key.epilogue,
                    key.tokens, key.compiler);
  };
  return fields(*this) == fields(other);
}

std::string sparseflow::tuning::getCompilerVersion() { return "sparseflow " SPARSEFLOW_VERSION; }

static Error makeError(const Twine &message) {
  return createStringError(inconvertibleErrorCode(), message);
}

static Error failure(sqlite3 &connection) {
  return make_error<DatabaseError>(sqlite3_extended_errcode(&connection),
                                   std::string(sqlite3_errmsg(&connection)));
}

static bool isDamage(const Error &error) {
  bool damage = false;
  visitErrors(error, [&](const ErrorInfoBase &info) {
    damage |= info.isA<DatabaseError>() && static_cast<const DatabaseError &>(info).isDamage();
  });
  return damage;
}

/// "'<path>': <what SQLite said>"
static Error addPath(StringRef path, Error error) {
  return makeError("the tuning database '" + path + "': " + toString(std::move(error)));
}

//===-- Statements ---------------------------------------------------------------------------===//

namespace {
class Statement {
public:
  explicit Statement(sqlite3 &connection) : connection(connection) {}
  Statement(const Statement &) = delete;
  ~Statement() { sqlite3_finalize(statement); }

  Error prepare(const char *text) {
    return sqlite3_prepare_v2(&connection, text, -1, &statement, nullptr) == SQLITE_OK
               ? Error::success()
               : failure(connection);
  }
  // Parameters in order. A failure shows in `step`.
  Statement &bind(StringRef text) {
    sqlite3_bind_text(statement, ++bound, text.empty() ? "" : text.data(), int(text.size()),
                      SQLITE_TRANSIENT);
    return *this;
  }
  Statement &bind(int64_t number) {
    sqlite3_bind_int64(statement, ++bound, number);
    return *this;
  }
  Statement &bind(double number) {
    sqlite3_bind_double(statement, ++bound, number);
    return *this;
  }
  Statement &bind(const TuningKey &key) {
    return bind(key.chip)
        .bind(key.dtype)
        .bind(key.weights)
        .bind(key.features)
        .bind(key.inner)
        .bind(key.epilogue)
        .bind(key.tokens)
        .bind(key.compiler);
  }
  /// False: there are no more rows.
  Expected<bool> step() {
    int result = sqlite3_step(statement);
    if (result == SQLITE_ROW)
      return true;
    if (result == SQLITE_DONE)
      return false;
    return failure(connection);
  }
  std::string text(int column) const {
    const unsigned char *text = sqlite3_column_text(statement, column);
    return text ? std::string(reinterpret_cast<const char *>(text),
                              sqlite3_column_bytes(statement, column))
                : std::string();
  }
  double number(int column) const { return sqlite3_column_double(statement, column); }

private:
  sqlite3 &connection;
  sqlite3_stmt *statement = nullptr;
  int bound = 0;
};
} // namespace

static Error execute(sqlite3 &connection, const char *text) {
  return sqlite3_exec(&connection, text, nullptr, nullptr, nullptr) == SQLITE_OK
             ? Error::success()
             : failure(connection);
}

/// The first column of the first row; empty if there is none.
static Expected<std::string> ask(sqlite3 &connection, const char *text) {
  Statement statement(connection);
  if (Error error = statement.prepare(text))
    return std::move(error);
  Expected<bool> any = statement.step();
  if (!any)
    return any.takeError();
  return *any ? statement.text(0) : std::string();
}

/// Looks for damage that no query has met yet, and for files of others. False: the file is empty.
static Expected<bool> check(sqlite3 &connection) {
  Expected<std::string> health = ask(connection, "PRAGMA quick_check(1)");
  if (!health)
    return health.takeError();
  if (*health != "ok")
    return make_error<DatabaseError>(SQLITE_CORRUPT, std::move(*health));
  Expected<std::string> id = ask(connection, "PRAGMA application_id");
  if (!id)
    return id.takeError();
  if (*id == std::to_string(applicationId))
    return true;
  Expected<std::string> tables = ask(connection, "SELECT count(*) FROM sqlite_master");
  if (!tables)
    return tables.takeError();
  if (*id != "0" || *tables != "0")
    return makeError("expected a tuning database of this version, got another SQLite file; name "
                     "another path");
  return false;
}

//===-- Opening ------------------------------------------------------------------------------===//

void TuningDatabase::Close::operator()(sqlite3 *connection) const { sqlite3_close(connection); }

TuningDatabase::~TuningDatabase() = default;

Expected<std::unique_ptr<TuningDatabase>> TuningDatabase::open(StringRef path) {
  std::unique_ptr<TuningDatabase> database(new TuningDatabase(path));
  if (Error error = database->openUser())
    return addPath(path, std::move(error));
  return std::move(database);
}

std::unique_ptr<TuningDatabase> TuningDatabase::openToRead(StringRef user, StringRef shipped) {
  std::unique_ptr<TuningDatabase> database(new TuningDatabase(""));
  if (!user.empty())
    database->openReadOnly(user, "it");
  if (!shipped.empty())
    database->openReadOnly(shipped, "what ships with the package");
  return database;
}

Expected<bool> TuningDatabase::connect(const std::string &name, int flags, Connection &connection) {
  sqlite3 *opened = nullptr;
  int result = sqlite3_open_v2(name.c_str(), &opened, flags, nullptr);
  connection.reset(opened);
  if (!opened)
    return makeError("expected memory to open it, got none");
  if (result != SQLITE_OK)
    return failure(*opened);
  sqlite3_busy_timeout(opened, busyMilliseconds);
  return check(*opened);
}

Expected<TuningDatabase::Connection> TuningDatabase::connectUser() const {
  Connection connection;
  Expected<bool> isReady = connect(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, connection);
  if (!isReady)
    return isReady.takeError();
  // Where the file system has no shared memory, SQLite keeps its older journal, which is as safe.
  if (Error error = execute(*connection, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL"))
    return std::move(error);
  if (*isReady)
    return std::move(connection);
  std::string create =
      formatv("BEGIN; {0}; PRAGMA application_id = {1}; COMMIT", createTable, applicationId);
  if (Error error = execute(*connection, create.c_str()))
    return std::move(error);
  return std::move(connection);
}

/// Renames the file and gives its new name.
static Expected<std::string> setAside(const std::string &path) {
  auto now = std::chrono::time_point_cast<std::chrono::seconds>(std::chrono::system_clock::now());
  std::string base = formatv("{0}.corrupt-{1:%Y%m%dT%H%M%S}", path, sys::TimePoint<>(now));
  std::string target = base;
  for (int i = 1; sys::fs::exists(target); ++i)
    target = base + "-" + std::to_string(i);
  if (std::error_code error = sys::fs::rename(path, target))
    return makeError("expected to rename the damaged file to '" + target +
                     "', got: " + error.message() + "; delete it");
  // A log without its file would be taken for the next one's.
  if (sys::fs::exists(path + "-wal"))
    (void)sys::fs::rename(path + "-wal", target + "-wal");
  (void)sys::fs::remove(path + "-shm");
  return target;
}

/// A file that neither begins as SQLite's do nor is called a database is no damaged one, but
/// somebody else's: a model, say, whose path was given by mistake.
static Error refuseOthersFile(const std::string &path) {
  constexpr StringLiteral magic = "SQLite format 3";
  StringRef extension = sys::path::extension(path);
  if (extension == ".sqlite" || extension == ".db")
    return Error::success();
  ErrorOr<std::unique_ptr<MemoryBuffer>> start =
      MemoryBuffer::getFileSlice(path, magic.size(), /*Offset=*/0);
  if (!start || (*start)->getBufferSize() == 0 || (*start)->getBuffer() == magic)
    return Error::success();
  return makeError("expected a tuning database, got a file of another kind; name another path");
}

Error TuningDatabase::openUser() {
  user.reset();
  if (Error error = refuseOthersFile(path))
    return error;
  StringRef folder = sys::path::parent_path(path);
  if (std::error_code error =
          folder.empty() ? std::error_code() : sys::fs::create_directories(folder))
    return makeError("expected a folder to write to, got: " + error.message());
  int lock = -1;
  if (std::error_code error = sys::fs::openFileForReadWrite(
          path + ".lock", lock, sys::fs::CD_OpenAlways, sys::fs::OF_None))
    return makeError("expected a folder to write to, got: " + error.message());
  scope_exit close([&] { (void)sys::Process::SafelyCloseFileDescriptor(lock); });
  // Released when the descriptor is closed.
  if (std::error_code error = sys::fs::lockFile(lock))
    return makeError("expected to lock '" + path + ".lock', got: " + error.message());

  Expected<Connection> connection = connectUser();
  if (!connection) {
    Error error = connection.takeError();
    if (!isDamage(error))
      return error;
    consumeError(std::move(error));
    Expected<std::string> aside = setAside(path);
    if (!aside)
      return aside.takeError();
    warnings.push_back(formatv("expected a tuning database in '{0}', got a damaged file, which is "
                               "now '{1}'; tune again what was in it",
                               path, *aside));
    connection = connectUser();
    if (!connection)
      return connection.takeError();
  }
  user = std::move(*connection);
  return errorCodeToError(sys::fs::getUniqueID(path, userId));
}

/// `immutable`: no locks and no log, for a folder that cannot be written.
static std::string getImmutableURI(StringRef path) {
  std::string uri = "file:";
  for (char c : path)
    uri += StringRef("%?#").contains(c) ? "%" + utohexstr(uint8_t(c)) : std::string(1, c);
  return uri + "?immutable=1";
}

void TuningDatabase::openReadOnly(StringRef file, StringRef without) {
  Connection connection;
  auto tryToConnect = [&](const std::string &name, int flags) -> Error {
    Expected<bool> isReady = connect(name, flags, connection);
    if (!isReady)
      return isReady.takeError();
    return *isReady ? Error::success() : makeError("expected entries, got an empty file");
  };
  Error error = refuseOthersFile(file.str());
  if (!error) {
    // A tuner may be writing to it, whose log is read too; that takes a lock beside the file.
    error = tryToConnect(file.str(), SQLITE_OPEN_READWRITE);
    if (error && !isDamage(error) && !sys::fs::can_write(sys::path::parent_path(file))) {
      consumeError(std::move(error));
      error = tryToConnect(getImmutableURI(file), SQLITE_OPEN_READONLY | SQLITE_OPEN_URI);
    }
  }
  if (!error) {
    others.push_back({file.str(), std::move(connection)});
    return;
  }
  warnings.push_back(
      formatv("{0}; going on without {1}", toString(addPath(file, std::move(error))), without));
}

//===-- Entries ------------------------------------------------------------------------------===//

Error TuningDatabase::onUser(function_ref<Error(sqlite3 &)> query) {
  // Another process may have set the file aside, or somebody deleted it: what is written to it then
  // would be lost.
  sys::fs::UniqueID id;
  bool isMoved = sys::fs::getUniqueID(path, id) || id != userId;
  if (isMoved)
    if (Error error = openUser())
      return error;
  Error error = query(*user);
  if (!isDamage(error))
    return error;
  consumeError(std::move(error));
  if (Error again = openUser())
    return again;
  return query(*user);
}

static Error select(sqlite3 &connection, const TuningKey &key, std::optional<TuningEntry> &entry) {
  Statement statement(connection);
  if (Error error = statement.prepare(selectEntry))
    return error;
  Expected<bool> any = statement.bind(key).step();
  if (!any)
    return any.takeError();
  if (*any)
    entry = TuningEntry{statement.text(0), statement.number(1)};
  return Error::success();
}

Expected<std::optional<TuningEntry>> TuningDatabase::lookup(const TuningKey &key) {
  std::lock_guard<std::mutex> lock(mutex);
  std::optional<TuningEntry> entry;
  if (!path.empty())
    if (Error error = onUser([&](sqlite3 &connection) { return select(connection, key, entry); }))
      return addPath(path, std::move(error));
  for (const ReadOnly &other : others)
    if (!entry)
      if (Error error = select(*other.connection, key, entry))
        return addPath(other.path, std::move(error));
  return entry;
}

Error TuningDatabase::record(const TuningKey &key, StringRef config, double microseconds) {
  if (config.empty() || !std::isfinite(microseconds) || microseconds <= 0)
    return makeError(formatv("expected a configuration and a time above 0, got '{0}' and {1} us",
                             config, std::to_string(microseconds)));
  std::lock_guard<std::mutex> lock(mutex);
  if (path.empty())
    return makeError("expected a tuning database of the user's to record in, got none");
  Error error = onUser([&](sqlite3 &connection) -> Error {
    Statement statement(connection);
    if (Error error = statement.prepare(insertEntry))
      return error;
    return statement.bind(key).bind(config).bind(microseconds).step().takeError();
  });
  return error ? addPath(path, std::move(error)) : Error::success();
}

Error TuningDatabase::exportTo(StringRef target) {
  std::lock_guard<std::mutex> lock(mutex);
  if (path.empty())
    return makeError("expected a tuning database of the user's to export, got none");
  SmallString<128> temporary;
  sys::fs::createUniquePath(target + ".%%%%%%%%.tmp", temporary, /*MakeAbsolute=*/false);
  Error error = onUser([&](sqlite3 &connection) -> Error {
    Statement statement(connection);
    if (Error error = statement.prepare("VACUUM INTO ?1"))
      return error;
    return statement.bind(StringRef(temporary)).step().takeError();
  });
  if (!error)
    error = errorCodeToError(sys::fs::rename(temporary, target));
  if (!error)
    return Error::success();
  (void)sys::fs::remove(temporary);
  return makeError("exporting the tuning database to '" + target +
                   "': " + toString(std::move(error)));
}

std::vector<std::string> TuningDatabase::takeWarnings() {
  std::lock_guard<std::mutex> lock(mutex);
  return std::exchange(warnings, {});
}
