// RUN: sparseflow-opt %s --sf-pack-weights --split-input-file --verify-diagnostics | FileCheck %s

// CHECK-LABEL: @run_time_weight
func.func @run_time_weight(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) -> (tensor<?x64xf16>, tensor<?x64xf16>) {
  // CHECK-NEXT: %[[D:.*]] = sf.pack %arg1 : tensor<64x128xf16> -> tensor<64x128xf16, #sf.weight<dense, pack = mma>>
  // CHECK-NEXT: %[[C:.*]] = sf.compress %arg1
  // CHECK-NEXT: %[[P:.*]] = sf.pack %[[C]] : tensor<64x128xf16, #sf.weight<sp24>> -> tensor<64x128xf16, #sf.weight<sp24, pack = mma>>
  %c = sf.compress %w : tensor<64x128xf16> -> tensor<64x128xf16, #sf.weight<sp24>>
  // CHECK-NEXT: sf.matmul %arg0, %[[P]] : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24, pack = mma>>) -> tensor<?x64xf16>
  %0 = sf.matmul %x, %c : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
  // CHECK-NEXT: sf.matmul %arg0, %[[D]]
  %1 = sf.matmul %x, %w : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf16>
  return %0, %1 : tensor<?x64xf16>, tensor<?x64xf16>
}

// CHECK-LABEL: @shared_weight
func.func @shared_weight(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #sf.weight<sp24>>) -> (tensor<?x64xf16>, tensor<?x64xf16>) {
  // CHECK-COUNT-1: sf.pack
  // CHECK-NOT: sf.pack
  %0 = sf.matmul %x, %w : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
  %1 = sf.matmul %x, %w : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
  return %0, %1 : tensor<?x64xf16>, tensor<?x64xf16>
}

// CHECK-LABEL: @already_packed
func.func @already_packed(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #sf.weight<sp24, pack = mma>>) -> tensor<?x64xf16> {
  // CHECK-NEXT: sf.matmul %arg0, %arg1
  %0 = sf.matmul %x, %w : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24, pack = mma>>) -> tensor<?x64xf16>
  return %0 : tensor<?x64xf16>
}

// -----

