// The manifest's JSON form. The reader keeps the path of what it looks at and its first error, so
// that each rule is one line and a message says `functions[0].inputs[1].dtype expected ..., got
// ...`.
#include "sparseflow/Runtime/Error.h"
#include "sparseflow/Runtime/Manifest.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include <cmath>

using namespace llvm;
using namespace sparseflow::runtime;

//===-- Writing ------------------------------------------------------------------------------===//

static json::Value toJSON(const Program &program);
static json::Value toJSON(const Function &function);

static json::Value toJSON(const std::vector<Dimension> &shape) {
  json::Array array;
  for (const Dimension &dim : shape)
    array.push_back(dim.isSymbol() ? json::Value(dim.symbol) : json::Value(dim.size));
  return array;
}

static json::Value toJSON(const TensorSpec &spec) {
  return json::Object{
      {"name", spec.name},
      {"dtype", stringify(spec.dtype)},
      {"shape", toJSON(spec.shape)},
      {"align", json::Object{{"pointer", spec.align.pointer}, {"stride", spec.align.stride}}}};
}

static json::Value toJSON(const Buffer &buffer) {
  switch (buffer.kind) {
  case Buffer::Kind::Input:
    return json::Object{{"kind", "input"}, {"index", buffer.index}};
  case Buffer::Kind::Output:
    return json::Object{{"kind", "output"}, {"index", buffer.index}};
  case Buffer::Kind::Constant:
    return json::Object{{"kind", "constant"}, {"tensor", buffer.tensor}};
  case Buffer::Kind::Workspace:
    break;
  }
  return json::Object{{"kind", "workspace"},
                      {"slot", buffer.slot},
                      {"dtype", stringify(buffer.dtype)},
                      {"shape", toJSON(buffer.shape)}};
}

static json::Value toJSON(const Slot &slot) {
  json::Array sizes;
  for (const SlotSize &size : slot.sizes)
    sizes.push_back(json::Object{
        {"symbol", size.symbol.empty() ? json::Value(nullptr) : json::Value(size.symbol)},
        {"bytes_per", size.bytesPer},
        {"bytes", size.bytes},
        {"cap", size.cap ? json::Value(*size.cap) : json::Value(nullptr)}});
  return json::Object{{"sizes", std::move(sizes)}};
}

static json::Value toJSON(const Argument &arg) {
  switch (arg.kind) {
  case Argument::Kind::Buffer:
    return json::Object{{"buffer", arg.value}};
  case Argument::Kind::Stride:
    return json::Object{{"stride", arg.value}};
  case Argument::Kind::Dim:
    return json::Object{{"dim", arg.symbol}};
  case Argument::Kind::I32:
    return json::Object{{"i32", arg.value}};
  case Argument::Kind::I64:
    return json::Object{{"i64", arg.value}};
  case Argument::Kind::TensorMap: {
    json::Object map{{"buffer", arg.value},
                     {"box", json::Array{arg.box.boxRows, arg.box.boxColumns}},
                     {"swizzle", arg.box.swizzle}};
    if (arg.box.fits)
      map["fits"] = true;
    return json::Object{{"tensor_map", std::move(map)}};
  }
  case Argument::Kind::F32:
    break;
  }
  return json::Object{{"f32", arg.number}};
}

static json::Value toJSON(const Variant &variant) {
  json::Array launches;
  for (const Launch &launch : variant.launches) {
    if (const std::optional<MatmulCall> &call = launch.matmul) {
      launches.push_back(
          json::Object{{"library", cublasLtName},
                       {"matmul", json::Object{{"x", call->x},
                                               {"w", call->w},
                                               {"y", call->y},
                                               {"compute", stringify(call->compute)}}}});
      continue;
    }
    json::Array args;
    for (const Argument &arg : launch.args)
      args.push_back(toJSON(arg));
    launches.push_back(json::Object{{"kernel", launch.kernel}, {"args", std::move(args)}});
  }
  json::Object object{{"max", variant.max ? json::Value(*variant.max) : json::Value(nullptr)},
                      {"path", variant.path},
                      {"launches", std::move(launches)}};
  if (!variant.reason.empty())
    object["reason"] = variant.reason;
  json::Object times;
  if (variant.times.sparse)
    times["sparse"] = *variant.times.sparse;
  if (variant.times.dense)
    times["dense"] = *variant.times.dense;
  if (!times.empty())
    object["time_us"] = std::move(times);
  return object;
}

