//===- harness.cuh - Timing of one matrix product, for every contender -------------------------===//
//
// A contender is a small program that computes Y[M,N] = X[M,K] W[N,K]^T its own way and is told by
// benchmarks/run.py, line by line on stdin, what to do; it answers each line with one line of JSON.
// All contenders include this file, so that data, protocols and clocks are the same for all of them,
// and each is a process of its own, because some of them crash.
//
//   open DTYPE M N K SCALES FILE    buffers, random data, W pruned to 2:4 where the contender is sparse
//   try I                           microseconds of candidate I (an algorithm), roughly
//   use I                           selects it and checks its result against float64
//   cold | flushed | sustained | calls    samples in microseconds (see README.md)
//   close                           gives the product's memory back
//
//===-------------------------------------------------------------------------------------------===//

#ifndef SPARSEFLOW_BENCHMARKS_HARNESS_CUH
#define SPARSEFLOW_BENCHMARKS_HARNESS_CUH

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <fcntl.h>
#include <iostream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <sys/file.h>
#include <thread>
#include <unistd.h>
#include <vector>

enum class DType { F16, BF16, S8, E4M3 };

struct Product {
  DType dtype;
  int64_t m, n, k;
  // For the contender that runs a compiled program: the file, and whether it takes a scale for each token.
  bool hasTokenScales;
  std::string file;

  size_t elementBytes() const { return dtype == DType::F16 || dtype == DType::BF16 ? 2 : 1; }
  /// What 16-bit results are: f16 also for 8-bit integers, bf16 also for 8-bit floats.
  DType resultDType() const { return dtype == DType::BF16 || dtype == DType::E4M3 ? DType::BF16 : DType::F16; }
  /// Tokens that X and Y have room for. A library that wants a multiple of 8 or 16 multiplies the padding too.
  int64_t paddedTokens() const { return (m + 15) / 16 * 16; }
  /// Integer products may have 32-bit results.
  size_t resultBytes() const { return paddedTokens() * n * (dtype == DType::S8 ? 4 : 2); }
};

inline const char *nameOf(DType dtype) {
  switch (dtype) {
  case DType::F16:
    return "f16";
  case DType::BF16:
    return "bf16";
  case DType::S8:
    return "i8";
  case DType::E4M3:
    return "e4m3";
  }
  return "";
}

[[noreturn]] inline void fail(const std::string &message) { throw std::runtime_error(message); }

/// A fault of the device outlives the call: the process is of no more use and run.py starts another.
inline void checkCuda(cudaError_t status, const char *what) {
  if (status == cudaSuccess)
    return;
  printf("{\"fatal\": \"%s: %s\"}\n", what, cudaGetErrorString(status));
  fflush(stdout);
  _Exit(3);
}
#define CUDA(call) checkCuda(call, #call)

class DeviceBuffer {
public:
  explicit DeviceBuffer(size_t bytes) { CUDA(cudaMalloc(&data, std::max<size_t>(bytes, 1))); }
  ~DeviceBuffer() { cudaFree(data); }
  DeviceBuffer(const DeviceBuffer &) = delete;
  void *get() const { return data; }

private:
  void *data = nullptr;
};

/// Processes that look for candidates side by side time them one at a time: they share the file that
/// SPARSEFLOW_BENCHMARK_LOCK names. Without it there is nothing to wait for.
class TurnOnTheGpu {
public:
  TurnOnTheGpu() {
    if (const char *path = std::getenv("SPARSEFLOW_BENCHMARK_LOCK"))
      file = ::open(path, O_RDWR | O_CREAT, 0600);
    if (file >= 0)
      flock(file, LOCK_EX);
  }
  ~TurnOnTheGpu() {
    if (file >= 0)
      ::close(file); // which unlocks
  }
  TurnOnTheGpu(const TurnOnTheGpu &) = delete;

private:
  int file = -1;
};

//===-------------------------------------------------------------------------------------------===//
// Data: iid normal, from a counter-based generator
//===-------------------------------------------------------------------------------------------===//

__device__ inline uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

__device__ inline float normal(uint64_t counter) {
  uint64_t bits = mix(counter);
  float u = (float(uint32_t(bits)) + 1.0f) * 2.3283064e-10f;
  float v = float(uint32_t(bits >> 32)) * 2.3283064e-10f;
  return sqrtf(-2 * logf(fminf(u, 1.0f))) * cosf(6.2831853f * v);
}

