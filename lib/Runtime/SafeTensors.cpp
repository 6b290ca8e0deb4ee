// Reads and writes safetensors. Every number in a header may be hostile: sums and products are
// checked, and the tensors must tile the data exactly.
#include "sparseflow/Runtime/SafeTensors.h"
#include "sparseflow/Runtime/Error.h"
#include "sparseflow/Runtime/Manifest.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/bit.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include <fcntl.h>
#include <unistd.h>

using namespace llvm;
using namespace sparseflow::runtime;

/// The limit of the reference implementation.
static constexpr uint64_t maxHeaderBytes = 100'000'000;
/// A cache line, and what vector loads and copies to a device like.
static constexpr uint64_t dataAlignment = 64;
static constexpr StringLiteral metadataKey = "__metadata__";

StoredTensor StoredTensor::own(std::string name, DType dtype, std::vector<int64_t> shape,
                               std::vector<uint8_t> bytes) {
  auto owner = std::make_shared<std::vector<uint8_t>>(std::move(bytes));
  return {std::move(name), dtype, std::move(shape), ArrayRef<uint8_t>(*owner), owner};
}

StoredTensor StoredTensor::text(std::string name, StringRef text) {
  return own(std::move(name), DType::U8, {int64_t(text.size())},
             std::vector<uint8_t>(text.bytes_begin(), text.bytes_end()));
}

std::optional<uint64_t> sparseflow::runtime::checkedByteSize(DType dtype, ArrayRef<int64_t> shape) {
  uint64_t bytes = byteSize(dtype);
  for (int64_t extent : shape) {
    if (extent < 0)
      return std::nullopt;
    bool overflow = false;
    bytes = SaturatingMultiply<uint64_t>(bytes, uint64_t(extent), &overflow);
    if (overflow)
      return std::nullopt;
  }
  return bytes;
}

static std::string describeShape(ArrayRef<int64_t> shape) {
  return "[" + join(map_range(shape, [](int64_t extent) { return std::to_string(extent); }), ",") +
         "]";
}

//===-- Reading ------------------------------------------------------------------------------===//

namespace {
class HeaderReader {
public:
  HeaderReader(StringRef what, ArrayRef<uint8_t> data) : what(what), data(data) {}

  Expected<StoredTensor> readTensor(StringRef name, const json::Value &value) {
    const json::Object *entry = value.getAsObject();
    if (!entry)
      return fail(name, "an object with dtype, shape and data_offsets", "something else");
    StoredTensor tensor;
    tensor.name = name.str();
    StringRef dtype = entry->getString("dtype").value_or("none");
    std::optional<DType> parsed = parseSafeTensorsDType(dtype);
    if (!parsed)
      return fail(name, "a dtype that SparseFlow stores (F16, BF16, F32, I8, F8_E4M3, U8, ...)",
                  "'" + dtype.take_front(40) + "'");
    tensor.dtype = *parsed;

    const json::Array *shape = entry->getArray("shape");
    if (!shape || shape->size() > maxRank)
      return fail(name, "a shape of at most " + Twine(maxRank) + " extents",
                  shape ? Twine(shape->size()) : Twine("none"));
    for (const json::Value &extent : *shape) {
      tensor.shape.push_back(extent.getAsInteger().value_or(-1));
      if (tensor.shape.back() < 0)
        return fail(name, "a shape of integers of at least 0", "another value");
    }

    const json::Array *offsets = entry->getArray("data_offsets");
    std::optional<int64_t> begin, end;
    if (offsets && offsets->size() == 2) {
      begin = (*offsets)[0].getAsInteger();
      end = (*offsets)[1].getAsInteger();
    }
    if (!begin || !end || *begin < 0 || *end < *begin)
      return fail(name, "data_offsets [begin, end]", "something else");
    if (uint64_t(*end) > data.size())
      return fail(name, "its bytes to end within the " + Twine(data.size()) + " of the file",
                  Twine(*end) + "; the file is truncated");
    std::optional<uint64_t> bytes = checkedByteSize(tensor.dtype, tensor.shape);
    if (!bytes || *bytes != uint64_t(*end - *begin))
      return fail(name,
                  (bytes ? Twine(*bytes) : Twine("fewer than 2^64")) + " bytes for " +
                      stringify(tensor.dtype) + " " + describeShape(tensor.shape),
                  Twine(*end - *begin));
    tensor.data = data.slice(*begin, *end - *begin);
    return tensor;
  }

