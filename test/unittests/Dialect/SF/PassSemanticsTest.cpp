//===- PassSemanticsTest.cpp - The sf passes keep what a graph computes -----===//
//
// Each graph is run by the reference as it is written and after passes 1 to 6, on the same random
// inputs. The lit tests check what the passes write; this checks that it means the same.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Dialect/SF/Transforms/Passes.h"
#include "sparseflow/Reference/ReferenceExecutor.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Linalg/Passes.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Transforms/Passes.h"
#include "gtest/gtest.h"

#include <cmath>
#include <random>

using namespace sparseflow;

namespace {

constexpr int64_t kTokens = 5;

struct Tensor {
  DType dtype;
  std::vector<int64_t> shape;
  std::vector<char> bytes;

  Tensor(const HostTensorSpec &spec) : dtype(spec.dtype), shape(spec.shape) {
    for (int64_t &extent : shape)
      extent = extent == kDynamicTokens ? kTokens : extent;
    bytes.resize(size_t(size()) * getByteWidth(dtype));
  }
  int64_t size() const {
    int64_t count = 1;
    for (int64_t extent : shape)
      count *= extent;
    return count;
  }
  float operator[](int64_t index) const { return loadAsFloat(dtype, bytes.data(), index); }
  HostTensor host() { return {bytes.data(), dtype, shape, {}}; }
};

/// A graph, and how many matmuls passes 1 to 6 leave of it.
struct Graph {
  const char *name;
  int matmuls;
  const char *text;
};

void PrintTo(const Graph &graph, std::ostream *stream) { *stream << graph.name; }

/// The aliases that the graphs use.
const char *const kAliases = R"(
#full = affine_map<(m, n) -> (m, n)>
#feature = affine_map<(m, n) -> (n)>
#token = affine_map<(m, n) -> (m, 0)>
#mk = affine_map<(m, n, k) -> (m, k)>
#km = affine_map<(m, n, k) -> (k, m)>
#nk = affine_map<(m, n, k) -> (n, k)>
#kn = affine_map<(m, n, k) -> (k, n)>
#mn = affine_map<(m, n, k) -> (m, n)>
#nm = affine_map<(m, n, k) -> (n, m)>
!x = tensor<?x32xf16>
!y = tensor<?x24xf16>
!w = tensor<24x32xf16>
!sw = tensor<24x32xf16, #sf.weight<sp24>>
)";

