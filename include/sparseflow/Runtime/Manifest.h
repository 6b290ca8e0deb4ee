// The manifest of a compiled program: what an `.sf` file says about the kernels and tensors that it
// holds.
//
// The compiler fills these structs, the runtime replays them; the JSON form travels in the file's
// safetensors metadata. Everything that a launch needs is here as plain data (formulas of the
// symbols, never code), so that a file from an untrusted source can be checked completely before
// anything is loaded: `validate` is that check, and `parseManifest` never returns a manifest that
// has not passed it.
#ifndef SPARSEFLOW_RUNTIME_MANIFEST_H
#define SPARSEFLOW_RUNTIME_MANIFEST_H

#include "sparseflow/Runtime/DType.h"
#include "sparseflow/Runtime/TensorMap.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/JSON.h"
#include <array>
#include <optional>
#include <string>
#include <vector>

namespace sparseflow::runtime {

inline constexpr int64_t manifestFormat = 1;
/// Ranks above this have no use here and would only make hostile files larger.
inline constexpr size_t maxRank = 8;
/// The launch path keeps everything on the stack, so a function's interface is bounded.
inline constexpr size_t maxKernelArguments = 64;
inline constexpr size_t maxTensorMaps = 16; // of one launch
inline constexpr size_t maxSymbols = 16;
inline constexpr size_t maxTensors = 256;
/// The most dynamic shared memory that any chip so far gives a block.
inline constexpr int64_t maxSharedBytes = 227 * 1024;

/// One extent of a shape: a number, or the name of a symbol of the function ("M").
struct Dimension {
  int64_t size = 0;
  std::string symbol;

  Dimension() = default;
  Dimension(int64_t size) : size(size) {}
  Dimension(std::string symbol) : symbol(std::move(symbol)) {}
  bool isSymbol() const { return !symbol.empty(); }
};

/// What kernels assume about a pointer (bytes) and a row stride (elements).
struct Alignment {
  int64_t pointer = 16;
  int64_t stride = 8;
};

/// An input or an output of a function.
struct TensorSpec {
  std::string name;
  DType dtype = DType::F16;
  std::vector<Dimension> shape;
  Alignment align;
};

/// A tensor that kernels read or write: an argument of the function, a tensor of the file, or a
/// piece of workspace.
struct Buffer {
  enum class Kind { Input, Output, Constant, Workspace };
  Kind kind = Kind::Input;
  int64_t index = 0;            // Input, Output
  std::string tensor;           // Constant: a tensor of the file
  int64_t slot = 0;             // Workspace
  DType dtype = DType::F16;     // Workspace
  std::vector<Dimension> shape; // Workspace

  static Buffer input(int64_t index);
  static Buffer output(int64_t index);
  static Buffer constant(std::string tensor);
  static Buffer workspace(int64_t slot, DType dtype, std::vector<Dimension> shape);
};

/// bytesPer * min(symbol, cap) + bytes; without a symbol just bytes.
struct SlotSize {
  std::string symbol;
  int64_t bytesPer = 0;
  int64_t bytes = 0;
  std::optional<int64_t> cap;
};

/// A region of the workspace that buffers share over time. As large as the largest of its sizes.
struct Slot {
  std::vector<SlotSize> sizes;
};

/// One kernel argument. Buffers are 64-bit device pointers, strides (of rows, in elements) and dims
/// are i64. A tensor map is passed by value: a buffer as a matrix of its last dimension's columns,
/// whose rows are all that the leading dimensions count.
struct Argument {
  enum class Kind { Buffer, Stride, Dim, I32, I64, F32, TensorMap };
  Kind kind = Kind::Buffer;
  int64_t value = 0;  // Buffer, Stride, TensorMap: index into buffers; I32, I64: the constant
  double number = 0;  // F32
  std::string symbol; // Dim
  TensorMapSpec box;  // TensorMap