static json::Value toJSON(const Step &step) {
  json::Array variants;
  for (const Variant &variant : step.variants)
    variants.push_back(toJSON(variant));
  return json::Object{
      {"op", step.op},
      {"label", step.label},
      {"symbol", step.symbol.empty() ? json::Value(nullptr) : json::Value(step.symbol)},
      {"variants", std::move(variants)}};
}

static json::Value toJSON(const Kernel &kernel) {
  json::Array grid;
  for (const GridDim &dim : kernel.grid) {
    if (dim.symbol.empty()) {
      grid.push_back(json::Object{{"const", dim.mul}});
      continue;
    }
    json::Object extent{{"symbol", dim.symbol}, {"per", dim.per}, {"mul", dim.mul}};
    if (dim.max)
      extent["max"] = *dim.max;
    grid.push_back(std::move(extent));
  }
  auto orNull = [](const std::string &text) {
    return text.empty() ? json::Value(nullptr) : json::Value(text);
  };
  json::Object object{{"name", kernel.name},
                      {"block", json::Array{kernel.block[0], kernel.block[1], kernel.block[2]}},
                      {"shared", kernel.shared},
                      {"grid", std::move(grid)},
                      {"config", kernel.config},
                      {"registers", kernel.registers},
                      {"spill_bytes", kernel.spillBytes},
                      {"mma_sp", kernel.mmaSp},
                      {"ptxas", orNull(kernel.ptxas)},
                      {"cubin", orNull(kernel.cubin)},
                      {"ptx", orNull(kernel.ptx)}};
  if (kernel.dependentLaunch)
    object["dependent_launch"] = true;
  return object;
}

template <typename T> static json::Array listToJSON(const std::vector<T> &list) {
  json::Array array;
  for (const T &element : list)
    array.push_back(toJSON(element));
  return array;
}

static json::Value toJSON(const Program &program) {
  return json::Object{{"target", program.target},
                      {"buffers", listToJSON(program.buffers)},
                      {"slots", listToJSON(program.slots)},
                      {"steps", listToJSON(program.steps)},
                      {"kernels", listToJSON(program.kernels)}};
}

static json::Value toJSON(const Function &function) {
  return json::Object{{"name", function.name},
                      {"symbols", json::Array(function.symbols)},
                      {"inputs", listToJSON(function.inputs)},
                      {"outputs", listToJSON(function.outputs)},
                      {"programs", listToJSON(function.programs)}};
}

json::Value sparseflow::runtime::toJSON(const Manifest &manifest) {
  return json::Object{
      {"format", manifest.format},
      {"producer", manifest.producer},
      {"functions", listToJSON(manifest.functions)},
      {"source", manifest.source.empty() ? json::Value(nullptr) : json::Value(manifest.source)}};
}

//===-- Reading ------------------------------------------------------------------------------===//

static std::string describe(const json::Value &value) {
  switch (value.kind()) {
  case json::Value::Array:
    return "an array";
  case json::Value::Object:
    return "an object";
  case json::Value::String: {
    StringRef text = *value.getAsString();
    return text.size() <= 40 ? formatv("\"{0}\"", text).str()
                             : formatv("\"{0}...\"", text.take_front(40)).str();
  }
  default:
    return formatv("{0}", value).str();
  }
}

namespace {
/// A value of the tree with its path. Null after an error; every accessor of a null node returns a
/// harmless default.
class Node {
public:
  Node(const json::Value *value, std::string path, std::string &error)
      : value(value), path(std::move(path)), error(&error) {}

  explicit operator bool() const { return value && error->empty(); }

