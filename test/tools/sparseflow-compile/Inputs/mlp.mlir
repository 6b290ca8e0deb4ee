func.func @main(%x: tensor<?x128xf16> {sf.name = "x"}) -> (tensor<?x128xf16> {sf.name = "y"}) {
  %d1 = arith.constant dense<0.0> : tensor<64x128xf16>
  %w1 = sf.compress %d1 : tensor<64x128xf16> -> tensor<64x128xf16, #sf.weight<sp24>>
  %d2 = arith.constant dense<0.0> : tensor<128x64xf16>
  %w2 = sf.compress %d2 : tensor<128x64xf16> -> tensor<128x64xf16, #sf.weight<sp24>>
  %b = arith.constant dense<1.0> : tensor<64xf16>
  %h = sf.matmul %x, %w1 epilogue(%b : tensor<64xf16>) {
  ^bb0(%acc: f32, %bias: f16):
    %e = arith.extf %bias : f16 to f32
    %s = arith.addf %acc, %e : f32
    %t = arith.truncf %s : f32 to f16
    sf.yield %t : f16
  } : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
  %y = sf.matmul %h, %w2 : (tensor<?x64xf16>, tensor<128x64xf16, #sf.weight<sp24>>) -> tensor<?x128xf16>
  return %y : tensor<?x128xf16>
}
