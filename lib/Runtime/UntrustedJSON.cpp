// JSON from anyone. llvm::json::parse recurses for each bracket and lets the last of two equal keys
// win; a look over the text beforehand bounds the depth and counts the keys, and the parsed tree
// must then hold as many.
#include "sparseflow/Runtime/Error.h"
#include "sparseflow/Runtime/Manifest.h"

using namespace llvm;
using namespace sparseflow::runtime;

/// Deep enough for every manifest (it needs 12), far below what could exhaust a thread's stack.
static constexpr unsigned maxDepth = 32;

namespace {
struct Shape {
  unsigned depth = 0;
  size_t keys = 0;
};
} // namespace

static Shape scan(StringRef text) {
  Shape shape;
  unsigned depth = 0;
  bool inString = false;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (inString) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        inString = false;
      continue;
    }
    if (c == '"')
      inString = true;
    else if (c == ':')
      ++shape.keys;
    else if (c == '[' || c == '{')
      shape.depth = std::max(shape.depth, ++depth);
    else if ((c == ']' || c == '}') && depth > 0)
      --depth;
  }
  return shape;
}

static size_t countKeys(const json::Value &value) {
  size_t count = 0;
  if (const json::Array *array = value.getAsArray())
    for (const json::Value &element : *array)
      count += countKeys(element);
  if (const json::Object *object = value.getAsObject()) {
    count += object->size();
    for (const auto &member : *object)
      count += countKeys(member.second);
  }
  return count;
}

Expected<json::Value> sparseflow::runtime::parseUntrustedJSON(StringRef text, StringRef what) {
  Shape shape = scan(text);
  if (shape.depth > maxDepth)
    return makeError(Status::InvalidProgram, what + " expected at most " + Twine(maxDepth) +
                                                 " nested JSON brackets, got " +
                                                 Twine(shape.depth));
  Expected<json::Value> value = json::parse(text);
  if (!value)
    return makeError(Status::InvalidProgram,
                     what + " expected JSON, got a syntax error: " + toString(value.takeError()));
  if (size_t kept = countKeys(*value); kept != shape.keys)
    return makeError(Status::InvalidProgram, what + " expected every JSON key once, got " +
                                                 Twine(shape.keys - kept) + " duplicate(s)");
  return value;
}
