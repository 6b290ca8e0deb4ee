/* A program of some ABI version: built against the header as it was then (v1/, v2/, ...), run with
 * today's library.
 *
 * It takes the address of every function, so that a removed one fails to link, and uses what works
 * without a GPU. Plain C99, as a user of the ABI would write it.
 */
#include "sparseflow-c/sparseflow.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if SF_ABI_VERSION != EXPECTED_ABI_VERSION
#error "this test must see the frozen header of its version"
#endif

static int failures = 0;

#define CHECK(condition)                                                                           \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      printf("%s:%d: failed: %s (last error: %s)\n", __FILE__, __LINE__, #condition,               \
             sfLastError());                                                                       \
      ++failures;                                                                                  \
    }                                                                                              \
  } while (0)

typedef void (*Function)(void);
static const Function everyFunction[] = {(Function)sfVersion,
                                         (Function)sfAbiVersion,
                                         (Function)sfLastError,
                                         (Function)sfStatusName,
                                         (Function)sfDTypeName,
                                         (Function)sfDTypeSize,
                                         (Function)sfFree,
                                         (Function)sfCompile,
                                         (Function)sfCompileFile,
                                         (Function)sfProgramOpen,
                                         (Function)sfProgramFromMemory,
                                         (Function)sfProgramSave,
                                         (Function)sfProgramToMemory,
                                         (Function)sfProgramDescribe,
                                         (Function)sfProgramTensor,
                                         (Function)sfProgramSource,
                                         (Function)sfProgramRetain,
                                         (Function)sfProgramRelease,
                                         (Function)sfDevices,
                                         (Function)sfExecutableCreate,
                                         (Function)sfExecutableDestroy,
                                         (Function)sfExecutableDevice,
                                         (Function)sfExecutableNeedsDeviceMemory,
                                         (Function)sfRun,
                                         (Function)sfRunHost,
                                         (Function)sfOutputShape,
                                         (Function)sfWorkspaceSize,
                                         (Function)sfReserve,
                                         (Function)sfReport,
                                         (Function)sfGraphCapture,
                                         (Function)sfGraphLaunch,
                                         (Function)sfGraphDestroy,
                                         (Function)sfAllocate,
                                         (Function)sfDeallocate,
                                         (Function)sfCopy,
                                         (Function)sfSynchronize,
                                         (Function)sfValidate24,
                                         (Function)sfPrune24,
                                         (Function)sfCompress24,
                                         (Function)sfDecompress24,
                                         (Function)sfPackedSize,
                                         (Function)sfPackWeight,
#if SF_ABI_VERSION >= 2
                                         (Function)sfTargets,
                                         (Function)sfWarmUp,
                                         (Function)sfPackWeightWith,
                                         (Function)sfTuningBuckets,
                                         (Function)sfTuningProducts,
                                         (Function)sfTuningCandidates,
                                         (Function)sfTuningOpen,
                                         (Function)sfTuningClose,
                                         (Function)sfTuningRecord,
                                         (Function)sfTuningLookup,
                                         (Function)sfTuningExport,
#endif
                                         (Function)sfOptMain,
                                         (Function)sfCompileMain,
                                         (Function)sfRunMain};

static SfTensor matrix(void *data, SfDType dtype, const int64_t *shape) {
  SfTensor tensor;
  SF_INIT(tensor);
  tensor.data = data;
  tensor.dtype = dtype;
  tensor.rank = 2;
  tensor.shape = shape;
  return tensor;
}

static void library(void) {
  size_t i;
  for (i = 0; i < sizeof(everyFunction) / sizeof(everyFunction[0]); ++i)
    CHECK(everyFunction[i] != NULL);
  CHECK(strlen(sfVersion()) >= 5);
  CHECK(sfAbiVersion() >= SF_ABI_VERSION);
  CHECK(strcmp(sfStatusName(SF_OK), "ok") == 0);
  CHECK(strcmp(sfDTypeName(SF_E4M3), "e4m3") == 0);
  CHECK(sfDTypeName(99) == NULL);
  CHECK(sfDTypeSize(SF_F16) == 2 && sfDTypeSize(SF_F64) == 8 && sfDTypeSize(0) == 0);
  sfFree(NULL);
  sfProgramRelease(NULL);
  sfExecutableDestroy(NULL);
  sfGraphDestroy(NULL);
}

