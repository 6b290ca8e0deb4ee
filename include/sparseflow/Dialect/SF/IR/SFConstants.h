//===- SFConstants.h - The bytes behind constant weights ---------*- C++ -*-===//
//
// A weight of an encoded type is `arith.constant dense_resource<name>` whose blob holds the bytes
// that the encoding describes. Everything that reads or makes such a constant goes through here, so
// that the sizes are checked and the names stay readable in one place.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_DIALECT_SF_IR_SFCONSTANTS_H
#define SPARSEFLOW_DIALECT_SF_IR_SFCONSTANTS_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinTypes.h"
#include "sparseflow/Support/WeightFormat.h"
#include "llvm/ADT/STLFunctionalExtras.h"

#include <optional>
#include <string>

namespace sparseflow::sf {

/// The storage type of an element type; nothing if it has none.
std::optional<DType> getDType(mlir::Type elementType);

/// How a weight of this type is stored: the type's encoding, or none for a plain matrix. Its shape
/// is static and its element type one that getDType has.
WeightFormat getWeightFormat(mlir::RankedTensorType type);

/// Bytes of a constant of this type, as its encoding lays them out. Nothing for a type without
/// static shape or with another dialect's encoding.
std::optional<size_t> getStorageBytes(mlir::RankedTensorType type);

/// A constant's bytes, row-major; splats are expanded.
class ConstantData {
public:
  /// The resource's name, or "" for a constant without one.
  llvm::StringRef getName() const { return name; }
  llvm::ArrayRef<char> getBytes() const {
    return expanded.empty() ? bytes : llvm::ArrayRef<char>(expanded);
  }

private:
  friend mlir::FailureOr<ConstantData> readConstant(mlir::Value value);
  std::string name;
  llvm::ArrayRef<char> bytes;
  std::vector<char> expanded;
};

/// Whether the value is a constant tensor, as readConstant reads them.
bool isConstantTensor(mlir::Value value);

/// The bytes of a constant tensor. Fails with a diagnostic when it is not a constant, or its
/// resource is absent or of another size than the type asks for.
mlir::FailureOr<ConstantData> readConstant(mlir::Value value);

/// A new constant of `type` whose bytes `fill` writes; nothing is inserted when `fill` fails. A
/// name that is taken by other bytes gets a number.
mlir::FailureOr<mlir::arith::ConstantOp>
createConstant(mlir::OpBuilder &builder, mlir::Location loc, mlir::RankedTensorType type,
               llvm::StringRef name,
               llvm::function_ref<mlir::LogicalResult(llvm::MutableArrayRef<char>)> fill);

/// The name of a constant derived from another: "w1" and "mma" give "w1.mma". What an earlier
/// derivation of a weight added (transposed, sp24, mma) is replaced, and a constant without a name
/// is called "weight".
std::string deriveConstantName(llvm::StringRef name, llvm::StringRef form);

} // namespace sparseflow::sf

#endif // SPARSEFLOW_DIALECT_SF_IR_SFCONSTANTS_H
