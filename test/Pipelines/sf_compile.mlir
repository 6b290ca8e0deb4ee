// The named pipeline is the whole compiler; its manifest counts the kernels. Bias, gelu and residual are inside
// the matmul's kernel, and the intermediate between the two matmuls is the only workspace.
// RUN: sparseflow-opt %s --sf-compile="target=sm_80 format=ptx config={tile = 64x16x64, warps = 1x2, split_k = 1, raster = 8, atom = mma_sp}" -o %t
// RUN: FileCheck %s < %t

// CHECK: sf.manifest = "
// CHECK-SAME: \22slots\22:[{\22sizes\22:[{\22bytes\22:0,\22bytes_per\22:128,\22cap\22:null,\22symbol\22:\22M\22}]}],\22steps\22:
// CHECK-SAME: \22label\22:\22sf.matmul 64x64 f16 2:4
// CHECK-SAME: \22kernel\22:\22main_matmul_0\22}]
// CHECK-SAME: \22label\22:\22sf.matmul 64x64 f16 2:4
// CHECK-SAME: \22kernel\22:\22main_matmul_1\22}]
// CHECK-NOT: \22label\22
// CHECK: gpu.binary @kernels
// CHECK-NOT: gpu.module
func.func @main(%x: tensor<?x64xf16>, %r: tensor<?x64xf16>) -> tensor<?x64xf16> {
  %d = arith.constant dense<0.0> : tensor<64x64xf16>
  %w = sf.compress %d : tensor<64x64xf16> -> tensor<64x64xf16, #sf.weight<sp24>>
  %h = sf.matmul %x, %w : (tensor<?x64xf16>, tensor<64x64xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
  %y = sf.matmul %h, %w epilogue(%r : tensor<?x64xf16>) {
  ^bb0(%acc: f32, %residual: f16):
    %e = arith.extf %residual : f16 to f32
    %s = arith.addf %acc, %e : f32
    %t = arith.truncf %s : f32 to f16
    sf.yield %t : f16
  } : (tensor<?x64xf16>, tensor<64x64xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}