  void fail(const Twine &message) const {
    if (error->empty())
      *error = (path.empty() ? message : path + " " + message).str();
  }
  void expected(const Twine &what) const {
    if (value)
      fail("expected " + what + ", got " + describe(*value));
  }

  /// A member that must be there.
  Node operator[](StringRef key) const {
    const json::Object *object = asObject();
    const json::Value *member = object ? object->get(key) : nullptr;
    if (object && !member)
      fail("expected a member \"" + key + "\", got none");
    return {member, join(key), *error};
  }
  /// A member that may be absent or null.
  Node maybe(StringRef key) const {
    const json::Object *object = asObject();
    const json::Value *member = object ? object->get(key) : nullptr;
    if (member && member->kind() == json::Value::Null)
      member = nullptr;
    return {member, join(key), *error};
  }
  bool has(StringRef key) const {
    const json::Object *object = asObject();
    return object && object->get(key);
  }

  std::vector<Node> elements(size_t max = std::numeric_limits<size_t>::max()) const {
    std::vector<Node> nodes;
    if (!*this)
      return nodes;
    const json::Array *array = value->getAsArray();
    if (!array) {
      expected("an array");
      return nodes;
    }
    if (array->size() > max) {
      fail("expected at most " + Twine(max) + " elements, got " + Twine(array->size()));
      return nodes;
    }
    for (size_t i = 0; i < array->size(); ++i)
      nodes.emplace_back(&(*array)[i], (path + "[" + Twine(i) + "]").str(), *error);
    return nodes;
  }

  int64_t integer(int64_t min, int64_t max) const {
    if (!*this)
      return min;
    std::optional<int64_t> number = value->getAsInteger();
    if (!number || *number < min || *number > max) {
      expected("an integer from " + Twine(min) + " to " + Twine(max));
      return min;
    }
    return *number;
  }
  double number() const {
    if (!*this)
      return 0;
    std::optional<double> result = value->getAsNumber();
    if (!result || !std::isfinite(*result)) {
      expected("a finite number");
      return 0;
    }
    return *result;
  }
  bool boolean() const {
    if (!*this)
      return false;
    std::optional<bool> result = value->getAsBoolean();
    if (!result)
      expected("true or false");
    return result.value_or(false);
  }
  std::string text() const {
    if (!*this)
      return {};
    std::optional<StringRef> result = value->getAsString();
    if (!result) {
      expected("a string");
      return {};
    }
    return result->str();
  }
  bool isString() const { return *this && value->kind() == json::Value::String; }

private:
  const json::Object *asObject() const {
    if (!*this)
      return nullptr;
    const json::Object *object = value->getAsObject();
    if (!object)
      expected("an object");
    return object;
  }
  std::string join(StringRef key) const {
    return path.empty() ? key.str() : (path + "." + key).str();
  }

  const json::Value *value;
  std::string path;
  std::string *error;
};
} // namespace

/// Sizes and indices beyond this are nonsense, and below it sums of a few cannot overflow.
static constexpr int64_t large = int64_t(1) << 48;

static DType readDType(const Node &node) {
  std::string text = node.text();
  if (!node)
    return DType::U8;
  std::optional<DType> type = parseDType(text);
  if (!type)
    node.expected("one of " + dtypeList());
  return type.value_or(DType::U8);
}

static std::vector<Dimension> readShape(const Node &node) {
  std::vector<Dimension> shape;
  for (const Node &dim : node.elements(maxRank)) {
    if (!dim.isString()) {
      shape.emplace_back(dim.integer(0, large));
      continue;
    }
    shape.emplace_back(dim.text());
    if (shape.back().symbol.empty())
      dim.expected("a symbol's name");
  }
  return shape;
}

static TensorSpec readTensorSpec(const Node &node) {
  TensorSpec spec;
  spec.name = node["name"].text();
  spec.dtype = readDType(node["dtype"]);
  spec.shape = readShape(node["shape"]);
  if (Node align = node.maybe("align")) {
    if (Node pointer = align.maybe("pointer"))
      spec.align.pointer = pointer.integer(1, 4096);
    if (Node stride = align.maybe("stride"))
      spec.align.stride = stride.integer(1, 4096);
  }
  return spec;
}

