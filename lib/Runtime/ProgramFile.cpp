// `.sf` is safetensors with three metadata strings: the manifest, a checksum for each tensor, and a
// digest over those two and the tensors' names, dtypes and shapes. Byte offsets are left out of the
// digest, so that a file that another safetensors tool has saved again still opens.
#include "sparseflow/Runtime/ProgramFile.h"
#include "sparseflow/Runtime/Error.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/xxhash.h"

using namespace llvm;
using namespace sparseflow::runtime;

static constexpr StringLiteral manifestKey = "sparseflow.manifest";
static constexpr StringLiteral checksumsKey = "sparseflow.checksums";
static constexpr StringLiteral digestKey = "sparseflow.digest";

static std::string hashText(uint64_t hash) { return utohexstr(hash, /*LowerCase=*/true, 16); }

static std::string digest(StringRef manifest, StringRef checksums, ArrayRef<StoredTensor> tensors) {
  std::vector<const StoredTensor *> sorted;
  for (const StoredTensor &tensor : tensors)
    sorted.push_back(&tensor);
  sort(sorted, [](const auto *a, const auto *b) { return a->name < b->name; });
  std::string text;
  raw_string_ostream os(text);
  os << manifest << '\0' << checksums << '\0';
  for (const StoredTensor *tensor : sorted) {
    os << tensor->name << '\0' << stringify(tensor->dtype);
    for (int64_t extent : tensor->shape)
      os << ',' << extent;
    os << '\n';
  }
  return hashText(xxh3_64bits(text));
}

ProgramFile::ProgramFile(Manifest manifest, std::vector<StoredTensor> tensors)
    : contents(std::move(manifest)), list(std::move(tensors)) {
  for (auto [i, tensor] : enumerate(list))
    index[tensor.name] = i;
}

const StoredTensor *ProgramFile::find(StringRef name) const {
  auto found = index.find(name);
  return found == index.end() ? nullptr : &list[found->second];
}

StringRef ProgramFile::source() const {
  const StoredTensor *tensor = contents.source.empty() ? nullptr : find(contents.source);
  return tensor ? toStringRef(tensor->data) : StringRef();
}

Error ProgramFile::checkReferences() const {
  auto check = [&](StringRef name, const Twine &user, bool bytesOnly) -> Error {
    const StoredTensor *tensor = find(name);
    if (!tensor)
      return makeError(Status::InvalidProgram,
                       user + " expected a tensor '" + name + "' in the file, got none");
    if (bytesOnly && tensor->dtype != DType::U8)
      return makeError(Status::InvalidProgram, user + " expected tensor '" + name +
                                                   "' to be u8, got " + stringify(tensor->dtype));
    return Error::success();
  };
  if (!contents.source.empty())
    if (Error error = check(contents.source, "the manifest's source", true))
      return error;
  for (const Function &function : contents.functions) {
    for (const Program &program : function.programs) {
      std::string where = "function '" + function.name + "', program '" + program.target + "'";
      for (const Buffer &buffer : program.buffers)
        if (buffer.kind == Buffer::Kind::Constant)
          if (Error error = check(buffer.tensor, where, false))
            return error;
      for (const Kernel &kernel : program.kernels)
        for (StringRef name : {StringRef(kernel.cubin), StringRef(kernel.ptx)})
          if (!name.empty())
            if (Error error = check(name, where + ", kernel '" + kernel.name + "'", true))
              return error;
    }
  }
  return Error::success();
}

Expected<ProgramFile::Ptr> ProgramFile::create(Manifest manifest,
                                               std::vector<StoredTensor> tensors) {
  if (Error error = validate(manifest))
    return std::move(error);
  std::shared_ptr<ProgramFile> file(new ProgramFile(std::move(manifest), std::move(tensors)));
  if (file->index.size() != file->list.size())
    for (auto [i, tensor] : enumerate(file->list))
      if (file->index.lookup(tensor.name) != i)
        return makeError(Status::InvalidArgument,
                         "expected each tensor named once, got '" + tensor.name + "' twice");
  if (Error error = file->checkReferences())
    return std::move(error);
  return file;
}