/// 8-bit integers have a standard deviation of 32.
__device__ inline void store(void *data, int64_t i, DType dtype, float value) {
  switch (dtype) {
  case DType::F16:
    static_cast<__half *>(data)[i] = __float2half(value);
    break;
  case DType::BF16:
    static_cast<__nv_bfloat16 *>(data)[i] = __float2bfloat16(value);
    break;
  case DType::S8:
    static_cast<int8_t *>(data)[i] = max(-127, min(127, __float2int_rn(32 * value)));
    break;
  case DType::E4M3:
    static_cast<__nv_fp8_e4m3 *>(data)[i] = __nv_fp8_e4m3(value);
    break;
  }
}

__device__ inline double load(const void *data, int64_t i, DType dtype) {
  switch (dtype) {
  case DType::F16:
    return __half2float(static_cast<const __half *>(data)[i]);
  case DType::BF16:
    return __bfloat162float(static_cast<const __nv_bfloat16 *>(data)[i]);
  case DType::S8:
    return static_cast<const int8_t *>(data)[i];
  case DType::E4M3:
    return float(static_cast<const __nv_fp8_e4m3 *>(data)[i]);
  }
  return 0;
}

/// A thread a group of four; with `prune` only the two largest magnitudes stay.
__global__ void fillRandom(void *data, int64_t groups, DType dtype, uint64_t seed, bool prune) {
  int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < groups; i += step) {
    float values[4];
    for (int j = 0; j < 4; ++j)
      values[j] = normal((seed << 40) + i * 4 + j);
    for (int j = 0; j < 4; ++j) {
      int larger = 0;
      for (int other = 0; other < 4; ++other)
        larger += fabsf(values[other]) > fabsf(values[j]);
      store(data, i * 4 + j, dtype, prune && larger >= 2 ? 0.0f : values[j]);
    }
  }
}

/// A block a sampled element of Y: sums of squares of its error and of its value, in float64.
__global__ void compareSamples(const void *x, const void *w, const void *y, DType dtype,
                               DType resultDType, bool resultIsI32, Product product, double scale,
                               double *sums) {
  int64_t token = mix(2 * blockIdx.x) % product.m, feature = mix(2 * blockIdx.x + 1) % product.n;
  double sum = 0;
  for (int64_t k = threadIdx.x; k < product.k; k += 32)
    sum += load(x, token * product.k + k, dtype) * load(w, feature * product.k + k, dtype);
  for (int offset = 16; offset; offset /= 2)
    sum += __shfl_xor_sync(~0u, sum, offset);
  if (threadIdx.x != 0)
    return;
  int64_t index = token * product.n + feature;
  double actual = resultIsI32 ? static_cast<const int32_t *>(y)[index] : load(y, index, resultDType);
  double expected = sum * scale;
  if (resultDType == DType::S8 && !resultIsI32)
    expected = fmin(127.0, fmax(-128.0, rint(expected)));
  atomicAdd(&sums[0], (actual - expected) * (actual - expected));
  atomicAdd(&sums[1], expected * expected);
}

//===-------------------------------------------------------------------------------------------===//
// Contenders
//===-------------------------------------------------------------------------------------------===//

class Contender {
public:
  virtual ~Contender() = default;
  /// Versions of what it measures, as JSON members.
  virtual std::string describe() = 0;
  virtual bool isSparse() const = 0;
  /// Prepares the product and returns how many candidates there are.
  virtual int open(const Product &product) = 0;
  /// The candidate that a caller gets who asks for none.
  virtual int defaultCandidate() const { return 0; }
  /// Later launches use this candidate; throws where it does not apply.
  virtual void select(int candidate) = 0;
  virtual void launch(cudaStream_t stream) = 0;
  /// JSON members that say what the selected candidate is.
  virtual std::string describeCandidate() = 0;
  virtual void close() = 0;

protected:
  friend class Server;
  /// Y's scale: results of 8-bit integers fit into f16.
  static constexpr float kInt8Scale = 1.0f / 256;
  // Owned by the server; w is what the product must equal, or null if the contender brings its own.
  void *x = nullptr, *w = nullptr, *y = nullptr;
  // What the selected candidate writes.
  DType resultDType = DType::F16;
  bool resultIsI32 = false;
  double resultScale = 1;
};

class Server {
public:
  explicit Server(Contender &contender) : contender(contender) {
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    for (cudaEvent_t &event : events)
      CUDA(cudaEventCreate(&event));
  }

