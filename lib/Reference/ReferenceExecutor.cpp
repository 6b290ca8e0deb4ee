//===- ReferenceExecutor.cpp - sf functions on the CPU --------------------===//
//
// Constants become arguments before anything is lowered: they are never printed into LLVM IR, and a
// weight that lies in a mapped file is read where it lies. Encoded weights are decoded at the
// boundary, on the host.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Reference/ReferenceExecutor.h"
#include "sparseflow/HostCode/ChipArithmetic.h"
#include "sparseflow/HostCode/HostCode.h"

#include "Lowering.h"
#include "sparseflow/Conversion/SFToLinalg.h"
#include "sparseflow/Dialect/SF/IR/SFConstants.h"
#include "sparseflow/Dialect/SF/IR/SFOps.h"

#include "mlir/IR/Diagnostics.h"
#include "mlir/IR/DialectResourceBlobManager.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "mlir/Transforms/Passes.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ExecutionEngine/Orc/ThreadSafeModule.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Module.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Target/TargetMachine.h"

#include <numeric>

using namespace mlir;
using namespace sparseflow;
using llvm::Error;
using llvm::Expected;
using llvm::formatv;

//===----------------------------------------------------------------------===//
// What compiled code sees
//===----------------------------------------------------------------------===//

/// The first assertion that failed on this thread, or -1.
static thread_local int64_t firstFailure = -1;

static void recordFailure(int64_t message) {
  if (firstFailure < 0)
    firstFailure = message;
}

namespace {

/// MLIR's memref descriptor: two pointers, an offset, sizes and strides, all of 64 bits.
class Descriptor {
public:
  Descriptor(const void *data, ArrayRef<int64_t> shape, ArrayRef<int64_t> strides) {
    int64_t address = int64_t(reinterpret_cast<intptr_t>(data));
    words = {address, address, 0};
    llvm::append_range(words, shape);
    SmallVector<int64_t> contiguous(shape.size(), 1);
    for (size_t i = shape.size(); i-- > 1;)
      contiguous[i - 1] = contiguous[i] * shape[i];
    llvm::append_range(words, strides.empty() ? ArrayRef<int64_t>(contiguous) : strides);
  }
  void *get() { return words.data(); }

private:
  SmallVector<int64_t, 8> words;
};

/// A constant of the module, as an argument of the compiled function.
struct Constant {
  std::vector<char> owned;
  ArrayRef<char> bytes;
  std::vector<int64_t> shape;
};

/// An argument or a result; `weight` is set where the caller's bytes are encoded.
struct Port {
  HostTensorSpec spec;
  std::optional<WeightFormat> weight;
};

/// Turns the diagnostics of a compilation into one error.
class DiagnosticCollector {
public:
  explicit DiagnosticCollector(MLIRContext *context)
      : handler(context, [this](Diagnostic &diagnostic) {
          if (message.empty() && diagnostic.getSeverity() == DiagnosticSeverity::Error) {
            llvm::raw_string_ostream os(message);
            os << diagnostic.getLocation() << ": " << diagnostic;
          }
          return success();
        }) {}

  Error takeError(const llvm::Twine &what) {
    return llvm::createStringError("reference: " + what + (message.empty() ? "" : ": ") + message);
  }

private:
  std::string message;
  ScopedDiagnosticHandler handler;
};

} // namespace

struct ReferenceExecutor::Impl {
  using Entry = void (*)(void **descriptors);

  std::vector<Port> inputs, outputs;
  std::vector<HostTensorSpec> inputSpecs, outputSpecs;
  std::vector<Constant> constants;
  std::vector<std::string> messages;
  std::unique_ptr<HostCode> code;
  Entry entry = nullptr;

  Error readSignature(func::FuncOp function);
  Error liftConstants(func::FuncOp function, const ReferenceOptions &options);
};

ReferenceExecutor::ReferenceExecutor() : impl(std::make_unique<Impl>()) {}
ReferenceExecutor::~ReferenceExecutor() = default;
ArrayRef<HostTensorSpec> ReferenceExecutor::getInputs() const { return impl->inputSpecs; }
ArrayRef<HostTensorSpec> ReferenceExecutor::getOutputs() const { return impl->outputSpecs; }

