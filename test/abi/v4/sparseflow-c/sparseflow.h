/* SparseFlow's C ABI: compile MLIR, open and save `.sf` files, run their functions on a stream,
 * pack 2:4 weights.
 *
 * This header is the whole surface of libsparseflow.so; nothing else is exported. It is C99, and
 * stable:
 *  - handles are opaque; a struct starts with `struct_size`, which the caller sets to its sizeof,
 *    and by which fields are appended later without breaking older callers (SF_INIT sets it and
 *    zeroes the rest);
 *  - in an array of structs the elements are `struct_size` bytes apart, all alike;
 *  - every function that can fail returns an SfStatus; sfLastError() is then one helpful sentence,
 *    for this thread;
 *  - no exception crosses it and nothing aborts the process;
 *  - strings and buffers that it returns through `char **` or `void **` are released with sfFree;
 *    `const char *` results belong to the handle they came from;
 *  - programs and executables may be used from several threads at once.
 */
#ifndef SPARSEFLOW_C_SPARSEFLOW_H
#define SPARSEFLOW_C_SPARSEFLOW_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define SF_API __attribute__((visibility("default")))
#else
#define SF_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when a function or a field is added. An older number means that something asked for may be
 * missing. Version 2 added SfCompileOptions.tuning and .package_folders, the section Tuning,
 * sfTargets, sfWarmUp and sfPackWeightWith. Version 3 added SfCompileOptions.cancelled. Version 4
 * added SfTensor.gpu. */
#define SF_ABI_VERSION 4
#define SF_MAX_RANK 8

/* SfTensor t; SF_INIT(t); zeroes a versioned struct and sets its struct_size. */
#define SF_INIT(variable)                                                                          \
  do {                                                                                             \
    unsigned char *sf_bytes_ = (unsigned char *)&(variable);                                       \
    size_t sf_index_;                                                                              \
    for (sf_index_ = 0; sf_index_ < sizeof(variable); ++sf_index_)                                 \
      sf_bytes_[sf_index_] = 0;                                                                    \
    (variable).struct_size = sizeof(variable);                                                     \
  } while (0)

typedef int32_t SfStatus;
enum {
  SF_OK = 0,
  SF_INVALID_ARGUMENT = 1, /* a shape, dtype, pointer, name or option that does not fit */
  SF_INVALID_PROGRAM = 2,  /* malformed IR, or a truncated or altered .sf file */
  SF_NOT_FOUND = 3,        /* no such file, function, tensor or device */
  SF_UNSUPPORTED = 4,      /* this chip, driver, tool or build cannot do it */
  SF_OUT_OF_MEMORY = 5,
  SF_DEVICE_ERROR = 6, /* the driver or the emulator reported a fault */
  SF_IO_ERROR = 7,
  SF_INTERNAL_ERROR = 8,
  SF_INTERRUPTED = 9 /* the caller wanted it to end; since version 3 */
};

typedef int32_t SfDType;
enum {
  SF_F16 = 1,
  SF_BF16 = 2,
  SF_F32 = 3,
  SF_I8 = 4,
  SF_E4M3 = 5,
  SF_E5M2 = 6,
  SF_I32 = 7,
  SF_U8 = 8,
  SF_U32 = 9,
  SF_I16 = 10,
  SF_U16 = 11,
  SF_I64 = 12,
  SF_U64 = 13,
  SF_F64 = 14,
  SF_BOOL = 15
};

typedef struct SfProgram SfProgram;       /* what was compiled or read from a file; immutable */
typedef struct SfExecutable SfExecutable; /* a program loaded on one device */
typedef struct SfGraph SfGraph;           /* one function call captured as a CUDA graph */

/* A tensor in host or device memory. strides are in elements; NULL means contiguous. gpu is 1 + the
 * ordinal of the GPU that data is known to lie on, as DLPack tells; 0: not known, so that the
 * driver is asked at each call, which takes half a microsecond. */
typedef struct SfTensor {
  size_t struct_size;
  void *data;
  SfDType dtype;
  int32_t rank;
  const int64_t *shape;
  const int64_t *strides;
  int32_t gpu; /* since version 4 */
} SfTensor;

