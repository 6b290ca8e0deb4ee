//===- ManifestFunction.cpp - A function of launches as data --------------===//
//
// Answered in order: which dynamic dimensions are the same number (TensorSpecs), which tensors may
// share memory (WorkspaceSlots), and what each launch passes to its kernel.
//
//===----------------------------------------------------------------------===//

#include "ManifestFunction.h"
#include "FunctionSteps.h"
#include "ManifestKernel.h"
#include "TensorSpecs.h"
#include "WorkspaceSlots.h"

#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"
#include "sparseflow/Runtime/LibraryMatmul.h"

#include "mlir/IR/DialectResourceBlobManager.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringExtras.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::target;
namespace rt = sparseflow::runtime;

namespace {

class FunctionBuilder {
public:
  FunctionBuilder(func::FuncOp function, ModuleParts &parts) : function(function), parts(parts) {}

  FailureOr<rt::Function> build();

private:
  LogicalResult addSignature();
  FailureOr<llvm::MapVector<Value, Interval>> collectIntervals();
  LogicalResult addWorkspace();
  LogicalResult addSteps();
  FailureOr<rt::Launch> addLaunch(sf_tile::LaunchOp op);
  FailureOr<rt::Launch> addLibraryMatmul(sf_tile::LibraryMatmulOp op);
  LogicalResult addKernel(sf_tile::LaunchOp op, const BinaryKernel &kernel);
  std::string nameConstant(TypedAttr value);
  FailureOr<int64_t> getBuffer(Value value, Operation *user);

  func::FuncOp function;
  ModuleParts &parts;

  FunctionSteps steps;
  RowSymbols symbols;
  DenseMap<Value, int64_t> buffers;
  llvm::StringMap<size_t> constantBuffers;
  rt::Function result;
  rt::Program program;
  llvm::StringSet<> warpgroupKernels; // of the program: those whose products are warpgroups'
};

} // namespace

/// Passed as [pointer, rows if dynamic, row stride]; everything else is just a pointer.
static bool hasRowStride(Value value) {
  auto type = cast<RankedTensorType>(value.getType());
  return type.getRank() == 2 && !type.getEncoding();
}

//===----------------------------------------------------------------------===//
// The signature
//===----------------------------------------------------------------------===//

/// The names of arguments or results: "input0", or "input" for a single one, unless sf.name says
/// another. No two are the same.
static SmallVector<std::string> chooseNames(ArrayRef<DictionaryAttr> attributes,
                                            StringRef fallback) {
  auto given = [](DictionaryAttr dictionary) {
    return dictionary ? dictionary.getAs<StringAttr>("sf.name") : StringAttr();
  };
  llvm::StringSet<> taken;
  for (DictionaryAttr dictionary : attributes)
    if (StringAttr name = given(dictionary))
      taken.insert(name);
  SmallVector<std::string> names;
  for (auto [i, dictionary] : llvm::enumerate(attributes)) {
    if (StringAttr name = given(dictionary)) {
      names.push_back(name.str());
      continue;
    }
    std::string &name =
        names.emplace_back(attributes.size() == 1 ? fallback.str() : (fallback + Twine(i)).str());
    while (!taken.insert(name).second)
      name += '_';
  }
  return names;
}

