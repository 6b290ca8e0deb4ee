//===- DiskCache.cpp - Compiled results kept between processes ------------===//
//
// An entry: magic, checksum of the rest (xxh3), number of fields, then each field's size and bytes.
// All integers are little-endian. The checksum covers the sizes, so a file that passes it can be
// taken apart without further suspicion, except that the bounds are checked all the same.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Target/DiskCache.h"

#include "llvm/ADT/SmallString.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/raw_ostream.h"
#include "llvm/Support/xxhash.h"
#include <chrono>
#include <cstring>
#include <link.h>

using namespace llvm;
using namespace sparseflow::target;

static constexpr StringLiteral magic = "SFCACHE1";
static constexpr StringLiteral entrySuffix = ".entry";
static constexpr StringLiteral temporarySuffix = ".tmp";
static constexpr size_t headerBytes = 8 + 8 + 8; // magic, checksum, number of fields

CacheKey &CacheKey::add(StringRef part) {
  uint8_t size[8];
  support::endian::write64le(size, part.size());
  hasher.update(ArrayRef(size));
  hasher.update(part);
  return *this;
}

std::string CacheKey::str() { return toHex(hasher.final(), /*LowerCase=*/true); }

/// The note with the build ID among those of one program header.
static ArrayRef<uint8_t> findBuildId(ArrayRef<uint8_t> notes) {
  while (notes.size() >= sizeof(ElfW(Nhdr))) {
    ElfW(Nhdr) note;
    std::memcpy(&note, notes.data(), sizeof(note));
    size_t nameBytes = alignTo<4>(note.n_namesz), bytes = alignTo<4>(note.n_descsz);
    notes = notes.drop_front(sizeof(note));
    if (nameBytes + bytes > notes.size())
      break;
    if (note.n_type == NT_GNU_BUILD_ID && toStringRef(notes.take_front(4)) == StringRef("GNU", 4))
      return notes.slice(nameBytes, note.n_descsz);
    notes = notes.drop_front(nameBytes + bytes);
  }
  return {};
}

const std::string &sparseflow::target::getBuildIdentity() {
  static const std::string identity = [] {
    std::string found;
    auto look = [](dl_phdr_info *info, size_t, void *result) {
      auto address = reinterpret_cast<uintptr_t>(&getBuildIdentity);
      ArrayRef<ElfW(Phdr)> headers(info->dlpi_phdr, info->dlpi_phnum);
      bool isOurs = any_of(headers, [&](const ElfW(Phdr) & header) {
        return header.p_type == PT_LOAD &&
               address - info->dlpi_addr - header.p_vaddr < header.p_memsz;
      });
      if (!isOurs)
        return 0;
      for (const ElfW(Phdr) &header : headers)
        if (header.p_type == PT_NOTE)
          if (ArrayRef<uint8_t> id =
                  findBuildId({reinterpret_cast<const uint8_t *>(info->dlpi_addr + header.p_vaddr),
                               header.p_memsz});
              !id.empty())
            *static_cast<std::string *>(result) = toHex(id, /*LowerCase=*/true);
      return 1;
    };
    dl_iterate_phdr(look, &found);
    return found;
  }();
  return identity;
}

std::string DiskCache::defaultDirectory() {
  if (std::optional<std::string> chosen = sys::Process::GetEnv("SPARSEFLOW_CACHE_DIR"))
    return *chosen;
  SmallString<128> path;
  if (!sys::path::cache_directory(path))
    return "";
  sys::path::append(path, "sparseflow");
  return path.str().str();
}

std::string DiskCache::entryPath(StringRef key) const {
  // Two levels, so that no folder grows beyond what every file system likes.
  SmallString<256> path(directory);
  sys::path::append(path, key.take_front(2), key.drop_front(2) + entrySuffix);
  return path.str().str();
}

static std::optional<std::vector<std::string>> parseEntry(StringRef data) {
  using support::endian::read64le;
  if (data.size() < headerBytes || !data.starts_with(magic))
    return std::nullopt;
  StringRef body = data.drop_front(16);
  if (read64le(data.data() + 8) != xxh3_64bits(body))
    return std::nullopt;
  uint64_t count = read64le(body.data());
  body = body.drop_front(8);
  std::vector<std::string> fields;
  for (uint64_t i = 0; i < count; ++i) {
    if (body.size() < 8)
      return std::nullopt;
    uint64_t size = read64le(body.data());
    body = body.drop_front(8);
    if (body.size() < size)
      return std::nullopt;
    fields.push_back(body.take_front(size).str());
    body = body.drop_front(size);
  }
  return fields;
}