  int run() {
    printf("{%s}\n", contender.describe().c_str());
    fflush(stdout);
    for (std::string line; std::getline(std::cin, line);) {
      std::string answer;
      try {
        answer = execute(line);
      } catch (const std::exception &error) {
        std::string text = error.what();
        std::replace(text.begin(), text.end(), '"', '\'');
        std::replace(text.begin(), text.end(), '\n', ' ');
        answer = "\"error\": \"" + text + "\"";
      }
      printf("{%s}\n", answer.c_str());
      fflush(stdout);
    }
    return 0;
  }

private:
  using Clock = std::chrono::steady_clock;
  static constexpr int kWarmups = 3, kRuns = 20, kPairs = 20;
  static constexpr size_t kFlushBytes = 256 << 20;
  static constexpr std::chrono::milliseconds kColdPause{300}, kFlushedPause{100};

  std::string execute(const std::string &line) {
    std::istringstream words(line);
    std::string command;
    words >> command;
    if (command == "open")
      return open(words);
    if (command == "try" || command == "use") {
      int candidate = -1;
      words >> candidate;
      contender.select(candidate);
      return command == "try" ? tryCandidate() : check();
    }
    if (command == "cold")
      return cold();
    if (command == "flushed")
      return flushed();
    if (command == "sustained")
      return sustained();
    if (command == "calls")
      return calls();
    if (command == "close")
      return close();
    fail("unknown command '" + command + "'");
  }

  std::string close() {
    contender.close();
    x.reset();
    w.reset();
    y.reset();
    return "";
  }

  std::string open(std::istringstream &words) {
    close();
    std::string dtype, scales;
    words >> dtype >> product.m >> product.n >> product.k >> scales >> product.file;
    product.hasTokenScales = scales == "both";
    product.dtype = dtype == "f16"    ? DType::F16
                    : dtype == "bf16" ? DType::BF16
                    : dtype == "i8"   ? DType::S8
                    : dtype == "e4m3" ? DType::E4M3
                                      : (fail("unknown dtype " + dtype), DType::F16);
    x = std::make_unique<DeviceBuffer>(product.paddedTokens() * product.k * product.elementBytes());
    w = std::make_unique<DeviceBuffer>(product.n * product.k * product.elementBytes());
    y = std::make_unique<DeviceBuffer>(product.resultBytes());
    fillRandom<<<1024, 256, 0, stream>>>(x->get(), product.paddedTokens() * product.k / 4, product.dtype, 1, false);
    fillRandom<<<1024, 256, 0, stream>>>(w->get(), product.n * product.k / 4, product.dtype, 2,
                                         contender.isSparse());
    CUDA(cudaStreamSynchronize(stream));
    contender.x = x->get();
    contender.w = w->get();
    contender.y = y->get();
    contender.resultDType = product.resultDType();
    contender.resultIsI32 = false;
    contender.resultScale = 1;
    int candidates = contender.open(product);
    return "\"candidates\": " + std::to_string(candidates) +
           ", \"default\": " + std::to_string(contender.defaultCandidate());
  }

  /// The least of a few runs. Slow candidates run once, after a warm-up that loads or even compiles the kernel.
  std::string tryCandidate() {
    constexpr int mostRuns = 6;
    constexpr double enoughMicroseconds = 2000;
    contender.launch(stream);
    CUDA(cudaStreamSynchronize(stream));
    TurnOnTheGpu turn;
    double least = HUGE_VAL, spent = 0;
    for (int run = 0; run < mostRuns && spent < enoughMicroseconds; ++run) {
      CUDA(cudaEventRecord(events[0], stream));
      contender.launch(stream);
      CUDA(cudaEventRecord(events[1], stream));
      CUDA(cudaStreamSynchronize(stream));
      double time = elapsed(events[0], events[1]);
      spent += time;
      least = std::min(least, time);
    }
    return "\"us\": " + std::to_string(least);
  }

