//===- EmitManifest.cpp - sf-emit-manifest --------------------------------===//
//
// Three questions about a function of launches, answered in order: which dynamic dimensions are the
// same number (union-find), which tensors may share memory (interval colouring), and what each
// launch passes to its kernel. The steps are in program order, so a position is a number, and the
// variants of a step stand side by side on the same stretch of positions.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Dialect/SF/IR/SFConstants.h"
#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Dialect/SF/Transforms/Tuning.h"
#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"
#include "sparseflow/Runtime/ElementType.h"
#include "sparseflow/Runtime/LibraryMatmul.h"
#include "sparseflow/Target/Manifest.h"
#include "sparseflow/Target/Passes.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/DialectResourceBlobManager.h"
#include "llvm/ADT/EquivalenceClasses.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Config/llvm-config.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::target;
namespace rt = sparseflow::runtime;

namespace sparseflow::target {
#define GEN_PASS_DEF_SFEMITMANIFEST
#include "sparseflow/Target/Passes.h.inc"
} // namespace sparseflow::target

std::string sparseflow::target::getProducer() {
  return "sparseflow " SPARSEFLOW_VERSION " (llvm " LLVM_VERSION_STRING ")";
}

std::string sparseflow::target::getKernelTensorName(StringRef chip, StringRef kernel,
                                                    StringRef kind) {
  return (chip + "/" + kernel + "." + kind).str();
}

namespace {

/// One launch, of a kernel or by a library, and where it stands. It reads its operands.
struct LaunchSite {
  Operation *op = nullptr;
  int64_t position = 0;
};

/// One way to do a step.
struct VariantSite {
  std::optional<int64_t> max;
  std::string reason;
  SmallVector<LaunchSite> launches;
  rt::MeasuredTimes times = {};
};

struct StepSite {
  Operation *op = nullptr;
  std::string label, reason;
  Value rows; // null: a single launch
  SmallVector<VariantSite> variants;
};

/// A tensor that needs workspace, from the launch that writes it to the last that reads it.
struct Interval {
  Value value;
  int64_t begin = 0, end = 0;
  /// The step and variant it is private to; -1 when later steps see it.
  int64_t step = -1, variant = -1;
  rt::SlotSize size;

  bool conflictsWith(const Interval &other) const {
    if (step >= 0 && step == other.step && variant != other.variant)
      return false;
    return begin <= other.end && other.begin <= end;
  }
};

class FunctionBuilder {
public:
  FunctionBuilder(func::FuncOp function, const Chip &chip,
                  const llvm::StringMap<BinaryKernel> &binaries, const llvm::StringSet<> &resources,
                  std::vector<ProgramConstant> &constants)
      : function(function), chip(chip), binaries(binaries), resources(resources),
        constants(constants) {}

  FailureOr<rt::Function> build();

private:
  LogicalResult collectSteps();
  LogicalResult addVariant(StepSite &step, Block::iterator begin, Block::iterator end,
                           std::optional<int64_t> max, int64_t &position);
  void unifySymbols();
  LogicalResult addSignature();
  LogicalResult addWorkspace();
  LogicalResult addSteps();
  FailureOr<rt::Launch> addLaunch(sf_tile::LaunchOp op);
  FailureOr<rt::Launch> addLibraryMatmul(sf_tile::LibraryMatmulOp op);
  LogicalResult addKernel(sf_tile::LaunchOp op, const BinaryKernel &kernel);
  std::string nameConstant(TypedAttr value);
  FailureOr<int64_t> getBuffer(Value value, Operation *user);

  std::string symbolOf(Value value) const;
  FailureOr<std::vector<rt::Dimension>> shapeOf(Value value);
  FailureOr<rt::TensorSpec> specOf(Value value, StringRef name);

  /// The value that stands for this one: a variant's yielded value is its dispatch's result.
  Value resolve(Value value) const {
    for (auto it = alias.find(value); it != alias.end(); it = alias.find(value))
      value = it->second;
    return value;
  }

  func::FuncOp function;
  const Chip &chip;
  const llvm::StringMap<BinaryKernel> &binaries;
  const llvm::StringSet<> &resources; // names
  std::vector<ProgramConstant> &constants;