//===----------------------------------------------------------------------===//
// Compiling
//===----------------------------------------------------------------------===//

static Expected<Port> makePort(Type type, StringAttr name, StringRef kind, unsigned index) {
  Port port;
  port.spec.name = name ? name.str() : formatv("{0} {1}", kind, index).str();
  auto fail = [&](StringRef expected) {
    std::string text;
    llvm::raw_string_ostream(text)
        << "reference: expected " << port.spec.name << " to be " << expected << ", got " << type;
    return llvm::createStringError(text);
  };
  auto tensor = dyn_cast<RankedTensorType>(type);
  if (!tensor)
    return fail("a ranked tensor");
  std::optional<DType> dtype = sf::getDType(tensor.getElementType());
  if (!dtype)
    return fail("a tensor of f16, bf16, f32, i8, i32, f8E4M3FN or f8E5M2");
  if (tensor.getEncoding() && !sf::getWeightEncoding(tensor))
    return fail("dense or #sf.weight (run sf-import-sparse-tensor)");
  for (auto [dim, size] : llvm::enumerate(tensor.getShape()))
    if (ShapedType::isDynamic(size) && dim != 0)
      return fail("dynamic in the first dimension alone");
  port.spec.dtype = *dtype;
  for (int64_t size : tensor.getShape())
    port.spec.shape.push_back(ShapedType::isDynamic(size) ? kDynamicTokens : size);
  if (tensor.getEncoding()) {
    port.weight = sf::getWeightFormat(tensor);
    port.spec.storageBytes = port.weight->storageBytes();
  }
  return port;
}

Error ReferenceExecutor::Impl::readSignature(func::FuncOp function) {
  for (auto [index, type] : llvm::enumerate(function.getArgumentTypes())) {
    Expected<Port> port =
        makePort(type, function.getArgAttrOfType<StringAttr>(index, "sf.name"), "input", index);
    if (!port)
      return port.takeError();
    inputSpecs.push_back(port->spec);
    inputs.push_back(std::move(*port));
  }
  for (auto [index, type] : llvm::enumerate(function.getResultTypes())) {
    Expected<Port> port =
        makePort(type, function.getResultAttrOfType<StringAttr>(index, "sf.name"), "output", index);
    if (!port)
      return port.takeError();
    outputSpecs.push_back(port->spec);
    outputs.push_back(std::move(*port));
  }
  return Error::success();
}

/// The name of a resource whose bytes are not in the module, or "".
static StringRef getAbsentResource(arith::ConstantOp op) {
  auto attr = dyn_cast<DenseResourceElementsAttr>(op.getValue());
  return attr && !attr.getRawHandle().getBlob() ? attr.getRawHandle().getKey() : StringRef();
}

