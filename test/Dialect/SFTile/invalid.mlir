// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics

// Layouts.

// expected-error @below {{expected every basis to have 2 coordinates, got 1}}
func.func private @basis(!sf_tile.tile<2x2xf32, #sf_tile.layout<register = [[0, 1]], lane = [[1]], warps = [1], along = [0]>>)

// -----

// expected-error @below {{expected a coordinate from 0 to 2^30 - 1}}
func.func private @coordinate(!sf_tile.ring<2 x 2x2xf32, #sf_tile.layout<offset = [[0, -1]]>>)

// -----

// expected-error @below {{expected at least one basis}}
func.func private @empty_layout(!sf_tile.ring<2 x 2x2xf32, #sf_tile.layout<offset = []>>)

// -----

// expected-error @below {{expected distinct inputs, got `offset` twice}}
func.func private @repeated_input(!sf_tile.ring<2 x 2x2xf32, #sf_tile.layout<offset = [[0, 1]], offset = [[1, 0]]>>)

// -----

// expected-error @below {{expected `warps` and, for each, a dimension from -1 to 1 in `along`}}
func.func private @warps(!sf_tile.tile<2x2xf32, #sf_tile.layout<register = [[0, 1]], lane = [[1, 0]], warps = [2, 2], along = [0]>>)

// -----

// expected-error @below {{expected `warps` and, for each, a dimension from -1 to 1 in `along`}}
func.func private @along(!sf_tile.tile<2x2xf32, #sf_tile.layout<register = [[0, 1]], lane = [[1, 0]], warps = [1], along = [2]>>)

// -----

// expected-error @below {{expected from 1 to 32 warps, got [4, 4611686018427387904]}}
func.func private @many_warps(!sf_tile.tile<2x2xf32, #sf_tile.layout<register = [[0, 1]], lane = [[1, 0]], warps = [4, 4611686018427387904], along = [0, 1]>>)

// -----

// expected-error @below {{expected the inputs register, lane or offset, got retister}}
func.func private @unknown_input(!sf_tile.tile<2x2xf32, #sf_tile.layout<retister = [[0, 1]], lane = [[1, 0]], warps = [1], along = [0]>>)

// -----

// expected-error @below {{expected at most 5 bases of lane, got 6}}
func.func private @many_lanes(!sf_tile.tile<64xf32, #sf_tile.layout<lane = [[1], [2], [4], [8], [16], [32]], warps = [1], along = [0]>>)

// -----

// expected-error @below {{expected at most 2^30 elements, got 2^31}}
func.func private @large_layout(!sf_tile.ring<2 x 2x2xf32, #sf_tile.layout<offset = [[536870912, 1]]>>)

// -----

// expected-error @below {{expected an atom of the table, got 'wgmma'; known are mma_m16n8k16_f16, }}
func.func private @atom() attributes {atom = #sf_tile.atom<"wgmma">}

// -----

// Types.

// expected-error @below {{expected one or more positive dimensions}}
func.func private @no_dimensions(!sf_tile.tile<f32>)

// -----

// expected-error @below {{expected the layout to cover a stage of [4, 2], got [2, 2]}}
func.func private @uncovered_stage(!sf_tile.ring<2 x 4x2xf32, #sf_tile.layout<offset = [[0, 1], [1, 0]]>>)

// -----

// expected-error @below {{expected at most 2^30 elements, got [65536, 65536]}}
func.func private @many_elements(!sf_tile.tile<65536x65536xf32>)

// -----

// expected-error @below {{expected one or more positive dimensions}}
func.func private @empty_dimension(!sf_tile.tile<0x8xf32>)

// -----

// expected-error @below {{expected an integer or float element type, got 'index'}}
func.func private @element_type(!sf_tile.tile<8x8xindex>)

// -----

// expected-error @below {{expected a layout of rank 1, got one of rank 2}}
func.func private @rank(!sf_tile.tile<8xf32, #sf_tile.layout<register = [[0, 1]], warps = [1], along = [0]>>)

// -----

// expected-error @below {{expected a layout over `register` and `lane` with `warps`, or over `offset`}}
func.func private @undistributed_tile(!sf_tile.tile<1x2xf32, #sf_tile.layout<lane = [[0, 1]]>>)

// -----

// expected-error @below {{expected the layout to cover 4 elements, got 2}}
func.func private @cover(!sf_tile.tile<1x4xf32, #sf_tile.layout<register = [[0, 1]], warps = [1], along = [0]>>)

// -----

// expected-error @below {{expected at least one stage, got 0}}
func.func private @no_stages(!sf_tile.ring<0 x 8x8xf32>)

// -----

// expected-error @below {{expected a layout over `offset`}}
func.func private @tile_as_stage(!sf_tile.ring<2 x 1x2xf32, #sf_tile.layout<register = [[0, 1]], warps = [1], along = [0]>>)

// -----

// expected-error @below {{expected barriers of at least one stage, got 0}}
func.func private @no_barriers(!sf_tile.barriers<0>)

// -----

// expected-error @below {{expected a box of two dimensions, each from 1 to 256}}
func.func private @map_rank(!sf_tile.tensor_map<64xf16, of = 0>)

// -----

// expected-error @below {{expected a box of two dimensions, each from 1 to 256}}
func.func private @map_box(!sf_tile.tensor_map<512x64xf16, of = 0>)

// -----

// expected-error @below {{expected an integer or float element type, got 'index'}}
func.func private @map_element(!sf_tile.tensor_map<8x64xindex, of = 0>)

// -----

// expected-error @below {{expected the number of an argument, got -1}}
func.func private @map_argument(!sf_tile.tensor_map<8x64xf16, of = -1>)

// -----

// Kernels.

gpu.module @kernels {
  // expected-error @below {{expected no results, got 1; write through a memref argument}}
  sf_tile.kernel @results() -> f32 attributes {threads = 32 : i64} {
    sf_tile.return
  }
}

// -----

gpu.module @kernels {
  // expected-error @below {{expected `threads` to be a multiple of 32 up to 1024, got 48}}
  sf_tile.kernel @threads() attributes {threads = 48 : i64} {
    sf_tile.return
  }
}

// -----

gpu.module @kernels {
  // expected-error @below {{expected only the leading dimension of a memref to be dynamic, got 'memref<8x?xf16>'}}
  sf_tile.kernel @dynamic(%x: memref<8x?xf16>) attributes {threads = 32 : i64} {
    sf_tile.return
  }
}

// -----

func.func @tile_id(%tokens: index) {
  // expected-error @below {{expected `splits` to be positive, got 0}}
  sf_tile.tile_id %tokens {feature_tiles = 1, tile_tokens = 8, splits = 0, raster = 1}
  return
}

// -----

func.func @tile_id_cluster_of_features(%tokens: index) {
  // expected-error @below {{expected a cluster that divides 3 feature tiles or, where there are splits, has a block for each of 1, got 2}}
  sf_tile.tile_id %tokens {cluster = 2, feature_tiles = 3, tile_tokens = 8, splits = 1, raster = 2}
  return
}

// -----

func.func @tile_id_cluster_of_splits(%tokens: index) {
  // expected-error @below {{has a block for each of 4, got 2}}
  sf_tile.tile_id %tokens {cluster = 2, feature_tiles = 2, tile_tokens = 8, splits = 4, raster = 2}
  return
}

// -----

func.func @tile_id_no_cluster(%tokens: index) {
  // expected-error @below {{expected a cluster that divides 2 feature tiles or, where there are splits, has a block for each of 1, got 0}}
  sf_tile.tile_id %tokens {cluster = 0, feature_tiles = 2, tile_tokens = 8, splits = 1, raster = 2}
  return
}

// -----

// Memory.

func.func @copy_rank(%x: memref<8x8xf16>, %i: index, %ring: !sf_tile.ring<2 x 8x8xf16>) {
  // expected-error @below {{expected 2 offsets and sizes, got 1 and 2}}
  sf_tile.copy_async %x[%i] [8, 8] to %ring[%i] logical : memref<8x8xf16> to <2 x 8x8xf16>
  return
}

// -----

func.func @copy_shape(%x: memref<8x8xf16>, %i: index, %ring: !sf_tile.ring<2 x 8x8xf16>) {
  // expected-error @below {{expected the box to have the stage's shape and element type in logical order}}
  sf_tile.copy_async %x[%i, %i] [8, 4] to %ring[%i] logical : memref<8x8xf16> to <2 x 8x8xf16>
  return
}

// -----

func.func @copy_bytes(%x: memref<8x8xf16>, %i: index, %ring: !sf_tile.ring<2 x 8x8xf16>) {
  // expected-error @below {{expected a box of 128 bytes, a stage's size, got 64}}
  sf_tile.copy_async %x[%i, %i] [8, 4] to %ring[%i] storage : memref<8x8xf16> to <2 x 8x8xf16>
  return
}

// -----

func.func @copy_bytes_overflow(%x: memref<8x8xf16>, %i: index, %ring: !sf_tile.ring<2 x 8x8xf16>) {
  // expected-error @below {{expected a box of 128 bytes, a stage's size, got -1}}
  sf_tile.copy_async %x[%i, %i] [2, -9223372036854775808] to %ring[%i] storage : memref<8x8xf16> to <2 x 8x8xf16>
  return
}

// -----

func.func @copy_element(%x: memref<8x8xindex>, %i: index, %ring: !sf_tile.ring<2 x 8x8xf16>) {
  // expected-error @below {{expected integer or float elements, got 'index'}}
  sf_tile.copy_async %x[%i, %i] [8, 8] to %ring[%i] storage : memref<8x8xindex> to <2 x 8x8xf16>
  return
}

// -----

func.func @copy_source(%x: tensor<8x8xf16>, %i: index, %ring: !sf_tile.ring<2 x 8x8xf16>) {
  // expected-error @below {{expected a memref or a tensor map, got 'tensor<8x8xf16>'}}
  sf_tile.copy_async %x[%i, %i] [8, 8] to %ring[%i] logical : tensor<8x8xf16> to <2 x 8x8xf16>
  return
}

// -----

func.func @copy_map_without_barriers(%map: !sf_tile.tensor_map<8x64xf16, of = 0>, %i: index, %ring: !sf_tile.ring<2 x 8x64xf16>) {
  // expected-error @below {{expected a copy through a tensor map to be logical, to signal barriers and to have no condition}}
  sf_tile.copy_async %map[%i, %i] [8, 64] to %ring[%i] logical : !sf_tile.tensor_map<8x64xf16, of = 0> to <2 x 8x64xf16>
  return
}

// -----

func.func @copy_map_in_storage_order(%map: !sf_tile.tensor_map<8x64xf16, of = 0>, %i: index, %ring: !sf_tile.ring<2 x 8x64xf16>,
                                     %barriers: !sf_tile.barriers<2>) {
  // expected-error @below {{expected a copy through a tensor map to be logical}}
  sf_tile.copy_async %map[%i, %i] [8, 64] to %ring[%i] signals %barriers storage
    : !sf_tile.tensor_map<8x64xf16, of = 0> to <2 x 8x64xf16>, !sf_tile.barriers<2>
  return
}

// -----

func.func @copy_map_with_condition(%map: !sf_tile.tensor_map<8x64xf16, of = 0>, %i: index, %ring: !sf_tile.ring<2 x 8x64xf16>,
                                   %barriers: !sf_tile.barriers<2>, %on: i1) {
  // expected-error @below {{expected a copy through a tensor map to be logical}}
  sf_tile.copy_async %map[%i, %i] [8, 64] to %ring[%i] if %on signals %barriers logical
    : !sf_tile.tensor_map<8x64xf16, of = 0> to <2 x 8x64xf16>, !sf_tile.barriers<2>
  return
}

// -----

func.func @copy_map_type(%map: !sf_tile.tensor_map<8x64xbf16, of = 0>, %i: index, %ring: !sf_tile.ring<2 x 8x64xf16>,
                         %barriers: !sf_tile.barriers<2>) {
  // expected-error @below {{expected the box to have the stage's shape and element type, got '!sf_tile.tensor_map<8x64xbf16, of = 0>' and '!sf_tile.ring<2 x 8x64xf16>'}}
  sf_tile.copy_async %map[%i, %i] [8, 64] to %ring[%i] signals %barriers logical
    : !sf_tile.tensor_map<8x64xbf16, of = 0> to <2 x 8x64xf16>, !sf_tile.barriers<2>
  return
}

// -----

func.func @copy_signals_logical(%x: memref<8x64xf16>, %i: index, %ring: !sf_tile.ring<2 x 8x64xf16>, %barriers: !sf_tile.barriers<2>) {
  // expected-error @below {{expected a copy of a memref that signals barriers to be in storage order and to have no condition}}
  sf_tile.copy_async %x[%i, %i] [8, 64] to %ring[%i] signals %barriers logical
    : memref<8x64xf16> to <2 x 8x64xf16>, !sf_tile.barriers<2>
  return
}

// -----

func.func @view_dynamic(%w: memref<?xi8>) {
  // expected-error @below {{expected static shapes}}
  sf_tile.view %w {byte_offset = 0 : i64} : memref<?xi8> to memref<8xf16>
  return
}

// -----

func.func @view_overflow(%w: memref<16xi8>) {
  // expected-error @below {{expected sizes that memory has}}
  sf_tile.view %w {byte_offset = 9223372036854775807 : i64} : memref<16xi8> to memref<8xf16>
  return
}

// -----

func.func @view_bytes(%w: memref<16xi8>) {
  // expected-error @below {{expected a source of at least 20 bytes, got 16}}
  sf_tile.view %w {byte_offset = 4 : i64} : memref<16xi8> to memref<8xf16>
  return
}

// -----

func.func @view_element(%w: memref<16xi8>) {
  // expected-error @below {{expected integer or float elements, got 'i8' and 'index'}}
  sf_tile.view %w {byte_offset = 0 : i64} : memref<16xi8> to memref<2xindex>
  return
}

// -----

func.func @view_offset(%w: memref<16xi8>) {
  // expected-error @below {{expected a byte_offset of at least 0, got -4}}
  sf_tile.view %w {byte_offset = -4 : i64} : memref<16xi8> to memref<8xf16>
  return
}

// -----

func.func @load_source(%x: tensor<8xf16>, %i: index) {
  // expected-error @below {{expected a memref or a ring, got 'tensor<8xf16>'}}
  sf_tile.load %x[%i] : tensor<8xf16> -> !sf_tile.tile<8xf16>
  return
}

// -----

func.func @load_ring_indices(%ring: !sf_tile.ring<2 x 8x8xf16>, %i: index) {
  // expected-error @below {{expected one index, the stage, and no dims for a ring}}
  sf_tile.load %ring[%i, %i] : !sf_tile.ring<2 x 8x8xf16> -> !sf_tile.tile<8x8xf16>
  return
}

// -----

func.func @load_ring_type(%ring: !sf_tile.ring<2 x 8x8xf16>, %i: index) {
  // expected-error @below {{expected equal element types, got 'f16' and 'bf16'}}
  sf_tile.load %ring[%i] : !sf_tile.ring<2 x 8x8xf16> -> !sf_tile.tile<8x8xbf16>
  return
}

// -----

func.func @load_ring_start_rank(%ring: !sf_tile.ring<2 x 8x8xf16>, %i: index) {
  // expected-error @below {{expected 2 start coordinates}}
  sf_tile.load %ring[%i] start [0] : !sf_tile.ring<2 x 8x8xf16> -> !sf_tile.tile<8x8xf16>
  return
}

// -----

func.func @load_ring_outside(%ring: !sf_tile.ring<2 x 8x8xf16>, %i: index) {
  // expected-error @below {{expected the tile to lie inside the stage, got 4 + 8 of 8}}
  sf_tile.load %ring[%i] start [0, 4] : !sf_tile.ring<2 x 8x8xf16> -> !sf_tile.tile<8x8xf16>
  return
}

// -----

func.func @load_ring_rank(%ring: !sf_tile.ring<2 x 8x8xf16>, %i: index) {
  // expected-error @below {{expected a tile of rank 2, the ring's, got '!sf_tile.tile<8xf16>'}}
  sf_tile.load %ring[%i] : !sf_tile.ring<2 x 8x8xf16> -> !sf_tile.tile<8xf16>
  return
}

// -----

func.func @load_start(%x: memref<8xf16>, %i: index) {
  // expected-error @below {{expected no start for a memref: add it to the indices}}
  sf_tile.load %x[%i] start [4] : memref<8xf16> -> !sf_tile.tile<8xf16>
  return
}

// -----

func.func @load_rank(%x: memref<8x8xf16>, %i: index) {
  // expected-error @below {{expected 2 indices and dims, got 1 and 2}}
  sf_tile.load %x[%i] : memref<8x8xf16> -> !sf_tile.tile<8x8xf16>
  return
}

// -----

func.func @load_type(%x: memref<8xf16>, %i: index) {
  // expected-error @below {{expected equal element types, got 'f16' and 'f32'}}
  sf_tile.load %x[%i] : memref<8xf16> -> !sf_tile.tile<8xf32>
  return
}

// -----

func.func @load_dims(%x: memref<8x8xf16>, %i: index) {
  // expected-error @below {{expected dims from -1 to 0, got 1}}
  sf_tile.load %x[%i, %i] dims [0, 1] : memref<8x8xf16> -> !sf_tile.tile<8xf16>
  return
}

// -----

func.func @load_broadcast(%x: memref<8xf16>, %i: index) {
  // expected-error @below {{expected tile dimension 1 to run along a memref dimension or to have size 1}}
  sf_tile.load %x[%i] dims [0] : memref<8xf16> -> !sf_tile.tile<8x4xf16>
  return
}

// -----

func.func @store_rank(%t: !sf_tile.tile<8xf16>, %x: memref<8x8xf16>, %i: index) {
  // expected-error @below {{expected 2 indices and dims, got 1 and 2}}
  sf_tile.store %t, %x[%i] : !sf_tile.tile<8xf16>, memref<8x8xf16>
  return
}

// -----

func.func @store_packed_rank(%t: !sf_tile.tile<2x2xf16>, %x: memref<1x1x4xf16>, %i: index) {
  // expected-error @below {{expected 3 indices, got 1}}
  sf_tile.store %t, %x[%i] packing <offset = [[0, 1], [1, 0]]> : !sf_tile.tile<2x2xf16>, memref<1x1x4xf16>
  return
}

// -----

func.func @store_packed_from(%t: !sf_tile.tile<2x2xf16>, %x: memref<1x1x4xf16>, %i: index) {
  // expected-error @below {{expected no `from` beside a packing, which is stored as a whole}}
  sf_tile.store %t, %x[%i, %i, %i] from %i packing <offset = [[0, 1], [1, 0]]> : !sf_tile.tile<2x2xf16>, memref<1x1x4xf16>
  return
}

// -----

func.func @store_packing(%t: !sf_tile.tile<4x2xf16>, %x: memref<1x1x8xf16>, %i: index) {
  // expected-error @below {{expected a packing that maps `offset` one to one onto a tile of rank 2}}
  sf_tile.store %t, %x[%i, %i, %i] packing <offset = [[0, 1], [1, 0]]> : !sf_tile.tile<4x2xf16>, memref<1x1x8xf16>
  return
}

// -----

// Pipelines.

func.func @pipeline_results(%i: index, %init: f32) {
  // expected-error @below {{expected results of the same types as the carried values}}
  "sf_tile.pipeline"(%i, %i, %init) <{operandSegmentSizes = array<i32: 1, 1, 1, 0>}> ({
  ^bb0(%step: index, %stage: index):
    sf_tile.yield
  }, {
  ^bb0(%step: index, %stage: index, %carried: f32):
    sf_tile.yield %carried : f32
  }) : (index, index, f32) -> ()
  return
}

// -----

func.func @pipeline_producer(%i: index) {
  // expected-error @below {{expected the producer's arguments to be ('index', 'index'), got ('index')}}
  sf_tile.pipeline %i to %i producer {
  ^bb0(%step: index):
    sf_tile.yield
  } consumer {
  ^bb0(%step: index, %stage: index):
    sf_tile.yield
  }
  return
}

// -----

func.func @pipeline_consumer(%i: index, %init: f32) {
  // expected-error @below {{expected the consumer's arguments to be ('index', 'index', 'f32'), got ('index', 'index')}}
  %0 = sf_tile.pipeline %i to %i init(%init : f32) producer {
  ^bb0(%step: index, %stage: index):
    sf_tile.yield
  } consumer {
  ^bb0(%step: index, %stage: index):
    sf_tile.yield %init : f32
  } -> f32
  return
}

// -----

func.func @pipeline_yield(%i: index, %init: f32) {
  // expected-error @below {{expected the consumer to yield ('f32'), got ()}}
  %0 = sf_tile.pipeline %i to %i init(%init : f32) producer {
  ^bb0(%step: index, %stage: index):
    sf_tile.yield
  } consumer {
  ^bb0(%step: index, %stage: index, %carried: f32):
    sf_tile.yield
  } -> f32
  return
}

// -----

func.func @pipeline_terminator(%i: index) {
  // expected-error @below {{expected the producer to end in sf_tile.yield}}
  sf_tile.pipeline %i to %i producer {
  ^bb0(%step: index, %stage: index):
    llvm.unreachable
  } consumer {
  ^bb0(%step: index, %stage: index):
    sf_tile.yield
  }
  return
}

// -----

func.func @role_consumers() {
  // expected-error @below {{expected whole warpgroups of 4 warps as consumers, got 6 warps}}
  sf_tile.role consumer {
  } {consumers = 6}
  return
}

// -----

// Arithmetic.

func.func @splat(%value: f16) {
  // expected-error @below {{expected a value of type 'f32', got 'f16'}}
  sf_tile.splat %value : f16 -> !sf_tile.tile<8xf32>
  return
}

// -----

func.func @iota() {
  // expected-error @below {{expected a tile of i32 that has dimension 1, got '!sf_tile.tile<8xi32>'}}
  sf_tile.iota 1 : !sf_tile.tile<8xi32>
  return
}

// -----

func.func @iota_negative() {
  // expected-error @below {{expected a tile of i32 that has dimension -1}}
  sf_tile.iota -1 : !sf_tile.tile<8xi32>
  return
}

// -----

func.func @slice_type(%t: !sf_tile.tile<64x8xf16>) {
  // expected-error @below {{expected equal element types of 32 bits, got '!sf_tile.tile<64x8xf16>' and '!sf_tile.tile<64x4xf16>'}}
  sf_tile.slice %t[0, 4] : !sf_tile.tile<64x8xf16> -> !sf_tile.tile<64x4xf16>
  return
}

// -----

func.func @slice_rank(%t: !sf_tile.tile<64x8xf32>) {
  // expected-error @below {{expected tiles of equal rank and as many start coordinates, got '!sf_tile.tile<64x8xf32>' and '!sf_tile.tile<64xf32>'}}
  sf_tile.slice %t[0] : !sf_tile.tile<64x8xf32> -> !sf_tile.tile<64xf32>
  return
}

// -----

func.func @slice_start(%t: !sf_tile.tile<64x8xf32>) {
  // expected-error @below {{expected whole dimensions, or sizes that are powers of two and starts that are multiples of them inside the source, got 4 from 2 on of 8}}
  sf_tile.slice %t[0, 2] : !sf_tile.tile<64x8xf32> -> !sf_tile.tile<64x4xf32>
  return
}

// -----

func.func @slice_outside(%t: !sf_tile.tile<64x8xf32>) {
  // expected-error @below {{expected whole dimensions, or sizes that are powers of two and starts that are multiples of them inside the source, got 8 from 8 on of 8}}
  sf_tile.slice %t[0, 8] : !sf_tile.tile<64x8xf32> -> !sf_tile.tile<64x8xf32>
  return
}

// -----

func.func @mma_result(%a: !sf_tile.tile<64x16xf16>, %b: !sf_tile.tile<8x16xf16>, %acc: !sf_tile.tile<64x8xf32>) {
  // expected-error @below {{expected the result to have the accumulator's type, got '!sf_tile.tile<64x8xf16>' and '!sf_tile.tile<64x8xf32>'}}
  sf_tile.mma <"mma_m16n8k16_f16"> %a, %b, %acc
    : !sf_tile.tile<64x16xf16>, !sf_tile.tile<8x16xf16>, !sf_tile.tile<64x8xf32> -> !sf_tile.tile<64x8xf16>
  return
}

// -----

func.func @mma_rank(%a: !sf_tile.tile<64xf16>, %b: !sf_tile.tile<8x16xf16>, %acc: !sf_tile.tile<64x8xf32>) {
  // expected-error @below {{expected tiles of rank 2}}
  sf_tile.mma <"mma_m16n8k16_f16"> %a, %b, %acc
    : !sf_tile.tile<64xf16>, !sf_tile.tile<8x16xf16>, !sf_tile.tile<64x8xf32> -> !sf_tile.tile<64x8xf32>
  return
}

// -----

func.func @mma_shapes(%a: !sf_tile.tile<64x16xf16>, %b: !sf_tile.tile<8x16xf16>, %acc: !sf_tile.tile<64x8xf32>,
                      %metadata: !sf_tile.tile<64x4xi4>) {
  // expected-error @below {{expected a: features x k/2, b: tokens x k, acc: features x tokens, got '!sf_tile.tile<64x16xf16>', '!sf_tile.tile<8x16xf16>', '!sf_tile.tile<64x8xf32>'}}
  sf_tile.mma <"mma_sp_m16n8k32_f16"> %a, %b, %acc metadata %metadata
    : !sf_tile.tile<64x16xf16>, !sf_tile.tile<8x16xf16>, !sf_tile.tile<64x8xf32>, !sf_tile.tile<64x4xi4> -> !sf_tile.tile<64x8xf32>
  return
}

// -----

func.func @mma_step(%a: !sf_tile.tile<64x32xf16>, %b: !sf_tile.tile<8x32xf16>, %acc: !sf_tile.tile<64x8xf32>) {
  // expected-error @below {{expected one step of 16 along k, got 32}}
  sf_tile.mma <"mma_m16n8k16_f16"> %a, %b, %acc
    : !sf_tile.tile<64x32xf16>, !sf_tile.tile<8x32xf16>, !sf_tile.tile<64x8xf32> -> !sf_tile.tile<64x8xf32>
  return
}

// -----

func.func @mma_no_metadata(%a: !sf_tile.tile<64x16xf16>, %b: !sf_tile.tile<8x32xf16>, %acc: !sf_tile.tile<64x8xf32>) {
  // expected-error @below {{expected metadata for a sparse atom}}
  sf_tile.mma <"mma_sp_m16n8k32_f16"> %a, %b, %acc
    : !sf_tile.tile<64x16xf16>, !sf_tile.tile<8x32xf16>, !sf_tile.tile<64x8xf32> -> !sf_tile.tile<64x8xf32>
  return
}

// -----

func.func @mma_metadata(%a: !sf_tile.tile<64x16xf16>, %b: !sf_tile.tile<8x16xf16>, %acc: !sf_tile.tile<64x8xf32>,
                        %metadata: !sf_tile.tile<64x4xi4>) {
  // expected-error @below {{expected no metadata for a dense atom}}
  sf_tile.mma <"mma_m16n8k16_f16"> %a, %b, %acc metadata %metadata
    : !sf_tile.tile<64x16xf16>, !sf_tile.tile<8x16xf16>, !sf_tile.tile<64x8xf32>, !sf_tile.tile<64x4xi4> -> !sf_tile.tile<64x8xf32>
  return
}

// -----

func.func @mma_type(%a: !sf_tile.tile<64x16xbf16>, %b: !sf_tile.tile<8x16xbf16>, %acc: !sf_tile.tile<64x8xf32>) {
  // expected-error @below {{expected a and b of 'f16', accumulated in 'f32', got '!sf_tile.tile<64x16xbf16>', '!sf_tile.tile<8x16xbf16>', '!sf_tile.tile<64x8xf32>'}}
  sf_tile.mma <"mma_m16n8k16_f16"> %a, %b, %acc
    : !sf_tile.tile<64x16xbf16>, !sf_tile.tile<8x16xbf16>, !sf_tile.tile<64x8xf32> -> !sf_tile.tile<64x8xf32>
  return
}

// -----

func.func @mma_accumulator(%a: !sf_tile.tile<64x32xi8>, %b: !sf_tile.tile<8x32xi8>, %acc: !sf_tile.tile<64x8xf32>) {
  // expected-error @below {{expected a and b of 'i8', accumulated in 'i32'}}
  sf_tile.mma <"mma_m16n8k32_s8"> %a, %b, %acc
    : !sf_tile.tile<64x32xi8>, !sf_tile.tile<8x32xi8>, !sf_tile.tile<64x8xf32> -> !sf_tile.tile<64x8xf32>
  return
}

// -----

func.func @mma_metadata_shape(%a: !sf_tile.tile<64x16xf16>, %b: !sf_tile.tile<8x32xf16>, %acc: !sf_tile.tile<64x8xf32>,
                              %metadata: !sf_tile.tile<64x8xi4>) {
  // expected-error @below {{expected metadata of features x 16 as i4, got '!sf_tile.tile<64x8xi4>'}}
  sf_tile.mma <"mma_sp_m16n8k32_f16"> %a, %b, %acc metadata %metadata
    : !sf_tile.tile<64x16xf16>, !sf_tile.tile<8x32xf16>, !sf_tile.tile<64x8xf32>, !sf_tile.tile<64x8xi4> -> !sf_tile.tile<64x8xf32>
  return
}

// -----

func.func @mma_metadata_start(%a: !sf_tile.tile<64x16xf16>, %b: !sf_tile.tile<8x32xf16>, %acc: !sf_tile.tile<64x8xf32>,
                              %metadata: !sf_tile.tile<64x16xi4>) {
  // expected-error @below {{expected metadata_start to be a multiple of 8 below 16, got 4}}
  sf_tile.mma <"mma_sp_m16n8k32_f16"> %a, %b, %acc metadata %metadata {metadata_start = 4 : i64}
    : !sf_tile.tile<64x16xf16>, !sf_tile.tile<8x32xf16>, !sf_tile.tile<64x8xf32>, !sf_tile.tile<64x16xi4> -> !sf_tile.tile<64x8xf32>
  return
}

// -----

func.func @mma_wait_types(%acc: !sf_tile.tile<64x8xf32>) {
  // expected-error @below {{expected results of the operands' types}}
  "sf_tile.mma_wait"(%acc) {pending = 0 : i64} : (!sf_tile.tile<64x8xf32>) -> (!sf_tile.tile<64x8xi32>)
  return
}

// -----

func.func @map_no_results(%x: !sf_tile.tile<8xf32>) {
  // expected-error @below {{expected at least one result}}
  "sf_tile.map"(%x) ({
  ^bb0(%a: f32):
    sf_tile.yield
  }) : (!sf_tile.tile<8xf32>) -> ()
  return
}

// -----

func.func @map_shapes(%x: !sf_tile.tile<8xf32>) {
  // expected-error @below {{expected results of equal shape}}
  %0:2 = sf_tile.map %x : !sf_tile.tile<8xf32> -> !sf_tile.tile<8xf32>, !sf_tile.tile<4xf32> {
  ^bb0(%a: f32):
    sf_tile.yield %a, %a : f32, f32
  }
  return
}

// -----

func.func @map_arguments(%x: !sf_tile.tile<8xf32>) {
  // expected-error @below {{expected 1 region arguments, got 2}}
  %0 = sf_tile.map %x : !sf_tile.tile<8xf32> -> !sf_tile.tile<8xf32> {
  ^bb0(%a: f32, %b: f32):
    sf_tile.yield %a : f32
  }
  return
}

// -----

func.func @map_argument_type(%x: !sf_tile.tile<8xf16>) {
  // expected-error @below {{expected a region argument of type 'f16', got 'f32'}}
  %0 = sf_tile.map %x : !sf_tile.tile<8xf16> -> !sf_tile.tile<8xf32> {
  ^bb0(%a: f32):
    sf_tile.yield %a : f32
  }
  return
}

// -----

func.func @map_rank(%x: !sf_tile.tile<8xf32>) {
  // expected-error @below {{expected tiles of equal rank}}
  %0 = sf_tile.map %x : !sf_tile.tile<8xf32> -> !sf_tile.tile<8x8xf32> {
  ^bb0(%a: f32):
    sf_tile.yield %a : f32
  }
  return
}

// -----

func.func @map_broadcast(%x: !sf_tile.tile<4xf32>) {
  // expected-error @below {{expected inputs of the result's shape, or of size 1 to broadcast, got '!sf_tile.tile<4xf32>'}}
  %0 = sf_tile.map %x : !sf_tile.tile<4xf32> -> !sf_tile.tile<8xf32> {
  ^bb0(%a: f32):
    sf_tile.yield %a : f32
  }
  return
}

// -----

func.func @map_yield(%x: !sf_tile.tile<8xf32>) {
  // expected-error @below {{expected the region to yield ('f16'), got ('f32')}}
  %0 = sf_tile.map %x : !sf_tile.tile<8xf32> -> !sf_tile.tile<8xf16> {
  ^bb0(%a: f32):
    sf_tile.yield %a : f32
  }
  return
}

// -----

func.func @reduce_dim(%x: !sf_tile.tile<8x8xf32>) {
  // expected-error @below {{expected dim from 0 to 1, got 2}}
  sf_tile.reduce max %x {dim = 2} : !sf_tile.tile<8x8xf32> -> !sf_tile.tile<8x1xf32>
  return
}

// -----

func.func @reduce_result(%x: !sf_tile.tile<8x8xf32>) {
  // expected-error @below {{expected the result to be the input with size 1 in dim 0, got '!sf_tile.tile<8x1xf32>'}}
  sf_tile.reduce max %x {dim = 0} : !sf_tile.tile<8x8xf32> -> !sf_tile.tile<8x1xf32>
  return
}

// -----

func.func @compress_dense(%x: !sf_tile.tile<8x6xf16>) {
  // expected-error @below {{expected a dense tile of rank 2 whose columns are a multiple of 4, got '!sf_tile.tile<8x6xf16>'}}
  sf_tile.compress %x : !sf_tile.tile<8x6xf16> -> !sf_tile.tile<8x3xf16>, !sf_tile.tile<8x1xi4>
  return
}

// -----

func.func @compress_kept(%x: !sf_tile.tile<8x8xf16>) {
  // expected-error @below {{expected kept elements of half the columns and the same type, got '!sf_tile.tile<8x8xf16>'}}
  sf_tile.compress %x : !sf_tile.tile<8x8xf16> -> !sf_tile.tile<8x8xf16>, !sf_tile.tile<8x2xi4>
  return
}

// -----

func.func @decompress_metadata(%kept: !sf_tile.tile<8x4xf16>, %metadata: !sf_tile.tile<8x2xi8>) {
  // expected-error @below {{expected metadata of a quarter of the columns as i4, got '!sf_tile.tile<8x2xi8>'}}
  sf_tile.decompress %kept, %metadata : !sf_tile.tile<8x4xf16>, !sf_tile.tile<8x2xi8> -> !sf_tile.tile<8x8xf16>
  return
}

// -----

// The host side.

func.func @launch_rows_per_block(%x: tensor<?x8xf16>) {
  // expected-error @below {{expected a positive rows_per_block with rows_of}}
  sf_tile.launch @kernels::@f(%x) <blocks = 1, rows_of = 0> : (tensor<?x8xf16>) -> ()
  return
}

// -----

func.func @launch_rows_of(%x: tensor<?x8xf16>) {
  // expected-error @below {{expected rows_of to name an operand, got 1}}
  sf_tile.launch @kernels::@f(%x) <blocks = 1, rows_of = 1, rows_per_block = 8> : (tensor<?x8xf16>) -> ()
  return
}

// -----

func.func @dispatch_count(%x: tensor<?x8xf16>) {
  // expected-error @below {{expected one max_rows for each variant, got 2 for 1}}
  %0 = sf_tile.dispatch "label" %x [16, -1] : tensor<?x8xf16> -> tensor<?x8xf16> {
    sf_tile.yield %x : tensor<?x8xf16>
  }
  return
}

// -----

func.func @dispatch_order(%x: tensor<?x8xf16>) {
  // expected-error @below {{expected ascending max_rows that end in -1}}
  %0 = sf_tile.dispatch "label" %x [16, 32] : tensor<?x8xf16> -> tensor<?x8xf16> {
    sf_tile.yield %x : tensor<?x8xf16>
  }, {
    sf_tile.yield %x : tensor<?x8xf16>
  }
  return
}

// -----

func.func @dispatch_same_rows(%x: tensor<?x8xf16>) {
  // expected-error @below {{expected ascending max_rows that end in -1}}
  %0 = sf_tile.dispatch "label" %x [-1, -1] : tensor<?x8xf16> -> tensor<?x8xf16> {
    sf_tile.yield %x : tensor<?x8xf16>
  }, {
    sf_tile.yield %x : tensor<?x8xf16>
  }
  return
}

// -----

func.func @dispatch_library_last(%x: tensor<?x8xf16>, %w: tensor<4x8xf16>) {
  // expected-error @below {{expected a last variant that needs no library}}
  %0 = sf_tile.dispatch "label" %x [-1] : tensor<?x8xf16> -> tensor<?x4xf16> {
    %1 = sf_tile.library_matmul %x, %w : tensor<?x8xf16>, tensor<4x8xf16> -> tensor<?x4xf16>
    sf_tile.yield %1 : tensor<?x4xf16>
  }
  return
}

// -----

func.func @library_matmul_shapes(%x: tensor<?x8xf16>, %w: tensor<8x4xf16>) {
  %0 = sf_tile.dispatch "label" %x [16, -1] : tensor<?x8xf16> -> tensor<?x4xf16> {
    // expected-error @below {{expected [M,K] and [N,K] of one element type, and the result [M,N], got 'tensor<?x8xf16>', 'tensor<8x4xf16>' and 'tensor<?x4xf16>'}}
    %1 = sf_tile.library_matmul %x, %w : tensor<?x8xf16>, tensor<8x4xf16> -> tensor<?x4xf16>
    sf_tile.yield %1 : tensor<?x4xf16>
  }, {
    %1 = sf_tile.launch @kernels::@kernel(%x) <blocks = 1> : (tensor<?x8xf16>) -> tensor<?x4xf16>
    sf_tile.yield %1 : tensor<?x4xf16>
  }
  return
}

// -----

func.func @dispatch_yield(%x: tensor<?x8xf16>, %y: tensor<?x8xf32>) {
  // expected-error @below {{expected every variant to yield ('tensor<?x8xf16>'), got ('tensor<?x8xf32>')}}
  %0 = sf_tile.dispatch "label" %x [-1] : tensor<?x8xf16> -> tensor<?x8xf16> {
    sf_tile.yield %y : tensor<?x8xf32>
  }
  return
}

// -----

func.func @dispatch_empty(%x: tensor<?x8xf16>) {
  // expected-error @below {{expected every variant to end in sf_tile.yield}}
  "sf_tile.dispatch"(%x) <{label = "label", max_rows = array<i64: -1>}> ({
  ^bb0:
  }) : (tensor<?x8xf16>) -> ()
  return
}

// -----

// Sums over a cluster.

func.func @reduce_scatter_nothing() {
  // expected-error @below {{expected as many results as tiles, at least one, got 0 for 0}}
  sf_tile.reduce_scatter() : () -> ()
  return
}

// -----

func.func @reduce_scatter_results(%t: !sf_tile.tile<64x16xf32>) {
  // expected-error @below {{expected as many results as tiles, at least one, got 1 for 2}}
  %0 = sf_tile.reduce_scatter(%t, %t) : (!sf_tile.tile<64x16xf32>, !sf_tile.tile<64x16xf32>) -> !sf_tile.tile<64x8xf32>
  return
}

// -----

func.func @reduce_scatter_without_a_cluster(%t: !sf_tile.tile<64x16xf32>) {
  // expected-error @below {{expected a cluster of blocks, and tiles of 32-bit elements whose last dimension it divides into multiples of 8, got '!sf_tile.tile<64x16xf32>' to '!sf_tile.tile<64x8xf32>' in a cluster of 1}}
  %0 = sf_tile.reduce_scatter(%t) : (!sf_tile.tile<64x16xf32>) -> !sf_tile.tile<64x8xf32>
  return
}

// -----

gpu.module @kernels {
  sf_tile.kernel @share_of_a_token(%t: !sf_tile.tile<64x24xf32>) attributes {cluster = 2 : i64, threads = 160 : i64} {
    // expected-error @below {{got '!sf_tile.tile<64x24xf32>' to '!sf_tile.tile<64x12xf32>' in a cluster of 2}}
    %0 = sf_tile.reduce_scatter(%t) : (!sf_tile.tile<64x24xf32>) -> !sf_tile.tile<64x12xf32>
    sf_tile.return
  }
}

// -----

gpu.module @kernels {
  sf_tile.kernel @another_share(%t: !sf_tile.tile<64x32xf32>) attributes {cluster = 2 : i64, threads = 160 : i64} {
    // expected-error @below {{got '!sf_tile.tile<64x32xf32>' to '!sf_tile.tile<64x8xf32>' in a cluster of 2}}
    %0 = sf_tile.reduce_scatter(%t) : (!sf_tile.tile<64x32xf32>) -> !sf_tile.tile<64x8xf32>
    sf_tile.return
  }
}

// -----

gpu.module @kernels {
  sf_tile.kernel @another_type(%t: !sf_tile.tile<64x32xf32>) attributes {cluster = 2 : i64, threads = 160 : i64} {
    // expected-error @below {{got '!sf_tile.tile<64x32xf32>' to '!sf_tile.tile<64x16xi32>' in a cluster of 2}}
    %0 = sf_tile.reduce_scatter(%t) : (!sf_tile.tile<64x32xf32>) -> !sf_tile.tile<64x16xi32>
    sf_tile.return
  }
}

// -----

gpu.module @kernels {
  sf_tile.kernel @half_precision(%t: !sf_tile.tile<64x32xf16>) attributes {cluster = 2 : i64, threads = 160 : i64} {
    // expected-error @below {{tiles of 32-bit elements whose last dimension it divides into multiples of 8, got '!sf_tile.tile<64x32xf16>'}}
    %0 = sf_tile.reduce_scatter(%t) : (!sf_tile.tile<64x32xf16>) -> !sf_tile.tile<64x16xf16>
    sf_tile.return
  }
}

// -----

gpu.module @kernels {
  sf_tile.kernel @no_inbox(%t: !sf_tile.tile<64x32xf32>) attributes {cluster = 2 : i64, threads = 160 : i64} {
    %barriers = sf_tile.barriers {consumers = 4} : !sf_tile.barriers<2>
    // expected-error @below {{expected barriers with an inbox, got none; give them `senders`}}
    %0 = sf_tile.reduce_scatter(%t) signals %barriers : !sf_tile.barriers<2> : (!sf_tile.tile<64x32xf32>) -> !sf_tile.tile<64x16xf32>
    sf_tile.return
  }
}