static void weights(void) {
  float dense[2][8] = {{1, -3, 2, 0, 0, 0, 5, 0}, {4, 4, 4, 4, 0, 0, 0, -1}};
  float pruned[2][8], values[2][4], back[2][8];
  uint8_t bitmask[2];
  const int64_t denseShape[] = {2, 8}, valuesShape[] = {2, 4}, maskShape[] = {2, 1};
  SfTensor d = matrix(dense, SF_F32, denseShape), p = matrix(pruned, SF_F32, denseShape);
  SfTensor v = matrix(values, SF_F32, valuesShape), m = matrix(bitmask, SF_U8, maskShape);
  SfTensor b = matrix(back, SF_F32, denseShape);
  SfValidation validation;
  int64_t elements = 0, words = 0;
  SF_INIT(validation);
  CHECK(sfValidate24(&d, &validation) == SF_OK);
  CHECK(validation.groups == 4 && validation.violations == 2);
  CHECK(validation.first_row == 0 && validation.first_group == 0);
  CHECK(sfCompress24(&d, &v, &m) == SF_INVALID_ARGUMENT);
  CHECK(strlen(sfLastError()) > 10);
  CHECK(sfPrune24(&d, &p) == SF_OK);
  CHECK(pruned[0][0] == 0 && pruned[0][1] == -3 && pruned[0][2] == 2);
  CHECK(pruned[1][0] == 4 && pruned[1][1] == 4 && pruned[1][2] == 0); /* ties to the lower index */
  CHECK(sfCompress24(&p, &v, &m) == SF_OK);
  CHECK(sfDecompress24(&v, &m, &b) == SF_OK);
  CHECK(memcmp(back, pruned, sizeof(back)) == 0);
  CHECK(sfPackedSize(SF_F16, 100, 100, &elements, &words) == SF_OK);
  CHECK(elements == 2 * 2 * 64 * 32 && words == 2 * 2 * 128);
  CHECK(sfPackedSize(SF_F16, 100, 102, &elements, &words) == SF_INVALID_ARGUMENT);
  CHECK(sfPackWeight(&v, &m, &v, &m) == SF_INVALID_ARGUMENT); /* no packed f32 */
}

#if SF_ABI_VERSION >= 2
/* The orders differ, and the one that version 1 had is the default. */
static void packing(void) {
  static uint16_t values[64 * 32], packed[3][64 * 32];
  static uint8_t bitmask[64 * 8];
  static uint32_t metadata[3][128];
  const int64_t valuesShape[] = {64, 32}, maskShape[] = {64, 8}, flat[] = {64 * 32};
  const int64_t words[] = {128};
  SfTensor v = matrix(values, SF_F16, valuesShape), m = matrix(bitmask, SF_U8, maskShape);
  SfPackOptions options;
  int order, i;
  for (i = 0; i < 64 * 32; ++i)
    values[i] = (uint16_t)(i + 1);
  memset(bitmask, 0x33, sizeof(bitmask));
  SF_INIT(options);
  for (order = 0; order < 3; ++order) {
    SfTensor p = matrix(packed[order], SF_F16, flat), w = matrix(metadata[order], SF_U32, words);
    p.rank = w.rank = 1;
    options.order = order == 2 ? SF_PACK_WGMMA : SF_PACK_MMA;
    CHECK(sfPackWeightWith(&v, &m, order == 0 ? NULL : &options, &p, &w) == SF_OK);
  }
  CHECK(memcmp(packed[0], packed[1], sizeof(packed[0])) == 0);
  CHECK(memcmp(packed[0], packed[2], sizeof(packed[0])) != 0);
  CHECK(sfWarmUp(NULL, NULL, NULL, 0) == SF_INVALID_ARGUMENT);
}
#endif

