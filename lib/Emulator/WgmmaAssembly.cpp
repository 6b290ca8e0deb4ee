//===- WgmmaAssembly.cpp - The text of wgmma.mma_async --------------------===//
//
//   wgmma.mma_async[.sp].sync.aligned.m64nNkK.D.A.B  {d...}, a, b[, metadata, selector], scale-d
//       [, imm-scale-a, imm-scale-b[, imm-trans-a], imm-trans-b];
//
// where a is a descriptor or four registers, scales belong to floats, and transpositions to 16-bit
// floats (that of A only if it is in shared memory). Operands are $i.
//
//===----------------------------------------------------------------------===//

#include "Wgmma.h"

#include "llvm/ADT/StringMap.h"
#include "llvm/Support/FormatVariadic.h"

#include <memory>
#include <mutex>

using namespace llvm;
using namespace sparseflow::emulator;

template <typename... Args> static Error malformed(const char *format, Args &&...args) {
  return createStringError(inconvertibleErrorCode(),
                           formatv(format, std::forward<Args>(args)...).str());
}

bool sparseflow::emulator::isWgmma(StringRef text) {
  return text.trim().starts_with("wgmma.mma_async");
}

namespace {
class Parser {
public:
  explicit Parser(StringRef text) : rest(text.trim()) {}

  Expected<WgmmaAssembly> parse();

private:
  Error parseName();
  bool consume(StringRef token) {
    rest = rest.ltrim();
    return rest.consume_front(token);
  }
  bool parseNumber(int64_t &value) {
    rest = rest.ltrim();
    return !rest.consumeInteger(10, value);
  }
  bool parseOperand(unsigned &number) { return consume("$") && !rest.consumeInteger(10, number); }
  template <typename Numbers> bool parseList(Numbers &numbers) {
    if (!consume("{"))
      return false;
    do {
      unsigned number;
      if (!parseOperand(number))
        return false;
      numbers.push_back(number);
    } while (consume(","));
    return consume("}");
  }
  Error parseTail();

  StringRef rest;
  WgmmaOp op;
  WgmmaAssembly result;
};
} // namespace

Error Parser::parseName() {
  size_t end = rest.find_first_of(" \t\n");
  StringRef name = rest.take_front(end);
  rest = rest.drop_front(name.size());
  op.name = name.str();
  name.consume_front("wgmma.mma_async");
  op.sparse = name.consume_front(".sp");
  StringRef shape = name;
  if (!name.consume_front(".sync.aligned.m64n") || name.consumeInteger(10, op.n) ||
      !name.consume_front("k") || name.consumeInteger(10, op.k) || !name.consume_front("."))
    return malformed("expected '.sync.aligned.m64nNkK.' after the operation, got '{0}'", shape);
  SmallVector<StringRef> types;
  name.split(types, '.');
  if (types.size() != 3)
    return malformed("expected the types of D, A and B, got '{0}'", name);
  std::optional<Element> a = parseElement(types[1]), b = parseElement(types[2]);
  auto isByteFloat = [](Element type) { return type == Element::E4M3 || type == Element::E5M2; };
  auto isByteInteger = [](Element type) { return type == Element::S8 || type == Element::U8; };
  bool isLegal = a && b && *a != Element::TF32 &&
                 (*a == *b || (isByteFloat(*a) && isByteFloat(*b)) ||
                  (isByteInteger(*a) && isByteInteger(*b))) &&
                 types[0] == (isByteInteger(*a) ? "s32" : "f32");
  if (!isLegal)
    return malformed("expected f32 from two of f16 or bf16 or two 8-bit floats, or s32 from two "
                     "8-bit integers, got '{0}'",
                     name);
  op.a = *a;
  op.b = *b;
  op.isInteger = isByteInteger(*a);
  if (op.n % 8 || op.n < 8 || op.n > 256)
    return malformed("expected N to be a multiple of 8 up to 256, got {0}", op.n);
  unsigned k = 256 / getBits(op.a) * (op.sparse ? 2 : 1);
  if (op.k != k)
    return malformed("expected K to be {0}, got {1}", k, op.k);
  return Error::success();
}

Error Parser::parseTail() {
  int64_t value = 0;
  if (op.sparse) {
    unsigned metadata;
    if (!consume(",") || !parseOperand(metadata))
      return malformed("expected the metadata's register at '{0}'", rest);
    result.metadata = metadata;
    unsigned selectors = getBits(op.a) == 16 ? 2 : 1;
    if (!consume(",") || !parseNumber(value) || value < 0 || value >= selectors)
      return malformed("expected a sparsity selector below {0} at '{1}'", selectors, rest);
    op.selector = value;
  }
  unsigned scale;
  if (!consume(","))
    return malformed("expected scale-d at '{0}'", rest);
  if (parseOperand(scale))
    result.scale = scale;
  else if (parseNumber(value) && (value == 0 || value == 1))
    op.addsToAccumulators = value;
  else
    return malformed("expected scale-d to be 0, 1 or a predicate at '{0}'", rest);
  if (!op.isInteger) {
    for (unsigned factor = 0; factor != 2; ++factor) {
      if (!consume(",") || !parseNumber(value) || (value != 1 && value != -1))
        return malformed("expected imm-scale-{0} to be 1 or -1 at '{1}'", "ab"[factor], rest);
      op.isNegated ^= value < 0;
    }
    if (getBits(op.a) == 16)
      for (unsigned factor = op.hasRegisterA; factor != 2; ++factor)
        if (!consume(",") || !parseNumber(value) || value != 0)
          return malformed("expected imm-trans-{0} to be 0 (operands that are contiguous along "
                           "K) at '{1}'",
                           "ab"[factor], rest);
  }
  if (!consume(";") || !rest.trim().empty())
    return malformed("expected ';' and the end of the statement at '{0}'", rest);
  return Error::success();
}

Expected<WgmmaAssembly> Parser::parse() {
  StringRef text = rest;
  if (Error error = parseName())
    return std::move(error);
  if (!parseList(result.accumulators) || result.accumulators.size() != op.getRegisterCount())
    return malformed("expected a list of {0} accumulators, got {1}", op.getRegisterCount(),
                     result.accumulators.size());
  unsigned descriptor;
  if (!consume(","))
    return malformed("expected A at '{0}'", rest);
  if (parseOperand(descriptor))
    result.a.push_back(descriptor);
  else if (parseList(result.a) && result.a.size() == 4)
    op.hasRegisterA = true;
  else
    return malformed("expected A to be a descriptor or four registers, got {0} registers",
                     result.a.size());
  if (!consume(",") || !parseOperand(result.b))
    return malformed("expected the descriptor of B at '{0}'", rest);
  if (Error error = parseTail())
    return std::move(error);

  // Texts that differ in their operands' numbers alone are one operation too, but few do.
  static std::mutex mutex;
  static StringMap<std::unique_ptr<WgmmaOp>> operations;
  std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<WgmmaOp> &known = operations[text];
  if (!known)
    known = std::make_unique<WgmmaOp>(std::move(op));
  result.op = known.get();
  return std::move(result);
}

Expected<WgmmaAssembly> sparseflow::emulator::parseWgmma(StringRef text) {
  return Parser(text).parse();
}
