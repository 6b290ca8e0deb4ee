// RUN: sparseflow-opt %s --sf-select-config="target=sm_80 config=cublaslt" --split-input-file --verify-diagnostics | FileCheck %s
// RUN: sparseflow-opt %s --sf-select-config="target=sm_80 config='#sf.library_config<cublaslt, max_tokens = 32>'" --split-input-file --verify-diagnostics | FileCheck %s --check-prefix=BOUND

// Behind the library stand the kernels that serve its calls where it is missing, and those for other calls.
// CHECK-LABEL: @given
// CHECK: configs = [#sf.library_config<cublaslt>, #sf.kernel_config<tile = 64x16x64,
// CHECK-NOT: max_tokens
// CHECK-SAME: ]}
// BOUND-LABEL: @given
// BOUND: configs = [#sf.library_config<cublaslt, max_tokens = 32>, #sf.kernel_config<max_tokens = 32, tile = 64x8x128, {{[^>]*}}>, #sf.kernel_config<tile = 64x16x64, {{[^>]*}}>]
func.func @given(%x: tensor<?x4xf16>) -> tensor<?x1xf16> {
  %w = arith.constant dense<[[1.0, 2.0, 3.0, 4.0]]> : tensor<1x4xf16>
  %0 = sf.matmul %x, %w {configs = [#sf.kernel_config<max_tokens = 16, tile = 64x8x64, warps = 1x1, atom = mma>,
                                    #sf.kernel_config<max_tokens = 32, tile = 64x8x128, warps = 1x1, atom = mma>,
                                    #sf.kernel_config<tile = 64x16x64, warps = 1x1, atom = mma>]}
    : (tensor<?x4xf16>, tensor<1x4xf16>) -> tensor<?x1xf16>
  return %0 : tensor<?x1xf16>
}

// CHECK-LABEL: @chosen
// CHECK: configs = [#sf.library_config<cublaslt>, #sf.kernel_config<tile = {{[^>]*}}, atom = mma>]
func.func @chosen(%x: tensor<?x4xf16>) -> tensor<?x1xf16> {
  %w = arith.constant dense<[[1.0, 2.0, 3.0, 4.0]]> : tensor<1x4xf16>
  %0 = sf.matmul %x, %w : (tensor<?x4xf16>, tensor<1x4xf16>) -> tensor<?x1xf16>
  return %0 : tensor<?x1xf16>
}

// -----

func.func @run_time_weight(%x: tensor<?x4xf16>, %w: tensor<1x4xf16>) -> tensor<?x1xf16> {
  // expected-error-re@+1 {{expected weights that are known at compile time, got one that arrives with the call; without `{{.*}}cublaslt{{.*}}` kernels compute it}}
  %0 = sf.matmul %x, %w : (tensor<?x4xf16>, tensor<1x4xf16>) -> tensor<?x1xf16>
  return %0 : tensor<?x1xf16>
}

// -----

func.func @packed_weight(%x: tensor<?x4xf16>, %w: tensor<1x4xf16, #sf.weight<dense, pack = mma>>) -> tensor<?x1xf16> {
  // expected-error@+1 {{expected weights that are not packed yet, got packed ones}}
  %0 = sf.matmul %x, %w : (tensor<?x4xf16>, tensor<1x4xf16, #sf.weight<dense, pack = mma>>) -> tensor<?x1xf16>
  return %0 : tensor<?x1xf16>
}