  SmallVector<StepSite> steps;
  DenseMap<Value, Value> alias;
  llvm::EquivalenceClasses<void *> sameRows; // values by their opaque pointer
  DenseMap<void *, std::string> symbols;     // by the leader of a class
  DenseMap<Value, int64_t> buffers;
  llvm::StringMap<size_t> constantBuffers;
  rt::Function result;
  rt::Program program;
  llvm::StringSet<> warpgroupKernels; // of the program: those whose products are warpgroups'
};

} // namespace

static bool hasDynamicRows(Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  return type && type.getRank() > 0 && type.isDynamicDim(0);
}

/// Passed as [pointer, rows if dynamic, row stride]; everything else is just a pointer.
static bool hasRowStride(Value value) {
  auto type = cast<RankedTensorType>(value.getType());
  return type.getRank() == 2 && !type.getEncoding();
}

//===----------------------------------------------------------------------===//
// Steps
//===----------------------------------------------------------------------===//

LogicalResult FunctionBuilder::addVariant(StepSite &step, Block::iterator begin,
                                          Block::iterator end, std::optional<int64_t> max,
                                          int64_t &position) {
  VariantSite &variant = step.variants.emplace_back();
  variant.max = max;
  for (Operation &op : llvm::make_range(begin, end)) {
    if (isa<arith::ConstantOp>(op))
      continue;
    if (!isa<sf_tile::LaunchOp, sf_tile::LibraryMatmulOp>(op))
      return op.emitOpError(
          "expected operations on tensors for which there is a kernel (of sf, and "
          "elementwise ones of linalg, arith and math), got one without; inline "
          "calls, and compute anything else outside of the function");
    variant.launches.push_back({&op, position++});
  }
  return success();
}

/// What was measured for each variant of a dispatch; nothing: nothing was.
static FailureOr<SmallVector<rt::MeasuredTimes>> getTimes(sf_tile::DispatchOp dispatch) {
  size_t count = dispatch.getVariants().size();
  SmallVector<rt::MeasuredTimes> times(count);
  Attribute attribute = dispatch->getAttr(sf::kTimesAttrName);
  if (!attribute)
    return times;
  auto list = dyn_cast<ArrayAttr>(attribute);
  if (!list || list.size() != count || !llvm::all_of(list, llvm::IsaPred<sf::TimesAttr>))
    return dispatch.emitOpError("expected sf.times to have one #sf.times for each of ")
           << count << " variants, got " << attribute;
  auto toNumber = [](FloatAttr time) {
    return time ? std::optional(time.getValueAsDouble()) : std::nullopt;
  };
  for (auto [time, measured] : llvm::zip_equal(list.getAsRange<sf::TimesAttr>(), times))
    measured = {toNumber(time.getSparse()), toNumber(time.getDense())};
  return times;
}

LogicalResult FunctionBuilder::collectSteps() {
  int64_t position = 0;
  for (Operation &op : function.getBody().front().without_terminator()) {
    if (isa<arith::ConstantOp>(op))
      continue;
    StepSite step;
    step.op = &op;
    if (auto dispatch = dyn_cast<sf_tile::DispatchOp>(op)) {
      step.label = dispatch.getLabel().str();
      if (auto reason = dispatch->getAttrOfType<StringAttr>("sf.reason"))
        step.reason = reason.str();
      step.rows = dispatch.getRows();
      FailureOr<SmallVector<rt::MeasuredTimes>> times = getTimes(dispatch);
      if (failed(times))
        return failure();
      int64_t last = position;
      auto rowsType = cast<RankedTensorType>(step.rows.getType());
      for (auto [region, max, measured] :
           llvm::zip_equal(dispatch.getVariants(), dispatch.getMaxRows(), *times)) {
        // A number of rows that is known now needs no choice later.
        if (!rowsType.isDynamicDim(0) && max >= 0 && rowsType.getDimSize(0) > max)
          continue;
        bool isUnbounded = max < 0 || !rowsType.isDynamicDim(0);
        int64_t end = position;
        Block &block = region.front();
        if (failed(addVariant(step, block.begin(), std::prev(block.end()),
                              isUnbounded ? std::nullopt : std::optional<int64_t>(max), end)))
          return failure();
        step.variants.back().times = measured;
        if (auto reasons = dispatch->getAttrOfType<ArrayAttr>(sf::kReasonsAttrName))
          if (region.getRegionNumber() < reasons.size())
            if (auto reason = dyn_cast<StringAttr>(reasons[region.getRegionNumber()]))
              step.variants.back().reason = reason.str();
        for (auto [yielded, result] :
             llvm::zip(block.getTerminator()->getOperands(), dispatch.getResults())) {
          if (yielded.getParentBlock() != &block)
            return dispatch.emitOpError("expected every variant to compute its results");
          alias[yielded] = result;
        }
        last = std::max(last, end);
        // A library may be missing, so another variant follows.
        if (isUnbounded && block.getOps<sf_tile::LibraryMatmulOp>().empty())
          break;
      }
      position = last;
    } else {
      if (auto label = op.getAttrOfType<StringAttr>("label"))
        step.label = label.str();
      if (failed(addVariant(step, op.getIterator(), std::next(op.getIterator()), std::nullopt,
                            position)))
        return failure();
    }
    steps.push_back(std::move(step));
  }
  return success();
}

