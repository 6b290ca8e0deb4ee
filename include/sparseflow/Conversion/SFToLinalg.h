//===- SFToLinalg.h - The reference semantics of `sf` -----------*- C++ -*-===//
//
// The patterns of convert-sf-to-linalg and expand-narrow-floats, and the codec between the bytes of
// an encoded weight and its dense elements, which the conversion and the reference executor share.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_CONVERSION_SFTOLINALG_H
#define SPARSEFLOW_CONVERSION_SFTOLINALG_H

#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/Transforms/DialectConversion.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/Support/Error.h"

namespace sparseflow {

/// Drops #sf.weight from tensor types.
class WeightTypeConverter : public mlir::TypeConverter {
public:
  WeightTypeConverter();
};

/// The lowering of every `sf` operation and of encoded constants.
void populateSFToLinalgPatterns(const WeightTypeConverter &converter,
                                mlir::RewritePatternSet &patterns);

/// Conversions of 8- and 16-bit floats, as integer arithmetic.
void populateExpandNarrowFloatsPatterns(mlir::RewritePatternSet &patterns);

/// Writes the dense elements of a weight of an encoded type. `pieces` are the storage that the
/// encoding describes: in one piece, or, for a 2:4 weight, its elements and its bitmask or metadata
/// apart.
llvm::Error decodeWeight(mlir::RankedTensorType type, llvm::ArrayRef<llvm::ArrayRef<char>> pieces,
                         llvm::MutableArrayRef<char> dense);

/// The inverse of decodeWeight, in one piece. Fails on a dense weight that is not 2:4 if `type` is.
llvm::Error encodeWeight(mlir::RankedTensorType type, llvm::ArrayRef<char> dense,
                         llvm::MutableArrayRef<char> storage);

} // namespace sparseflow

#endif // SPARSEFLOW_CONVERSION_SFTOLINALG_H
