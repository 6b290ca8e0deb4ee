//===- SFConstants.cpp - The bytes behind constant weights ------------------===//
//
// Small constants may stand in the IR as `dense<...>`; whatever is made here becomes a resource,
// which is not printed element by element and not uniqued.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Dialect/SF/IR/SFConstants.h"
#include "sparseflow/Dialect/SF/IR/SFOps.h"

#include "mlir/IR/AsmState.h"
#include "mlir/IR/BuiltinDialect.h"
#include "mlir/IR/DialectResourceBlobManager.h"
#include "mlir/IR/Matchers.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf;

std::optional<DType> sf::getDType(Type elementType) {
  if (elementType.isF16())
    return DType::f16;
  if (elementType.isBF16())
    return DType::bf16;
  if (elementType.isF32())
    return DType::f32;
  if (isa<Float8E4M3FNType>(elementType))
    return DType::e4m3;
  if (isa<Float8E5M2Type>(elementType))
    return DType::e5m2;
  if (elementType.isSignlessInteger(8))
    return DType::i8;
  if (elementType.isSignlessInteger(32))
    return DType::i32;
  return std::nullopt;
}

WeightFormat sf::getWeightFormat(RankedTensorType type) {
  WeightAttr encoding = getWeightEncoding(type);
  return {*getDType(type.getElementType()), type.getDimSize(0), type.getDimSize(1),
          encoding && encoding.isSparse(), encoding ? encoding.getPackOrder() : std::nullopt};
}

std::optional<size_t> sf::getStorageBytes(RankedTensorType type) {
  std::optional<DType> dtype = getDType(type.getElementType());
  if (!dtype || !type.hasStaticShape())
    return std::nullopt;
  if (!type.getEncoding()) {
    int64_t bytes = getByteWidth(*dtype);
    for (int64_t size : type.getShape())
      if (llvm::MulOverflow(bytes, size, bytes))
        return std::nullopt;
    return bytes;
  }
  if (!isa<WeightAttr>(type.getEncoding()))
    return std::nullopt;
  return getWeightFormat(type).storageBytes();
}

bool sf::isConstantTensor(Value value) {
  ElementsAttr attr;
  return matchPattern(value, m_Constant(&attr)) &&
         isa<DenseElementsAttr, DenseResourceElementsAttr>(attr);
}

FailureOr<ConstantData> sf::readConstant(Value value) {
  ElementsAttr attr;
  if (!matchPattern(value, m_Constant(&attr)))
    return emitError(value.getLoc(), "expected a constant tensor");
  ConstantData data;
  bool isSplat = false;
  if (auto resource = dyn_cast<DenseResourceElementsAttr>(attr)) {
    data.name = resource.getRawHandle().getKey();
    AsmResourceBlob *blob = resource.getRawHandle().getBlob();
    if (!blob)
      return emitError(value.getLoc())
             << "expected the bytes of the resource '" << data.name
             << "', got none; the module must carry them under dialect_resources";
    data.bytes = blob->getData();
  } else if (auto dense = dyn_cast<DenseElementsAttr>(attr)) {
    if (cast<RankedTensorType>(value.getType()).getEncoding())
      return emitError(value.getLoc())
             << "expected dense_resource<...>, which holds a weight's stored bytes, for "
             << value.getType()
             << ", got dense<...>; sf.compress a constant without an encoding instead";
    data.bytes = dense.getRawData();
    isSplat = dense.isSplat();
  } else {
    return emitError(value.getLoc()) << "expected dense<...> or dense_resource<...>, got " << attr;
  }

  auto type = cast<RankedTensorType>(value.getType());
  std::optional<size_t> expected = getStorageBytes(type);
  if (!expected)
    return emitError(value.getLoc()) << "expected a constant of a supported type, got " << type;
  // A few words of text must not fill the memory.
  constexpr size_t maxSplatBytes = size_t(1) << 30;
  if (isSplat && *expected > maxSplatBytes)
    return emitError(value.getLoc())
           << "expected dense<...> of one value to have at most 1 GiB, got " << type
           << "; give its elements as dense_resource<...>";
  if (isSplat && data.bytes.size() < *expected) {
    data.expanded.reserve(*expected);
    while (data.expanded.size() < *expected)
      data.expanded.insert(data.expanded.end(), data.bytes.begin(), data.bytes.end());
  }
  if (data.getBytes().size() != *expected)
    return emitError(value.getLoc())
           << "expected " << *expected << " bytes for " << type << ", got "
           << data.getBytes().size() << " in '" << data.name << "'";
  return data;
}

FailureOr<arith::ConstantOp>
sf::createConstant(OpBuilder &builder, Location loc, RankedTensorType type, StringRef name,
                   function_ref<LogicalResult(MutableArrayRef<char>)> fill) {
  // A kernel reads vectors of 16 bytes. More could not be promised: bytecode is read from buffers
  // aligned like malloc's.
  constexpr size_t alignment = 16;
  AsmResourceBlob blob = HeapAsmResourceBlob::allocate(*getStorageBytes(type), alignment);
  if (failed(fill(blob.getMutableData())))
    return failure();

  // Compiling for several targets derives the same bytes several times; they are kept once, under
  // one name.
  auto &manager = DenseResourceElementsHandle::getManagerInterface(builder.getContext());
  DialectResourceBlobManager::BlobEntry *existing = manager.getBlobManager().lookup(name);
  bool isSame = existing && existing->getBlob() && existing->getBlob()->getData() == blob.getData();
  auto *dialect = cast<BuiltinDialect>(manager.getDialect());
  auto handle = isSame ? DenseResourceElementsHandle(existing, dialect)
                       : manager.insert(name, std::move(blob));
  return arith::ConstantOp::create(builder, loc, type,
                                   DenseResourceElementsAttr::get(type, handle));
}

std::string sf::deriveConstantName(StringRef name, StringRef form) {
  for (StringRef suffix : {".transposed", ".sp24", ".mma"})
    if (name.consume_back(suffix))
      break;
  return ((name.empty() ? "weight" : name) + "." + form).str();
}
