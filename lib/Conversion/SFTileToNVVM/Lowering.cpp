//===- Lowering.cpp - What the pattern sets share -------------------------===//

#include "Lowering.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/Matchers.h"
#include "llvm/Support/MathExtras.h"

#include <map>

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

//===----------------------------------------------------------------------===//
// Types
//===----------------------------------------------------------------------===//

unsigned sparseflow::getElementsPerRegister(Type elementType) {
  return std::max(1u, 32 / elementType.getIntOrFloatBitWidth());
}

unsigned sparseflow::getNumElements(TileType type) { return type.getLayout().getNumRegisters(); }

Type sparseflow::getScalarType(Type elementType) {
  if (elementType.isF16() || elementType.isBF16() || elementType.isF32())
    return elementType;
  return IntegerType::get(elementType.getContext(), elementType.getIntOrFloatBitWidth());
}

TileTypeConverter::TileTypeConverter() {
  addConversion([](Type type) { return type; });
  // The offset of its first stage, and the bytes from one stage to the next.
  addConversion([](RingType type, SmallVectorImpl<Type> &results) -> std::optional<LogicalResult> {
    results.append(2, IntegerType::get(type.getContext(), 32));
    return success();
  });
  addConversion([](TileType type, SmallVectorImpl<Type> &results) -> std::optional<LogicalResult> {
    if (!type.getLayout())
      return failure();
    if (type.isInSharedMemory()) {
      results.push_back(IntegerType::get(type.getContext(), 64));
      return success();
    }
    Type element = type.getElementType();
    unsigned count = llvm::divideCeil(getNumElements(type), getElementsPerRegister(element));
    Type word =
        element.getIntOrFloatBitWidth() == 32 ? element : IntegerType::get(type.getContext(), 32);
    results.append(count, word);
    return success();
  });
  // The offset of the first one.
  addConversion([](BarriersType type) { return IntegerType::get(type.getContext(), 32); });
  addConversion([](TensorMapType type) { return LLVM::LLVMPointerType::get(type.getContext()); });
  addConversion([](MemRefType type,
                   SmallVectorImpl<Type> &results) -> std::optional<LogicalResult> {
    results.push_back(LLVM::LLVMPointerType::get(
        type.getContext(), static_cast<unsigned>(NVVM::NVVMMemorySpace::Global)));
    auto [strides, offset] = type.getStridesAndOffset();
    unsigned dynamic = type.getNumDynamicDims() + llvm::count_if(strides, ShapedType::isDynamic);
    results.append(dynamic, IntegerType::get(type.getContext(), 64));
    return success();
  });
}

//===----------------------------------------------------------------------===//
// Arithmetic
//===----------------------------------------------------------------------===//

Value Emitter::i32(int64_t value) {
  return arith::ConstantOp::create(b, loc, b.getI32IntegerAttr(value));
}
Value Emitter::i64(int64_t value) {
  return arith::ConstantOp::create(b, loc, b.getI64IntegerAttr(value));
}
Value Emitter::add(Value x, Value y) {
  if (matchPattern(y, m_Zero()))
    return x;
  return matchPattern(x, m_Zero()) ? y : arith::AddIOp::create(b, loc, x, y).getResult();
}
Value Emitter::mul(Value x, Value y) {
  return matchPattern(y, m_One()) ? x : arith::MulIOp::create(b, loc, x, y).getResult();
}
Value Emitter::bitXor(Value x, Value y) {
  if (matchPattern(y, m_Zero()))
    return x;
  return matchPattern(x, m_Zero()) ? y : arith::XOrIOp::create(b, loc, x, y).getResult();
}
Value Emitter::lessThan(Value x, Value y) {
  return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, x, y);
}
Value Emitter::both(Value x, Value y) {
  if (!x || !y)
    return x ? x : y;
  return arith::AndIOp::create(b, loc, x, y);
}
Value Emitter::minimum(Value x, Value y) { return arith::MinSIOp::create(b, loc, x, y); }
Value Emitter::select(Value condition, Value x, Value y) {
  return arith::SelectOp::create(b, loc, condition, x, y);
}