  static Argument buffer(int64_t index) { return {Kind::Buffer, index, 0, {}, {}}; }
  static Argument stride(int64_t index) { return {Kind::Stride, index, 0, {}, {}}; }
  static Argument dim(std::string symbol) { return {Kind::Dim, 0, 0, std::move(symbol), {}}; }
  static Argument i32(int32_t value) { return {Kind::I32, value, 0, {}, {}}; }
  static Argument i64(int64_t value) { return {Kind::I64, value, 0, {}, {}}; }
  static Argument f32(float value) { return {Kind::F32, 0, value, {}, {}}; }
  static Argument tensorMap(int64_t index, TensorMapSpec box) {
    return {Kind::TensorMap, index, 0, {}, box};
  }
};

/// A product that a library computes: Y[M,N] = X[M,K] · W[N,K]ᵀ, by indices into buffers.
struct MatmulCall {
  int64_t x = 0;
  int64_t w = 0; // a constant, row by row
  int64_t y = 0;
  DType compute = DType::F32; // of the sums: F32 or I32
};

/// The only library so far, as the manifest calls it.
inline constexpr llvm::StringLiteral cublasLtName = "cublaslt";

/// A kernel, or a library's product.
struct Launch {
  std::string kernel;
  std::vector<Argument> args;
  std::optional<MatmulCall> matmul = std::nullopt;
};

/// What was measured when the path was chosen, in microseconds.
struct MeasuredTimes {
  std::optional<double> sparse, dense;
};

/// The launches to use while the step's symbol is at most `max`. The last variant has no limit.
/// Behind one that calls a library stands one for where the library is missing; its max may be the
/// same.
struct Variant {
  std::optional<int64_t> max;
  std::string path;   // "sparse mma.sp", "dense mma", "dense cublasLt", ...
  std::string reason; // why this path and config, for the report; may be empty
  std::vector<Launch> launches;
  MeasuredTimes times = {};

  bool callsLibrary() const;
};

/// One operation of a function: its variants, of which a call runs one.
struct Step {
  std::string op;     // "matmul", "quantize", ...
  std::string label;  // one line for a person
  std::string symbol; // what the variants are chosen by; empty: there is one variant
  std::vector<Variant> variants;
};

/// One extent of a grid: min(ceil(symbol / per) * mul, max), or without a symbol just `mul`.
struct GridDim {
  std::string symbol;
  int64_t per = 1;
  int64_t mul = 1;
  /// Of a persistent kernel, whose blocks take one tile after the other.
  std::optional<int64_t> max = std::nullopt;

  static GridDim constant(int64_t value) { return {{}, 1, value}; }
};

/// What is needed to load a kernel and to launch it; the rest is for reports.
struct Kernel {
  std::string name; // the symbol in the cubin
  std::array<int64_t, 3> block = {1, 1, 1};
  int64_t shared = 0; // dynamic shared memory, bytes
  std::array<GridDim, 3> grid;
  std::string config; // #sf.kernel_config text
  int64_t registers = 0;
  int64_t spillBytes = 0;
  int64_t mmaSp = 0; // sparse tensor-core instructions in the code
  std::string ptxas; // version; empty when it was not assembled
  std::string cubin; // tensor of the file; empty: none
  std::string ptx;   // tensor of the file; empty: none
  /// It waits itself (griddepcontrol.wait) for the kernel before it on the stream, and so may begin
  /// while that one ends.
  bool dependentLaunch = false;
};

/// One function compiled for one chip.
struct Program {
  std::string target; // "sm_80", "sm_90a"
  std::vector<Buffer> buffers;
  std::vector<Slot> slots;
  std::vector<Step> steps;
  std::vector<Kernel> kernels;
};

/// A function of the compiled module. Symbols are its dynamic extents.
struct Function {
  std::string name;
  std::vector<std::string> symbols;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::vector<Program> programs;
};

/// Everything that a file says about its tensors.
struct Manifest {
  int64_t format = manifestFormat;
  std::string producer;
  std::vector<Function> functions;
  std::string source; // U8 tensor with the sf-level IR; empty: none

  const Function *find(llvm::StringRef name) const;
};

/// Everything that can be checked without the tensors: names, ranges, references, targets.
llvm::Error validate(const Manifest &manifest);

/// The form that parseManifest reads.
llvm::json::Value toJSON(const Manifest &manifest);
/// Reads and validates. The text may come from anyone.
llvm::Expected<Manifest> parseManifest(llvm::StringRef text);

/// Parses JSON that may be hostile: bounded nesting (llvm::json recurses) and no duplicate keys.
/// `what` names the text in messages.
llvm::Expected<llvm::json::Value> parseUntrustedJSON(llvm::StringRef text, llvm::StringRef what);

/// A chip name taken apart: "sm_90a" is {90, 'a'}.
struct Chip {
  unsigned number = 0; // major * 10 + minor
  char suffix = 0;     // 0, 'a' (this chip alone) or 'f' (this family)

  unsigned major() const { return number / 10; }
  unsigned minor() const { return number % 10; }
};
/// Nothing for a text that is no chip's name.
std::optional<Chip> parseChip(llvm::StringRef target);

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_RUNTIME_MANIFEST_H