static Buffer readBuffer(const Node &node) {
  std::string kind = node["kind"].text();
  if (kind == "input")
    return Buffer::input(node["index"].integer(0, large));
  if (kind == "output")
    return Buffer::output(node["index"].integer(0, large));
  if (kind == "constant")
    return Buffer::constant(node["tensor"].text());
  if (kind == "workspace")
    return Buffer::workspace(node["slot"].integer(0, large), readDType(node["dtype"]),
                             readShape(node["shape"]));
  node["kind"].expected("\"input\", \"output\", \"constant\" or \"workspace\"");
  return {};
}

static Slot readSlot(const Node &node) {
  Slot slot;
  for (const Node &element : node["sizes"].elements()) {
    SlotSize size;
    if (Node symbol = element.maybe("symbol"))
      size.symbol = symbol.text();
    if (Node bytesPer = element.maybe("bytes_per"))
      size.bytesPer = bytesPer.integer(0, large);
    if (Node bytes = element.maybe("bytes"))
      size.bytes = bytes.integer(0, large);
    if (Node cap = element.maybe("cap"))
      size.cap = cap.integer(0, large);
    slot.sizes.push_back(std::move(size));
  }
  return slot;
}

static Argument readArgument(const Node &node) {
  if (node.has("buffer"))
    return Argument::buffer(node["buffer"].integer(0, large));
  if (node.has("stride"))
    return Argument::stride(node["stride"].integer(0, large));
  if (node.has("dim"))
    return Argument::dim(node["dim"].text());
  if (node.has("i32"))
    return Argument::i32(node["i32"].integer(INT32_MIN, INT32_MAX));
  if (node.has("i64"))
    return Argument::i64(node["i64"].integer(INT64_MIN, INT64_MAX));
  if (node.has("f32"))
    return Argument::f32(node["f32"].number());
  if (node.has("tensor_map")) {
    Node map = node["tensor_map"];
    std::vector<Node> box = map["box"].elements(2);
    if (box.size() != 2) {
      map["box"].expected("two numbers, rows and columns");
      return {};
    }
    return Argument::tensorMap(map["buffer"].integer(0, large),
                               {box[0].integer(1, maxTensorMapBox),
                                box[1].integer(1, maxTensorMapBox), map["swizzle"].integer(0, 128),
                                map.has("fits") && map["fits"].boolean()});
  }
  if (node)
    node.fail("expected one of \"buffer\", \"stride\", \"dim\", \"i32\", \"i64\", \"f32\", "
              "\"tensor_map\", got none");
  return {};
}

static Variant readVariant(const Node &node) {
  Variant variant;
  if (Node max = node.maybe("max"))
    variant.max = max.integer(0, large);
  variant.path = node["path"].text();
  if (Node reason = node.maybe("reason"))
    variant.reason = reason.text();
  if (Node times = node.maybe("time_us")) {
    if (Node sparse = times.maybe("sparse"))
      variant.times.sparse = sparse.number();
    if (Node dense = times.maybe("dense"))
      variant.times.dense = dense.number();
  }
  for (const Node &element : node["launches"].elements()) {
    Launch launch;
    if (element.has("library")) {
      if (element["library"].text() != cublasLtName)
        element["library"].expected("\"" + cublasLtName + "\"");
      Node call = element["matmul"];
      launch.matmul = MatmulCall{call["x"].integer(0, large), call["w"].integer(0, large),
                                 call["y"].integer(0, large), readDType(call["compute"])};
      variant.launches.push_back(std::move(launch));
      continue;
    }
    launch.kernel = element["kernel"].text();
    for (const Node &arg : element["args"].elements(maxKernelArguments))
      launch.args.push_back(readArgument(arg));
    variant.launches.push_back(std::move(launch));
  }
  return variant;
}