static Value toInteger(Emitter &e, Value value, Type type) {
  if (value.getType() == type)
    return value;
  if (value.getType().isIndex())
    return arith::IndexCastOp::create(e.b, e.loc, type, value);
  if (value.getType().getIntOrFloatBitWidth() < type.getIntOrFloatBitWidth())
    return arith::ExtSIOp::create(e.b, e.loc, type, value);
  return arith::TruncIOp::create(e.b, e.loc, type, value);
}
Value Emitter::toI32(Value value) { return toInteger(*this, value, b.getI32Type()); }
Value Emitter::toI64(Value value) { return toInteger(*this, value, b.getI64Type()); }

Value Emitter::threadId() { return NVVM::ThreadIdXOp::create(b, loc, b.getI32Type()); }
Value Emitter::laneId() { return arith::AndIOp::create(b, loc, threadId(), i32(31)); }

Value Emitter::warpgroupId() {
  constexpr int64_t threads = 128, allLanes = 0xffffffff, lastLane = 31;
  Value id = arith::ShRUIOp::create(b, loc, threadId(), i32(llvm::Log2_64(threads)));
  return NVVM::ShflOp::create(b, loc, b.getI32Type(), i32(static_cast<int32_t>(allLanes)), id,
                              i32(0), i32(lastLane), NVVM::ShflKind::idx, UnitAttr());
}

Value Emitter::blockRank() { return NVVM::ClusterId::create(b, loc, b.getI32Type()); }

Value Emitter::warpCoordinate(ArrayRef<int64_t> grid, unsigned axis) {
  int64_t inner = 32, outer = 1;
  for (int64_t size : grid.drop_front(axis + 1))
    inner *= size;
  for (int64_t size : grid.take_front(axis))
    outer *= size;
  if (grid[axis] == 1)
    return i32(0);
  Value coordinate = arith::DivUIOp::create(b, loc, threadId(), i32(inner));
  return outer == 1 ? coordinate
                    : arith::RemUIOp::create(b, loc, coordinate, i32(grid[axis])).getResult();
}

Value Emitter::threadCoordinate(LayoutAttr layout, unsigned dim) {
  SmallVector<uint32_t> bases;
  for (ArrayRef<int32_t> basis : layout.getBases("lane"))
    bases.push_back(basis[dim]);
  Value result = applyLinear(laneId(), bases);
  for (auto [axis, along] : llvm::enumerate(layout.getAlong()))
    if (along == int64_t(dim))
      result =
          add(result, mul(warpCoordinate(layout.getWarps(), axis), i32(layout.getWarpTile()[dim])));
  return result;
}

Value Emitter::applyLinear(Value value, ArrayRef<uint32_t> bases) {
  // Distance (to the left) -> the input bits that have an output bit there.
  std::map<int, uint32_t> masks;
  for (auto [bit, basis] : llvm::enumerate(bases))
    for (unsigned out = 0; out < 32; ++out)
      if (basis >> out & 1)
        masks[static_cast<int>(out) - static_cast<int>(bit)] |= 1u << bit;
  Value result = i32(0);
  for (auto [distance, mask] : masks) {
    Value part = arith::AndIOp::create(b, loc, value, i32(static_cast<int32_t>(mask)));
    if (distance > 0)
      part = arith::ShLIOp::create(b, loc, part, i32(distance));
    else if (distance < 0)
      part = arith::ShRUIOp::create(b, loc, part, i32(-distance));
    result = bitXor(result, part);
  }
  return result;
}

Value Emitter::sharedPointer(Value bytes) {
  auto type = LLVM::LLVMPointerType::get(b.getContext(),
                                         static_cast<unsigned>(NVVM::NVVMMemorySpace::Shared));
  Value base = LLVM::AddressOfOp::create(b, loc, type, kSharedMemorySymbol);
  return LLVM::GEPOp::create(b, loc, type, b.getI8Type(), base, ArrayRef<LLVM::GEPArg>{bytes});
}

Value Emitter::offsetPointer(Value pointer, int64_t bytes) {
  if (bytes == 0)
    return pointer;
  // More than that and a constant index of a getelementptr wraps around without a word.
  constexpr int64_t maxConstant = (int64_t(1) << (LLVM::kGEPConstantBitWidth - 1)) - 1;
  return LLVM::GEPOp::create(b, loc, pointer.getType(), b.getI8Type(), pointer,
                             bytes <= maxConstant
                                 ? ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(bytes)}
                                 : ArrayRef<LLVM::GEPArg>{i64(bytes)});
}

