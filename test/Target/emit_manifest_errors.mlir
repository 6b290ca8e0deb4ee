// A function that is not a list of launches has no manifest, and the message says which part of it.
// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics --sf-emit-manifest=target=sm_80

func.func @returns_argument(%x: tensor<?x4xf16>) -> tensor<?x4xf16> {
  // expected-error @below {{expected result 0 to be computed by a kernel, got an argument}}
  return %x : tensor<?x4xf16>
}

// -----

func.func @not_compiled(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  // expected-error @below {{expected operations on tensors for which there is a kernel (of sf, and elementwise ones of linalg, arith and math), got one without; inline calls}}
  %y = arith.addf %x, %x : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

func.func @no_kernel(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  // expected-error @below {{expected kernel 'k0' in a gpu.binary or in the LLVM dialect; run sf-emit-binary before}}
  %y = sf_tile.launch @kernels::@k0(%x) <blocks = 1> : (tensor<?x4xf32>) -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

gpu.binary @kernels [#gpu.object<#nvvm.target, kernels = <[#gpu.kernel_metadata<"k0", !llvm.func<void (ptr<1>, i64)>>]>, assembly = "ptx">]
func.func @other_signature(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  // expected-error @below {{expected kernel 'k0' to take 6 parameters, got '!llvm.func<void (ptr<1>, i64)>'}}
  %y = sf_tile.launch @kernels::@k0(%x) <blocks = 1> : (tensor<?x4xf32>) -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// expected-error @below {{expected a ranked tensor of f16, bf16, f32, i8, f8E4M3FN, f8E5M2 or i32, got 'tensor<4xi1>'}}
func.func @dtype(%x: tensor<4xi1>) -> tensor<4xf32> {
  %y = sf_tile.launch @kernels::@k0(%x) <blocks = 1> : (tensor<4xi1>) -> tensor<4xf32>
  return %y : tensor<4xf32>
}

// -----

// expected-error @below {{expected at most 2^40 elements, got 'tensor<?x4611686018427387904xf32>'}}
func.func @large(%x: tensor<?x4611686018427387904xf32>) -> tensor<4xf32> {
  %y = sf_tile.launch @kernels::@k0(%x) <blocks = 1> : (tensor<?x4611686018427387904xf32>) -> tensor<4xf32>
  return %y : tensor<4xf32>
}