static Error verifyTensors(const SafeTensors &file, const json::Object &checksums,
                           function_ref<bool(StringRef)> isWanted) {
  for (const StoredTensor &tensor : file.tensors()) {
    if (!isWanted(tensor.name))
      continue;
    StringRef expected = checksums.getString(tensor.name).value_or("none");
    std::string got = hashText(xxh3_64bits(tensor.data));
    if (expected != got)
      return makeError(Status::InvalidProgram, "tensor '" + tensor.name + "' expected checksum " +
                                                   expected + ", got " + got +
                                                   "; the file was altered or damaged");
  }
  return Error::success();
}

static Expected<Manifest> readManifest(const SafeTensors &file, bool verify) {
  auto get = [&](StringRef key) -> const std::string * {
    auto found = file.metadata().find(key.str());
    return found == file.metadata().end() ? nullptr : &found->second;
  };
  const std::string *manifest = get(manifestKey);
  const std::string *checksums = get(checksumsKey);
  const std::string *expected = get(digestKey);
  if (!manifest || !checksums || !expected)
    return makeError(Status::InvalidProgram,
                     formatv("expected the metadata '{0}', got a safetensors file without it; it "
                             "was not written by SparseFlow",
                             !manifest    ? manifestKey
                             : !checksums ? checksumsKey
                                          : digestKey));
  std::string got = digest(*manifest, *checksums, file.tensors());
  if (*expected != got)
    return makeError(Status::InvalidProgram, "expected digest " +
                                                 StringRef(*expected).take_front(16) + ", got " +
                                                 got + "; the manifest or the header was altered");
  Expected<json::Value> tree = parseUntrustedJSON(*checksums, "the checksums");
  if (!tree)
    return tree.takeError();
  const json::Object *object = tree->getAsObject();
  if (!object)
    return makeError(Status::InvalidProgram, "expected a JSON object as checksums");
  Expected<Manifest> parsed = parseManifest(*manifest);
  if (!parsed)
    return parsed;
  // Sources are small, and a parser should not meet what was damaged on the way.
  auto isSource = [&](StringRef name) {
    return !parsed->source.empty() && name.consume_back(parsed->source) &&
           (name.empty() || name.ends_with("/"));
  };
  if (Error error =
          verifyTensors(file, *object, [&](StringRef name) { return verify || isSource(name); }))
    return std::move(error);
  return parsed;
}

static Expected<ProgramFile::Ptr> fromSafeTensors(Expected<SafeTensors> file, StringRef what,
                                                  bool verify) {
  if (!file)
    return file.takeError();
  Expected<Manifest> manifest = readManifest(*file, verify);
  if (!manifest)
    return addContext(what, manifest.takeError());
  Expected<ProgramFile::Ptr> program =
      ProgramFile::create(std::move(*manifest), file->tensors().vec());
  if (!program)
    return addContext(what, program.takeError());
  return program;
}

Expected<ProgramFile::Ptr> ProgramFile::open(StringRef path, bool verify) {
  return fromSafeTensors(SafeTensors::open(path), path, verify);
}

Expected<ProgramFile::Ptr> ProgramFile::fromMemory(ArrayRef<uint8_t> bytes, bool verify,
                                                   std::shared_ptr<const void> owner) {
  StringRef what = "the .sf file in memory";
  return fromSafeTensors(SafeTensors::fromMemory(bytes, what, std::move(owner)), what, verify);
}

Error ProgramFile::write(raw_ostream &os) const {
  json::Object checksums;
  for (const StoredTensor &tensor : list)
    checksums[tensor.name] = hashText(xxh3_64bits(tensor.data));
  SafeTensors::Metadata metadata;
  metadata[manifestKey.str()] = formatv("{0}", toJSON(contents)).str();
  metadata[checksumsKey.str()] = formatv("{0}", json::Value(std::move(checksums))).str();
  metadata[digestKey.str()] =
      digest(metadata[manifestKey.str()], metadata[checksumsKey.str()], list);
  return writeSafeTensors(os, list, metadata);
}

Error ProgramFile::save(StringRef path) const {
  return writeFileAtomically(path, [&](raw_ostream &os) { return write(os); });
}

json::Value ProgramFile::describe() const {
  json::Value value = toJSON(contents);
  json::Array tensors;
  for (const StoredTensor &tensor : list)
    tensors.push_back(json::Object{{"name", tensor.name},
                                   {"dtype", stringify(tensor.dtype)},
                                   {"shape", json::Array(tensor.shape)},
                                   {"bytes", int64_t(tensor.data.size())}});
  (*value.getAsObject())["tensors"] = std::move(tensors);
  return value;
}