  /// The bytes must be covered once: a hole could hide data, an overlap could make one tensor
  /// change another.
  Error checkCoverage(MutableArrayRef<StoredTensor> tensors) {
    // Empty tensors go first among those that begin alike. The header's order is lost in the parsed
    // object; names settle ties, so that equal files list equally.
    sort(tensors, [](const StoredTensor &a, const StoredTensor &b) {
      return std::make_tuple(a.data.begin(), a.data.size(), StringRef(a.name)) <
             std::make_tuple(b.data.begin(), b.data.size(), StringRef(b.name));
    });
    const uint8_t *next = data.begin();
    for (const StoredTensor &tensor : tensors) {
      if (tensor.data.begin() != next)
        return fail(tensor.name, "its bytes to begin at " + Twine(next - data.begin()),
                    Twine(tensor.data.begin() - data.begin()) +
                        (tensor.data.begin() < next ? "; it overlaps another tensor"
                                                    : "; the bytes between belong to no tensor"));
      next = tensor.data.end();
    }
    if (next != data.end())
      return makeError(Status::InvalidProgram, what + ": expected " + Twine(next - data.begin()) +
                                                   " bytes of tensors as the header says, got " +
                                                   Twine(data.size()));
    return Error::success();
  }

  Error fail(StringRef name, const Twine &expected, const Twine &got) {
    return makeError(Status::InvalidProgram, what + ": tensor '" + name.take_front(80) +
                                                 "' expected " + expected + ", got " + got);
  }

private:
  StringRef what;
  ArrayRef<uint8_t> data;
};
} // namespace

Expected<SafeTensors> SafeTensors::fromMemory(ArrayRef<uint8_t> bytes, StringRef what,
                                              std::shared_ptr<const void> owner) {
  auto fail = [&](const Twine &expected, const Twine &got) {
    return makeError(Status::InvalidProgram, what + ": expected " + expected + ", got " + got);
  };
  if (bytes.size() < 8)
    return fail("a safetensors file of at least 8 bytes", Twine(bytes.size()));
  uint64_t headerBytes = support::endian::read64le(bytes.data());
  if (headerBytes > maxHeaderBytes)
    return fail("a safetensors header of at most " + Twine(maxHeaderBytes) + " bytes",
                Twine(headerBytes) + "; it is no safetensors file");
  if (headerBytes > bytes.size() - 8)
    return fail("a header of " + Twine(headerBytes) + " bytes",
                Twine(bytes.size() - 8) + "; the file is truncated");
  StringRef header(reinterpret_cast<const char *>(bytes.data()) + 8, headerBytes);
  if (!header.starts_with("{"))
    return fail("a JSON header that begins with '{'", "something else; it is no safetensors file");

  Expected<json::Value> tree = parseUntrustedJSON(header, (what + ": the header").str());
  if (!tree)
    return tree.takeError();
  const json::Object *entries = tree->getAsObject();
  if (!entries)
    return fail("a JSON object as header", "another value");

  SafeTensors result;
  HeaderReader reader(what, bytes.drop_front(8 + headerBytes));
  for (const auto &[key, value] : *entries) {
    if (StringRef(key) == metadataKey) {
      const json::Object *metadata = value.getAsObject();
      if (!metadata)
        return fail("an object of strings as __metadata__", "another value");
      for (const auto &[name, text] : *metadata) {
        std::optional<StringRef> string = text.getAsString();
        if (!string)
          return fail("a string as metadata '" + StringRef(name) + "'", "another value");
        result.meta[StringRef(name).str()] = string->str();
      }
      continue;
    }
    Expected<StoredTensor> tensor = reader.readTensor(key, value);
    if (!tensor)
      return tensor.takeError();
    tensor->owner = owner;
    result.list.push_back(std::move(*tensor));
  }
  if (Error error = reader.checkCoverage(result.list))
    return std::move(error);
  for (auto [i, tensor] : enumerate(result.list))
    result.index[tensor.name] = i;
  return result;
}

Expected<SafeTensors> SafeTensors::open(StringRef path) {
  // A pipe or a device may have no end.
  sys::fs::file_status status;
  if (!sys::fs::status(path, status) && !sys::fs::is_regular_file(status))
    return makeError(Status::IOError, "cannot open '" + path + "': it is no regular file");
  ErrorOr<std::unique_ptr<MemoryBuffer>> file =
      MemoryBuffer::getFile(path, /*IsText=*/false, /*RequiresNullTerminator=*/false);
  if (!file)
    return makeOpenError(path, file.getError());
  std::shared_ptr<MemoryBuffer> owner = std::move(*file);
  return fromMemory(arrayRefFromStringRef(owner->getBuffer()), path, owner);
}

const StoredTensor *SafeTensors::find(StringRef name) const {
  auto found = index.find(name);
  return found == index.end() ? nullptr : &list[found->second];
}

//===-- Writing ------------------------------------------------------------------------------===//

/// The largest power of two that divides the size, at most the alignment wanted. Sorted by it,
/// descending, tensors need no padding between them (which the format forbids) and each starts at a
/// multiple of its own.
static uint64_t sizeAlignment(const StoredTensor &tensor) {
  uint64_t size = tensor.data.size();
  return size == 0 ? dataAlignment : std::min(dataAlignment, size & (~size + 1));
}

