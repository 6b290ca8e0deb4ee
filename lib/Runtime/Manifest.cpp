// What makes a manifest valid. Everything the executor later relies on without looking is checked
// here, once.
#include "sparseflow/Runtime/Manifest.h"
#include "sparseflow/Runtime/Error.h"
#include "sparseflow/Runtime/LibraryMatmul.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/MathExtras.h"

using namespace llvm;
using namespace sparseflow::runtime;

std::optional<std::string> TensorMapSpec::findFault(unsigned elementBytes) const {
  auto fault = [](const Twine &expected, const Twine &got) {
    return ("expected " + expected + ", got " + got).str();
  };
  if (boxRows < 1 || boxRows > maxTensorMapBox || boxColumns < 1 || boxColumns > maxTensorMapBox)
    return fault("a box of 1 to " + Twine(maxTensorMapBox) + " rows and columns",
                 Twine(boxRows) + " by " + Twine(boxColumns));
  if (swizzle != 0 && swizzle != 32 && swizzle != 64 && swizzle != 128)
    return fault("a swizzle of 0, 32, 64 or 128 bytes", Twine(swizzle));
  int64_t rowBytes = boxColumns * elementBytes;
  if (rowBytes % int64_t(tensorMapUnit) != 0)
    return fault("rows of a box in multiples of " + Twine(tensorMapUnit) + " bytes",
                 Twine(rowBytes));
  if (swizzle != 0 && rowBytes > swizzle)
    return fault("rows of a box of at most the swizzle's " + Twine(swizzle) + " bytes",
                 Twine(rowBytes));
  return std::nullopt;
}

Buffer Buffer::input(int64_t index) {
  Buffer buffer;
  buffer.kind = Kind::Input;
  buffer.index = index;
  return buffer;
}

Buffer Buffer::output(int64_t index) {
  Buffer buffer;
  buffer.kind = Kind::Output;
  buffer.index = index;
  return buffer;
}

Buffer Buffer::constant(std::string tensor) {
  Buffer buffer;
  buffer.kind = Kind::Constant;
  buffer.tensor = std::move(tensor);
  return buffer;
}

Buffer Buffer::workspace(int64_t slot, DType dtype, std::vector<Dimension> shape) {
  Buffer buffer;
  buffer.kind = Kind::Workspace;
  buffer.slot = slot;
  buffer.dtype = dtype;
  buffer.shape = std::move(shape);
  return buffer;
}

bool Variant::callsLibrary() const {
  return any_of(launches, [](const Launch &launch) { return launch.matmul.has_value(); });
}

const Function *Manifest::find(StringRef name) const {
  auto found = find_if(functions, [&](const Function &f) { return f.name == name; });
  return found == functions.end() ? nullptr : &*found;
}

std::optional<Chip> sparseflow::runtime::parseChip(StringRef target) {
  Chip chip;
  if (!target.consume_front("sm_"))
    return std::nullopt;
  if (target.ends_with("a") || target.ends_with("f")) {
    chip.suffix = target.back();
    target = target.drop_back();
  }
  if (target.size() < 2 || target.size() > 3 || target.getAsInteger(10, chip.number))
    return std::nullopt;
  return chip;
}

static std::string quotedList(ArrayRef<std::string> names) {
  if (names.empty())
    return "none";
  return "'" + join(names, "', '") + "'";
}

namespace {
/// The checks of one program; `where` grows as it descends.
class ProgramChecker {
public:
  ProgramChecker(const Function &function, const Program &program)
      : function(function), program(program),
        where(("function '" + function.name + "', program '" + program.target + "'")) {}

  Error check() const {
    if (!parseChip(program.target))
      return fail("target", "a chip like 'sm_80' or 'sm_90a'", "'" + program.target + "'");
    for (auto [i, slot] : enumerate(program.slots))
      for (const SlotSize &size : slot.sizes)
        if (!size.symbol.empty() && !knows(size.symbol))
          return unknownSymbol("slot " + Twine(i), size.symbol);
    for (auto [i, buffer] : enumerate(program.buffers))
      if (Error error = check(buffer, i))
        return error;
    StringSet<> names;
    for (const Kernel &kernel : program.kernels) {
      if (!names.insert(kernel.name).second)
        return fail("kernels", "each name once", "'" + kernel.name + "' twice");
      if (Error error = check(kernel))
        return error;
    }
    for (auto [i, step] : enumerate(program.steps))
      if (Error error = check(step, i, names))
        return error;
    return Error::success();
  }

private:
  Error fail(const Twine &what, const Twine &expected, const Twine &got) const {
    return makeError(Status::InvalidProgram,
                     "manifest: " + where + ": " + what + " expected " + expected + ", got " + got);
  }
  Error unknownSymbol(const Twine &what, StringRef symbol) const {
    return fail(what, "a symbol of the function (" + quotedList(function.symbols) + ")",
                "'" + symbol + "'");
  }
  Error outOfRange(const Twine &what, StringRef kind, size_t count, int64_t index) const {
    return fail(what, kind + " index below " + Twine(count), Twine(index));
  }
  bool knows(StringRef symbol) const { return is_contained(function.symbols, symbol); }
  static bool inRange(int64_t index, size_t size) { return index >= 0 && uint64_t(index) < size; }

