// The part of the DLPack ABI (version 1.3) that the binding speaks: tensors, the two capsule forms,
// and the C exchange API through which a framework lends a tensor without a Python call.
// https://dmlc.github.io/dlpack/latest/c_api.html
#ifndef SPARSEFLOW_PYTHON_DLPACK_H
#define SPARSEFLOW_PYTHON_DLPACK_H

#include <cstdint>

namespace dlpack {

enum DeviceType : int32_t { cpu = 1, cuda = 2, cudaHost = 3, cudaManaged = 13 };

enum TypeCode : uint8_t {
  signedInt = 0,
  unsignedInt = 1,
  floating = 2,
  bfloat = 4,
  boolean = 6,
  float8E4M3FN = 10,
  float8E5M2 = 12
};

struct Version {
  uint32_t major, minor;
};
struct Device {
  int32_t type, id;
};
struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct Tensor {
  void *data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t *shape;
  int64_t *strides;
  uint64_t byteOffset;
};

/// Capsule "dltensor".
struct ManagedTensor {
  Tensor tensor;
  void *context;
  void (*deleter)(ManagedTensor *);
};
/// Capsule "dltensor_versioned".
struct VersionedTensor {
  Version version;
  void *context;
  void (*deleter)(VersionedTensor *);
  uint64_t flags;
  Tensor tensor;
};
constexpr uint64_t flagReadOnly = 1;

/// Capsule "dlpack_exchange_api", an attribute of the framework's tensor type.
struct ExchangeAPI {
  Version version;
  ExchangeAPI *previous;
  int (*allocate)(Tensor *prototype, VersionedTensor **out, void *errorContext,
                  void (*setError)(void *context, const char *kind, const char *message));
  int (*managedFromObject)(void *object, VersionedTensor **out);
  int (*managedToObject)(VersionedTensor *tensor, void **object);
  int (*viewFromObject)(void *object, Tensor *out);
  int (*currentStream)(int32_t deviceType, int32_t deviceId, void **stream);
};

} // namespace dlpack

#endif // SPARSEFLOW_PYTHON_DLPACK_H
