// The named pipeline for sm_90a: warpgroups' products, X by tensor map (boxes of 128 bytes a row, and no more rows than X), the weight
// packed for them. K = 68, whose rows of 136 bytes have no tensor map, goes by mma.sp in the same program.
// RUN: sparseflow-opt %s --sf-compile="target=sm_90a format=ptx" -o %t
// RUN: FileCheck %s < %t
// RUN: FileCheck %s --check-prefix=PTX < %t

// CHECK: sf.manifest = "
// CHECK-SAME: \22dependent_launch\22:true
// CHECK-SAME: {\22tensor_map\22:{\22box\22:[{{[0-9]+}},64],\22buffer\22:0,\22fits\22:true,\22swizzle\22:128}}],\22kernel\22:\22main_matmul_0
// CHECK-SAME: \22path\22:\22sparse wgmma.sp\22
// CHECK-SAME: \22path\22:\22sparse mma.sp\22
// CHECK: dense_resource<weight.wgmma> : tensor<68x64xf16, #sf.weight<sp24, pack = wgmma>>
// CHECK: dense_resource<weight.{{.*}}mma> : tensor<64x68xf16, #sf.weight<sp24, pack = mma>>

// PTX: .target sm_90a
// PTX: mbarrier.init.shared
// PTX: griddepcontrol.wait
// PTX: cp.async.bulk.tensor.2d.shared::cluster.global
// PTX: wgmma.mma_async.sp.sync.aligned.m64n{{[0-9]+}}k32.f32.f16.f16
func.func @main(%x: tensor<?x64xf16>) -> tensor<?x64xf16> {
  %d = arith.constant dense<0.0> : tensor<68x64xf16>
  %e = arith.constant dense<0.0> : tensor<64x68xf16>
  %w = sf.compress %d : tensor<68x64xf16> -> tensor<68x64xf16, #sf.weight<sp24>>
  %v = sf.compress %e : tensor<64x68xf16> -> tensor<64x68xf16, #sf.weight<sp24>>
  %h = sf.matmul %x, %w : (tensor<?x64xf16>, tensor<68x64xf16, #sf.weight<sp24>>) -> tensor<?x68xf16>
  %y = sf.matmul %h, %v : (tensor<?x68xf16>, tensor<64x68xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}
