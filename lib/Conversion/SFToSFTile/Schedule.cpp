//===- Schedule.cpp - What the schedule builders share --------------------===//

#include "Schedule.h"

#include "sparseflow/Dialect/SF/IR/SFConstants.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/IRMapping.h"

using namespace mlir;
using namespace sparseflow;

MemRefType sparseflow::getKernelArgumentType(RankedTensorType type) {
  MLIRContext *context = type.getContext();
  if (sf::getWeightEncoding(type))
    return MemRefType::get({int64_t(*sf::getStorageBytes(type))}, IntegerType::get(context, 8));
  for (int64_t i = 1; i < type.getRank(); ++i)
    if (type.isDynamicDim(i))
      return {};
  if (type.getRank() < 2)
    return MemRefType::get(type.getShape(), type.getElementType());
  if (type.getRank() > 2)
    return {};
  auto strided = StridedLayoutAttr::get(context, 0, {ShapedType::kDynamic, 1});
  return MemRefType::get(type.getShape(), type.getElementType(), strided);
}

/// A function's name as the beginning of a kernel's, which PTX wants of letters, digits and
/// underscores.
static std::string getKernelPrefix(StringRef function) {
  std::string prefix = function.str();
  for (char &c : prefix)
    if (!llvm::isAlnum(c))
      c = '_';
  return llvm::isDigit(prefix.front()) ? "_" + prefix : prefix;
}

Schedule::Schedule(gpu::GPUModuleOp kernels, Operation *op, StringRef stem)
    : b(op), loc(op->getLoc()), kernels(kernels),
      stem((getKernelPrefix(op->getParentOfType<func::FuncOp>().getSymName()) + "_" + stem).str()) {
}

SmallVector<MemRefType> sparseflow::getKernelArgumentTypes(ValueRange inputs, TypeRange results) {
  SmallVector<MemRefType> types;
  for (Type type :
       llvm::concat<const Type>(SmallVector<Type>(inputs.getTypes()), SmallVector<Type>(results)))
    types.push_back(getKernelArgumentType(cast<RankedTensorType>(type)));
  return types;
}

sf_tile::KernelOp Schedule::startKernel(ArrayRef<MemRefType> memrefs, int64_t threads,
                                        Attribute config, StringRef suffix) {
  SmallVector<Type> arguments(memrefs.begin(), memrefs.end());
  host = b.saveInsertionPoint();
  b.setInsertionPointToEnd(kernels.getBody());
  // Numbered by position, so that compiling again gives the same names.
  std::string name;
  for (unsigned i = 0; name.empty() || kernels.lookupSymbol(name); ++i)
    name = (stem + "_" + Twine(i) + (suffix.empty() ? "" : "_") + suffix).str();
  auto kernel = sf_tile::KernelOp::create(b, loc, name, arguments, threads, config);
  b.setInsertionPointToStart(&kernel.getBody().front());
  return kernel;
}

void Schedule::finishKernel() {
  sf_tile::ReturnOp::create(b, loc);
  b.restoreInsertionPoint(host);
}

ValueRange Schedule::launch(sf_tile::KernelOp kernel, ValueRange inputs, TypeRange results,
                            sf_tile::GridAttr grid) {
  for (auto [i, input] : llvm::enumerate(inputs))
    if (input.getDefiningOp<arith::ConstantOp>())
      kernel.setArgAttr(i, sf_tile::KernelOp::kConstantAttrName, b.getUnitAttr());
  auto name = SymbolRefAttr::get(kernels.getSymNameAttr(), {FlatSymbolRefAttr::get(kernel)});
  return sf_tile::LaunchOp::create(b, loc, results, name, inputs, grid).getResults();
}

sf_tile::DispatchOp Schedule::dispatch(Value rows, ArrayRef<int64_t> maxRows, StringRef label,
                                       TypeRange results,
                                       function_ref<SmallVector<Value>(size_t)> build) {
  auto dispatch =
      sf_tile::DispatchOp::create(b, loc, results, rows, maxRows, label, maxRows.size());
  OpBuilder::InsertionGuard guard(b);
  for (size_t i = 0; i < maxRows.size(); ++i) {
    b.createBlock(&dispatch.getVariants()[i]);
    SmallVector<Value> values = build(i);
    sf_tile::YieldOp::create(b, loc, values);
  }
  return dispatch;
}

void Schedule::branch(Value condition, function_ref<void(bool)> build) {
  auto op = scf::IfOp::create(b, loc, condition, /*withElseRegion=*/true);
  OpBuilder::InsertionGuard guard(b);
  for (bool holds : {true, false}) {
    b.setInsertionPointToStart(holds ? op.thenBlock() : op.elseBlock());
    build(holds);
  }
}

Value Schedule::index(int64_t value) { return arith::ConstantIndexOp::create(b, loc, value); }
Value Schedule::add(Value x, Value y) { return arith::AddIOp::create(b, loc, x, y); }
Value Schedule::mul(Value x, int64_t factor) {
  return factor == 1 ? x : arith::MulIOp::create(b, loc, x, index(factor)).getResult();
}

SmallVector<Value> sparseflow::cloneScalars(OpBuilder &builder, Block &source,
                                            ValueRange arguments) {
  IRMapping mapping;
  mapping.map(source.getArguments(), arguments);
  auto copyOuterConstants = [&](Operation &op) {
    for (Value operand : op.getOperands())
      if (!mapping.contains(operand))
        if (Operation *def = operand.getDefiningOp(); def && def->getBlock() != &source)
          builder.clone(*def, mapping);
  };
  for (Operation &op : source.without_terminator()) {
    copyOuterConstants(op);
    builder.clone(op, mapping);
  }
  copyOuterConstants(*source.getTerminator());
  return llvm::map_to_vector(source.getTerminator()->getOperands(),
                             [&](Value v) { return mapping.lookup(v); });
}

Value sparseflow::loadBroadcast(Schedule &s, Value memref, sf::Broadcast broadcast, Axis tokens,
                                Axis features, bool transposed, bool inBounds) {
  int64_t tokenDim = transposed ? 1 : 0, featureDim = 1 - tokenDim;
  SmallVector<Value> indices;
  SmallVector<int64_t> dims, shape = {1, 1};
  auto along = [&](int64_t dim, Axis axis) {
    indices.push_back(axis.start);
    dims.push_back(dim);
    shape[dim] = axis.size;
  };
  switch (broadcast) {
  case sf::Broadcast::Scalar:
    break;
  case sf::Broadcast::Feature:
    if (cast<MemRefType>(memref.getType()).getRank() == 2) { // a matrix of one row
      indices.push_back(s.index(0));
      dims.push_back(-1);
    }
    along(featureDim, features);
    break;
  case sf::Broadcast::Token:
    along(tokenDim, tokens);
    indices.push_back(s.index(0));
    dims.push_back(-1);
    break;
  case sf::Broadcast::Full:
    along(tokenDim, tokens);
    along(featureDim, features);
    break;
  }
  auto type = sf_tile::TileType::get(shape, cast<MemRefType>(memref.getType()).getElementType());
  return sf_tile::LoadOp::create(s.b, s.loc, type, memref, indices, s.b.getDenseI64ArrayAttr(dims),
                                 DenseI64ArrayAttr(), inBounds);
}