/* ---- Library ------------------------------------------------------------------------------ */

SF_API const char *sfVersion(void); /* "0.1.0" */
SF_API uint32_t sfAbiVersion(void);
/* The message of the last call on this thread that failed; "" before any. Valid until the next
 * failure. */
SF_API const char *sfLastError(void);
/* "ok", "invalid argument", ... */
SF_API const char *sfStatusName(SfStatus status);
/* "f16", ...; NULL for a number that is no dtype. */
SF_API const char *sfDTypeName(SfDType dtype);
/* Bytes of one element; 0 for a number that is no dtype. */
SF_API size_t sfDTypeSize(SfDType dtype);
/* Releases what came back through `char **` or `void **`. NULL is fine. */
SF_API void sfFree(void *memory);

/* ---- Compile ------------------------------------------------------------------------------ */

/* The bytes behind `dense_resource<name>` in the IR. Borrowed: read during the call, never copied
 * before they are packed. shape is the shape of the IR's tensor; NULL leaves shape and dtype
 * unchecked (rank 0 is then ignored). */
typedef struct SfConstant {
  size_t struct_size;
  const char *name;
  const void *data;
  size_t bytes;
  SfDType dtype;
  int32_t rank;
  const int64_t *shape;
} SfConstant;

enum { SF_SEVERITY_ERROR = 0, SF_SEVERITY_WARNING = 1, SF_SEVERITY_REMARK = 2 };
typedef void (*SfDiagnosticHandler)(void *user, int32_t severity, const char *message);

/* NULL or 0 leaves every field at its default. */
typedef struct SfCompileOptions {
  size_t struct_size;
  const char *targets; /* "sm_80,sm_90"; default: what GPU 0 runs best, else sm_80 */
  const char *config;  /* overrides the choice for every matmul: text of #sf.kernel_config<...>, or
                          "cublaslt" where that is installed */
  const char
      *cache_dir;    /* default: $SPARSEFLOW_CACHE_DIR, else ~/.cache/sparseflow; "" turns it off */
  const char *ptxas; /* path of ptxas; default, in order: $SPARSEFLOW_PTXAS, $CUDA_HOME, $CUDA_PATH,
                        PATH, the Python package nvidia-cuda-nvcc, /usr/local/cuda */
  const char *dump_intermediates; /* folder for numbered intermediate files */
  const char *reproducer;         /* where to write a reproducer when a pass fails */
  SfDiagnosticHandler diagnostic; /* called for warnings and remarks, and for each error before the
                                     call fails; during the call, on the caller's thread or on one
                                     of the library's, never on two at once */
  void *diagnostic_user;
  const char *tuning; /* path of the tuning database; default: the user's, tuning.sqlite in the
                         default cache folder, and the one that ships; "" asks none */
  const char
      *package_folders; /* where that search for ptxas finds Python packages, separated by ':',
                           as in sys.path; default: the folder that holds this library's */
  const volatile int32_t *cancelled; /* NULL, or where the caller, on any thread, writes a number
                                        that is not 0 to end the call before the next kernel */
} SfCompileOptions;

/* mlir: sf-level IR as text, or as bytecode of a writer that you trust: MLIR's own reader of it may
 * crash on damaged bytes. options may be NULL. */
SF_API SfStatus sfCompile(const char *mlir, size_t mlir_bytes, const SfConstant *constants,
                          size_t num_constants, const SfCompileOptions *options,
                          SfProgram **program);
SF_API SfStatus sfCompileFile(const char *path, const SfConstant *constants, size_t num_constants,
                              const SfCompileOptions *options, SfProgram **program);

/* ---- Programs (.sf files) ----------------------------------------------------------------- */

enum {
  SF_OPEN_VERIFY = 1, /* check every tensor's checksum, not only the header's and the manifest's */
  SF_OPEN_COPY = 2    /* sfProgramFromMemory: copy the bytes; else they must outlive the program */
};