  Error check(const Buffer &buffer, size_t i) const {
    switch (buffer.kind) {
    case Buffer::Kind::Input:
      if (!inRange(buffer.index, function.inputs.size()))
        return outOfRange("buffer " + Twine(i), "an input", function.inputs.size(), buffer.index);
      break;
    case Buffer::Kind::Output:
      if (!inRange(buffer.index, function.outputs.size()))
        return outOfRange("buffer " + Twine(i), "an output", function.outputs.size(), buffer.index);
      break;
    case Buffer::Kind::Constant:
      if (buffer.tensor.empty())
        return fail("buffer " + Twine(i), "a tensor's name", "an empty one");
      break;
    case Buffer::Kind::Workspace:
      if (!inRange(buffer.slot, program.slots.size()))
        return outOfRange("buffer " + Twine(i), "a slot", program.slots.size(), buffer.slot);
      for (const Dimension &dim : buffer.shape)
        if (dim.isSymbol() && !knows(dim.symbol))
          return unknownSymbol("buffer " + Twine(i), dim.symbol);
      break;
    }
    return Error::success();
  }

  Error check(const Kernel &kernel) const {
    std::string what = "kernel '" + kernel.name + "'";
    if (kernel.name.empty())
      return fail("kernels", "a name for each", "an empty one");
    int64_t threads = 1;
    for (int64_t extent : kernel.block) {
      if (extent < 1 || extent > 1024)
        return fail(what, "block extents from 1 to 1024", Twine(extent));
      threads *= extent;
    }
    if (threads > 1024)
      return fail(what, "at most 1024 threads in a block", Twine(threads));
    if (kernel.shared < 0 || kernel.shared > maxSharedBytes)
      return fail(what, "0 to " + Twine(maxSharedBytes) + " bytes of shared memory",
                  Twine(kernel.shared));
    for (const GridDim &dim : kernel.grid) {
      if (!dim.symbol.empty() && !knows(dim.symbol))
        return unknownSymbol(what + " grid", dim.symbol);
      if (dim.per < 1 || dim.mul < 1)
        return fail(what + " grid", "per and mul of at least 1", Twine(std::min(dim.per, dim.mul)));
      if (dim.max && dim.symbol.empty())
        return fail(what + " grid", "a symbol where there is a max", "a constant extent");
      if (dim.max && *dim.max < 1)
        return fail(what + " grid", "a max of at least 1", Twine(*dim.max));
    }
    return Error::success();
  }

  Error check(const Step &step, size_t i, const StringSet<> &kernels) const {
    std::string what = ("step " + Twine(i) + " ('" + step.label + "')").str();
    if (!step.symbol.empty() && !knows(step.symbol))
      return unknownSymbol(what, step.symbol);
    if (step.variants.empty())
      return fail(what, "at least one variant", "none");
    for (auto [v, variant] : enumerate(step.variants)) {
      bool last = v + 1 == step.variants.size();
      bool needsNext = variant.callsLibrary();
      if (last && needsNext)
        return fail(what, "a last variant that needs no library", "one that does");
      if (last && variant.max)
        return fail(what, "a max in every variant but the last", "one in the last");
      if (!last && !needsNext && step.symbol.empty())
        return fail(what, "one variant, having no symbol to choose by",
                    Twine(step.variants.size()));
      if (!last && !needsNext && !variant.max)
        return fail(what, "a max in every variant but the last", "none in variant " + Twine(v));
      if (v > 0 && !follows(step.variants[v - 1], variant))
        return fail(what, "ascending max",
                    (variant.max ? Twine(*variant.max) : Twine("none")) + " in variant " +
                        Twine(v));
      for (std::optional<double> time : {variant.times.sparse, variant.times.dense})
        if (time && !(*time >= 0))
          return fail(what, "times of at least 0", "less in variant " + Twine(v));
      if (variant.launches.empty())
        return fail(what, "at least one launch in variant " + Twine(v), "none");
      for (const Launch &launch : variant.launches)
        if (Error error = check(launch, what, kernels))
          return error;
    }
    return Error::success();
  }