LogicalResult FunctionBuilder::addSignature() {
  SmallVector<DictionaryAttr> argumentAttributes, resultAttributes;
  for (unsigned i = 0; i < function.getNumArguments(); ++i)
    argumentAttributes.push_back(function.getArgAttrDict(i));
  for (unsigned i = 0; i < function.getNumResults(); ++i)
    resultAttributes.push_back(function.getResultAttrDict(i));
  SmallVector<std::string> inputNames = chooseNames(argumentAttributes, "input");
  SmallVector<std::string> outputNames = chooseNames(resultAttributes, "output");
  result.name = function.getSymName().str();
  for (auto [i, argument] : llvm::enumerate(function.getArguments())) {
    FailureOr<rt::TensorSpec> spec = specOf(symbols, argument, inputNames[i]);
    if (failed(spec))
      return failure();
    result.inputs.push_back(std::move(*spec));
    buffers[argument] = program.buffers.size();
    program.buffers.push_back(rt::Buffer::input(i));
  }
  Operation *ret = function.getBody().front().getTerminator();
  for (auto [i, value] : llvm::enumerate(ret->getOperands())) {
    Value source = steps.resolve(value);
    if (!source.getDefiningOp<sf_tile::LaunchOp>() && !source.getDefiningOp<sf_tile::DispatchOp>())
      return ret->emitOpError("expected result ")
             << i << " to be computed by a kernel, got "
             << (isa<BlockArgument>(source) ? "an argument" : "a constant")
             << "; return it from the caller instead";
    if (buffers.count(source))
      return ret->emitOpError("expected results to differ, got result ")
             << i << " twice; return it once";
    FailureOr<rt::TensorSpec> spec = specOf(symbols, value, outputNames[i]);
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

/// The tensors between launches, in the order of their first.
FailureOr<llvm::MapVector<Value, Interval>> FunctionBuilder::collectIntervals() {
  llvm::MapVector<Value, Interval> intervals;
  for (auto [s, step] : llvm::enumerate(steps.list))
    for (auto [v, variant] : llvm::enumerate(step.variants))
      for (LaunchSite &launch : variant.launches) {
        for (Value value : launch.op->getResults()) {
          Value tensor = steps.resolve(value);
          if (buffers.count(tensor))
            continue;
          auto [it, isNew] = intervals.insert({tensor, Interval()});
          Interval &interval = it->second;
          interval.begin = isNew ? launch.position : std::min(interval.begin, launch.position);
          interval.end = std::max(interval.end, launch.position);
          if (tensor == value && step.rows) {
            interval.step = s;
            interval.variant = v;
          }
          FailureOr<rt::TensorSpec> spec = specOf(symbols, tensor, "");
          if (failed(spec))
            return failure();
          int64_t bytes = rt::byteSize(spec->dtype);
          for (const rt::Dimension &dimension : spec->shape)
            if (!dimension.isSymbol())
              bytes *= dimension.size;
          interval.size.symbol = symbols.of(tensor);
          (interval.size.symbol.empty() ? interval.size.bytes : interval.size.bytesPer) = bytes;
          if (interval.step >= 0 && !interval.size.symbol.empty())
            interval.size.cap = variant.max;
        }
        for (Value value : launch.op->getOperands())
          if (auto it = intervals.find(steps.resolve(value)); it != intervals.end())
            it->second.end = std::max(it->second.end, launch.position);
      }
  return intervals;
}

LogicalResult FunctionBuilder::addWorkspace() {
  FailureOr<llvm::MapVector<Value, Interval>> intervals = collectIntervals();
  if (failed(intervals))
    return failure();
  SmallVector<Interval> list =
      llvm::map_to_vector(*intervals, [](auto &entry) { return entry.second; });
  for (auto [entry, slot] : llvm::zip_equal(*intervals, assignSlots(list, program.slots))) {
    FailureOr<rt::TensorSpec> spec = specOf(symbols, entry.first, "");
    if (failed(spec))
      return failure();
    buffers[entry.first] = program.buffers.size();
    program.buffers.push_back(rt::Buffer::workspace(slot, spec->dtype, std::move(spec->shape)));
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
  std::string name = (function.getSymName() + ".constant" + Twine(parts.constants.size())).str();
  while (parts.resources.contains(name))
    name += '_';
  return name;
}

FailureOr<int64_t> FunctionBuilder::getBuffer(Value value, Operation *user) {
  Value tensor = steps.resolve(value);
  if (auto it = buffers.find(tensor); it != buffers.end())
    return it->second;
  auto constant = tensor.getDefiningOp<arith::ConstantOp>();
  if (!constant)
    return user->emitOpError(
        "expected operands to be arguments, parts.constants or results of launches");
  // Several operations may hold one constant; a file holds it once.
  auto known = llvm::find_if(parts.constants, [&](const ProgramConstant &other) {
    arith::ConstantOp op = other.op;
    return op.getValue() == constant.getValue();
  });
  if (known == parts.constants.end())
    known = parts.constants.insert(known, {nameConstant(constant.getValue()), constant});
  auto [it, isNew] = constantBuffers.insert({known->name, program.buffers.size()});
  if (isNew)
    program.buffers.push_back(rt::Buffer::constant(known->name));
  buffers[tensor] = it->second;
  return static_cast<int64_t>(it->second);
}

LogicalResult FunctionBuilder::addKernel(sf_tile::LaunchOp op, const BinaryKernel &compiled) {
  rt::Kernel kernel = describeKernel(op, compiled, parts.chip, symbols);
  if (auto config = compiled.metadata.getAttr<sf::KernelConfigAttr>("sf.config");
      config && config.isWarpSpecialized())
    warpgroupKernels.insert(kernel.name);
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
  auto binary = parts.kernels.find(name);
  if (binary == parts.kernels.end())
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
      launch.args.push_back(rt::Argument::dim(symbols.of(value)));
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
  FailureOr<rt::TensorSpec> x = specOf(symbols, op.getX(), "");
  if (failed(x))
    return failure();
  call.compute = rt::getSumType(x->dtype);
  rt::Launch launch;
  launch.matmul = call;
  return launch;
}

//===----------------------------------------------------------------------===//
// Steps
//===----------------------------------------------------------------------===//

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
  for (StepSite &site : steps.list) {
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
      step.symbol = symbols.of(site.rows);
    program.steps.push_back(std::move(step));
  }
  return success();
}

FailureOr<rt::Function> FunctionBuilder::build() {
  if (!function.getBody().hasOneBlock())
    return function.emitOpError("expected a function of one block");
  program.target = parts.chip.name.str();
  FailureOr<FunctionSteps> collected = collectSteps(function);
  if (failed(collected))
    return failure();
  steps = std::move(*collected);
  symbols = RowSymbols(function, steps);
  result.symbols = symbols.list();
  if (failed(addSignature()) || failed(addWorkspace()) || failed(addSteps()))
    return failure();
  result.programs.push_back(std::move(program));
  return std::move(result);
}

FailureOr<rt::Function> sparseflow::target::buildFunction(func::FuncOp function,
                                                          ModuleParts &parts) {
  return FunctionBuilder(function, parts).build();
}
