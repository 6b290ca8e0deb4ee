//===- KernelSelector.h - Which kernel serves how many tokens ----*- C++ -*-===//
//
// A product has a few kernels, each of which can serve any number of tokens. Which are worth being
// compiled, and which of them serves which calls, follows from what was measured and, where nothing
// was, from the cost model.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_KERNELSELECTOR_H
#define SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_KERNELSELECTOR_H

#include "CostModel.h"
#include "TunedConfigs.h"

#include "sparseflow/Dialect/SF/IR/SFOps.h"

#include <string>

namespace sparseflow::sf {

/// A kernel and whether a library goes before it, and why.
struct Choice {
  /// For any number of tokens. Null: none fits on the chip.
  KernelConfigAttr config;
  bool callsLibrary = false;
  std::string reason;
  TimesAttr times;
};

class KernelSelector {
public:
  /// `minGain` is what a kernel has to gain to be compiled beside others, see `getGain`.
  KernelSelector(MatmulOp op, TargetAttr target, int64_t maxAccumulators, double minGain,
                 TunedConfigs &tuned);

  /// A choice for each range of token counts. A range is named by the most tokens in it, its end;
  /// the ends ascend.
  llvm::SmallVector<Choice> select(llvm::ArrayRef<int64_t> ends);

private:
  struct Range {
    int64_t end, bucket;
    /// Of the bucket: its largest number of tokens is what was measured.
    std::optional<TunedConfig> tuned;
    bool callsLibrary = false;
    /// Microseconds that the cost model estimates for each candidate, and the fewest of a kernel
    /// that was taken; before there is one, the most of all.
    llvm::SmallVector<double> times;
    double fastest = 0;

    bool isMeasured() const { return tuned && tuned->config && end == bucket; }
  };

  /// Makes the ranges, with what was measured of them.
  void findTuned(llvm::ArrayRef<int64_t> ends);
  void estimateTimes();
  /// Takes kernels, those that gain the most first, as long as they gain enough.
  void takeKernels();
  void take(int64_t candidate);
  /// The sum over ranges of the logarithm of how many times faster their calls would be.
  double getGain(int64_t candidate) const;
  /// The kernel of a range, given that of the next larger one.
  int64_t assign(const Range &range, int64_t next) const;
  Choice explain(const Range &range, int64_t kernel) const;
  /// Among the candidates; -1 if it is none.
  int64_t indexOf(KernelConfigAttr config) const;

  MatmulOp op;
  TargetAttr target;
  int64_t maxAccumulators;
  double minGain;
  TunedConfigs &tunedConfigs;
  MatmulShape shape;
  llvm::SmallVector<KernelConfigAttr> candidates;
  llvm::SmallVector<Range> ranges;
  /// Those of the candidates that are to be compiled.
  llvm::SmallVector<int64_t> kernels;
};

} // namespace sparseflow::sf

#endif // SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_KERNELSELECTOR_H