/* Maps the file; tensors are not copied. */
SF_API SfStatus sfProgramOpen(const char *path, uint32_t flags, SfProgram **program);
SF_API SfStatus sfProgramFromMemory(const void *data, size_t bytes, uint32_t flags,
                                    SfProgram **program);
/* Atomic: the file at `path` is either the old or the whole new one. */
SF_API SfStatus sfProgramSave(const SfProgram *program, const char *path);
SF_API SfStatus sfProgramToMemory(const SfProgram *program, void **data, size_t *bytes);
/* JSON: {"format","producer","functions":[...],"tensors":[{"name","dtype","shape","bytes"}]}. See
 * docs/Formats.md. */
SF_API SfStatus sfProgramDescribe(const SfProgram *program, char **json);
/* A view of one tensor of the program; its pointers live as long as the program. */
SF_API SfStatus sfProgramTensor(const SfProgram *program, const char *name, SfTensor *tensor);
/* The sf-level IR that was compiled (constants by name). */
SF_API SfStatus sfProgramSource(const SfProgram *program, char **mlir);
SF_API SfProgram *sfProgramRetain(SfProgram *program);
SF_API void sfProgramRelease(SfProgram *program); /* NULL is fine */

/* ---- Devices ------------------------------------------------------------------------------ */

/* JSON list: [{"name":"cuda:0","kind":"cuda","description":"NVIDIA H100
 * ...","target":"sm_90a","memory":...}, ...,
 * {"name":"emulator",...}, {"name":"reference",...}]. Without a driver the list still holds the
 * host's devices, and `unavailable` (may be NULL) receives why there is no GPU, or NULL. */
SF_API SfStatus sfDevices(char **json, char **unavailable);

/* JSON list of what is known to compile for: [{"name":"sm_90a","compute_capability":90,
 * "fp8_mma":false,"warpgroup_row_bytes":16,"multiprocessors":132,"threads_per_multiprocessor":2048,
 * "blocks_per_multiprocessor":32,"shared_per_multiprocessor":233472}, ...]. Weights for products
 * whose rows of x are a multiple of warpgroup_row_bytes are packed for wgmma, others, and all where
 * it is null, for mma. */
SF_API SfStatus sfTargets(char **json);

/* ---- Run ---------------------------------------------------------------------------------- */

/* device: "auto" (the first GPU that can run it, else the emulator), "cuda", "cuda:1", "emulator",
 * "reference". Loads the kernels and copies the constants there. */
SF_API SfStatus sfExecutableCreate(SfProgram *program, const char *device,
                                   SfExecutable **executable);
SF_API void sfExecutableDestroy(SfExecutable *executable); /* NULL is fine */
/* "cuda:0", "emulator", ...: what "auto" chose. */
SF_API const char *sfExecutableDevice(const SfExecutable *executable);
/* 1 when tensors given to sfRun must be in GPU memory, 0 when in host memory. */
SF_API int32_t sfExecutableNeedsDeviceMemory(const SfExecutable *executable);

typedef struct SfRunOptions {
  size_t struct_size;
  void *stream; /* CUstream; NULL is the legacy default stream. Ignored by host devices. */
  void
      *workspace; /* at least sfWorkspaceSize bytes, 256-byte aligned; NULL: the executable's own */
  size_t workspace_bytes;
} SfRunOptions;

/* In all of these, function NULL means the program's only function.
 *
 * Enqueues the function on the stream and returns. Does not allocate, synchronize or load once the
 * workspace for the largest tokens so far exists (sfReserve). The outputs are the caller's, and may
 * not overlap the inputs. */
SF_API SfStatus sfRun(SfExecutable *executable, const char *function, const SfTensor *inputs,
                      size_t num_inputs, const SfTensor *outputs, size_t num_outputs,
                      const SfRunOptions *options);
/* The same with tensors in host memory, whatever the device; copies to and fro, and returns when
 * the outputs are there. */
SF_API SfStatus sfRunHost(SfExecutable *executable, const char *function, const SfTensor *inputs,
                          size_t num_inputs, const SfTensor *outputs, size_t num_outputs);