  /// Whether the maxima of two neighbours are in order.
  static bool follows(const Variant &before, const Variant &after) {
    int64_t first = before.max.value_or(INT64_MAX), second = after.max.value_or(INT64_MAX);
    return first < second || (first == second && before.callsLibrary());
  }

  /// A buffer's shape and dtype; null for a constant, whose are in the file.
  struct Matrix {
    ArrayRef<Dimension> shape;
    DType dtype;
  };
  std::optional<Matrix> matrixOf(const Buffer &buffer) const {
    switch (buffer.kind) {
    case Buffer::Kind::Input:
      return Matrix{function.inputs[buffer.index].shape, function.inputs[buffer.index].dtype};
    case Buffer::Kind::Output:
      return Matrix{function.outputs[buffer.index].shape, function.outputs[buffer.index].dtype};
    case Buffer::Kind::Workspace:
      return Matrix{buffer.shape, buffer.dtype};
    case Buffer::Kind::Constant:
      break;
    }
    return std::nullopt;
  }

  /// Of the weight only the file knows dtype and shape; FunctionPlan looks at those.
  Error check(const MatmulCall &call, const std::string &what) const {
    for (int64_t index : {call.x, call.w, call.y})
      if (!inRange(index, program.buffers.size()))
        return outOfRange(what, "a buffer", program.buffers.size(), index);
    std::optional<Matrix> x = matrixOf(program.buffers[call.x]);
    std::optional<Matrix> y = matrixOf(program.buffers[call.y]);
    if (!x)
      return fail(what, "x of a product in an input or the workspace", "a constant");
    if (!y || program.buffers[call.y].kind == Buffer::Kind::Input)
      return fail(what, "y of a product in an output or the workspace",
                  y ? "an input" : "a constant");
    if (program.buffers[call.w].kind != Buffer::Kind::Constant)
      return fail(what, "a constant as w of a product", "another kind of buffer");
    for (auto [name, matrix] : {std::pair("x", *x), std::pair("y", *y)})
      if (matrix.shape.empty() || matrix.shape.back().isSymbol())
        return fail(what, Twine(name) + " of a product with a static last dimension",
                    matrix.shape.empty() ? "rank 0" : "'" + matrix.shape.back().symbol + "'");
    if (!equal(x->shape.drop_back(), y->shape.drop_back(),
               [](const Dimension &a, const Dimension &b) {
                 return a.symbol == b.symbol && a.size == b.size;
               }))
      return fail(what, "x and y of a product with the same rows", "others");
    MatmulType type{x->dtype, y->dtype, call.compute, y->shape.back().size, x->shape.back().size};
    if (std::optional<std::string> fault = type.findFault())
      return makeError(Status::InvalidProgram,
                       "manifest: " + where + ": " + what + " product " + *fault);
    return Error::success();
  }

  Error check(const Launch &launch, const std::string &what, const StringSet<> &kernels) const {
    if (launch.matmul) {
      if (!launch.kernel.empty() || !launch.args.empty())
        return fail(what, "a kernel or a library in a launch", "both");
      return check(*launch.matmul, what);
    }
    if (!kernels.contains(launch.kernel))
      return fail(what, "a kernel of the program", "'" + launch.kernel + "'");
    if (launch.args.size() > maxKernelArguments)
      return fail(what, "at most " + Twine(maxKernelArguments) + " kernel arguments",
                  Twine(launch.args.size()));
    size_t maps = 0;
    for (const Argument &arg : launch.args) {
      bool isMap = arg.kind == Argument::Kind::TensorMap;
      bool indexes =
          isMap || arg.kind == Argument::Kind::Buffer || arg.kind == Argument::Kind::Stride;
      if (indexes && !inRange(arg.value, program.buffers.size()))
        return outOfRange(what, "a buffer", program.buffers.size(), arg.value);
      if (arg.kind == Argument::Kind::Dim && !knows(arg.symbol))
        return unknownSymbol(what, arg.symbol);
      if (!isMap)
        continue;
      if (++maps > maxTensorMaps)
        return fail(what, "at most " + Twine(maxTensorMaps) + " tensor maps", "more");
      if (Error error = checkTensorMap(arg, what))
        return error;
    }
    return Error::success();
  }