Error sparseflow::runtime::writeSafeTensors(raw_ostream &os, ArrayRef<StoredTensor> tensors,
                                            const SafeTensors::Metadata &metadata) {
  std::vector<const StoredTensor *> order;
  for (const StoredTensor &tensor : tensors) {
    std::optional<uint64_t> bytes = checkedByteSize(tensor.dtype, tensor.shape);
    if (!bytes || *bytes != tensor.data.size())
      return makeError(Status::InvalidArgument,
                       "tensor '" + tensor.name + "' expected " +
                           (bytes ? Twine(*bytes) : Twine("fewer than 2^64")) + " bytes for " +
                           stringify(tensor.dtype) + " " + describeShape(tensor.shape) + ", got " +
                           Twine(tensor.data.size()));
    if (tensor.name == metadataKey || !json::isUTF8(tensor.name))
      return makeError(Status::InvalidArgument, "'" + json::fixUTF8(tensor.name) +
                                                    "' cannot be a tensor's name in a safetensors "
                                                    "file; choose a plain UTF-8 name");
    order.push_back(&tensor);
  }
  sort(order, [](const StoredTensor *a, const StoredTensor *b) {
    return std::make_pair(~sizeAlignment(*a), StringRef(a->name)) <
           std::make_pair(~sizeAlignment(*b), StringRef(b->name));
  });
  for (size_t i = 1; i < order.size(); ++i)
    if (order[i]->name == order[i - 1]->name)
      return makeError(Status::InvalidArgument,
                       "expected each tensor named once, got '" + order[i]->name + "' twice");

  std::string header;
  raw_string_ostream text(header);
  json::OStream json(text);
  uint64_t offset = 0;
  json.object([&] {
    if (!metadata.empty())
      json.attributeObject(metadataKey, [&] {
        for (const auto &[key, value] : metadata)
          json.attribute(key, value);
      });
    for (const StoredTensor *tensor : order) {
      json.attributeObject(tensor->name, [&] {
        json.attribute("dtype", safeTensorsName(tensor->dtype));
        json.attribute("shape", json::Array(tensor->shape));
        json.attribute("data_offsets",
                       json::Array{int64_t(offset), int64_t(offset + tensor->data.size())});
      });
      offset += tensor->data.size();
    }
  });
  header.append(alignTo(8 + header.size(), dataAlignment) - 8 - header.size(), ' ');
  if (header.size() > maxHeaderBytes)
    return makeError(Status::InvalidArgument, "expected a safetensors header of at most " +
                                                  Twine(maxHeaderBytes) + " bytes, got " +
                                                  Twine(header.size()));
  char length[8];
  support::endian::write64le(length, header.size());
  os.write(length, sizeof(length));
  os << header;
  for (const StoredTensor *tensor : order)
    os.write(reinterpret_cast<const char *>(tensor->data.data()), tensor->data.size());
  return Error::success();
}

static Error ioError(StringRef path, std::error_code code) {
  return makeError(Status::IOError, "cannot write '" + path + "': " + code.message());
}

Error sparseflow::runtime::writeFileAtomically(StringRef path,
                                               function_ref<Error(raw_ostream &)> write) {
  sys::fs::file_status status;
  bool exists = !sys::fs::status(path, status) && sys::fs::exists(status);
  if (exists && sys::fs::is_directory(status))
    return makeError(Status::IOError, "cannot write '" + path + "': it is a folder");
  // A device or a pipe must be written, not replaced.
  if (exists && !sys::fs::is_regular_file(status)) {
    std::error_code code;
    raw_fd_ostream os(path, code, sys::fs::OF_None);
    if (code)
      return ioError(path, code);
    if (Error error = write(os))
      return error;
    os.close();
    code = os.error();
    os.clear_error();
    return code ? ioError(path, code) : Error::success();
  }

  int fd;
  SmallString<128> temporary;
  if (std::error_code code = sys::fs::createUniqueFile(path + ".%%%%%%%%.tmp", fd, temporary))
    return ioError(path, code);
  Error error = Error::success();
  {
    raw_fd_ostream os(fd, /*shouldClose=*/true);
    error = write(os);
    os.flush();
    if (!error && os.error())
      error = ioError(path, os.error());
    os.clear_error();
    if (!error && ::fsync(fd) != 0)
      error = ioError(path, std::error_code(errno, std::generic_category()));
  }
  if (!error)
    if (std::error_code code = sys::fs::rename(temporary, path))
      error = ioError(path, code);
  if (error) {
    sys::fs::remove(temporary);
    return error;
  }
  // The rename itself is durable once the folder is synced; a file system that cannot do that is no
  // failure.
  StringRef folder = sys::path::parent_path(path);
  int folderFd = ::open(folder.empty() ? "." : folder.str().c_str(), O_RDONLY | O_DIRECTORY);
  if (folderFd >= 0) {
    ::fsync(folderFd);
    ::close(folderFd);
  }
  return Error::success();
}
