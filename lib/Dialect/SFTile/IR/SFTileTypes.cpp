//===- SFTileTypes.cpp - Tiles and rings ----------------------------------===//
//
// Assembly: `tile<256x128xf32[, layout]>`, `ring<4 x 128x64xf16[, layout]>`, `ring<? x ...>` before
// the depth is known.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"

#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace sparseflow::sf_tile;

#define GET_TYPEDEF_CLASSES
#include "sparseflow/Dialect/SFTile/IR/SFTileTypes.cpp.inc"

void SFTileDialect::registerTypes() {
  addTypes<
#define GET_TYPEDEF_LIST
#include "sparseflow/Dialect/SFTile/IR/SFTileTypes.cpp.inc"
      >();
}

static ParseResult parseShapeAndLayout(AsmParser &parser, SmallVectorImpl<int64_t> &shape,
                                       Type &elementType, LayoutAttr &layout) {
  if (parser.parseDimensionList(shape, /*allowDynamic=*/false) || parser.parseType(elementType))
    return failure();
  if (succeeded(parser.parseOptionalComma()))
    if (parser.parseAttribute(layout))
      return failure();
  return parser.parseGreater();
}

static void printShapeAndLayout(AsmPrinter &printer, ArrayRef<int64_t> shape, Type elementType,
                                LayoutAttr layout) {
  for (int64_t size : shape)
    printer << size << 'x';
  printer << elementType;
  if (layout)
    printer << ", " << layout;
  printer << '>';
}

static LogicalResult verifyShape(function_ref<InFlightDiagnostic()> emitError,
                                 ArrayRef<int64_t> shape, Type elementType, LayoutAttr layout) {
  if (shape.empty() || llvm::any_of(shape, [](int64_t s) { return s < 1; }))
    return emitError() << "expected one or more positive dimensions";
  constexpr int64_t maxElements = 1 << 30;
  int64_t elements = 1;
  for (int64_t size : shape)
    if (size > maxElements || (elements *= size) > maxElements)
      return emitError() << "expected at most 2^30 elements, got [" << shape << "]";
  if (!elementType.isIntOrFloat())
    return emitError() << "expected an integer or float element type, got " << elementType;
  if (layout && layout.getRank() != shape.size())
    return emitError() << "expected a layout of rank " << shape.size() << ", got one of rank "
                       << layout.getRank();
  return success();
}

//===----------------------------------------------------------------------===//
// TileType
//===----------------------------------------------------------------------===//

Type TileType::parse(AsmParser &parser) {
  SmallVector<int64_t> shape;
  Type elementType;
  LayoutAttr layout;
  if (parser.parseLess() || parseShapeAndLayout(parser, shape, elementType, layout))
    return {};
  return parser.getChecked<TileType>(parser.getContext(), shape, elementType, layout);
}

void TileType::print(AsmPrinter &printer) const {
  printer << '<';
  printShapeAndLayout(printer, getShape(), getElementType(), getLayout());
}

LogicalResult TileType::verify(function_ref<InFlightDiagnostic()> emitError,
                               ArrayRef<int64_t> shape, Type elementType, LayoutAttr layout) {
  if (failed(verifyShape(emitError, shape, elementType, layout)))
    return failure();
  if (!layout)
    return success();
  if (!layout.isDistributed()) {
    if (layout.getBases("offset").empty())
      return emitError() << "expected a layout over `register` and `lane` with `warps`, or over "
                            "`offset`";
    return success();
  }
  for (auto [size, covered] : llvm::zip_equal(shape, layout.getBlockTile()))
    if (size != covered)
      return emitError() << "expected the layout to cover " << size << " elements, got " << covered;
  return success();
}

//===----------------------------------------------------------------------===//
// BarriersType
//===----------------------------------------------------------------------===//

LogicalResult BarriersType::verify(function_ref<InFlightDiagnostic()> emitError, int64_t stages) {
  if (stages < 1)
    return emitError() << "expected barriers of at least one stage, got " << stages;
  return success();
}

//===----------------------------------------------------------------------===//
// TensorMapType
//===----------------------------------------------------------------------===//

Type TensorMapType::parse(AsmParser &parser) {
  SmallVector<int64_t> box;
  Type elementType;
  int64_t of = 0;
  if (parser.parseLess() || parser.parseDimensionList(box, /*allowDynamic=*/false) ||
      parser.parseType(elementType) || parser.parseComma() || parser.parseKeyword("of") ||
      parser.parseEqual() || parser.parseInteger(of) || parser.parseGreater())
    return {};
  return parser.getChecked<TensorMapType>(parser.getContext(), box, elementType, of);
}

void TensorMapType::print(AsmPrinter &printer) const {
  printer << '<';
  for (int64_t size : getBox())
    printer << size << 'x';
  printer << getElementType() << ", of = " << getOf() << '>';
}

LogicalResult TensorMapType::verify(function_ref<InFlightDiagnostic()> emitError,
                                    ArrayRef<int64_t> box, Type elementType, int64_t of) {
  constexpr int64_t maxBox = 256;
  if (box.size() != 2 || llvm::any_of(box, [](int64_t s) { return s < 1 || s > maxBox; }))
    return emitError() << "expected a box of two dimensions, each from 1 to " << maxBox;
  if (!elementType.isIntOrFloat())
    return emitError() << "expected an integer or float element type, got " << elementType;
  if (of < 0)
    return emitError() << "expected the number of an argument, got " << of;
  return success();
}

//===----------------------------------------------------------------------===//
// RingType
//===----------------------------------------------------------------------===//

Type RingType::parse(AsmParser &parser) {
  int64_t stages = ShapedType::kDynamic;
  SmallVector<int64_t> shape;
  Type elementType;
  LayoutAttr layout;
  if (parser.parseLess())
    return {};
  if (failed(parser.parseOptionalQuestion()) && parser.parseInteger(stages))
    return {};
  if (parser.parseKeyword("x") || parseShapeAndLayout(parser, shape, elementType, layout))
    return {};
  return parser.getChecked<RingType>(parser.getContext(), stages, shape, elementType, layout);
}

void RingType::print(AsmPrinter &printer) const {
  printer << '<';
  if (ShapedType::isDynamic(getStages()))
    printer << '?';
  else
    printer << getStages();
  printer << " x ";
  printShapeAndLayout(printer, getShape(), getElementType(), getLayout());
}

LogicalResult RingType::verify(function_ref<InFlightDiagnostic()> emitError, int64_t stages,
                               ArrayRef<int64_t> shape, Type elementType, LayoutAttr layout) {
  if (!ShapedType::isDynamic(stages) && stages < 1)
    return emitError() << "expected at least one stage, got " << stages;
  if (failed(verifyShape(emitError, shape, elementType, layout)))
    return failure();
  if (layout && (layout.isDistributed() || layout.getBases("offset").empty()))
    return emitError() << "expected a layout over `offset`";
  if (layout)
    for (auto [size, covered] : llvm::zip_equal(shape, layout.getWarpTile()))
      if (covered < size)
        return emitError() << "expected the layout to cover a stage of [" << shape << "], got ["
                           << layout.getWarpTile() << "]";
  return success();
}

int64_t RingType::getStageBytes() const {
  int64_t elements = 1;
  for (int64_t size : getShape())
    elements *= size;
  return elements * getElementType().getIntOrFloatBitWidth() / 8;
}