//===----------------------------------------------------------------------===//
// Symbols
//===----------------------------------------------------------------------===//

void FunctionBuilder::unifySymbols() {
  auto key = [&](Value value) { return resolve(value).getAsOpaquePointer(); };
  for (StepSite &step : steps)
    for (VariantSite &variant : step.variants)
      for (LaunchSite &launch : variant.launches) {
        Value first = step.rows && hasDynamicRows(step.rows) ? step.rows : Value();
        for (Value value : llvm::concat<Value>(SmallVector<Value>(launch.op->getOperands()),
                                               SmallVector<Value>(launch.op->getResults()))) {
          if (!hasDynamicRows(value))
            continue;
          if (!first)
            first = value;
          sameRows.unionSets(key(first), key(value));
        }
      }
  auto name = [&](Value value) {
    if (!hasDynamicRows(value))
      return;
    sameRows.insert(key(value));
    std::string &symbol = symbols[sameRows.getLeaderValue(key(value))];
    if (!symbol.empty())
      return;
    symbol = result.symbols.empty() ? "M" : "M" + std::to_string(result.symbols.size());
    result.symbols.push_back(symbol);
  };
  for (Value argument : function.getArguments())
    name(argument);
  for (StepSite &step : steps)
    for (VariantSite &variant : step.variants)
      for (LaunchSite &launch : variant.launches)
        for (Value value : launch.op->getResults())
          name(value);
}

std::string FunctionBuilder::symbolOf(Value value) const {
  if (!hasDynamicRows(value))
    return "";
  return symbols.lookup(sameRows.getLeaderValue(resolve(value).getAsOpaquePointer()));
}

//===----------------------------------------------------------------------===//
// Shapes
//===----------------------------------------------------------------------===//

static std::optional<rt::DType> getRuntimeDType(Type type) {
  std::optional<DType> dtype = sf::getDType(type);
  return dtype ? std::optional(rt::fromElementType(*dtype)) : std::nullopt;
}

FailureOr<std::vector<rt::Dimension>> FunctionBuilder::shapeOf(Value value) {
  constexpr int64_t maxElements = int64_t(1) << 40; // whose bytes no product overflows
  int64_t elements = 1;
  auto type = cast<RankedTensorType>(value.getType());
  std::vector<rt::Dimension> shape;
  for (auto [i, size] : llvm::enumerate(type.getShape())) {
    if (ShapedType::isStatic(size) &&
        (llvm::MulOverflow(elements, size, elements) || elements > maxElements))
      return emitError(value.getLoc()) << "expected at most 2^40 elements, got " << type;
    if (ShapedType::isStatic(size))
      shape.push_back(size);
    else if (i == 0)
      shape.push_back(symbolOf(value));
    else
      return emitError(value.getLoc())
             << "expected only the leading dimension to be dynamic, got " << type;
  }
  return shape;
}

