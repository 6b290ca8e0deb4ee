//===- ChipProgram.cpp - One chip's part of a program ---------------------===//

#include "ChipProgram.h"
#include "ConstantTensors.h"

#include "sparseflow/Dialect/SF/IR/SFConstants.h"
#include "sparseflow/Runtime/Error.h"
#include "sparseflow/Target/Manifest.h"
#include "sparseflow/Target/Passes.h"

#include "mlir/IR/DialectResourceBlobManager.h"
#include "llvm/ADT/StringSet.h"

using namespace mlir;
using namespace sparseflow;
using target::Chip;
namespace rt = sparseflow::runtime;

llvm::Expected<ChipProgram> sparseflow::buildChipProgram(Session &session, const Chip &chip) {
  ChipProgram program;
  FailureOr<target::ModuleProgram> built = failure();
  if (llvm::Error error = session.guard([&]() -> LogicalResult {
        built = target::buildManifest(session.module(), chip);
        return success(succeeded(built));
      }))
    return std::move(error);
  program.manifest = std::move(built->manifest);

  for (auto binary : session.module().getOps<gpu::BinaryOp>())
    for (const target::BinaryKernel &kernel : target::getBinaryKernels(binary)) {
      StringRef name = kernel.metadata.getName();
      for (auto [kind, bytes] : {std::pair("ptx", kernel.ptx), std::pair("cubin", kernel.cubin)})
        if (!bytes.empty())
          program.tensors.push_back(
              rt::StoredTensor::text(target::getKernelTensorName(chip.name, name, kind), bytes));
    }
  for (target::ProgramConstant &constant : built->constants) {
    if (isa<DenseResourceElementsAttr>(constant.op.getValue()))
      continue;
    FailureOr<sf::ConstantData> data = failure();
    if (llvm::Error error = session.guard([&]() -> LogicalResult {
          data = sf::readConstant(constant.op);
          return success(succeeded(data));
        }))
      return std::move(error);
    addConstant(program.tensors,
                {constant.name, cast<RankedTensorType>(constant.op.getType()), data->getBytes()},
                nullptr);
  }
  return program;
}

llvm::Error sparseflow::addResources(ChipProgram &program, ArrayRef<ResourceConstant> resources,
                                     ArrayRef<ExternalConstant> lent,
                                     std::shared_ptr<const void> packed) {
  llvm::StringSet<> present;
  for (const rt::StoredTensor &tensor : program.tensors)
    present.insert(tensor.name);
  for (const rt::Function &function : program.manifest.functions)
    for (const rt::Buffer &buffer : function.programs.front().buffers) {
      if (buffer.kind != rt::Buffer::Kind::Constant || !present.insert(buffer.tensor).second)
        continue;
      auto resource = llvm::find_if(
          resources, [&](const ResourceConstant &other) { return other.name == buffer.tensor; });
      if (resource == resources.end())
        return rt::makeError(rt::Status::InternalError,
                             "constant '" + buffer.tensor + "' was lost on the way");
      bool isLent = llvm::any_of(lent, [&](const ExternalConstant &given) {
        return given.data.data() == resource->data.data();
      });
      std::shared_ptr<const void> owner = isLent ? nullptr : packed;
      // Kernels take the bytes of a canonical weight in one piece.
      if (isCanonicalWeight(resource->type))
        addConstantBytes(program.tensors, *resource, owner);
      else
        addConstant(program.tensors, *resource, owner);
    }
  return llvm::Error::success();
}
