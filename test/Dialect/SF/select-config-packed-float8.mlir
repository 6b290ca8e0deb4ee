// RUN: sparseflow-opt %s --sf-select-config=target=sm_90 --verify-diagnostics

// expected-error@+1 {{expected a weight of 8-bit floats that is not packed, since it must become f16 for this chip, got 'tensor<64x128xf8E4M3FN, #sf.weight<sp24, pack = mma>>'; pass the canonical weight}}
func.func @packed(%x: tensor<?x128xf8E4M3FN>, %w: tensor<64x128xf8E4M3FN, #sf.weight<sp24, pack = mma>>) -> tensor<?x64xf16> {
  %0 = sf.matmul %x, %w : (tensor<?x128xf8E4M3FN>, tensor<64x128xf8E4M3FN, #sf.weight<sp24, pack = mma>>) -> tensor<?x64xf16>
  return %0 : tensor<?x64xf16>
}
