// RUN: sparseflow-opt %s --split-input-file --convert-sf-to-sf-tile --cse | FileCheck %s

// Canonical bytes are kept values and four bits a group, which the map looks up among the nibbles of a table.
// CHECK-LABEL: func.func @compress
// CHECK: sf_tile.dispatch "sf.compress" %arg0 [-1]
// CHECK: sf_tile.launch @kernels::@compress_compress_0(%arg0) <blocks = 2>
// CHECK: sf_tile.kernel @compress_compress_0(%[[X:[a-z0-9]+]]: memref<32x128xf16, strided<[?, 1]>>, %[[W:[a-z0-9]+]]: memref<4608xi8>)
// CHECK: %[[T:.*]] = sf_tile.load %[[X]]{{.*}} -> <16x128xf16>
// CHECK: %[[KEPT:.*]], %[[NIBBLES:.*]] = sf_tile.compress %[[T]] : <16x128xf16> -> <16x64xf16>, <16x32xi4>
// CHECK: %[[VALUES:.*]] = sf_tile.view %[[W]] {byte_offset = 0 : i64} : memref<4608xi8> to memref<32x64xf16>
// CHECK: sf_tile.store %[[KEPT]], %[[VALUES]]
// CHECK: %[[MASKS:.*]] = sf_tile.map %[[NIBBLES]]
// CHECK: %[[BITS:.*]] = sf_tile.view %[[W]] {byte_offset = 4096 : i64} : memref<4608xi8> to memref<32x32xi4>
// CHECK: sf_tile.store %[[MASKS]], %[[BITS]]
func.func @compress(%x: tensor<32x128xf16>) -> tensor<32x128xf16, #sf.weight<sp24>> {
  %w = sf.compress %x {mode = "prune"} : tensor<32x128xf16> -> tensor<32x128xf16, #sf.weight<sp24>>
  return %w : tensor<32x128xf16, #sf.weight<sp24>>
}

// -----

// K = 4 mod 8: half a byte of the row's bitmask is padding, and is written as zeros.
// CHECK-LABEL: func.func @padding
// CHECK: sf_tile.compress
// CHECK: sf_tile.iota 1
// CHECK: arith.cmpi slt
// CHECK: arith.select
// CHECK: sf_tile.view {{.*}} to memref<16x16xi4>
func.func @padding(%x: tensor<16x60xf16>) -> tensor<16x60xf16, #sf.weight<sp24>> {
  %w = sf.compress %x {mode = "prune"} : tensor<16x60xf16> -> tensor<16x60xf16, #sf.weight<sp24>>
  return %w : tensor<16x60xf16, #sf.weight<sp24>>
}

// -----

// CHECK-LABEL: func.func @decompress
// CHECK: sf_tile.dispatch "sf.decompress"
// CHECK: %[[KEPT:.*]] = sf_tile.load {{.*}} -> <16x64xi8>
// CHECK: %[[MASKS:.*]] = sf_tile.load {{.*}} -> <16x32xi4>
// CHECK: %[[NIBBLES:.*]] = sf_tile.map %[[MASKS]]
// CHECK: %[[DENSE:.*]] = sf_tile.decompress %[[KEPT]], %[[NIBBLES]]
// CHECK: sf_tile.store %[[DENSE]]
func.func @decompress(%w: tensor<32x128xi8, #sf.weight<sp24>>) -> tensor<32x128xi8> {
  %x = sf.decompress %w : tensor<32x128xi8, #sf.weight<sp24>> -> tensor<32x128xi8>
  return %x : tensor<32x128xi8>
}

// -----

// One block a chunk. The packing is the chunk's layout: the same that the host packs with and the matmul's ring has.
// CHECK-DAG: #[[VALUES:.*]] = #sf_tile.layout<offset = {{\[\[}}0, 1], [1, 0], [0, 8], [0, 2], [0, 4], [8, 0], [16, 0], [32, 0], [2, 0], [4, 0], [0, 16]]>
// CHECK-DAG: #[[METADATA:.*]] = #sf_tile.layout<offset = {{\[\[}}0, 1], [0, 2], [1, 0], [2, 0], [4, 0], [0, 4], [0, 8], [8, 0], [16, 0], [32, 0]]>
// CHECK-LABEL: func.func @pack
// CHECK: sf_tile.launch @kernels::@pack_pack_0(%arg0) <blocks = 4>
// CHECK: sf_tile.store %{{.*}} packing #[[VALUES]] : <64x32xf16>, memref<2x2x2048xf16>
// CHECK: sf_tile.store %{{.*}} packing #[[METADATA]] : <64x16xi4>, memref<2x2x1024xi4>
func.func @pack(%w: tensor<128x128xf16, #sf.weight<sp24>>) -> tensor<128x128xf16, #sf.weight<sp24, pack = mma>> {
  %p = sf.pack %w : tensor<128x128xf16, #sf.weight<sp24>> -> tensor<128x128xf16, #sf.weight<sp24, pack = mma>>
  return %p : tensor<128x128xf16, #sf.weight<sp24, pack = mma>>
}