/* Shape and dtype of an output for these inputs (only their shapes and dtypes are read). */
SF_API SfStatus sfOutputShape(SfExecutable *executable, const char *function,
                              const SfTensor *inputs, size_t num_inputs, size_t output,
                              SfDType *dtype, int32_t *rank, int64_t shape[SF_MAX_RANK]);

/* symbols: a value for each of the function's symbols, in its order (usually one: the tokens M). */
SF_API SfStatus sfWorkspaceSize(SfExecutable *executable, const char *function,
                                const int64_t *symbols, size_t num_symbols, size_t *bytes);
/* Allocates the executable's own workspace for these symbols on this stream, so that no sfRun up to
 * them allocates. */
SF_API SfStatus sfReserve(SfExecutable *executable, const char *function, const int64_t *symbols,
                          size_t num_symbols, void *stream);
/* Lets the libraries that the function calls at these symbols (cuBLASLt, where dense is faster)
 * time their algorithms and keep the fastest; a run takes the one that they propose. Allocates,
 * launches and waits; without such calls, and on host devices, it does nothing. Kernels need no
 * warming up: sfExecutableCreate loaded them. sfGraphCapture warms up by itself. Since version 2.
 */
SF_API SfStatus sfWarmUp(SfExecutable *executable, const char *function, const int64_t *symbols,
                         size_t num_symbols);

/* JSON: for each step its label and, for each kernel that runs, its name, config, registers,
 * spills, mma_sp count, the path taken and the reason. symbols NULL: those of the last run. */
SF_API SfStatus sfReport(SfExecutable *executable, const char *function, const int64_t *symbols,
                         size_t num_symbols, char **json);

/* Captures sfRun with these very tensors as one CUDA graph, which keeps a workspace of its own. The
 * executable must outlive it. GPUs only. */
SF_API SfStatus sfGraphCapture(SfExecutable *executable, const char *function,
                               const SfTensor *inputs, size_t num_inputs, const SfTensor *outputs,
                               size_t num_outputs, SfGraph **graph);
SF_API SfStatus sfGraphLaunch(SfGraph *graph, void *stream);
SF_API void sfGraphDestroy(SfGraph *graph); /* NULL is fine */

/* Memory of the executable's device (host memory for host devices). */
SF_API SfStatus sfAllocate(SfExecutable *executable, size_t bytes, void **memory);
SF_API SfStatus sfDeallocate(SfExecutable *executable, void *memory);
enum { SF_HOST_TO_DEVICE = 1, SF_DEVICE_TO_HOST = 2 };
/* Returns when the copy is done; ordered after what the stream holds. */
SF_API SfStatus sfCopy(SfExecutable *executable, void *destination, const void *source,
                       size_t bytes, int32_t direction, void *stream);
SF_API SfStatus sfSynchronize(SfExecutable *executable, void *stream);

/* ---- Tuning ------------------------------------------------------------------------------- */
/* What sparseflow-tune is made of; docs/Tuning.md describes the words. */

/* A product Y[M,N] = X[M,K] * W[N,K]^T as the tuning database knows it. */
typedef struct SfTuningKey {
  size_t struct_size;
  const char *target;      /* "sm_90a" */
  const char *dtype;       /* of x: "f16", "bf16", "i8", "e4m3", "e5m2" */
  const char *weights;     /* "sp24", "dense"; "cublaslt" for the time of the library */
  const char *epilogue;    /* "plain", "gated", "plain, 32 bits" */
  int64_t features, inner; /* N and K */
  int64_t tokens;          /* M: rounded up to one of sfTuningBuckets */
} SfTuningKey;

typedef struct SfTuning SfTuning; /* an open tuning database; for several threads at once */

/* JSON list of the numbers of tokens that are told apart, ascending; the last stands for all larger
 * ones. */
SF_API SfStatus sfTuningBuckets(char **json);
/* JSON list of the products that a program's kernels for a target compute, each once:
 * [{"target","dtype","weights","epilogue","features","inner"}]. */
