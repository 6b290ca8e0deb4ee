//===- ConstantTensors.cpp - Constants as tensors of a file ---------------===//

#include "ConstantTensors.h"

#include "sparseflow/Dialect/SF/IR/SFConstants.h"
#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Runtime/ElementType.h"
#include "sparseflow/Runtime/Error.h"
#include "sparseflow/Support/Sparse24.h"

#include "llvm/ADT/StringMap.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"

using namespace mlir;
using namespace sparseflow;
namespace rt = sparseflow::runtime;

std::string sparseflow::getChipSourceName(StringRef chip) {
  return (chip + "/" + sourceTensorName).str();
}

bool sparseflow::isCanonicalWeight(RankedTensorType type) {
  sf::WeightAttr weight = sf::getWeightEncoding(type);
  return weight && weight.isCanonical();
}

std::string sparseflow::getValuesName(StringRef constant) { return (constant + ".values").str(); }

std::string sparseflow::getBitmaskName(StringRef constant) { return (constant + ".bitmask").str(); }

static ArrayRef<uint8_t> asBytes(ArrayRef<char> data) {
  return {reinterpret_cast<const uint8_t *>(data.data()), data.size()};
}

static rt::StoredTensor makeTensor(std::string name, rt::DType dtype, std::vector<int64_t> shape,
                                   ArrayRef<char> data, std::shared_ptr<const void> owner) {
  if (!owner)
    return rt::StoredTensor::own(std::move(name), dtype, std::move(shape),
                                 std::vector<uint8_t>(data.begin(), data.end()));
  rt::StoredTensor tensor;
  tensor.name = std::move(name);
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  tensor.data = asBytes(data);
  tensor.owner = std::move(owner);
  return tensor;
}

void sparseflow::addConstantBytes(std::vector<rt::StoredTensor> &tensors,
                                  const ResourceConstant &constant,
                                  std::shared_ptr<const void> owner) {
  tensors.push_back(makeTensor(constant.name, rt::DType::U8,
                               {static_cast<int64_t>(constant.data.size())}, constant.data, owner));
}

void sparseflow::addConstant(std::vector<rt::StoredTensor> &tensors,
                             const ResourceConstant &constant, std::shared_ptr<const void> owner) {
  std::optional<DType> dtype = sf::getDType(constant.type.getElementType());
  if (isCanonicalWeight(constant.type) && dtype) {
    int64_t n = constant.type.getDimSize(0), k = constant.type.getDimSize(1);
    size_t valueBytes = canonicalValuesBytes(n, k, *dtype);
    tensors.push_back(makeTensor(getValuesName(constant.name), rt::fromElementType(*dtype),
                                 {n, k / 2}, constant.data.take_front(valueBytes), owner));
    tensors.push_back(makeTensor(getBitmaskName(constant.name), rt::DType::U8, {n, (k + 7) / 8},
                                 constant.data.drop_front(valueBytes), owner));
    return;
  }
  if (constant.type.getEncoding() || !dtype) {
    addConstantBytes(tensors, constant, owner);
    return;
  }
  tensors.push_back(makeTensor(constant.name, rt::fromElementType(*dtype),
                               constant.type.getShape().vec(), constant.data, owner));
}

/// The tensors that a constant becomes in the file.
static SmallVector<std::string> getTensorNames(const ResourceConstant &constant) {
  if (isCanonicalWeight(constant.type))
    return {getValuesName(constant.name), getBitmaskName(constant.name)};
  return {constant.name};
}

llvm::Error sparseflow::checkConstantNames(ArrayRef<ResourceConstant> constants) {
  llvm::StringMap<StringRef> owners; // of tensors
  for (const ResourceConstant &constant : constants)
    for (const std::string &tensor : getTensorNames(constant)) {
      auto [folder, rest] = StringRef(tensor).split('/');
      bool isInFolder = folder.size() < tensor.size() && rt::parseChip(folder);
      if (!llvm::json::isUTF8(tensor) || tensor == sourceTensorName || isInFolder)
        return rt::makeError(
            rt::Status::InvalidArgument,
            llvm::formatv("expected a constant's name to be UTF-8, other than '{0}' and outside of "
                          "the targets' folders, such as 'sm_90a/', got '{1}'; rename the constant",
                          sourceTensorName, llvm::json::fixUTF8(constant.name)));
      auto [owner, isNew] = owners.insert({tensor, constant.name});
      if (!isNew)
        return rt::makeError(
            rt::Status::InvalidArgument,
            llvm::formatv("expected constants whose tensors in the file have different names, got "
                          "'{0}' for '{1}' and for '{2}'; rename one of them",
                          tensor, owner->second, constant.name));
    }
  return llvm::Error::success();
}
