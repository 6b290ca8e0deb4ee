// Tuning: candidates, and the database of what was measured.
#include "sparseflow/Dialect/SF/Transforms/Tuning.h"
#include "Handles.h"
#include "sparseflow/Dialect/SF/IR/SFDialect.h"
#include "sparseflow/Pipelines/Compiler.h"
#include "sparseflow/Pipelines/FileSources.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include <cmath>

using namespace llvm;
using namespace sparseflow;
using namespace sparseflow::capi;

struct SfTuning {
  std::unique_ptr<tuning::TuningDatabase> database;
};

static Error copyJSON(json::Value value, char **result) {
  return copyOut(formatv("{0}", value).str(), result);
}

/// A caller's key as it is entered.
static Expected<tuning::TuningKey> readKey(const SfTuningKey *given) {
  if (Error error = expectNotNull(given, "key"))
    return std::move(error);
  Expected<SfTuningKey> read = readStruct(given, "the key");
  if (!read)
    return read.takeError();
  tuning::TuningKey key;
  const std::pair<const char *, std::string *> texts[] = {{read->target, &key.chip},
                                                          {read->dtype, &key.dtype},
                                                          {read->weights, &key.weights},
                                                          {read->epilogue, &key.epilogue}};
  for (auto [text, field] : texts) {
    if (Error error = expectNotNull(text, "target, dtype, weights and epilogue"))
      return std::move(error);
    *field = text;
  }
  key.features = read->features;
  key.inner = read->inner;
  key.tokens = read->tokens;
  return sf::normalizeKey(std::move(key));
}

SfStatus sfTuningBuckets(char **json) {
  return guarded([&]() -> Error {
    if (Error error = expectNotNull(json, "json"))
      return error;
    return copyJSON(json::Array(sf::getTokenBuckets()), json);
  });
}

SfStatus sfTuningProducts(const SfProgram *program, const char *target, char **json) {
  return guarded(
      [&]() -> Error {
        if (Error error = expectNotNull(program, "program"))
          return error;
        if (Error error = expectNotNull(target && json ? target : nullptr, "target and json"))
          return error;
        Expected<std::vector<tuning::TuningKey>> products = listProducts(*program->file, target);
        if (!products)
          return products.takeError();
        json::Array list;
        for (const tuning::TuningKey &key : *products)
          list.push_back(json::Object{{"target", key.chip},
                                      {"dtype", key.dtype},
                                      {"weights", key.weights},
                                      {"epilogue", key.epilogue},
                                      {"features", key.features},
                                      {"inner", key.inner}});
        return copyJSON(std::move(list), json);
      },
      Status::InvalidProgram);
}

SfStatus sfTuningCandidates(const SfTuningKey *key, size_t limit, char **json) {
  return guarded(
      [&]() -> Error {
        if (Error error = expectNotNull(json, "json"))
          return error;
        Expected<tuning::TuningKey> entered = readKey(key);
        if (!entered)
          return entered.takeError();
        mlir::MLIRContext context(mlir::MLIRContext::Threading::DISABLED);
        context.loadDialect<sf::SFDialect>();
        Expected<SmallVector<sf::RankedConfig>> ranked = sf::rankConfigs(&context, *entered);
        if (!ranked)
          return ranked.takeError();
        json::Array list;
        for (const sf::RankedConfig &candidate : ArrayRef(*ranked).take_front(limit)) {
          std::string config;
          raw_string_ostream stream(config);
          mlir::Attribute(candidate.config).print(stream);
          list.push_back(
              json::Object{{"config", config}, {"microseconds", candidate.microseconds}});
        }
        return copyJSON(std::move(list), json);
      },
      Status::InvalidArgument);
}

SfStatus sfTuningOpen(const char *path, SfTuning **database, char **warnings) {
  return guarded(
      [&]() -> Error {
        if (Error error = expectNotNull(database, "database"))
          return error;
        std::string file = path ? path : getDefaultTuningPath();
        if (file.empty())
          return makeError(Status::InvalidArgument,
                           "expected a path for the tuning database, got none, and no cache folder "
                           "to have a default one in; name a path");
        auto opened = tuning::TuningDatabase::open(file);
        if (!opened)
          return opened.takeError();
        std::vector<std::string> sentences = (*opened)->takeWarnings();
        if (warnings) {
          *warnings = nullptr;
          if (!sentences.empty())
            if (Error error = copyOut(join(sentences, "\n"), warnings))
              return error;
        }
        *database = new SfTuning{std::move(*opened)};
        return Error::success();
      },
      Status::IOError);
}

void sfTuningClose(SfTuning *database) { delete database; }

SfStatus sfTuningRecord(SfTuning *database, const SfTuningKey *key, const char *config,
                        double microseconds) {
  return guarded(
      [&]() -> Error {
        if (Error error = expectNotNull(database, "database"))
          return error;
        if (Error error = expectNotNull(config, "config"))
          return error;
        Expected<tuning::TuningKey> entered = readKey(key);
        if (!entered)
          return entered.takeError();
        return database->database->record(*entered, config, microseconds);
      },
      Status::InvalidArgument);
}

SfStatus sfTuningLookup(SfTuning *database, const SfTuningKey *key, char **json) {
  return guarded(
      [&]() -> Error {
        if (Error error = expectNotNull(database, "database"))
          return error;
        if (Error error = expectNotNull(json, "json"))
          return error;
        Expected<tuning::TuningKey> entered = readKey(key);
        if (!entered)
          return entered.takeError();
        Expected<std::optional<tuning::TuningEntry>> entry = database->database->lookup(*entered);
        if (!entry)
          return entry.takeError();
        *json = nullptr;
        // What somebody else wrote to the file need not be JSON.
        if (!*entry || !json::isUTF8((*entry)->config) || !std::isfinite((*entry)->microseconds))
          return Error::success();
        return copyJSON(
            json::Object{{"config", (*entry)->config}, {"microseconds", (*entry)->microseconds}},
            json);
      },
      Status::InvalidArgument);
}

SfStatus sfTuningExport(SfTuning *database, const char *path) {
  return guarded(
      [&]() -> Error {
        if (Error error = expectNotNull(database, "database"))
          return error;
        if (Error error = expectNotNull(path, "path"))
          return error;
        return database->database->exportTo(path);
      },
      Status::IOError);
}