// One row and one group, padded to a chunk of 64 features by 128 k: 4096 bytes of values, 1024 of metadata.
// The text form begins with the alignment, 16; the one group holds 1 and 2.
// CHECK-LABEL: @constant
// CHECK-NEXT: %[[W:.*]] = arith.constant dense_resource<up.mma> : tensor<1x4xi8, #sf.weight<sp24, pack = mma>>
// CHECK-NEXT: sf.matmul %arg0, %[[W]]
// CHECK-NOT: up.sp24
// CHECK: up.mma: "0x10000000010200
func.func @constant(%x: tensor<?x4xi8>) -> tensor<?x1xi32> {
  %w = arith.constant dense_resource<up.sp24> : tensor<1x4xi8, #sf.weight<sp24>>
  %0 = sf.matmul %x, %w : (tensor<?x4xi8>, tensor<1x4xi8, #sf.weight<sp24>>) -> tensor<?x1xi32>
  return %0 : tensor<?x1xi32>
}
{-#
  dialect_resources: { builtin: { up.sp24: "0x10000000010209" } }
#-}

// -----

// CHECK-LABEL: @dense_constant
// CHECK-NEXT: arith.constant dense_resource<weight.mma> : tensor<1x4xi8, #sf.weight<dense, pack = mma>>
// CHECK: weight.mma: "0x100000000102030400
func.func @dense_constant(%x: tensor<?x4xi8>) -> tensor<?x1xi32> {
  %w = arith.constant dense<[[1, 2, 3, 4]]> : tensor<1x4xi8>
  %0 = sf.matmul %x, %w : (tensor<?x4xi8>, tensor<1x4xi8>) -> tensor<?x1xi32>
  return %0 : tensor<?x1xi32>
}

// -----

// A dequantization of constants is computed first: 2 * 0.5 and -4 * 0.5 in f16.
// CHECK-LABEL: @dequantized
// CHECK-NEXT: %[[W:.*]] = arith.constant dense_resource<up.f16.mma> : tensor<1x4xf16, #sf.weight<sp24, pack = mma>>
// CHECK-NEXT: sf.matmul %arg0, %[[W]]
// CHECK: up.f16.mma: "0x10000000003C00C00000
func.func @dequantized(%x: tensor<?x4xf16>) -> tensor<?x1xf16> {
  %q = arith.constant dense_resource<up> : tensor<1x4xi8, #sf.weight<sp24>>
  %s = arith.constant dense<0.5> : tensor<f32>
  %w = sf.dequantize %q, %s : tensor<1x4xi8, #sf.weight<sp24>>, tensor<f32> -> tensor<1x4xf16, #sf.weight<sp24>>
  %0 = sf.matmul %x, %w : (tensor<?x4xf16>, tensor<1x4xf16, #sf.weight<sp24>>) -> tensor<?x1xf16>
  return %0 : tensor<?x1xf16>
}
{-#
  dialect_resources: { builtin: { up: "0x1000000002FC09" } }
#-}

// -----

// Two equal constants make one resource, as when a module is compiled for two targets.
// CHECK-LABEL: @same_bytes
// CHECK: arith.constant dense_resource<weight.mma> : tensor<1x4xi8, #sf.weight<dense, pack = mma>>
// CHECK-LABEL: @same_bytes_again
// CHECK: arith.constant dense_resource<weight.mma> : tensor<1x4xi8, #sf.weight<dense, pack = mma>>
// CHECK-LABEL: @other_bytes
// CHECK: arith.constant dense_resource<weight.mma_1> : tensor<1x4xi8, #sf.weight<dense, pack = mma>>
func.func @same_bytes(%x: tensor<?x4xi8>) -> tensor<?x1xi32> {
  %w = arith.constant dense<[[1, 2, 3, 5]]> : tensor<1x4xi8>
  %0 = sf.matmul %x, %w : (tensor<?x4xi8>, tensor<1x4xi8>) -> tensor<?x1xi32>
  return %0 : tensor<?x1xi32>
}
func.func @same_bytes_again(%x: tensor<?x4xi8>) -> tensor<?x1xi32> {
  %w = arith.constant dense<[[1, 2, 3, 5]]> : tensor<1x4xi8>
  %0 = sf.matmul %x, %w : (tensor<?x4xi8>, tensor<1x4xi8>) -> tensor<?x1xi32>
  return %0 : tensor<?x1xi32>
}
func.func @other_bytes(%x: tensor<?x4xi8>) -> tensor<?x1xi32> {
  %w = arith.constant dense<[[4, 3, 2, 1]]> : tensor<1x4xi8>
  %0 = sf.matmul %x, %w : (tensor<?x4xi8>, tensor<1x4xi8>) -> tensor<?x1xi32>
  return %0 : tensor<?x1xi32>
}

// -----

// The configuration says for which instructions. One weight in two orders is packed twice.
// CHECK-LABEL: @two_orders
// CHECK-DAG: %[[A:.*]] = arith.constant dense_resource<up.wgmma> : tensor<1x4xi8, #sf.weight<sp24, pack = wgmma>>
// CHECK-DAG: %[[B:.*]] = arith.constant dense_resource<up.mma> : tensor<1x4xi8, #sf.weight<sp24, pack = mma>>
// CHECK: sf.matmul %arg0, %[[A]]
// CHECK: sf.matmul %arg0, %[[B]]
// CHECK: up.wgmma: "0x10000000010200
func.func @two_orders(%x: tensor<?x4xi8>) -> (tensor<?x1xi32>, tensor<?x1xi32>) {
  %w = arith.constant dense_resource<up.sp24> : tensor<1x4xi8, #sf.weight<sp24>>
  %0 = sf.matmul %x, %w {configs = [#sf.kernel_config<tile = 64x8x128, warps = 4x1, atom = wgmma_sp>]}
    : (tensor<?x4xi8>, tensor<1x4xi8, #sf.weight<sp24>>) -> tensor<?x1xi32>
  %1 = sf.matmul %x, %w {configs = [#sf.kernel_config<tile = 64x8x128, warps = 1x1, atom = mma_sp>]}
    : (tensor<?x4xi8>, tensor<1x4xi8, #sf.weight<sp24>>) -> tensor<?x1xi32>
  return %0, %1 : tensor<?x1xi32>, tensor<?x1xi32>
}
{-#
  dialect_resources: { builtin: { up.sp24: "0x10000000010209" } }
#-}

// -----

// CHECK-LABEL: @run_time_warpgroups
// CHECK-NEXT: sf.pack %arg1 : tensor<64x128xf16> -> tensor<64x128xf16, #sf.weight<dense, pack = wgmma>>
func.func @run_time_warpgroups(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) -> tensor<?x64xf16> {
  %0 = sf.matmul %x, %w {configs = [#sf.kernel_config<tile = 64x8x64, warps = 4x1, atom = wgmma>]}
    : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf16>
  return %0 : tensor<?x64xf16>
}

// -----

// A library reads the weight with its zeros: 1 and 2 at the first and the last of four. Two products share it, and a third
// that calls none does not ask for it.
// CHECK-LABEL: @library
// CHECK-DAG: %[[D:.*]] = arith.constant dense_resource<up.dense> : tensor<1x4xi8>
// CHECK-DAG: %[[W:.*]] = arith.constant dense_resource<up.mma> : tensor<1x4xi8, #sf.weight<sp24, pack = mma>>
// CHECK: sf.matmul %arg0, %[[W]] {{.*}} library(%[[D]] : tensor<1x4xi8>) :
// CHECK: sf.matmul %arg0, %[[W]] {{.*}} library(%[[D]] : tensor<1x4xi8>) :
// CHECK: sf.matmul %arg0, %[[W]] :
// CHECK-LABEL: @library_again
// CHECK: arith.constant dense_resource<up.dense> : tensor<1x4xi8>
// CHECK: up.dense: "0x1000000001000002"
#library = [#sf.library_config<cublaslt>, #sf.kernel_config<tile = 64x8x128, warps = 1x1, atom = mma_sp>]
func.func @library(%x: tensor<?x4xi8>) -> (tensor<?x1xi32>, tensor<?x1xi32>, tensor<?x1xi32>) {
  %w = arith.constant dense_resource<up.sp24> : tensor<1x4xi8, #sf.weight<sp24>>
  %0 = sf.matmul %x, %w {configs = #library} : (tensor<?x4xi8>, tensor<1x4xi8, #sf.weight<sp24>>) -> tensor<?x1xi32>
  %1 = sf.matmul %x, %w {configs = #library} : (tensor<?x4xi8>, tensor<1x4xi8, #sf.weight<sp24>>) -> tensor<?x1xi32>
  %2 = sf.matmul %x, %w : (tensor<?x4xi8>, tensor<1x4xi8, #sf.weight<sp24>>) -> tensor<?x1xi32>
  return %0, %1, %2 : tensor<?x1xi32>, tensor<?x1xi32>, tensor<?x1xi32>
}
func.func @library_again(%x: tensor<?x4xi8>) -> tensor<?x1xi32> {
  %w = arith.constant dense_resource<up.sp24> : tensor<1x4xi8, #sf.weight<sp24>>
  %0 = sf.matmul %x, %w {configs = #library} : (tensor<?x4xi8>, tensor<1x4xi8, #sf.weight<sp24>>) -> tensor<?x1xi32>
  return %0 : tensor<?x1xi32>
}
{-#
  dialect_resources: { builtin: { up.sp24: "0x10000000010209" } }
#-}

// -----

// A dense weight is what the library reads; one that is dequantized, its result.
// CHECK-LABEL: @library_dense
// CHECK-DAG: %[[W:.*]] = arith.constant dense_resource<weight.mma>
// CHECK-DAG: %[[D:.*]] = arith.constant dense<{{.*}}> : tensor<1x4xf16>
// CHECK: sf.matmul %arg0, %[[W]] {{.*}} library(%[[D]] : tensor<1x4xf16>)
// CHECK-LABEL: @library_dequantized
// CHECK-DAG: %[[Q:.*]] = arith.constant dense_resource<up.f16.mma>
// CHECK-DAG: %[[E:.*]] = arith.constant dense_resource<up.f16.dense> : tensor<1x4xf16>
// CHECK: sf.matmul %arg0, %[[Q]] {{.*}} library(%[[E]] : tensor<1x4xf16>)
// CHECK: up.f16.dense: "0x10000000003C0000000000C0"
func.func @library_dense(%x: tensor<?x4xf16>) -> tensor<?x1xf16> {
  %w = arith.constant dense<[[1.0, 2.0, 3.0, 4.0]]> : tensor<1x4xf16>
  %0 = sf.matmul %x, %w {configs = [#sf.library_config<cublaslt>, #sf.kernel_config<tile = 64x8x64, warps = 1x1, atom = mma>]}
    : (tensor<?x4xf16>, tensor<1x4xf16>) -> tensor<?x1xf16>
  return %0 : tensor<?x1xf16>
}
func.func @library_dequantized(%x: tensor<?x4xf16>) -> tensor<?x1xf16> {
  %q = arith.constant dense_resource<up> : tensor<1x4xi8, #sf.weight<sp24>>
  %s = arith.constant dense<0.5> : tensor<f32>
  %w = sf.dequantize %q, %s : tensor<1x4xi8, #sf.weight<sp24>>, tensor<f32> -> tensor<1x4xf16, #sf.weight<sp24>>
  %0 = sf.matmul %x, %w {configs = [#sf.library_config<cublaslt>, #sf.kernel_config<tile = 64x8x64, warps = 1x1, atom = mma_sp>]}
    : (tensor<?x4xf16>, tensor<1x4xf16, #sf.weight<sp24>>) -> tensor<?x1xf16>
  return %0 : tensor<?x1xf16>
}
{-#
  dialect_resources: { builtin: { up: "0x1000000002FC09" } }
#-}

// -----

func.func @library_run_time_weight(%x: tensor<?x4xf16>, %w: tensor<1x4xf16>) -> tensor<?x1xf16> {
  // expected-error@+1 {{expected weights that are known at compile time, got one that arrives with the call; leave #sf.library_config out of configs}}
  %0 = sf.matmul %x, %w {configs = [#sf.library_config<cublaslt>, #sf.kernel_config<tile = 64x8x64, warps = 1x1, atom = mma>]}
    : (tensor<?x4xf16>, tensor<1x4xf16>) -> tensor<?x1xf16>
  return %0 : tensor<?x1xf16>
}

// -----

func.func @library_constant_x(%w: tensor<1x4xf16>) -> tensor<1x1xf16> {
  %x = arith.constant dense<[[1.0, 2.0, 3.0, 4.0]]> : tensor<1x4xf16>
  // expected-error@+1 {{expected an x that arrives with the call, got a constant; leave #sf.library_config out of configs}}
  %0 = sf.matmul %x, %x {configs = [#sf.library_config<cublaslt>, #sf.kernel_config<tile = 64x8x64, warps = 1x1, atom = mma>]}
    : (tensor<1x4xf16>, tensor<1x4xf16>) -> tensor<1x1xf16>
  return %0 : tensor<1x1xf16>
}

// -----

func.func @absent(%x: tensor<?x4xi8>) -> tensor<?x1xi32> {
  // expected-error@+1 {{expected the bytes of the resource 'absent', got none}}
  %w = arith.constant dense_resource<absent> : tensor<1x4xi8>
  %0 = sf.matmul %x, %w : (tensor<?x4xi8>, tensor<1x4xi8>) -> tensor<?x1xi32>
  return %0 : tensor<?x1xi32>
}
