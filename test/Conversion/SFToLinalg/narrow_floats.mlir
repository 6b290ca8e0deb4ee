// RUN: sparseflow-opt %s --expand-narrow-floats | FileCheck %s

// No conversion between a narrow float and f32 is left to the back end.

// CHECK-LABEL: func.func @all
// CHECK-NOT: arith.extf {{.*}} to f32
// CHECK-NOT: arith.truncf
func.func @all(%a: f16, %b: bf16, %c: f8E4M3FN, %d: f8E5M2) -> (f32, f32, f32, f32) {
  %0 = arith.extf %a : f16 to f32
  %1 = arith.extf %b : bf16 to f32
  %2 = arith.extf %c : f8E4M3FN to f32
  %3 = arith.extf %d : f8E5M2 to f32
  return %0, %1, %2, %3 : f32, f32, f32, f32
}

// bf16 is the upper half of f32.
// CHECK-LABEL: func.func @extend_bf16
func.func @extend_bf16(%b: bf16) -> f32 {
  // CHECK: %[[RAW:.*]] = arith.bitcast %{{.*}} : bf16 to i16
  // CHECK: %[[BITS:.*]] = arith.extui %[[RAW]] : i16 to i32
  // CHECK: %[[HIGH:.*]] = arith.shli %[[BITS]], %{{.*}} : i32
  // CHECK: arith.bitcast %[[HIGH]] : i32 to f32
  %0 = arith.extf %b : bf16 to f32
  return %0 : f32
}

// CHECK-LABEL: func.func @truncate
func.func @truncate(%a: f32, %b: f64) -> (f16, f8E4M3FN) {
  // CHECK-NOT: to f16
  // CHECK: arith.bitcast %{{.*}} : i16 to f16
  %0 = arith.truncf %a : f32 to f16
  // CHECK: arith.truncf %{{.*}} : f64 to f32
  // CHECK: arith.bitcast %{{.*}} : i8 to f8E4M3FN
  %1 = arith.truncf %b : f64 to f8E4M3FN
  return %0, %1 : f16, f8E4M3FN
}

// Only rounding to nearest even is known.
// CHECK-LABEL: func.func @other_rounding
func.func @other_rounding(%a: f32) -> f16 {
  // CHECK: arith.truncf %{{.*}} toward_zero : f32 to f16
  %0 = arith.truncf %a toward_zero : f32 to f16
  return %0 : f16
}
