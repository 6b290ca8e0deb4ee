// A compiled program with everything it needs: the manifest and the tensors that it names. An `.sf`
// file in memory.
//
// It is immutable and shared: executables keep it alive while they use its bytes in place. A
// manifest is always checked against the tensors here, so that whoever holds a ProgramFile may look
// names up without asking whether they exist.
#ifndef SPARSEFLOW_RUNTIME_PROGRAMFILE_H
#define SPARSEFLOW_RUNTIME_PROGRAMFILE_H

#include "sparseflow/Runtime/Manifest.h"
#include "sparseflow/Runtime/SafeTensors.h"

namespace sparseflow::runtime {

/// A manifest and the tensors that it names. Immutable, so it may be used from several threads.
class ProgramFile {
public:
  using Ptr = std::shared_ptr<const ProgramFile>;

  /// The manifest, the header and the sources are always checked against their checksums; the other
  /// tensors' bytes only when `verify`, since that reads the whole file.
  static llvm::Expected<Ptr> open(llvm::StringRef path, bool verify = false);
  static llvm::Expected<Ptr> fromMemory(llvm::ArrayRef<uint8_t> bytes, bool verify = false,
                                        std::shared_ptr<const void> owner = nullptr);
  /// What the compiler ends with. An error if the manifest is not valid, if it names a tensor that
  /// is not there, or if two tensors have one name.
  static llvm::Expected<Ptr> create(Manifest manifest, std::vector<StoredTensor> tensors);

  const Manifest &manifest() const { return contents; }
  llvm::ArrayRef<StoredTensor> tensors() const { return list; }
  const StoredTensor *find(llvm::StringRef name) const;
  /// The sf-level IR; empty if the file does not hold it.
  llvm::StringRef source() const;

  llvm::Error save(llvm::StringRef path) const;
  llvm::Error write(llvm::raw_ostream &os) const;
  /// The manifest and a list of the tensors, for people and tools.
  llvm::json::Value describe() const;

private:
  ProgramFile(Manifest manifest, std::vector<StoredTensor> tensors);
  llvm::Error checkReferences() const;

  Manifest contents;
  std::vector<StoredTensor> list;
  llvm::StringMap<size_t> index;
};

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_RUNTIME_PROGRAMFILE_H