FailureOr<rt::TensorSpec> FunctionBuilder::specOf(Value value, StringRef name) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  std::optional<rt::DType> dtype = type ? getRuntimeDType(type.getElementType()) : std::nullopt;
  if (!dtype)
    return emitError(value.getLoc())
           << "expected a ranked tensor of f16, bf16, f32, i8, f8E4M3FN, f8E5M2 or i32, got "
           << value.getType();
  rt::TensorSpec spec;
  spec.name = name.str();
  spec.dtype = *dtype;
  // Encoded weights are passed as their bytes.
  if (type.getEncoding()) {
    std::optional<size_t> bytes = sf::getStorageBytes(type);
    if (!bytes)
      return emitError(value.getLoc()) << "expected a weight of static shape, got " << type;
    spec.dtype = rt::DType::U8;
    spec.shape = {rt::Dimension(static_cast<int64_t>(*bytes))};
    spec.align = {16, 1};
    return spec;
  }
  FailureOr<std::vector<rt::Dimension>> shape = shapeOf(value);
  if (failed(shape))
    return failure();
  spec.shape = std::move(*shape);
  // Kernels read rows in the widest pieces, up to 16 bytes, that divide them: a row stride has to
  // keep each row on such a boundary.
  constexpr int64_t widestAccess = 16;
  int64_t elementBytes = rt::byteSize(*dtype), rowBytes = elementBytes;
  if (type.getRank() > 0 && !type.isDynamicDim(type.getRank() - 1))
    rowBytes *= type.getShape().back();
  spec.align.pointer =
      std::max(elementBytes, static_cast<int64_t>(llvm::MinAlign(rowBytes, widestAccess)));
  spec.align.stride = spec.align.pointer / elementBytes;
  return spec;
}

LogicalResult FunctionBuilder::addSignature() {
  auto nameOf = [](DictionaryAttr attributes, StringRef fallback, size_t index, size_t count) {
    if (auto name = attributes ? attributes.getAs<StringAttr>("sf.name") : StringAttr())
      return name.str();
    return count == 1 ? fallback.str() : (fallback + Twine(index)).str();
  };
  result.name = function.getSymName().str();
  for (auto [i, argument] : llvm::enumerate(function.getArguments())) {
    FailureOr<rt::TensorSpec> spec = specOf(
        argument, nameOf(function.getArgAttrDict(i), "input", i, function.getNumArguments()));
    if (failed(spec))
      return failure();
    result.inputs.push_back(std::move(*spec));
    buffers[argument] = program.buffers.size();
    program.buffers.push_back(rt::Buffer::input(i));
  }
  Operation *ret = function.getBody().front().getTerminator();
  for (auto [i, value] : llvm::enumerate(ret->getOperands())) {
    Value source = resolve(value);
    if (!source.getDefiningOp<sf_tile::LaunchOp>() && !source.getDefiningOp<sf_tile::DispatchOp>())
      return ret->emitOpError("expected result ")
             << i << " to be computed by a kernel, got "
             << (isa<BlockArgument>(source) ? "an argument" : "a constant")
             << "; return it from the caller instead";
    if (buffers.count(source))
      return ret->emitOpError("expected results to differ, got result ")
             << i << " twice; return it once";
    FailureOr<rt::TensorSpec> spec =
        specOf(value, nameOf(function.getResultAttrDict(i), "output", i, ret->getNumOperands()));
    if (failed(spec))
      return failure();
    result.outputs.push_back(std::move(*spec));
    buffers[source] = program.buffers.size();
    program.buffers.push_back(rt::Buffer::output(i));
  }
  return success();
}

//===----------------------------------------------------------------------===//
// Workspace
//===----------------------------------------------------------------------===//

/// How much a slot's workspace grows when it also has to hold `size`, in bytes for one token: the
/// measure by which the slot to reuse is chosen.
static int64_t growth(const rt::Slot &slot, const rt::SlotSize &size) {
  int64_t held = 0;
  for (const rt::SlotSize &other : slot.sizes)
    if (other.symbol == size.symbol && (!other.cap || (size.cap && *size.cap <= *other.cap)))
      held = std::max(held, size.symbol.empty() ? other.bytes : other.bytesPer);
  return std::max<int64_t>(0, (size.symbol.empty() ? size.bytes : size.bytesPer) - held);
}

