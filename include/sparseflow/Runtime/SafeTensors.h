// The safetensors format: an 8-byte little-endian length, a JSON header, then the tensors' bytes
// without gaps.
//
// Reading maps the file and copies nothing. It accepts only what the format's specification accepts
// (no overlap, no hole, no byte left over), so that a truncated or altered file is refused before
// any of it is used. Writing is atomic: a temporary file beside the target, synced, then renamed
// over it.
#ifndef SPARSEFLOW_RUNTIME_SAFETENSORS_H
#define SPARSEFLOW_RUNTIME_SAFETENSORS_H

#include "sparseflow/Runtime/DType.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/raw_ostream.h"
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace sparseflow::runtime {

/// A tensor and where its bytes are. `owner`, if any, keeps the bytes alive.
struct StoredTensor {
  std::string name;
  DType dtype = DType::U8;
  std::vector<int64_t> shape;
  llvm::ArrayRef<uint8_t> data;
  std::shared_ptr<const void> owner;

  static StoredTensor own(std::string name, DType dtype, std::vector<int64_t> shape,
                          std::vector<uint8_t> bytes);
  /// A U8 tensor of rank 1 with the text's bytes.
  static StoredTensor text(std::string name, llvm::StringRef text);
};

/// Elements of a shape times the element size, or nothing if that overflows.
std::optional<uint64_t> checkedByteSize(DType dtype, llvm::ArrayRef<int64_t> shape);

/// A file that was read. Its tensors keep the mapped bytes alive.
class SafeTensors {
public:
  using Metadata = std::map<std::string, std::string>;

  static llvm::Expected<SafeTensors> open(llvm::StringRef path);
  /// `owner` keeps `bytes` alive; null when the caller does. `what` names them in messages.
  static llvm::Expected<SafeTensors> fromMemory(llvm::ArrayRef<uint8_t> bytes, llvm::StringRef what,
                                                std::shared_ptr<const void> owner = nullptr);

  /// In the order of their bytes in the file.
  llvm::ArrayRef<StoredTensor> tensors() const { return list; }
  const StoredTensor *find(llvm::StringRef name) const;
  const Metadata &metadata() const { return meta; }

private:
  std::vector<StoredTensor> list;
  llvm::StringMap<size_t> index;
  Metadata meta;
};

/// The tensors are laid out so that the ones whose size is a multiple of 64 start at multiples of
/// 64, and each other one at a multiple of its element size. Equal input gives equal bytes.
llvm::Error writeSafeTensors(llvm::raw_ostream &os, llvm::ArrayRef<StoredTensor> tensors,
                             const SafeTensors::Metadata &metadata);

/// Calls `write` on a temporary file and renames that over `path` once everything is on disk. On
/// failure `path` is what it was.
llvm::Error writeFileAtomically(llvm::StringRef path,
                                llvm::function_ref<llvm::Error(llvm::raw_ostream &)> write);

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_RUNTIME_SAFETENSORS_H