  /// Relative error of sampled elements; NaN when an element was not written.
  std::string check() {
    std::string answer = contender.describeCandidate();
    CUDA(cudaMemsetAsync(y->get(), 0xff, product.resultBytes(), stream));
    contender.launch(stream);
    if (!contender.w || product.m == 0)
      return answer;
    DeviceBuffer sums(2 * sizeof(double));
    CUDA(cudaMemsetAsync(sums.get(), 0, 2 * sizeof(double), stream));
    constexpr int samples = 4096;
    compareSamples<<<samples, 32, 0, stream>>>(x->get(), contender.w, y->get(), product.dtype,
                                               contender.resultDType, contender.resultIsI32, product,
                                               contender.resultScale, static_cast<double *>(sums.get()));
    double host[2];
    CUDA(cudaMemcpyAsync(host, sums.get(), sizeof host, cudaMemcpyDeviceToHost, stream));
    CUDA(cudaStreamSynchronize(stream));
    char text[64];
    double error = sqrt(host[0] / host[1]);
    snprintf(text, sizeof text, ", \"relative_error\": %.3g", error);
    // JSON has no NaN.
    return answer + (error == error ? text : ", \"relative_error\": 1e99");
  }

  /// After idling: the chip is cool and its clock high.
  std::string cold() {
    std::this_thread::sleep_for(kColdPause);
    for (int i = 0; i < kWarmups; ++i)
      contender.launch(stream);
    return timeRuns([] {});
  }

  /// Caches hold neither X nor W. The pause keeps the load of the contender before out of it.
  std::string flushed() {
    std::this_thread::sleep_for(kFlushedPause);
    if (!flush)
      flush = std::make_unique<DeviceBuffer>(kFlushBytes);
    return timeRuns([&] { CUDA(cudaMemsetAsync(flush->get(), 0, kFlushBytes, stream)); });
  }

  /// All runs are enqueued before the first is waited for, so the host's latency stays out of them.
  template <typename Before> std::string timeRuns(Before before) {
    for (int i = 0; i < kRuns; ++i) {
      before();
      CUDA(cudaEventRecord(events[2 * i], stream));
      contender.launch(stream);
      CUDA(cudaEventRecord(events[2 * i + 1], stream));
    }
    CUDA(cudaStreamSynchronize(stream));
    std::vector<double> samples(kRuns);
    for (int i = 0; i < kRuns; ++i)
      samples[i] = elapsed(events[2 * i], events[2 * i + 1]);
    return list(samples);
  }

  /// Under load for half a second, then 0.6 s measured in batches; one batch is always queued ahead.
  std::string sustained() {
    constexpr double loadSeconds = 0.5, measuredSeconds = 0.6, batchSeconds = 0.02;
    CUDA(cudaEventRecord(events[0], stream));
    contender.launch(stream);
    CUDA(cudaEventRecord(events[1], stream));
    CUDA(cudaStreamSynchronize(stream));
    int runs = std::max(1, int(batchSeconds * 1e6 / elapsed(events[0], events[1])));
    std::vector<double> samples;
    Clock::time_point begin = Clock::now();
    auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
    int ring = 2 * kPairs, batch = 0;
    CUDA(cudaEventRecord(events[0], stream));
    for (;; ++batch) {
      for (int i = 0; i < runs; ++i)
        contender.launch(stream);
      CUDA(cudaEventRecord(events[(batch + 1) % ring], stream));
      if (batch == 0)
        continue;
      CUDA(cudaEventSynchronize(events[batch % ring]));
      if (seconds() > loadSeconds)
        samples.push_back(elapsed(events[(batch - 1) % ring], events[batch % ring]) / runs);
      if (seconds() > loadSeconds + measuredSeconds)
        break;
    }
    CUDA(cudaStreamSynchronize(stream));
    return list(samples);
  }

  /// What a call costs the host: bursts that the driver's queue takes without waiting.
  std::string calls() {
    constexpr int bursts = 20, burst = 200;
    std::vector<double> samples;
    for (int i = 0; i < bursts; ++i) {
      Clock::time_point begin = Clock::now();
      for (int j = 0; j < burst; ++j)
        contender.launch(stream);
      samples.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count() / burst);
      CUDA(cudaStreamSynchronize(stream));
    }
    return list(samples);
  }

  static double elapsed(cudaEvent_t begin, cudaEvent_t end) {
    float milliseconds = 0;
    CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
    return milliseconds * 1e3;
  }

  static std::string list(const std::vector<double> &samples) {
    std::ostringstream text;
    text << "\"samples\": [";
    for (size_t i = 0; i < samples.size(); ++i)
      text << (i ? ", " : "") << samples[i];
    return text.str() + "]";
  }

  Contender &contender;
  Product product{};
  cudaStream_t stream = nullptr;
  cudaEvent_t events[2 * kPairs] = {};
  std::unique_ptr<DeviceBuffer> x, w, y, flush;
};

#endif // SPARSEFLOW_BENCHMARKS_HARNESS_CUH