const Graph kGraphs[] = {
    {"chain", 1, R"(
func.func @main(%x: !x, %d: !w, %bias: tensor<24xf16>, %token: tensor<?x1xf32>, %r: !y, %s: tensor<f32>, %init: tensor<?x24xf32>) -> tensor<?x24xf32> {
  %w = sf.compress %d {mode = "prune"} : !w -> !sw
  %y = sf.matmul %x, %w : (!x, !sw) -> !y
  %z = linalg.generic {indexing_maps = [#full, #feature, #token, #full, affine_map<(m, n) -> ()>, #full], iterator_types = ["parallel", "parallel"]}
    ins(%y, %bias, %token, %r, %s : !y, tensor<24xf16>, tensor<?x1xf32>, !y, tensor<f32>) outs(%init : tensor<?x24xf32>) {
  ^bb0(%a: f16, %b: f16, %t: f32, %e: f16, %f: f32, %o: f32):
    %0 = arith.addf %a, %b : f16
    %1 = arith.extf %0 : f16 to f32
    %2 = arith.mulf %1, %t : f32
    %3 = arith.truncf %2 : f32 to f16
    %4 = arith.subf %3, %e : f16
    %5 = arith.extf %4 : f16 to f32
    %6 = arith.mulf %5, %f : f32
    linalg.yield %6 : f32
  } -> tensor<?x24xf32>
  return %z : tensor<?x24xf32>
})"},
    {"diamond", 1, R"(
func.func @main(%x: !x, %w: !w, %init: !y) -> !y {
  %y = sf.matmul %x, %w : (!x, !w) -> !y
  %z = linalg.generic {indexing_maps = [#full, #full], iterator_types = ["parallel", "parallel"]} ins(%y : !y) outs(%init : !y) {
  ^bb0(%a: f16, %o: f16):
    %0 = math.tanh %a : f16
    linalg.yield %0 : f16
  } -> !y
  %c = linalg.generic {indexing_maps = [#full, #full, #full], iterator_types = ["parallel", "parallel"]} ins(%y, %z : !y, !y) outs(%init : !y) {
  ^bb0(%a: f16, %b: f16, %o: f16):
    %p = arith.cmpf ogt, %a, %b : f16
    %0 = arith.select %p, %a, %b : f16
    %1 = arith.mulf %0, %a : f16
    linalg.yield %1 : f16
  } -> !y
  return %c : !y
})"},
    {"gated", 1, R"(
func.func @main(%x: !x, %d: !w, %e: !w, %bias: tensor<24xf32>, %init: !y) -> !y {
  %w = sf.compress %d {mode = "prune"} : !w -> !sw
  %v = sf.compress %e {mode = "prune"} : !w -> !sw
  %g = sf.matmul %x, %w : (!x, !sw) -> tensor<?x24xf32>
  %u = sf.matmul %x, %v epilogue(%bias : tensor<24xf32>) {
  ^bb0(%acc: f32, %b: f32):
    %0 = arith.subf %acc, %b : f32
    sf.yield %0 : f32
  } : (!x, !sw) -> tensor<?x24xf32>
  %z = linalg.generic {indexing_maps = [#full, #full, #full], iterator_types = ["parallel", "parallel"]}
    ins(%g, %u : tensor<?x24xf32>, tensor<?x24xf32>) outs(%init : !y) {
  ^bb0(%a: f32, %b: f32, %o: f16):
    %0 = math.tanh %a : f32
    %1 = arith.mulf %0, %b : f32
    %2 = arith.truncf %1 : f32 to f16
    linalg.yield %2 : f16
  } -> !y
  return %z : !y
})"},
    {"two_layers", 2, R"(
func.func @main(%x: !x, %w: !w, %v: tensor<32x24xf16>) -> !x {
  %h = sf.matmul %x, %w : (!x, !w) -> !y
  %a = math.absf %h : !y
  %y = sf.matmul %a, %v : (!y, tensor<32x24xf16>) -> !x
  %z = arith.addf %y, %x : !x
  return %z : !x
})"},
    {"quantized", 1, R"(
func.func @main(%x: !x, %d: tensor<24x32xi8>, %t: tensor<24x1xf32>) -> !y {
  %q, %s = sf.quantize %x : !x -> tensor<?x32xi8>, tensor<?x1xf32>
  %w = sf.compress %d {mode = "prune"} : tensor<24x32xi8> -> tensor<24x32xi8, #sf.weight<sp24>>
  %a = sf.dequantize %q, %s : tensor<?x32xi8>, tensor<?x1xf32> -> !x
  %b = sf.dequantize %w, %t : tensor<24x32xi8, #sf.weight<sp24>>, tensor<24x1xf32> -> !sw
  %y = sf.matmul %a, %b : (!x, !sw) -> !y
  return %y : !y
})"},
    {"requantized", 1, R"(
func.func @main(%x: !x, %w: !w) -> tensor<?x24xi8> {
  %s = arith.constant dense<0.25> : tensor<f32>
  %y = sf.matmul %x, %w : (!x, !w) -> tensor<?x24xf32>
  %q = sf.quantize %y, %s : tensor<?x24xf32>, tensor<f32> -> tensor<?x24xi8>
  return %q : tensor<?x24xi8>
})"},
    {"constant_weight", 1, R"(
func.func @main(%x: tensor<?x8xf16>) -> tensor<?x2xf16> {
  %q = arith.constant dense<[[1, 0, -2, 0, 0, 3, 0, 4], [0, 0, 0, 0, 5, -6, 0, 0]]> : tensor<2x8xi8>
  %s = arith.constant dense<[[0.5], [0.25]]> : tensor<2x1xf32>
  %c = sf.compress %q : tensor<2x8xi8> -> tensor<2x8xi8, #sf.weight<sp24>>
  %w = sf.dequantize %c, %s : tensor<2x8xi8, #sf.weight<sp24>>, tensor<2x1xf32> -> tensor<2x8xf16, #sf.weight<sp24>>
  %y = sf.matmul %x, %w : (tensor<?x8xf16>, tensor<2x8xf16, #sf.weight<sp24>>) -> tensor<?x2xf16>
  return %y : tensor<?x2xf16>
})"},
    {"linalg_constant", 1, R"(
func.func @main(%x: tensor<?x4xf16>, %init: tensor<?x3xf32>) -> tensor<?x3xf32> {
  %w = arith.constant dense<[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0], [-1.0, -2.0, -3.0]]> : tensor<4x3xf16>
  %zero = arith.constant 0.0 : f32
  %c = linalg.fill ins(%zero : f32) outs(%init : tensor<?x3xf32>) -> tensor<?x3xf32>
  %y = linalg.matmul ins(%x, %w : tensor<?x4xf16>, tensor<4x3xf16>) outs(%c : tensor<?x3xf32>) -> tensor<?x3xf32>
  return %y : tensor<?x3xf32>
})"},
    {"linalg_initial_value", 1, R"(
func.func @main(%x: !x, %w: !w, %init: tensor<?x24xf32>) -> tensor<?x24xf32> {
  %y = linalg.matmul indexing_maps = [#mk, #nk, #mn] ins(%x, %w : !x, !w) outs(%init : tensor<?x24xf32>) -> tensor<?x24xf32>
  return %y : tensor<?x24xf32>
})"},
    {"linalg_all_transposed", 1, R"(
func.func @main(%x: tensor<32x5xf16>, %w: tensor<32x24xf16>, %init: tensor<24x5xf32>) -> tensor<24x5xf32> {
  %y = linalg.generic {indexing_maps = [#km, #kn, #nm], iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%x, %w : tensor<32x5xf16>, tensor<32x24xf16>) outs(%init : tensor<24x5xf32>) {
  ^bb0(%a: f16, %b: f16, %c: f32):
    %0 = arith.extf %a : f16 to f32
    %1 = arith.extf %b : f16 to f32
    %2 = arith.mulf %0, %1 : f32
    %3 = arith.addf %c, %2 : f32
    linalg.yield %3 : f32
  } -> tensor<24x5xf32>
  return %y : tensor<24x5xf32>
})"},
    {"linalg_weight_on_the_left", 1, R"(
func.func @main(%w: tensor<24x32xi8>, %x: tensor<32x5xi8>, %init: tensor<24x5xi32>) -> tensor<24x5xi32> {
  %y = linalg.matmul ins(%w, %x : tensor<24x32xi8>, tensor<32x5xi8>) outs(%init : tensor<24x5xi32>) -> tensor<24x5xi32>
  return %y : tensor<24x5xi32>
})"},
};

class PassSemanticsTest : public testing::TestWithParam<Graph> {
protected:
  PassSemanticsTest() {
    mlir::DialectRegistry registry;
    registry.insert<mlir::arith::ArithDialect, mlir::func::FuncDialect, mlir::linalg::LinalgDialect,
                    mlir::math::MathDialect, mlir::tensor::TensorDialect, sf::SFDialect>();
    context.appendDialectRegistry(registry);
  }

  std::vector<Tensor> run(mlir::ModuleOp module) {
    auto created = ReferenceExecutor::create(module, "main");
    if (!created) {
      ADD_FAILURE() << llvm::toString(created.takeError());
      return {};
    }
    std::unique_ptr<ReferenceExecutor> executor = std::move(*created);
    std::mt19937 engine(1);
    std::uniform_int_distribution<int> distribution(-16, 16);
    std::vector<Tensor> inputs(executor->getInputs().begin(), executor->getInputs().end());
    std::vector<Tensor> outputs(executor->getOutputs().begin(), executor->getOutputs().end());
    for (Tensor &input : inputs)
      for (int64_t i = 0; i < input.size(); ++i) {
        int value = distribution(engine);
        storeFromFloat(input.dtype, input.bytes.data(), i,
                       isFloat(input.dtype) ? float(value) / 16 : float(value));
      }
    std::vector<HostTensor> inputViews, outputViews;
    for (Tensor &input : inputs)
      inputViews.push_back(input.host());
    for (Tensor &output : outputs)
      outputViews.push_back(output.host());
    if (llvm::Error error = executor->run(inputViews, outputViews))
      ADD_FAILURE() << llvm::toString(std::move(error));
    return outputs;
  }

  mlir::MLIRContext context;
};

TEST_P(PassSemanticsTest, rewritten_graph_computes_the_same) {
  auto module =
      mlir::parseSourceString<mlir::ModuleOp>(std::string(kAliases) + GetParam().text, &context);
  ASSERT_TRUE(module);
  // The reference reads linalg in its general form.
  mlir::OwningOpRef<mlir::ModuleOp> original = module->clone();
  mlir::PassManager generalize(&context);
  generalize.addNestedPass<mlir::func::FuncOp>(mlir::createLinalgGeneralizeNamedOpsPass());
  ASSERT_TRUE(mlir::succeeded(generalize.run(*original)));
  std::vector<Tensor> expected = run(*original);

  mlir::PassManager manager(&context);
  manager.addPass(sf::createSFImportSparseTensorPass());
  manager.addPass(sf::createSFVerifySparsityPass());
  manager.addPass(sf::createSFOrientOperandsPass());
  manager.addPass(sf::createSFFuseEpiloguePass());
  manager.addPass(mlir::createCanonicalizerPass());
  manager.addPass(sf::createSFSelectConfigPass());
  manager.addPass(sf::createSFPackWeightsPass());
  ASSERT_TRUE(mlir::succeeded(manager.run(*module)));
  int matmuls = 0;
  module->walk([&](sf::MatmulOp) { ++matmuls; });
  EXPECT_EQ(matmuls, GetParam().matmuls);

  std::vector<Tensor> actual = run(*module);
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i)
    for (int64_t j = 0; j < actual[i].size(); ++j) {
      // Fusion leaves out roundings to f16, of relative size 2^-11; a quantization step may tip
      // over.
      float tolerance = isFloat(actual[i].dtype)       ? 0.01f * (1 + std::abs(expected[i][j]))
                        : actual[i].dtype == DType::i8 ? 1
                                                       : 0;
      EXPECT_NEAR(actual[i][j], expected[i][j], tolerance) << "output " << i << ", element " << j;
    }
}

INSTANTIATE_TEST_SUITE_P(Graphs, PassSemanticsTest, testing::ValuesIn(kGraphs),
                         [](const testing::TestParamInfo<Graph> &info) {
                           return std::string(info.param.name);
                         });

} // namespace