Error ReferenceExecutor::Impl::liftConstants(func::FuncOp function,
                                             const ReferenceOptions &options) {
  SmallVector<arith::ConstantOp> ops;
  function.walk([&](arith::ConstantOp op) {
    auto type = dyn_cast<RankedTensorType>(op.getType());
    if (type && sf::getDType(type.getElementType()))
      ops.push_back(op);
  });
  for (arith::ConstantOp op : ops) {
    auto type = cast<RankedTensorType>(op.getType());
    Constant constant{{}, {}, type.getShape().vec()};
    bool isEncoded = bool(type.getEncoding());
    SmallVector<ArrayRef<char>, 2> pieces;
    std::optional<sf::ConstantData> data;
    StringRef absent = getAbsentResource(op);
    if (!absent.empty() && options.findConstant) {
      Expected<SmallVector<ArrayRef<char>, 2>> found = options.findConstant(absent);
      if (!found)
        return found.takeError();
      pieces = *found;
    } else {
      FailureOr<sf::ConstantData> read = sf::readConstant(op.getResult());
      if (failed(read))
        return llvm::createStringError("a constant cannot be read");
      data = std::move(*read);
      pieces = {data->getBytes()};
    }

    if (isEncoded) {
      WeightFormat format = sf::getWeightFormat(type);
      constant.owned.resize(format.denseBytes());
      if (Error error = decodeWeight(format, pieces, constant.owned))
        return llvm::joinErrors(llvm::createStringError(formatv("constant '{0}'", absent).str()),
                                std::move(error));
      constant.bytes = constant.owned;
    } else if (size_t expected = *sf::getStorageBytes(type);
               pieces.size() != 1 || pieces[0].size() != expected) {
      return llvm::createStringError(
          formatv("expected {0} bytes in one piece for the constant '{1}'", expected, absent)
              .str());
    } else if (data) {
      // The context owns these bytes, and may go first.
      constant.owned.assign(pieces[0].begin(), pieces[0].end());
      constant.bytes = constant.owned;
    } else {
      constant.bytes = pieces[0];
    }

    unsigned index = function.getNumArguments();
    if (failed(function.insertArgument(index, type, {}, op.getLoc())))
      return llvm::createStringError("a constant cannot become an argument");
    op.replaceAllUsesWith(function.getArgument(index));
    op.erase();
    constants.push_back(std::move(constant));
  }
  return Error::success();
}

/// Leaves `entry` as the only function that is visible, without what it does not call.
static LogicalResult dropOtherFunctions(ModuleOp module, func::FuncOp entry) {
  for (auto function : module.getOps<func::FuncOp>())
    function.setVisibility(function == entry ? SymbolTable::Visibility::Public
                                             : SymbolTable::Visibility::Private);
  PassManager passes(module.getContext());
  passes.addPass(createSymbolDCEPass());
  if (failed(passes.run(module)))
    return failure();
  if (SymbolTable::symbolKnownUseEmpty(entry, module))
    return success();
  return entry.emitError("expected a function that does not call itself");
}

/// `void kEntrySymbol(ptr descriptors)`, which spreads the array over the C interface's arguments.
static void addEntryPoint(llvm::Module &module, StringRef function) {
  llvm::Function *target = module.getFunction(("_mlir_ciface_" + function).str());
  llvm::IRBuilder<> builder(module.getContext());
  auto *type = llvm::FunctionType::get(builder.getVoidTy(), builder.getPtrTy(), /*isVarArg=*/false);
  auto *entry =
      llvm::Function::Create(type, llvm::GlobalValue::ExternalLinkage, kEntrySymbol, module);
  builder.SetInsertPoint(llvm::BasicBlock::Create(module.getContext(), "", entry));
  SmallVector<llvm::Value *> arguments;
  for (unsigned i = 0; i < target->arg_size(); ++i)
    arguments.push_back(builder.CreateLoad(
        builder.getPtrTy(), builder.CreateConstGEP1_32(builder.getPtrTy(), entry->getArg(0), i)));
  builder.CreateCall(target, arguments);
  builder.CreateRetVoid();
  // All else is internal, so that it can be inlined and dropped.
  for (llvm::Function &other : module)
    if (!other.isDeclaration() && &other != entry)
      other.setLinkage(llvm::GlobalValue::InternalLinkage);
}