  /// Of constants only the file knows dtype and shape; FunctionPlan looks at those.
  Error checkTensorMap(const Argument &arg, const std::string &what) const {
    std::optional<Matrix> matrix = matrixOf(program.buffers[arg.value]);
    if (!matrix)
      return Error::success();
    std::string map = what + " tensor map of buffer " + std::to_string(arg.value);
    ArrayRef<Dimension> shape = matrix->shape;
    if (shape.empty() || shape.back().isSymbol())
      return fail(map, "a buffer with a static last dimension",
                  shape.empty() ? "one of rank 0" : "'" + shape.back().symbol + "'");
    if (shape.back().size < 1 || shape.back().size > maxTensorMapExtent)
      return fail(map, "1 to " + Twine(maxTensorMapExtent) + " columns", Twine(shape.back().size));
    if (std::optional<std::string> fault = arg.box.findFault(byteSize(matrix->dtype)))
      return makeError(Status::InvalidProgram, "manifest: " + where + ": " + map + " " + *fault);
    return Error::success();
  }

  const Function &function;
  const Program &program;
  std::string where;
};
} // namespace

static Error checkSpecs(const Function &function, const std::vector<TensorSpec> &specs,
                        StringRef kind) {
  for (auto [i, spec] : enumerate(specs)) {
    auto fail = [&, i = i](const Twine &expected, const Twine &got) {
      return makeError(Status::InvalidProgram, "manifest: function '" + function.name +
                                                   "': " + kind + " " + Twine(i) + " expected " +
                                                   expected + ", got " + got);
    };
    if (spec.shape.size() > maxRank)
      return fail("rank at most " + Twine(maxRank), Twine(spec.shape.size()));
    for (const Dimension &dim : spec.shape) {
      if (dim.isSymbol() && !is_contained(function.symbols, dim.symbol))
        return fail("a symbol of the function (" + quotedList(function.symbols) + ")",
                    "'" + dim.symbol + "'");
      if (dim.size < 0)
        return fail("extents of at least 0", Twine(dim.size));
    }
    if (!isPowerOf2_64(spec.align.pointer) || spec.align.stride < 1)
      return fail("a power of two as pointer alignment and a positive stride multiple",
                  Twine(spec.align.pointer) + " and " + Twine(spec.align.stride));
  }
  return Error::success();
}

static Error checkFunction(const Function &function) {
  auto fail = [&](const Twine &expected, const Twine &got) {
    return makeError(Status::InvalidProgram, "manifest: function '" + function.name +
                                                 "': expected " + expected + ", got " + got);
  };
  StringSet<> symbols;
  for (const std::string &symbol : function.symbols) {
    if (symbol.empty() || !symbols.insert(symbol).second)
      return fail("each symbol named once",
                  symbol.empty() ? "an empty name" : "'" + symbol + "' twice");
    // Only inputs give symbols a value.
    bool bound = any_of(function.inputs, [&](const TensorSpec &spec) {
      return any_of(spec.shape, [&](const Dimension &dim) { return dim.symbol == symbol; });
    });
    if (!bound)
      return fail("every symbol in the shape of some input", "'" + symbol + "' in none");
  }
  if (function.symbols.size() > maxSymbols)
    return fail("at most " + Twine(maxSymbols) + " symbols", Twine(function.symbols.size()));
  if (function.inputs.size() > maxTensors || function.outputs.size() > maxTensors)
    return fail("at most " + Twine(maxTensors) + " inputs and outputs",
                Twine(std::max(function.inputs.size(), function.outputs.size())));
  if (Error error = checkSpecs(function, function.inputs, "input"))
    return error;
  if (Error error = checkSpecs(function, function.outputs, "output"))
    return error;
  StringSet<> targets;
  for (const Program &program : function.programs) {
    if (!targets.insert(program.target).second)
      return fail("one program a target", "'" + program.target + "' twice");
    if (Error error = ProgramChecker(function, program).check())
      return error;
  }
  return Error::success();
}

Error sparseflow::runtime::validate(const Manifest &manifest) {
  StringSet<> names;
  for (const Function &function : manifest.functions) {
    if (function.name.empty() || !names.insert(function.name).second)
      return makeError(Status::InvalidProgram,
                       "manifest: expected each function named once, got '" + function.name + "'");
    if (Error error = checkFunction(function))
      return error;
  }
  return Error::success();
}
