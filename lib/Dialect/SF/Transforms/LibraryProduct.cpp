//===- LibraryProduct.cpp - Which products may call a library ---------------===//
//
// A weight that arrives with the call would have to be made dense with every call, which costs more
// than dense can win.
//
//===----------------------------------------------------------------------===//

#include "LibraryProduct.h"

#include "DequantizeConstant.h"

#include "sparseflow/Dialect/SF/IR/SFConstants.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf;

std::optional<std::string> sf::findLibraryFault(MatmulOp op) {
  if (std::optional<std::string> fault = op.findLibraryFault(op.getAccumulatorType()))
    return fault;
  WeightAttr encoding = op.getWeightEncoding();
  if (encoding && encoding.isPacked() && op.getLibraryWeights().empty())
    return "expected weights that are not packed yet, got packed ones";
  for (Value weight : op.getLibraryWeights().empty() ? op.getWeights() : op.getLibraryWeights())
    if (!isKnownWeight(weight))
      return "expected weights that are known at compile time, got one that arrives with the call";
  if (isConstantTensor(op.getX()))
    return "expected an x that arrives with the call, got a constant";
  return std::nullopt;
}
