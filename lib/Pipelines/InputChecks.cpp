//===- InputChecks.cpp - What the compiler can take -----------------------===//

#include "InputChecks.h"

#include "sparseflow/Dialect/SF/IR/SFConstants.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/JSON.h"

using namespace mlir;
using namespace sparseflow;

/// A name that a manifest, which is JSON, and a command line can carry.
static bool isName(StringRef name) {
  auto isControl = [](unsigned char c) { return c < 0x20 || c == 0x7f; };
  return !name.empty() && llvm::json::isUTF8(name) && llvm::none_of(name, isControl);
}

/// Checks the names that a function's inputs or outputs are asked for.
static LogicalResult checkNames(func::FuncOp function, std::optional<ArrayAttr> attributes,
                                StringRef what) {
  llvm::StringSet<> seen;
  for (auto [i, dictionary] :
       llvm::enumerate(attributes.value_or(ArrayAttr::get(function.getContext(), {}))
                           .getAsRange<DictionaryAttr>())) {
    Attribute attribute = dictionary.get("sf.name");
    if (!attribute)
      continue;
    auto name = dyn_cast<StringAttr>(attribute);
    if (!name || !isName(name))
      return function.emitError() << "expected sf.name of " << what << " " << i << " of '"
                                  << function.getSymName()
                                  << "' to be text without control characters, got " << attribute;
    if (!seen.insert(name).second)
      return function.emitError() << "expected each " << what << " of '" << function.getSymName()
                                  << "' to have an sf.name of its own, got " << name << " twice";
  }
  return success();
}

LogicalResult sparseflow::checkFunctions(ModuleOp module) {
  unsigned count = 0;
  for (auto function : module.getOps<func::FuncOp>()) {
    if (function.isExternal() || !function.isPublic())
      continue;
    ++count;
    if (!isName(function.getSymName()))
      return function.emitError()
             << "expected a function's name to be text without control characters, got "
             << function.getSymNameAttr();
    if (failed(checkNames(function, function.getArgAttrs(), "argument")) ||
        failed(checkNames(function, function.getResAttrs(), "result")))
      return failure();
    auto check = [&](TypeRange types, StringRef what) -> LogicalResult {
      for (auto [i, type] : llvm::enumerate(types)) {
        auto tensor = dyn_cast<RankedTensorType>(type);
        if (!tensor || !sf::getDType(tensor.getElementType()))
          return function.emitError()
                 << "expected " << what << " " << i << " of '" << function.getSymName()
                 << "' to be a ranked tensor of f16, bf16, f32, i8, f8E4M3FN, f8E5M2 or i32, got "
                 << type;
      }
      return success();
    };
    if (failed(check(function.getArgumentTypes(), "argument")) ||
        failed(check(function.getResultTypes(), "result")))
      return failure();
  }
  if (!count)
    return module.emitError("expected a public function with a body, got none");
  return success();
}