SF_API SfStatus sfTuningProducts(const SfProgram *program, const char *target, char **json);
/* JSON list of at most `limit` configurations, fastest first by the cost model:
 * [{"config":"#sf.kernel_config<...>","microseconds":...}]. */
SF_API SfStatus sfTuningCandidates(const SfTuningKey *key, size_t limit, char **json);

/* path NULL: the user's default database. Created if need be. `warnings` (may be NULL) receives
 * what a person should know, a line each, or NULL. */
SF_API SfStatus sfTuningOpen(const char *path, SfTuning **database, char **warnings);
SF_API void sfTuningClose(SfTuning *database); /* NULL is fine */
/* Replaces what was recorded for the product. */
SF_API SfStatus sfTuningRecord(SfTuning *database, const SfTuningKey *key, const char *config,
                               double microseconds);
/* JSON: {"config","microseconds"}; NULL where there is no entry. */
SF_API SfStatus sfTuningLookup(SfTuning *database, const SfTuningKey *key, char **json);
/* Writes all entries to one file, atomically. */
SF_API SfStatus sfTuningExport(SfTuning *database, const char *path);

/* ---- 2:4 weights in host memory ----------------------------------------------------------- */
/* W is [N,K], K a multiple of 4. All tensors are contiguous.
 * dtypes: f16, bf16, f32, i8, e4m3, e5m2. values: [N,K/2]; bitmask: u8 [N,ceil(K/8)], bit j of byte
 * b is k = 8b+j, two bits in each group. */

typedef struct SfValidation {
  size_t struct_size;
  int64_t groups;     /* groups of four looked at */
  int64_t violations; /* of them with more than two nonzeros */
  int64_t first_row;  /* -1: none */
  int64_t first_group;
  int64_t non_finite; /* NaN or infinite elements */
} SfValidation;

SF_API SfStatus sfValidate24(const SfTensor *dense, SfValidation *result);
/* Keeps the two largest magnitudes of each group, ties to the lower index. pruned may be dense. NaN
 * is an error. */
SF_API SfStatus sfPrune24(const SfTensor *dense, const SfTensor *pruned);
/* dense must be 2:4; nothing is pruned. */
SF_API SfStatus sfCompress24(const SfTensor *dense, const SfTensor *values,
                             const SfTensor *bitmask);
SF_API SfStatus sfDecompress24(const SfTensor *values, const SfTensor *bitmask,
                               const SfTensor *dense);
/* The packed form that kernels read (docs/Layouts.md): element counts of the two arrays for an
 * [N,K] weight. */
SF_API SfStatus sfPackedSize(SfDType dtype, int64_t features, int64_t inner, int64_t *values,
                             int64_t *metadata_words);
/* packed_values: same dtype, rank 1; packed_metadata: u32, rank 1. */
SF_API SfStatus sfPackWeight(const SfTensor *values, const SfTensor *bitmask,
                             const SfTensor *packed_values, const SfTensor *packed_metadata);

/* Which instructions read a packed weight. The arrays have the same sizes in every order. */
typedef int32_t SfPackOrder;
enum {
  SF_PACK_MMA = 0,  /* warp-wide ones: sm_80 and later; what sfPackWeight packs for */
  SF_PACK_WGMMA = 1 /* Hopper's warpgroup-wide ones: kernels for sm_90a */
};
/* NULL or 0 leaves every field at its default. */
typedef struct SfPackOptions {
  size_t struct_size;
  SfPackOrder order;
} SfPackOptions;
/* sfPackWeight with a choice of order. Since version 2. */
SF_API SfStatus sfPackWeightWith(const SfTensor *values, const SfTensor *bitmask,
                                 const SfPackOptions *options, const SfTensor *packed_values,
                                 const SfTensor *packed_metadata);

/* ---- Programs' main functions (the tools are these) --------------------------------------- */

SF_API int sfOptMain(int argc, char **argv);
SF_API int sfCompileMain(int argc, char **argv);
SF_API int sfRunMain(int argc, char **argv);

#ifdef __cplusplus
}
#endif

#endif /* SPARSEFLOW_C_SPARSEFLOW_H */
