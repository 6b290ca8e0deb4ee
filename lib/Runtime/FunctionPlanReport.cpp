// What a function runs for given numbers of tokens, as JSON for people and tools.
#include "FunctionPlan.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FormatVariadic.h"

using namespace llvm;
using namespace sparseflow::runtime;

Expected<json::Value> FunctionPlan::reportKernel(const LaunchPlan &launch,
                                                 const int64_t *symbols) const {
  const Kernel &kernel = program->kernels[launch.kernel];
  LoadedKernelInfo info = loaded->info(launch.kernel);
  std::array<uint32_t, 3> grid;
  Expected<bool> any = gridOf(launch.kernel, symbols, grid);
  if (!any)
    return any.takeError();
  if (!*any)
    grid = {0, 0, 0};
  return json::Object{{"name", kernel.name},
                      {"config", kernel.config},
                      {"registers", info.registers.value_or(kernel.registers)},
                      {"spill_bytes", kernel.spillBytes},
                      {"mma_sp", kernel.mmaSp},
                      {"ptxas", kernel.ptxas},
                      {"binary", info.binary},
                      {"grid", json::Array{grid[0], grid[1], grid[2]}},
                      {"block", json::Array{kernel.block[0], kernel.block[1], kernel.block[2]}},
                      {"shared", kernel.shared}};
}

/// In the form of a kernel, so that a reader of reports sees one kind of launch.
json::Value FunctionPlan::reportMatmul(const LaunchPlan &launch, const int64_t *symbols) const {
  int64_t rows = rowsOf(shapeOf(buffers[launch.x]), symbols);
  return json::Object{{"name", cublasLtName},
                      {"config", ""},
                      {"registers", 0},
                      {"spill_bytes", 0},
                      {"mma_sp", 0},
                      {"ptxas", ""},
                      {"binary", launch.matmul->describe(rows)},
                      {"grid", json::Array{0, 0, 0}},
                      {"block", json::Array{0, 0, 0}},
                      {"shared", 0}};
}

static json::Value reportTimes(const MeasuredTimes &times) {
  auto orNull = [](std::optional<double> time) {
    return time ? json::Value(*time) : json::Value(nullptr);
  };
  return json::Object{{"sparse", orNull(times.sparse)}, {"dense", orNull(times.dense)}};
}

/// Why a variant was chosen: what the compiler said, and which better ones cannot run here.
std::string FunctionPlan::describeChoice(const Step &step, const StepPlan &plan, size_t chosen,
                                         const int64_t *symbols) const {
  std::string reason = step.variants[chosen].reason;
  for (size_t i = 0; i < chosen; ++i)
    if (plan.symbol < 0 || symbols[plan.symbol] <= plan.variants[i].max)
      reason += formatv("{0}not '{1}': {2}", reason.empty() ? "" : "; ", step.variants[i].path,
                        plan.variants[i].whyUnavailable);
  return reason;
}

Expected<json::Value> FunctionPlan::report(const int64_t *symbols) const {
  json::Object result{{"function", function.name}};
  json::Object values;
  for (auto [i, name] : enumerate(function.symbols))
    values[name] = symbols[i];
  result["symbols"] = std::move(values);
  json::Array list;
  if (program) {
    result["target"] = program->target;
    for (auto [step, plan] : zip(program->steps, steps)) {
      size_t chosen = variantOf(plan, symbols);
      const Variant &variant = step.variants[chosen];
      json::Array kernels;
      for (const LaunchPlan &launch : plan.variants[chosen].launches) {
        if (launch.matmul) {
          kernels.push_back(reportMatmul(launch, symbols));
          continue;
        }
        Expected<json::Value> kernel = reportKernel(launch, symbols);
        if (!kernel)
          return kernel.takeError();
        kernels.push_back(std::move(*kernel));
      }
      list.push_back(
          json::Object{{"op", step.op},
                       {"label", step.label},
                       {"path", variant.path},
                       {"reason", describeChoice(step, plan, chosen, symbols)},
                       {"time_us", reportTimes(variant.times)},
                       {"variant", int64_t(chosen)},
                       {"max", variant.max ? json::Value(*variant.max) : json::Value(nullptr)},
                       {"kernels", std::move(kernels)}});
    }
  }
  result["steps"] = std::move(list);
  return json::Value(std::move(result));
}