/// Adds a size unless one that is there covers it.
static void include(rt::Slot &slot, const rt::SlotSize &size) {
  auto covers = [](const rt::SlotSize &a, const rt::SlotSize &b) {
    return a.symbol == b.symbol && a.bytesPer >= b.bytesPer && a.bytes >= b.bytes &&
           (!a.cap || (b.cap && *b.cap <= *a.cap));
  };
  if (llvm::any_of(slot.sizes, [&](const rt::SlotSize &other) { return covers(other, size); }))
    return;
  llvm::erase_if(slot.sizes, [&](const rt::SlotSize &other) { return covers(size, other); });
  slot.sizes.push_back(size);
}

LogicalResult FunctionBuilder::addWorkspace() {
  llvm::MapVector<Value, Interval> intervals;
  for (auto [s, step] : llvm::enumerate(steps))
    for (auto [v, variant] : llvm::enumerate(step.variants))
      for (LaunchSite &launch : variant.launches) {
        for (Value value : launch.op->getResults()) {
          Value tensor = resolve(value);
          if (buffers.count(tensor))
            continue;
          auto [it, isNew] = intervals.insert({tensor, Interval()});
          Interval &interval = it->second;
          interval.begin = isNew ? launch.position : std::min(interval.begin, launch.position);
          interval.end = std::max(interval.end, launch.position);
          interval.value = tensor;
          if (tensor == value && step.rows) {
            interval.step = s;
            interval.variant = v;
          }
          FailureOr<rt::TensorSpec> spec = specOf(tensor, "");
          if (failed(spec))
            return failure();
          int64_t bytes = rt::byteSize(spec->dtype);
          for (const rt::Dimension &dimension : spec->shape)
            if (!dimension.isSymbol())
              bytes *= dimension.size;
          interval.size.symbol = symbolOf(tensor);
          (interval.size.symbol.empty() ? interval.size.bytes : interval.size.bytesPer) = bytes;
          if (interval.step >= 0 && !interval.size.symbol.empty())
            interval.size.cap = variant.max;
        }
        for (Value value : launch.op->getOperands())
          if (auto it = intervals.find(resolve(value)); it != intervals.end())
            it->second.end = std::max(it->second.end, launch.position);
      }

  std::vector<SmallVector<const Interval *>> held; // by slot
  for (auto &[value, interval] : intervals) {
    int64_t best = -1, bestGrowth = 0;
    for (auto [slot, others] : llvm::enumerate(held)) {
      if (llvm::any_of(others, [&, &interval = interval](const Interval *other) {
            return interval.conflictsWith(*other);
          }))
        continue;
      int64_t grows = growth(program.slots[slot], interval.size);
      if (best < 0 || grows < bestGrowth) {
        best = slot;
        bestGrowth = grows;
      }
    }
    if (best < 0) {
      best = held.size();
      held.emplace_back();
      program.slots.emplace_back();
    }
    held[best].push_back(&interval);
    include(program.slots[best], interval.size);
    FailureOr<rt::TensorSpec> spec = specOf(value, "");
    if (failed(spec))
      return failure();
    buffers[value] = program.buffers.size();
    program.buffers.push_back(rt::Buffer::workspace(best, spec->dtype, std::move(spec->shape)));
  }
  return success();
}

//===----------------------------------------------------------------------===//
// Launches and kernels
//===----------------------------------------------------------------------===//

/// A constant that stands in the text gets a name that no resource of the module has.
std::string FunctionBuilder::nameConstant(TypedAttr value) {
  if (auto resource = dyn_cast<DenseResourceElementsAttr>(value))
    return resource.getRawHandle().getKey().str();
  std::string name = (function.getSymName() + ".constant" + Twine(constants.size())).str();
  while (resources.contains(name))
    name += '_';
  return name;
}

FailureOr<int64_t> FunctionBuilder::getBuffer(Value value, Operation *user) {
  Value tensor = resolve(value);
  if (auto it = buffers.find(tensor); it != buffers.end())
    return it->second;
  auto constant = tensor.getDefiningOp<arith::ConstantOp>();
  if (!constant)
    return user->emitOpError("expected operands to be arguments, constants or results of launches");
  // Several operations may hold one constant; a file holds it once.
  auto known = llvm::find_if(constants, [&](const ProgramConstant &other) {
    arith::ConstantOp op = other.op;
    return op.getValue() == constant.getValue();
  });
  if (known == constants.end())
    known = constants.insert(known, {nameConstant(constant.getValue()), constant});
  auto [it, isNew] = constantBuffers.insert({known->name, program.buffers.size()});
  if (isNew)
    program.buffers.push_back(rt::Buffer::constant(known->name));
  buffers[tensor] = it->second;
  return static_cast<int64_t>(it->second);
}