SmallVector<Value> Emitter::unpack(ValueRange registers, Type type, unsigned count) {
  if (type.getIntOrFloatBitWidth() == 32)
    return llvm::to_vector(registers.take_front(count));
  unsigned per = getElementsPerRegister(type);
  auto vector = VectorType::get(per, getScalarType(type));
  SmallVector<Value> scalars;
  for (Value reg : registers) {
    Value elements = LLVM::BitcastOp::create(b, loc, vector, reg);
    for (unsigned i = 0; i < per && scalars.size() < count; ++i)
      scalars.push_back(LLVM::ExtractElementOp::create(b, loc, elements, i32(i)));
  }
  return scalars;
}

SmallVector<Value> Emitter::pack(ValueRange scalars, Type type) {
  if (type.getIntOrFloatBitWidth() == 32)
    return llvm::to_vector(scalars);
  unsigned per = getElementsPerRegister(type);
  auto vector = VectorType::get(per, getScalarType(type));
  SmallVector<Value> registers;
  for (unsigned first = 0; first < scalars.size(); first += per) {
    Value elements = LLVM::ZeroOp::create(b, loc, vector);
    for (unsigned i = 0; i < per && first + i < scalars.size(); ++i)
      elements = LLVM::InsertElementOp::create(b, loc, elements, scalars[first + i], i32(i));
    registers.push_back(LLVM::BitcastOp::create(b, loc, b.getI32Type(), elements));
  }
  return registers;
}

Value Emitter::callIntrinsic(StringRef name, Type result, ValueRange operands) {
  return LLVM::CallIntrinsicOp::create(b, loc, result, b.getStringAttr(name), operands)
      .getResult(0);
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

GlobalMemory::GlobalMemory(Emitter &e, MemRefType type, ValueRange converted)
    : base(converted[0]), elementBits(type.getElementTypeBitWidth()) {
  // A view is its buffer's pointer and a constant.
  if (auto view = base.getDefiningOp<LLVM::GEPOp>()) {
    APInt offset;
    int32_t constant = view.getRawConstantIndices()[0];
    if (constant != LLVM::GEPOp::kDynamicIndex)
      byteOffset = constant;
    else if (matchPattern(view.getDynamicIndices()[0], m_ConstantInt(&offset)))
      byteOffset = offset.getSExtValue();
  }
  unsigned next = 1;
  for (int64_t size : type.getShape()) {
    staticSizes.push_back(size);
    sizes.push_back(ShapedType::isDynamic(size) ? converted[next++] : e.i64(size));
  }
  SmallVector<int64_t> typeStrides = type.getStridesAndOffset().first;
  for (int64_t stride : typeStrides) {
    staticStrides.push_back(stride);
    strides.push_back(ShapedType::isDynamic(stride) ? converted[next++] : e.i64(stride));
  }
}

/// Largest power of two that is known to divide an index.
static int64_t getKnownDivisor(Value index) {
  constexpr int64_t any = int64_t(1) << 32;
  APInt constant;
  if (matchPattern(index, m_ConstantInt(&constant)))
    return constant.isZero() ? any : int64_t(1) << constant.countr_zero();
  if (auto mul = index.getDefiningOp<arith::MulIOp>())
    return static_cast<int64_t>(
        std::min<uint64_t>(any, llvm::SaturatingMultiply<uint64_t>(getKnownDivisor(mul.getLhs()),
                                                                   getKnownDivisor(mul.getRhs()))));
  if (auto add = index.getDefiningOp<arith::AddIOp>())
    return std::min(getKnownDivisor(add.getLhs()), getKnownDivisor(add.getRhs()));
  return 1;
}

std::pair<Value, int64_t> sparseflow::splitConstant(Value index) {
  APInt constant;
  if (matchPattern(index, m_ConstantInt(&constant)))
    return {Value(), constant.getSExtValue()};
  if (auto add = index.getDefiningOp<arith::AddIOp>())
    if (matchPattern(add.getRhs(), m_ConstantInt(&constant)))
      return {add.getLhs(), constant.getSExtValue()};
  return {index, 0};
}

bool sparseflow::mayLeave(Value start, int64_t size, int64_t extent) {
  if (ShapedType::isDynamic(extent))
    return true;
  auto [whole, part] = splitConstant(start);
  if (!whole)
    return part + size > extent;
  int64_t divisor = getKnownDivisor(whole);
  if (part)
    return extent % divisor || part + size > divisor;
  return extent % size || divisor % size;
}