std::optional<std::vector<std::string>> DiskCache::get(StringRef key) {
  if (!enabled())
    return std::nullopt;
  std::string path = entryPath(key);
  Expected<sys::fs::file_t> file = sys::fs::openNativeFileForRead(path);
  if (!file) {
    consumeError(file.takeError());
    return std::nullopt;
  }
  sys::fs::file_status status;
  if (sys::fs::status(*file, status)) {
    sys::fs::closeFile(*file);
    return std::nullopt;
  }
  // Read, not mapped: an entry that another process truncates while mapped would be a SIGBUS.
  std::string data(status.getSize(), '\0');
  Expected<size_t> count =
      sys::fs::readNativeFile(*file, MutableArrayRef<char>(data.data(), data.size()));
  std::optional<std::vector<std::string>> fields;
  if (!count)
    consumeError(count.takeError());
  else if (*count == data.size())
    fields = parseEntry(data);
  if (fields) {
    // The modification time is the time of the last use: access times are often not kept.
    sys::TimePoint<> now = std::chrono::system_clock::now();
    (void)sys::fs::setLastAccessAndModificationTime(*file, now, now);
  }
  sys::fs::closeFile(*file);
  if (!fields)
    (void)sys::fs::remove(path);
  return fields;
}

void DiskCache::put(StringRef key, ArrayRef<StringRef> fields) {
  if (!enabled())
    return;
  auto appendInteger = [](std::string &data, uint64_t value) {
    char bytes[8];
    support::endian::write64le(bytes, value);
    data.append(bytes, sizeof(bytes));
  };
  std::string body;
  appendInteger(body, fields.size());
  for (StringRef field : fields) {
    appendInteger(body, field.size());
    body += field;
  }

  std::string path = entryPath(key);
  if (sys::fs::create_directories(sys::path::parent_path(path)))
    return;
  SmallString<256> temporary;
  int fd = -1;
  if (sys::fs::createUniqueFile(path + ".%%%%%%%%" + temporarySuffix, fd, temporary))
    return;
  std::string checksum;
  appendInteger(checksum, xxh3_64bits(body));
  bool failed;
  {
    raw_fd_ostream stream(fd, /*shouldClose=*/true);
    stream << magic << checksum << body;
    stream.close();
    failed = stream.has_error();
    stream.clear_error();
  }
  if (failed || sys::fs::rename(temporary, path)) {
    (void)sys::fs::remove(temporary);
    return;
  }

  // Looking at every entry costs milliseconds, so it happens once a sixteenth of the bound was
  // written (and, for short-lived processes, with that probability).
  uint64_t interval = std::max<uint64_t>(maxBytes / 16, 1);
  uint64_t before = writtenSincePrune.fetch_add(body.size());
  bool due = before / interval != (before + body.size()) / interval;
  if (due || sys::Process::GetRandomNumber() % interval < body.size())
    prune();
}

void DiskCache::prune() {
  struct Entry {
    std::string path;
    uint64_t bytes;
    sys::TimePoint<> used;
  };
  // Longer than any write takes, so that no live writer's file is taken away.
  constexpr std::chrono::hours abandoned(1);
  sys::TimePoint<> now = std::chrono::system_clock::now();
  std::vector<Entry> entries;
  uint64_t total = 0;
  std::error_code error;
  for (sys::fs::recursive_directory_iterator it(directory, error), end; it != end && !error;
       it.increment(error)) {
    ErrorOr<sys::fs::basic_file_status> status = it->status();
    if (!status || status->type() != sys::fs::file_type::regular_file)
      continue;
    StringRef path = it->path();
    if (path.ends_with(temporarySuffix)) {
      if (now - status->getLastModificationTime() > abandoned)
        (void)sys::fs::remove(path);
    } else if (path.ends_with(entrySuffix)) {
      entries.push_back({path.str(), status->getSize(), status->getLastModificationTime()});
      total += status->getSize();
    }
  }
  if (total <= maxBytes)
    return;
  llvm::sort(entries, [](const Entry &a, const Entry &b) { return a.used < b.used; });
  // Some slack, so that a full cache is not pruned on every write.
  uint64_t goal = maxBytes - maxBytes / 8;
  for (const Entry &entry : entries) {
    if (total <= goal)
      break;
    if (!sys::fs::remove(entry.path))
      total -= entry.bytes;
  }
}