static void programs(void) {
  SfProgram *program = NULL;
  SfExecutable *executable = NULL;
  char *text = NULL, *reason = NULL;
  CHECK(sfProgramOpen("/no/such/file.sf", 0, &program) == SF_NOT_FOUND);
  CHECK(strstr(sfLastError(), "/no/such/file.sf") != NULL);
  CHECK(sfProgramFromMemory("garbage", 7, SF_OPEN_COPY, &program) == SF_INVALID_PROGRAM);
  CHECK(sfProgramOpen(NULL, 0, &program) == SF_INVALID_ARGUMENT);
  CHECK(sfExecutableCreate(NULL, "auto", &executable) == SF_INVALID_ARGUMENT);
  CHECK(sfRun(NULL, NULL, NULL, 0, NULL, 0, NULL) == SF_INVALID_ARGUMENT);
  CHECK(program == NULL && executable == NULL);
  CHECK(sfDevices(&text, &reason) == SF_OK);
  CHECK(text != NULL && strstr(text, "emulator") != NULL);
  sfFree(text);
  sfFree(reason);
}

/* A struct that says it is too small to hold the first version's fields is refused; one from the
 * future is not. */
static void versions(void) {
  struct {
    SfValidation known;
    int64_t appended;
  } future;
  float dense[4] = {1, 0, 0, 2};
  const int64_t shape[] = {1, 4};
  SfTensor tensor = matrix(dense, SF_F32, shape);
  SF_INIT(future.known);
  future.appended = 42;
  future.known.struct_size = sizeof(future);
  CHECK(sfValidate24(&tensor, &future.known) == SF_OK);
  CHECK(future.known.groups == 1 && future.appended == 42);
  future.known.struct_size = 8;
  CHECK(sfValidate24(&tensor, &future.known) == SF_INVALID_ARGUMENT);
  CHECK(strstr(sfLastError(), "SF_INIT") != NULL);
  tensor.struct_size = 0;
  CHECK(sfPrune24(&tensor, &tensor) == SF_INVALID_ARGUMENT);
}

#if SF_ABI_VERSION >= 2
static void tuning(void) {
  SfTuningKey key;
  char *text = NULL;
  SF_INIT(key);
  key.target = "sm_90a";
  key.dtype = "i8";
  key.weights = "sp24";
  key.epilogue = "plain";
  key.features = key.inner = 4096;
  CHECK(sfTuningCandidates(&key, 1, &text) == SF_INVALID_ARGUMENT); /* no tokens */
  key.tokens = 1;
  CHECK(sfTuningCandidates(&key, 1, &text) == SF_OK);
  CHECK(text != NULL && strstr(text, "#sf.kernel_config<") != NULL);
  sfFree(text);
  CHECK(sfTuningOpen(NULL, NULL, NULL) == SF_INVALID_ARGUMENT);
}
#endif

#if SF_ABI_VERSION >= 3
static void cancelling(void) {
  static const char text[] = "func.func @f(%x: tensor<?x64xf16>) -> tensor<?x64xf16> { return %x : tensor<?x64xf16> }";
  SfCompileOptions options;
  SfProgram *program = NULL;
  int32_t cancelled = 1;
  SF_INIT(options);
  options.cache_dir = "";
  options.cancelled = &cancelled;
  CHECK(sfCompile(text, sizeof(text) - 1, NULL, 0, &options, &program) == SF_INTERRUPTED);
  CHECK(program == NULL && strstr(sfLastError(), "cancelled") != NULL);
}
#endif

#if SF_ABI_VERSION >= 4
static void placing(void) {
  float dense[2][8] = {{1, -3, 2, 0, 0, 0, 5, 0}, {4, 4, 4, 4, 0, 0, 0, -1}};
  const int64_t shape[] = {2, 8};
  SfTensor d = matrix(dense, SF_F32, shape);
  CHECK(sfPrune24(&d, &d) == SF_OK);
  d.gpu = 2;
  CHECK(sfPrune24(&d, &d) == SF_INVALID_ARGUMENT);
  CHECK(strstr(sfLastError(), "expected host memory, got memory of cuda:1") != NULL);
  d.gpu = -1;
  CHECK(sfPrune24(&d, &d) == SF_INVALID_ARGUMENT);
}
#endif

int main(void) {
#if SF_ABI_VERSION >= 2
  tuning();
#endif
  library();
  weights();
#if SF_ABI_VERSION >= 2
  packing();
#endif
  programs();
  versions();
#if SF_ABI_VERSION >= 3
  cancelling();
#endif
#if SF_ABI_VERSION >= 4
  placing();
#endif
  if (failures == 0)
    printf("ABI version %d: all well with library %s\n", SF_ABI_VERSION, sfVersion());
  return failures != 0;
}
