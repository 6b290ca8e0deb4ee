// RUN: sparseflow-opt %s --convert-sf-to-sf-tile | FileCheck %s

// A kernel is told which of its arguments are constants of the program: the weight and the bias, not X, nor a weight that comes with
// the call.
// CHECK: sf_tile.kernel @constant_matmul_0(%{{.*}}: memref<?x64xf16, {{.*}}>, %{{.*}}: memref<4608xi8> {sf_tile.constant}, %{{.*}}: memref<64xf16> {sf_tile.constant}, %{{.*}}: memref<?x64xf16, {{[^{]*}}>)
// CHECK: sf_tile.kernel @given_matmul_0(
// CHECK-NOT: sf_tile.constant
// CHECK-SAME: attributes
#packed = #sf.weight<sp24, pack = mma>
module attributes {sf.target = #sf.target<"sm_90">} {
  func.func @constant(%x: tensor<?x64xf16>) -> tensor<?x64xf16> {
    %w = arith.constant dense_resource<w> : tensor<64x64xf16, #packed>
    %b = arith.constant dense<1.0> : tensor<64xf16>
    %y = sf.matmul %x, %w {configs = [#sf.kernel_config<tile = 64x32x64, warps = 4x1, atom = mma_sp>]} epilogue(%b : tensor<64xf16>) {
    ^bb0(%acc: f32, %bias: f16):
      %e = arith.extf %bias : f16 to f32
      %s = arith.addf %acc, %e : f32
      %t = arith.truncf %s : f32 to f16
      sf.yield %t : f16
    } : (tensor<?x64xf16>, tensor<64x64xf16, #packed>) -> tensor<?x64xf16>
    return %y : tensor<?x64xf16>
  }
  func.func @given(%x: tensor<?x64xf16>, %w: tensor<64x64xf16, #packed>) -> tensor<?x64xf16> {
    %y = sf.matmul %x, %w {configs = [#sf.kernel_config<tile = 64x32x64, warps = 4x1, atom = mma_sp>]}
      : (tensor<?x64xf16>, tensor<64x64xf16, #packed>) -> tensor<?x64xf16>
    return %y : tensor<?x64xf16>
  }
}
