// The two kernels of the runtime's test program (unittests/Runtime/TestProgram.h) as PTX, written
// by hand: the runtime's test on a GPU must not depend on the compiler.
#ifndef SPARSEFLOW_TEST_GPU_RUNTIMEKERNELS_H
#define SPARSEFLOW_TEST_GPU_RUNTIMEKERNELS_H

/// for each element i of [m,16], grid-stride: ws[i] = x[i / 16 * xs + i % 16] * f
inline const char *const scaleKernel = R"(.version 7.0
.target sm_80
.address_size 64
.visible .entry k0(.param .u64 x, .param .s64 xs, .param .u64 ws, .param .s64 m, .param .f32 f)
{
  .reg .pred %p; .reg .b32 %r<5>; .reg .b64 %i, %n, %step, %row, %column, %a, %x, %xs, %ws; .reg .f32 %v, %f;
  ld.param.u64 %x, [x]; ld.param.s64 %xs, [xs]; ld.param.u64 %ws, [ws]; ld.param.s64 %n, [m]; ld.param.f32 %f, [f];
  cvta.to.global.u64 %x, %x; cvta.to.global.u64 %ws, %ws;
  shl.b64 %n, %n, 4;
  mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x; mov.u32 %r4, %nctaid.x;
  cvt.u64.u32 %i, %r3; mad.wide.u32 %i, %r1, %r2, %i; mul.wide.u32 %step, %r4, %r2;
LOOP:
  setp.ge.s64 %p, %i, %n; @%p bra DONE;
  shr.s64 %row, %i, 4; and.b64 %column, %i, 15;
  mad.lo.s64 %a, %row, %xs, %column; shl.b64 %a, %a, 2; add.s64 %a, %a, %x;
  ld.global.f32 %v, [%a]; mul.f32 %v, %v, %f;
  shl.b64 %a, %i, 2; add.s64 %a, %a, %ws; st.global.f32 [%a], %v;
  add.s64 %i, %i, %step; bra LOOP;
DONE:
  ret;
}
)";

/// for each element i of [m,16], grid-stride: y[i / 16 * ys + i % 16] = ws[i] * f + w[i % 16]
inline const char *const addKernel = R"(.version 7.0
.target sm_80
.address_size 64
.visible .entry k1(.param .u64 ws, .param .u64 w, .param .u64 y, .param .s64 ys, .param .s64 m, .param .s32 f,
                   .param .s64 wss, .param .s64 unused)
{
  .reg .pred %p; .reg .b32 %r<6>; .reg .b64 %i, %n, %step, %row, %column, %a, %ws, %w, %y, %ys; .reg .f32 %v, %b, %f;
  ld.param.u64 %ws, [ws]; ld.param.u64 %w, [w]; ld.param.u64 %y, [y]; ld.param.s64 %ys, [ys]; ld.param.s64 %n, [m];
  ld.param.s32 %r5, [f]; cvt.rn.f32.s32 %f, %r5;
  cvta.to.global.u64 %ws, %ws; cvta.to.global.u64 %w, %w; cvta.to.global.u64 %y, %y;
  shl.b64 %n, %n, 4;
  mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x; mov.u32 %r4, %nctaid.x;
  cvt.u64.u32 %i, %r3; mad.wide.u32 %i, %r1, %r2, %i; mul.wide.u32 %step, %r4, %r2;
LOOP:
  setp.ge.s64 %p, %i, %n; @%p bra DONE;
  shr.s64 %row, %i, 4; and.b64 %column, %i, 15;
  shl.b64 %a, %i, 2; add.s64 %a, %a, %ws; ld.global.f32 %v, [%a];
  shl.b64 %a, %column, 2; add.s64 %a, %a, %w; ld.global.f32 %b, [%a];
  mul.f32 %v, %v, %f; add.f32 %v, %v, %b;
  mad.lo.s64 %a, %row, %ys, %column; shl.b64 %a, %a, 2; add.s64 %a, %a, %y; st.global.f32 [%a], %v;
  add.s64 %i, %i, %step; bra LOOP;
DONE:
  ret;
}
)";

#endif // SPARSEFLOW_TEST_GPU_RUNTIMEKERNELS_H