Expected<std::unique_ptr<ReferenceExecutor>>
ReferenceExecutor::create(ModuleOp original, StringRef name, const ReferenceOptions &options) {
  MLIRContext *context = original.getContext();
  DialectRegistry registry;
  registerReferenceDialects(registry);
  context->appendDialectRegistry(registry);
  context->loadAllAvailableDialects();

  OwningOpRef<ModuleOp> module(original.clone());
  auto function = module->lookupSymbol<func::FuncOp>(name);
  if (!function || function.isExternal()) {
    SmallVector<StringRef> known;
    for (auto other : module->getOps<func::FuncOp>())
      if (!other.isExternal())
        known.push_back(other.getName());
    return llvm::createStringError(
        formatv("reference: expected a function of the module, got '{0}'; "
                "the module has {1}",
                name, known.empty() ? "none" : llvm::join(known, ", "))
            .str());
  }

  std::unique_ptr<ReferenceExecutor> executor(new ReferenceExecutor());
  Impl &impl = *executor->impl;
  if (Error error = impl.readSignature(function))
    return std::move(error);
  DiagnosticCollector diagnostics(context);
  if (failed(dropOtherFunctions(*module, function)))
    return diagnostics.takeError("'" + name + "' cannot be compiled");
  if (Error error = impl.liftConstants(function, options))
    return diagnostics.takeError(llvm::toString(std::move(error)));
  if (failed(lowerToLinalg(*module)))
    return diagnostics.takeError("'" + name + "' cannot be lowered to linalg");
  impl.messages = exposeBuffers(function, impl.inputs.size());
  if (failed(lowerToLLVM(*module)))
    return diagnostics.takeError("'" + name + "' cannot be lowered to LLVM");

  auto llvmContext = std::make_unique<llvm::LLVMContext>();
  std::unique_ptr<llvm::Module> llvmModule = translateModuleToLLVMIR(*module, *llvmContext);
  if (!llvmModule)
    return diagnostics.takeError("'" + name + "' cannot be translated to LLVM IR");
  useChipArithmetic(*llvmModule);
  addEntryPoint(*llvmModule, name);
  Expected<std::unique_ptr<HostCode>> code = HostCode::create();
  if (!code)
    return code.takeError();
  impl.code = std::move(*code);
  if (Error error = impl.code->define({{kFailSymbol, reinterpret_cast<void *>(recordFailure)},
                                       {"malloc", reinterpret_cast<void *>(::malloc)},
                                       {"free", reinterpret_cast<void *>(::free)}}))
    return std::move(error);
  llvmModule->setDataLayout(impl.code->getMachine().createDataLayout());
  llvmModule->setTargetTriple(impl.code->getMachine().getTargetTriple());
  impl.code->optimize(*llvmModule);
  if (Error error = impl.code->add(
          llvm::orc::ThreadSafeModule(std::move(llvmModule), std::move(llvmContext))))
    return std::move(error);
  Expected<void *> entry = impl.code->lookup(kEntrySymbol);
  if (!entry)
    return entry.takeError();
  impl.entry = reinterpret_cast<Impl::Entry>(*entry);
  return std::move(executor);
}

//===----------------------------------------------------------------------===//
// Running
//===----------------------------------------------------------------------===//

static std::string formatShape(ArrayRef<int64_t> shape) {
  return "[" +
         llvm::join(llvm::map_range(shape,
                                    [](int64_t size) {
                                      return size == kDynamicTokens ? std::string("M")
                                                                    : std::to_string(size);
                                    }),
                    ", ") +
         "]";
}

/// The stride of a dimension that has one element says nothing.
static bool isContiguous(const HostTensor &tensor) {
  if (tensor.strides.size() != tensor.shape.size())
    return false;
  int64_t stride = 1;
  for (size_t i = tensor.shape.size(); i-- > 0;) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != stride)
      return false;
    stride *= tensor.shape[i];
  }
  return true;
}

