//===- SFAttributes.h - Attributes of the `sf` dialect -----------*- C++ -*-===//
//
// The attributes, and the table of chips behind #sf.target. The table is plain data: whoever needs
// a fact about a chip asks here, so that adding a chip is adding a row.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_DIALECT_SF_IR_SFATTRIBUTES_H
#define SPARSEFLOW_DIALECT_SF_IR_SFATTRIBUTES_H

#include "mlir/IR/Attributes.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/TensorEncoding.h"
#include "sparseflow/Dialect/SF/IR/SFDialect.h"
#include "sparseflow/Support/PackedLayout.h"
#include "llvm/ADT/ArrayRef.h"

#include <optional>
#include <string>

namespace sparseflow::sf {

/// Facts about a chip, and the figures from which the cost model estimates. Rates are per
/// multiprocessor and clock; where one name covers several products, the figures are those of the
/// one named in the table.
struct ChipInfo {
  llvm::StringLiteral name;
  /// Major times ten plus minor.
  unsigned computeCapability;
  /// Bytes that one block may use after opting in, and bytes of one multiprocessor.
  int64_t sharedMemoryPerBlock, sharedMemoryPerMultiprocessor;
  int64_t threadsPerMultiprocessor, blocksPerMultiprocessor;
  llvm::StringLiteral ptxFeature;
  /// The first ptxas that reads that version of PTX.
  llvm::StringLiteral minimumPtxas;
  int64_t multiprocessors;
  /// Multiply-adds of f16 into f32, through mma.sync and through mma.sp with the skipped ones
  /// counted. 8-bit types do twice as many.
  int64_t denseF16PerClock, sparseF16PerClock;
  /// Whether mma.sync and mma.sp on 8-bit floats are instructions of the chip. Where they are not,
  /// ptxas replaces each by conversions and several others, which spill.
  bool nativeFp8Mma;
  /// Whether the chip has wgmma, TMA and mbarriers with transaction counts (sm_90a).
  bool hasWgmma;
  double clockGHz, dramGBPerSecond;
};

/// Of a multiple of so many bytes are rows that the copy engine brings, and so all that warpgroups
/// multiply.
inline constexpr int64_t kCopyEngineRowBytes = 16;

/// Blocks that one multiprocessor holds at a time, of so many threads, registers a thread (0: not
/// known) and bytes of shared memory; 0 if none fits.
int64_t getResidentBlocks(const ChipInfo &chip, int64_t threads, int64_t registers,
                          int64_t sharedBytes);

/// All chips that #sf.target accepts.
llvm::ArrayRef<ChipInfo> getChips();
/// The chip of that name, or null.
const ChipInfo *lookupChip(llvm::StringRef name);
/// "sm_80, sm_86, ...", for messages.
std::string listChips();

} // namespace sparseflow::sf

#include "sparseflow/Dialect/SF/IR/SFAttrInterfaces.h.inc"
#include "sparseflow/Dialect/SF/IR/SFEnums.h.inc"
#define GET_ATTRDEF_CLASSES
#include "sparseflow/Dialect/SF/IR/SFAttributes.h.inc"

namespace sparseflow::sf {
/// The chip that the enclosing module is compiled for, its attribute `sf.target`; sm_80, which
/// every later chip can run, when there is none.
TargetAttr getTarget(mlir::Operation *op);

/// A configuration as people write it: the attribute, or what stands between its angle brackets.
/// Null, after a diagnostic, when it is none.
VariantConfig parseVariantConfig(mlir::MLIRContext *context, llvm::StringRef text);
} // namespace sparseflow::sf

#endif // SPARSEFLOW_DIALECT_SF_IR_SFATTRIBUTES_H