/// "#sf.kernel_config<...>", or nothing.
static std::string getConfigText(const BinaryKernel &kernel) {
  std::string text;
  if (Attribute config = kernel.metadata.getAttr("sf.config")) {
    llvm::raw_string_ostream stream(text);
    config.print(stream);
  }
  return text;
}

LogicalResult FunctionBuilder::addKernel(sf_tile::LaunchOp op, const BinaryKernel &compiled) {
  rt::Kernel kernel;
  kernel.name = compiled.metadata.getName().str();
  if (auto block = compiled.metadata.getAttr<DenseI32ArrayAttr>("nvvm.reqntid"))
    for (auto [extent, size] : llvm::zip(kernel.block, block.asArrayRef()))
      extent = size;
  sf_tile::GridAttr grid = op.getGrid();
  kernel.grid = {rt::GridDim::constant(grid.getBlocks()), rt::GridDim::constant(1),
                 rt::GridDim::constant(1)};
  if (grid.getRowsOf()) {
    Value rows = op.getInputs()[*grid.getRowsOf()];
    int64_t perBlock = *grid.getRowsPerBlock();
    auto type = cast<RankedTensorType>(rows.getType());
    if (type.isDynamicDim(0))
      kernel.grid[0] = {symbolOf(rows), perBlock, grid.getBlocks()};
    else
      kernel.grid[0].mul *= llvm::divideCeil(type.getDimSize(0), perBlock);
  }
  kernel.shared = compiled.number("sf.shared_bytes");
  kernel.dependentLaunch = compiled.metadata.getAttr("sf.dependent_launch") != nullptr;
  kernel.config = getConfigText(compiled);
  if (auto config = compiled.metadata.getAttr<sf::KernelConfigAttr>("sf.config");
      config && config.isWarpSpecialized())
    warpgroupKernels.insert(kernel.name);
  kernel.registers = compiled.number("registers");
  kernel.spillBytes = compiled.number("spill_bytes");
  kernel.mmaSp = compiled.number("mma_sp");
  if (!compiled.ptx.empty())
    kernel.ptx = getKernelTensorName(chip.name, kernel.name, "ptx");
  if (!compiled.cubin.empty()) {
    kernel.cubin = getKernelTensorName(chip.name, kernel.name, "cubin");
    kernel.ptxas = compiled.metadata.getAttr<StringAttr>("ptxas").str();
  }

  if (compiled.metadata.getAttr("sf.persistent")) {
    rt::GridDim &blocks = kernel.grid[0];
    int64_t resident =
        sf::getResidentBlocks(chip, kernel.block[0], kernel.registers, kernel.shared);
    int64_t most = chip.multiprocessors * std::max<int64_t>(resident, 1);
    if (blocks.symbol.empty())
      blocks.mul = std::min(blocks.mul, most);
    else
      blocks.max = most;
  }

  auto known = llvm::find_if(program.kernels,
                             [&](const rt::Kernel &other) { return other.name == kernel.name; });
  if (known == program.kernels.end()) {
    program.kernels.push_back(std::move(kernel));
    return success();
  }
  const rt::GridDim &a = known->grid[0], &b = kernel.grid[0];
  if (a.symbol != b.symbol || a.per != b.per || a.mul != b.mul || a.max != b.max)
    return op.emitOpError("expected all launches of a kernel to have one grid, got another for '")
           << kernel.name << "'";
  return success();
}

/// The last parameters are tensor maps of tensors that the launch passes anyway: `sf.tensor_maps`
/// says of which, and how large a box is.
static void addTensorMaps(const BinaryKernel &kernel, rt::Launch &launch) {
  auto maps = kernel.metadata.getAttr<ArrayAttr>("sf.tensor_maps");
  if (!maps)
    return;
  SmallVector<int64_t> buffers;
  for (const rt::Argument &argument : launch.args)
    if (argument.kind == rt::Argument::Kind::Buffer)
      buffers.push_back(argument.value);
  for (auto fields : maps.getAsRange<DenseI64ArrayAttr>()) {
    constexpr int64_t swizzleBytes = 128;
    ArrayRef<int64_t> map = fields.asArrayRef();
    launch.args.push_back(
        rt::Argument::tensorMap(buffers[map[0]], {map[1], map[2], swizzleBytes, /*fits=*/true}));
  }
}