/// Checks a tensor against its port; `tokens` is set by the first dynamic dimension and must agree
/// with all others.
static Error checkTensor(const Port &port, const HostTensor &tensor,
                         std::optional<int64_t> &tokens) {
  const HostTensorSpec &spec = port.spec;
  auto fail = [&](const llvm::Twine &expected, const llvm::Twine &got) {
    return llvm::createStringError("reference: expected " + spec.name + " to be " + expected +
                                   ", got " + got);
  };
  if (tensor.dtype != spec.dtype)
    return fail(stringifyDType(spec.dtype), stringifyDType(tensor.dtype));
  bool fits = tensor.shape.size() == spec.shape.size();
  for (size_t i = 0; fits && i < spec.shape.size(); ++i)
    fits =
        spec.shape[i] == kDynamicTokens ? tensor.shape[i] >= 0 : tensor.shape[i] == spec.shape[i];
  if (!fits)
    return fail("of the shape " + formatShape(spec.shape), formatShape(tensor.shape));
  if (!spec.shape.empty() && spec.shape[0] == kDynamicTokens) {
    if (tokens && *tokens != tensor.shape[0])
      return fail("of M = " + llvm::Twine(*tokens) + " tokens like the others",
                  llvm::Twine(tensor.shape[0]));
    tokens = tensor.shape[0];
  }
  int64_t elements = std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t(1),
                                     std::multiplies<int64_t>());
  if (elements == 0) // strides of nothing say nothing
    return Error::success();
  if (!tensor.data)
    return fail("in memory", "a null pointer");
  if (tensor.strides.empty() || isContiguous(tensor))
    return Error::success();
  bool isRowMajor = tensor.strides.size() == 2 && tensor.shape.size() == 2 &&
                    tensor.strides[1] == 1 &&
                    (tensor.shape[0] <= 1 || tensor.strides[0] >= tensor.shape[1]);
  if (!isRowMajor || (port.weight && tensor.strides[0] != tensor.shape[1]))
    return fail("contiguous, or a matrix of contiguous rows that do not overlap",
                "the strides " + formatShape(tensor.strides));
  return Error::success();
}

Error ReferenceExecutor::run(ArrayRef<HostTensor> inputs, ArrayRef<HostTensor> outputs) const {
  if (inputs.size() != impl->inputs.size() || outputs.size() != impl->outputs.size())
    return llvm::createStringError(
        formatv("reference: expected {0} inputs and {1} outputs, got {2} and {3}",
                impl->inputs.size(), impl->outputs.size(), inputs.size(), outputs.size())
            .str());
  std::optional<int64_t> tokens;
  std::vector<Descriptor> descriptors;
  // The dense elements of encoded inputs and outputs, by position.
  std::vector<std::vector<char>> decoded(inputs.size()), toEncode(outputs.size());
  for (auto [i, tensor] : llvm::enumerate(inputs)) {
    const Port &port = impl->inputs[i];
    if (Error error = checkTensor(port, tensor, tokens))
      return error;
    if (!port.weight) {
      descriptors.emplace_back(tensor.data, tensor.shape, tensor.strides);
      continue;
    }
    decoded[i].resize(port.weight->denseBytes());
    ArrayRef<char> storage(static_cast<const char *>(tensor.data), port.spec.storageBytes);
    if (Error error = decodeWeight(*port.weight, storage, decoded[i]))
      return llvm::createStringError("reference: " + port.spec.name + ": " +
                                     llvm::toString(std::move(error)));
    descriptors.emplace_back(decoded[i].data(), tensor.shape, ArrayRef<int64_t>());
  }
  for (const Constant &constant : impl->constants)
    descriptors.emplace_back(constant.bytes.data(), constant.shape, ArrayRef<int64_t>());
  for (auto [i, tensor] : llvm::enumerate(outputs)) {
    const Port &port = impl->outputs[i];
    if (Error error = checkTensor(port, tensor, tokens))
      return error;
    if (port.weight)
      toEncode[i].resize(port.weight->denseBytes());
    descriptors.emplace_back(port.weight ? toEncode[i].data() : tensor.data, tensor.shape,
                             port.weight ? ArrayRef<int64_t>() : tensor.strides);
  }

  SmallVector<void *> arguments;
  for (Descriptor &descriptor : descriptors)
    arguments.push_back(descriptor.get());
  firstFailure = -1;
  impl->entry(arguments.data());
  if (firstFailure >= 0)
    return llvm::createStringError("reference: " + impl->messages[firstFailure]);

  for (auto [i, tensor] : llvm::enumerate(outputs)) {
    const Port &port = impl->outputs[i];
    if (!port.weight)
      continue;
    llvm::MutableArrayRef<char> storage(static_cast<char *>(tensor.data), port.spec.storageBytes);
    if (Error error = encodeWeight(*port.weight, toEncode[i], storage))
      return llvm::createStringError("reference: " + port.spec.name + ": " +
                                     llvm::toString(std::move(error)));
  }
  return Error::success();
}