static Step readStep(const Node &node) {
  Step step;
  step.op = node["op"].text();
  step.label = node["label"].text();
  if (Node symbol = node.maybe("symbol"))
    step.symbol = symbol.text();
  for (const Node &element : node["variants"].elements())
    step.variants.push_back(readVariant(element));
  return step;
}

static Kernel readKernel(const Node &node) {
  Kernel kernel;
  kernel.name = node["name"].text();
  std::vector<Node> block = node["block"].elements(3);
  for (auto [extent, element] : zip(kernel.block, block))
    extent = element.integer(1, 1024);
  kernel.shared = node["shared"].integer(0, large);
  std::vector<Node> grid = node["grid"].elements(3);
  for (auto [dim, element] : zip(kernel.grid, grid)) {
    if (element.has("const")) {
      dim = GridDim::constant(element["const"].integer(1, INT32_MAX));
      continue;
    }
    dim.symbol = element["symbol"].text();
    if (Node per = element.maybe("per"))
      dim.per = per.integer(1, INT32_MAX);
    if (Node mul = element.maybe("mul"))
      dim.mul = mul.integer(1, INT32_MAX);
    if (Node max = element.maybe("max"))
      dim.max = max.integer(1, INT32_MAX);
  }
  auto text = [&](StringRef key) {
    Node member = node.maybe(key);
    return member ? member.text() : std::string();
  };
  auto count = [&](StringRef key) {
    Node member = node.maybe(key);
    return member ? member.integer(0, large) : 0;
  };
  kernel.config = text("config");
  kernel.registers = count("registers");
  kernel.spillBytes = count("spill_bytes");
  kernel.mmaSp = count("mma_sp");
  kernel.ptxas = text("ptxas");
  kernel.cubin = text("cubin");
  kernel.ptx = text("ptx");
  if (Node dependent = node.maybe("dependent_launch"))
    kernel.dependentLaunch = dependent.boolean();
  return kernel;
}

static Program readProgram(const Node &node) {
  Program program;
  program.target = node["target"].text();
  for (const Node &element : node["buffers"].elements())
    program.buffers.push_back(readBuffer(element));
  for (const Node &element : node["slots"].elements())
    program.slots.push_back(readSlot(element));
  for (const Node &element : node["steps"].elements())
    program.steps.push_back(readStep(element));
  for (const Node &element : node["kernels"].elements())
    program.kernels.push_back(readKernel(element));
  return program;
}

static Function readFunction(const Node &node) {
  Function function;
  function.name = node["name"].text();
  for (const Node &element : node["symbols"].elements())
    function.symbols.push_back(element.text());
  for (const Node &element : node["inputs"].elements())
    function.inputs.push_back(readTensorSpec(element));
  for (const Node &element : node["outputs"].elements())
    function.outputs.push_back(readTensorSpec(element));
  for (const Node &element : node["programs"].elements())
    function.programs.push_back(readProgram(element));
  return function;
}

Expected<Manifest> sparseflow::runtime::parseManifest(StringRef text) {
  Expected<json::Value> tree = parseUntrustedJSON(text, "the manifest");
  if (!tree)
    return tree.takeError();
  std::string error;
  Node root(&*tree, "", error);
  Manifest manifest;
  manifest.format = root["format"].integer(0, large);
  // Later formats may change anything, so nothing else is looked at.
  if (error.empty() && manifest.format != manifestFormat)
    return makeError(Status::Unsupported,
                     formatv("expected manifest format {0}, got {1}; open it with the SparseFlow "
                             "that wrote it ({2}) or compile it again",
                             manifestFormat, manifest.format,
                             root.maybe("producer") ? root["producer"].text() : "unknown"));
  manifest.producer = root["producer"].text();
  for (const Node &element : root["functions"].elements())
    manifest.functions.push_back(readFunction(element));
  if (Node source = root.maybe("source"))
    manifest.source = source.text();
  if (!error.empty())
    return makeError(Status::InvalidProgram, "manifest: " + error);
  if (Error invalid = validate(manifest))
    return std::move(invalid);
  return manifest;
}