FailureOr<rt::Launch> FunctionBuilder::addLaunch(sf_tile::LaunchOp op) {
  StringRef name = op.getKernel().getLeafReference();
  auto binary = binaries.find(name);
  if (binary == binaries.end())
    return op.emitOpError("expected kernel '")
           << name << "' in a gpu.binary or in the LLVM dialect; run sf-emit-binary before";
  const BinaryKernel &kernel = binary->second;
  if (failed(addKernel(op, kernel)))
    return failure();

  rt::Launch launch;
  launch.kernel = name.str();
  for (Value value : llvm::concat<Value>(SmallVector<Value>(op.getInputs()),
                                         SmallVector<Value>(op.getResults()))) {
    FailureOr<int64_t> buffer = getBuffer(value, op);
    if (failed(buffer))
      return failure();
    launch.args.push_back(rt::Argument::buffer(*buffer));
    if (hasDynamicRows(value))
      launch.args.push_back(rt::Argument::dim(symbolOf(value)));
    if (hasRowStride(value))
      launch.args.push_back(rt::Argument::stride(*buffer));
  }
  addTensorMaps(kernel, launch);
  // The lowering of the kernel's signature has to agree with what is passed here.
  auto type = dyn_cast<LLVM::LLVMFunctionType>(kernel.metadata.getFunctionType());
  if (!type || type.getNumParams() != launch.args.size())
    return op.emitOpError("expected kernel '")
           << name << "' to take " << launch.args.size() << " parameters, got "
           << kernel.metadata.getFunctionType();
  for (auto [i, argument] : llvm::enumerate(launch.args))
    if ((argument.kind == rt::Argument::Kind::Buffer ||
         argument.kind == rt::Argument::Kind::TensorMap) !=
        isa<LLVM::LLVMPointerType>(type.getParamType(i)))
      return op.emitOpError("expected another type of parameter ")
             << i << " of kernel '" << name << "', got " << type.getParamType(i);
  return launch;
}

FailureOr<rt::Launch> FunctionBuilder::addLibraryMatmul(sf_tile::LibraryMatmulOp op) {
  rt::MatmulCall call;
  for (auto [index, value] : {std::pair(&call.x, op.getX()), std::pair(&call.w, op.getWeight()),
                              std::pair(&call.y, op.getResult())}) {
    FailureOr<int64_t> buffer = getBuffer(value, op);
    if (failed(buffer))
      return failure();
    *index = *buffer;
  }
  FailureOr<rt::TensorSpec> x = specOf(op.getX(), "");
  if (failed(x))
    return failure();
  call.compute = rt::getSumType(x->dtype);
  rt::Launch launch;
  launch.matmul = call;
  return launch;
}

/// Which instructions a variant runs on, as a report names them.
static std::string getPath(ArrayRef<rt::Kernel> kernels, const llvm::StringSet<> &warpgroupKernels,
                           const rt::Variant &variant) {
  if (variant.callsLibrary())
    return "dense cublasLt";
  for (const rt::Launch &launch : variant.launches) {
    auto kernel = llvm::find_if(
        kernels, [&](const rt::Kernel &kernel) { return kernel.name == launch.kernel; });
    if (kernel->config.empty())
      continue;
    bool warpgroups = warpgroupKernels.contains(kernel->name);
    if (kernel->mmaSp > 0)
      return warpgroups ? "sparse wgmma.sp" : "sparse mma.sp";
    return warpgroups ? "dense wgmma" : "dense mma";
  }
  return "elementwise";
}

/// Why this variant: what is said of its range of tokens, then of the product, then by the times.
static std::string getReason(const StepSite &step, const VariantSite &variant) {
  SmallVector<StringRef> reasons;
  for (StringRef reason : {StringRef(variant.reason), StringRef(step.reason)})
    if (!reason.empty())
      reasons.push_back(reason);
  if (const rt::MeasuredTimes &times = variant.times; times.sparse && times.dense)
    reasons.push_back(*times.dense < *times.sparse ? "dense was measured faster"
                                                   : "sparse was measured faster");
  return llvm::join(reasons, "; ");
}

LogicalResult FunctionBuilder::addSteps() {
  for (StepSite &site : steps) {
    rt::Step step;
    step.label = site.label;
    for (VariantSite &variantSite : site.variants) {
      rt::Variant variant;
      variant.max = variantSite.max;
      for (LaunchSite &launchSite : variantSite.launches) {
        auto product = dyn_cast<sf_tile::LibraryMatmulOp>(launchSite.op);
        FailureOr<rt::Launch> launch =
            product ? addLibraryMatmul(product) : addLaunch(cast<sf_tile::LaunchOp>(launchSite.op));
        if (failed(launch))
          return failure();
        variant.launches.push_back(std::move(*launch));
      }
      variant.path = getPath(program.kernels, warpgroupKernels, variant);
      variant.times = variantSite.times;
      variant.reason = getReason(site, variantSite);
      step.variants.push_back(std::move(variant));
    }
    if (step.label.empty())
      step.label = step.variants.front().launches.front().kernel;
    // "sf.matmul 4096x4096 f16 2:4": the operation is the first word.
    step.op = StringRef(step.label).split(' ').first.str();
    if (StringRef(step.op).starts_with("sf."))
      step.op.erase(0, 3);
    if (step.variants.size() > 1)
      step.symbol = symbolOf(site.rows);
    program.steps.push_back(std::move(step));
  }
  return success();
}

FailureOr<rt::Function> FunctionBuilder::build() {
  if (!function.getBody().hasOneBlock())
    return function.emitOpError("expected a function of one block");
  program.target = chip.name.str();
  if (failed(collectSteps()))
    return failure();
  unifySymbols();
  if (failed(addSignature()) || failed(addWorkspace()) || failed(addSteps()))
    return failure();
  result.programs.push_back(std::move(program));
  return std::move(result);
}

//===----------------------------------------------------------------------===//
// The module
//===----------------------------------------------------------------------===//

FailureOr<ModuleProgram> sparseflow::target::buildManifest(ModuleOp module, const Chip &chip) {
  llvm::StringMap<BinaryKernel> binaries;
  for (auto binary : module.getOps<gpu::BinaryOp>())
    for (BinaryKernel &kernel : getBinaryKernels(binary))
      binaries[kernel.metadata.getName()] = kernel;
  for (auto kernels : module.getOps<gpu::GPUModuleOp>())
    for (BinaryKernel &kernel : getUncompiledKernels(kernels))
      binaries[kernel.metadata.getName()] = kernel;

  llvm::StringSet<> resources;
  module.walk([&](arith::ConstantOp op) {
    if (auto resource = dyn_cast<DenseResourceElementsAttr>(op.getValue()))
      resources.insert(resource.getRawHandle().getKey());
  });

  ModuleProgram program;
  program.manifest.producer = getProducer();
  for (auto function : module.getOps<func::FuncOp>()) {
    if (function.isExternal() || !function.isPublic())
      continue;
    FailureOr<rt::Function> built =
        FunctionBuilder(function, chip, binaries, resources, program.constants).build();
    if (failed(built))
      return failure();
    program.manifest.functions.push_back(std::move(*built));
  }
  if (llvm::Error error = rt::validate(program.manifest)) {
    module.emitError() << "the manifest does not pass its own check: "
                       << llvm::toString(std::move(error));
    return failure();
  }
  return program;
}

namespace {
struct SFEmitManifestPass : sparseflow::target::impl::SFEmitManifestBase<SFEmitManifestPass> {
  using SFEmitManifestBase::SFEmitManifestBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    llvm::Expected<const Chip *> chip = findChip(module, target);
    if (!chip) {
      module.emitError() << llvm::toString(chip.takeError());
      return signalPassFailure();
    }
    FailureOr<ModuleProgram> program = buildManifest(module, **chip);
    if (failed(program))
      return signalPassFailure();
    llvm::json::Value json = rt::toJSON(program->manifest);
    if (print) {
      llvm::outs() << llvm::formatv("{0}\n", json);
      return;
    }
    module->setAttr("sf.manifest",
                    StringAttr::get(&getContext(), llvm::formatv("{0}", json).str()));
  }
};
} // namespace
