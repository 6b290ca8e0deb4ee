// Calls: what is checked, what kernels get, workspaces, host tensors, threads and the report.
#include "TestProgram.h"
#include "llvm/Support/FormatVariadic.h"
#include <thread>

using namespace llvm;
using namespace sparseflow::runtime;

namespace {
/// A float matrix with a row stride, 256-byte aligned.
struct Matrix {
  explicit Matrix(int64_t rows, int64_t stride = columns, int64_t width = columns)
      : shape{rows, width}, strides{stride, 1}, storage(rows * stride + 64) {
    data = reinterpret_cast<float *>((reinterpret_cast<uintptr_t>(storage.data()) + 255) &
                                     ~uintptr_t(255));
    for (int64_t m = 0; m < rows; ++m)
      for (int64_t c = 0; c < std::min(width, stride); ++c)
        data[m * stride + c] = float(m) + 0.25f * float(c);
  }
  float at(int64_t m, int64_t c) const { return data[m * strides[0] + c]; }
  TensorRef ref() const { return {data, DType::F32, shape, strides}; }
  std::vector<int64_t> shape, strides;
  std::vector<float> storage;
  float *data;
};

class ExecutableTest : public testing::Test {
protected:
  void SetUp() override { load(makeProgram()); }
  void load(ProgramFile::Ptr file) {
    executable.reset();
    executable = cantFail(Executable::create(std::move(file), device));
  }
  std::string run(const Matrix &x, const Matrix &y, const RunOptions &options = {}) {
    return messageOf(executable->run(0, x.ref(), y.ref(), options));
  }
  static void expectResult(const Matrix &x, const Matrix &y) {
    std::vector<float> w = constantW();
    for (int64_t m = 0; m < y.shape[0]; ++m)
      for (int64_t c = 0; c < columns; ++c)
        ASSERT_EQ(y.at(m, c), x.at(m, c) * 6 + w[c]) << m << "," << c;
  }

  std::shared_ptr<TestDevice> device = std::make_shared<TestDevice>();
  std::unique_ptr<Executable> executable;
};
} // namespace

TEST_F(ExecutableTest, runs_the_steps) {
  Matrix x(5), y(5);
  ASSERT_EQ(run(x, y), "");
  expectResult(x, y);
  ASSERT_EQ(device->launches.size(), 2u);
  EXPECT_EQ(device->launches[0].kernel, "k0");
  EXPECT_EQ(device->launches[0].grid, (std::array<uint32_t, 3>{2, 1, 1}));
}

TEST_F(ExecutableTest, passes_strides_and_the_stream) {
  Matrix x(9, 24), y(9, 32);
  int stream;
  RunOptions options;
  options.stream = &stream;
  ASSERT_EQ(run(x, y, options), "");
  expectResult(x, y);
  EXPECT_EQ(device->launches[0].rowStride, 24);
  EXPECT_EQ(device->launches[1].rowStride, 32);
  EXPECT_EQ(device->launches[1].stream, &stream);
  EXPECT_EQ(device->launches[1].grid[0], 4u);
}

TEST_F(ExecutableTest, host_devices_learn_what_kernels_may_touch) {
  Matrix x(9, 24), y(9, 32);
  ASSERT_EQ(run(x, y), "");
  ASSERT_EQ(device->memory.size(), 4u);
  auto expectRange = [&](size_t i, const char *name, uint64_t bytes, bool writable) {
    EXPECT_EQ(device->memory[i].name, name);
    EXPECT_EQ(device->memory[i].bytes, bytes);
    EXPECT_EQ(device->memory[i].writable, writable);
  };
  expectRange(0, "x", (8 * 24 + 16) * 4, false);
  expectRange(1, "y", (8 * 32 + 16) * 4, true);
  expectRange(2, "w", 64, false);
  expectRange(3, "workspace", 768, true);
  EXPECT_EQ(device->memory[0].base, x.data);
}

TEST_F(ExecutableTest, no_tokens_is_fine) {
  Matrix x(0), y(0);
  x.data = y.data = nullptr;
  EXPECT_EQ(run(x, y), "");
  EXPECT_TRUE(device->launches.empty());
}

TEST_F(ExecutableTest, a_single_row_may_have_any_stride) {
  Matrix x(1, 17), y(1);
  EXPECT_EQ(run(x, y), "");
  EXPECT_EQ(device->launches[0].rowStride, columns);
}

TEST_F(ExecutableTest, repeated_input_rows_are_fine) {
  Matrix x(4), y(4);
  x.strides = {0, 1};
  EXPECT_EQ(run(x, y), "");
  EXPECT_EQ(y.at(3, 1), x.at(0, 1) * 6 + 0.5f);
}

TEST_F(ExecutableTest, leading_dimensions_collapse_to_rows) {
  Manifest manifest = makeManifest();
  Function &function = manifest.functions[0];
  function.inputs[0].shape = {std::string("M"), 3, columns};
  load(cantFail(ProgramFile::create(manifest, makeTensors())));
  device->compute = false;
  Matrix x(64), y(4);
  auto runWith = [&](std::vector<int64_t> strides) {
    std::vector<int64_t> shape = {4, 3, columns};
    TensorRef input{x.data, DType::F32, shape, strides};
    return messageOf(executable->run(0, input, y.ref(), {}));
  };
  EXPECT_EQ(runWith({48, 16, 1}), "");
  EXPECT_EQ(runWith({60, 20, 1}), "");
  EXPECT_EQ(device->launches.back().rowStride, columns);
  EXPECT_EQ(runWith({0, 0, 1}), "");
  for (std::vector<int64_t> strides : {std::vector<int64_t>{64, 16, 1}, {16, 0, 1}, {16, 64, 1}})
    EXPECT_CONTAINS(runWith(strides), "expected rows that are one stride apart, got strides");
}

TEST_F(ExecutableTest, misfits_are_explained) {
  Matrix x(5), y(5);
  auto with = [&](auto change) {
    Matrix changed(5);
    change(changed);
    return run(changed, y);
  };
  EXPECT_CONTAINS(with([](Matrix &m) { m.shape = {5, 12}; }),
                  "input 'x' of 'main' expected shape [M,16] with M = 5, got [5,12]");
  EXPECT_CONTAINS(with([](Matrix &m) { m.shape = {5, 16, 1}; }),
                  "expected shape [M,16], got [5,16,1]");
  EXPECT_CONTAINS(with([](Matrix &m) { m.shape[0] = -1; }), "got [-1,16]");
  EXPECT_CONTAINS(
      with([](Matrix &m) { m.strides = {1, 5}; }),
      "expected contiguous rows (stride 1 in the last dimension), got strides [1,5]; copy it");
  EXPECT_CONTAINS(with([](Matrix &m) { m.strides = {18, 1}; }),
                  "a row stride that is a multiple of 4 elements, got 18; pad the rows");
  EXPECT_CONTAINS(with([](Matrix &m) { m.strides = {-16, 1}; }),
                  "a row stride of at least 0, got -16");
  EXPECT_CONTAINS(with([](Matrix &m) { ++m.data; }),
                  "expected data aligned to 16 bytes, got address 0x");
  EXPECT_CONTAINS(with([](Matrix &m) { m.data = nullptr; }),
                  "a pointer to data, got a null pointer");
  Matrix narrow(5, 8);
  EXPECT_CONTAINS(run(x, narrow),
                  "output 'y' of 'main' expected a row stride of at least 16, got 8");
  EXPECT_CONTAINS(run(x, Matrix(4)),
                  "output 'y' of 'main' expected shape [M,16] with M = 5, got [4,16]");
  TensorRef half = x.ref();
  half.dtype = DType::F16;
  EXPECT_CONTAINS(messageOf(executable->run(0, half, y.ref(), {})),
                  "input 'x' of 'main' expected f32, got f16");
  EXPECT_CONTAINS(messageOf(executable->run(0, {x.ref(), x.ref()}, y.ref(), {})),
                  "'main' expected 1 input (x), got 2");
  EXPECT_CONTAINS(messageOf(executable->run(0, x.ref(), {}, {})),
                  "'main' expected 1 output (y), got 0");
  device->forbidden = x.data;
  EXPECT_CONTAINS(
      run(x, y),
      "expected data in the memory of test, got a pointer to host memory; copy it there first");
  EXPECT_TRUE(device->launches.empty());
}

TEST_F(ExecutableTest, outputs_lie_apart_from_inputs) {
  Matrix x(5), y(5);
  EXPECT_EQ(run(x, x), "output 'y' of 'main' expected memory apart from input 'x', got memory that "
                       "both use; give the output its own");
  // Side by side in the same rows, in either order.
  Matrix both(9, 32);
  auto half = [&](int64_t column, int64_t rows, int64_t stride) {
    Matrix part(rows, stride);
    part.data = both.data + column;
    return part;
  };
  EXPECT_EQ(run(half(0, 8, 32), half(16, 8, 32)), "");
  EXPECT_EQ(run(half(16, 8, 32), half(0, 8, 32)), "");
  EXPECT_EQ(run(half(16, 1, 32), half(0, 1, 32)), "");
  EXPECT_CONTAINS(run(half(16, 8, 32), half(4, 8, 32)), "memory apart from input 'x'");
  EXPECT_CONTAINS(run(half(4, 8, 32), half(16, 8, 32)), "memory apart from input 'x'");
  EXPECT_CONTAINS(run(half(0, 8, 16), half(16, 8, 32)), "memory apart from input 'x'");
  EXPECT_CONTAINS(run(half(24, 8, 32), half(0, 8, 32)), "memory apart from input 'x'");
  EXPECT_EQ(run(half(0, 4, 32), half(128, 4, 32)), "");
  EXPECT_EQ(run(half(0, 0, 16), half(0, 0, 16)), "");
}

TEST_F(ExecutableTest, too_many_tokens_is_a_sentence) {
  Matrix x(1), y(1);
  x.shape[0] = y.shape[0] = int64_t(1) << 30;
  y.data = x.data + x.shape[0] * columns; // never touched
  EXPECT_CONTAINS(run(x, y), "the workspace: test: expected 68719476736 bytes, got none");
  ++x.shape[0];
  EXPECT_CONTAINS(run(x, y), "input 'x' of 'main' expected extents from 0 to 1073741824, got "
                             "[1073741825,16]; split the call");
  Manifest manifest = makeManifest();
  manifest.functions[0].programs[0].kernels[0].grid[0] = {"M", 1, 2};
  load(cantFail(ProgramFile::create(manifest, makeTensors())));
  EXPECT_CONTAINS(messageOf(executable->report(0, ArrayRef<int64_t>(int64_t(1) << 30))),
                  "expected a grid of at most 2147483647 blocks");
}

TEST_F(ExecutableTest, absurd_slots_are_a_sentence) {
  Manifest manifest = makeManifest();
  manifest.functions[0].programs[0].slots[0].sizes[0].bytesPer = int64_t(1) << 48;
  load(cantFail(ProgramFile::create(manifest, makeTensors())));
  EXPECT_CONTAINS(messageOf(executable->workspaceBytes(0, {int64_t(1) << 30})),
                  "expected a workspace of at most 140737488355328 bytes, got more");
}

TEST_F(ExecutableTest, failures_keep_the_device_usable) {
  Matrix x(5), y(5);
  device->memoryLimit = 10;
  EXPECT_CONTAINS(run(x, y), "the workspace: test: expected 512 bytes, got none");
  device->memoryLimit = 1 << 20;
  device->failLaunch = "no launch today";
  EXPECT_EQ(run(x, y), "no launch today");
  device->failLaunch = "";
  EXPECT_EQ(run(x, y), "");
  expectResult(x, y);
}

TEST_F(ExecutableTest, names_are_resolved) {
  EXPECT_EQ(cantFail(executable->find("main")), 0u);
  EXPECT_EQ(cantFail(executable->find("")), 0u);
  EXPECT_CONTAINS(messageOf(executable->find("other")),
                  "expected a function ('main'), got 'other'");
  Manifest manifest = makeManifest();
  manifest.functions.push_back(manifest.functions[0]);
  manifest.functions[1].name = "second";
  load(cantFail(ProgramFile::create(manifest, makeTensors())));
  EXPECT_EQ(cantFail(executable->find("second")), 1u);
  EXPECT_CONTAINS(messageOf(executable->find("")), "('main', 'second'), got no name");
}

TEST_F(ExecutableTest, constants_are_shared_between_functions) {
  Manifest manifest = makeManifest();
  manifest.functions.push_back(manifest.functions[0]);
  manifest.functions[1].name = "second";
  executable.reset();
  EXPECT_EQ(device->live, 0);
  load(cantFail(ProgramFile::create(manifest, makeTensors())));
  EXPECT_EQ(device->live, 1);
}

TEST_F(ExecutableTest, output_shapes) {
  Matrix x(7);
  TensorShape shape = cantFail(executable->outputShape(0, x.ref(), 0));
  EXPECT_EQ(shape.shape, (std::vector<int64_t>{7, columns}));
  EXPECT_EQ(shape.dtype, DType::F32);
  EXPECT_CONTAINS(messageOf(executable->outputShape(0, x.ref(), 1)),
                  "an output number below 1, got 1");
}

//===-- Workspaces ---------------------------------------------------------------------------===//

TEST_F(ExecutableTest, a_reserved_workspace_needs_no_allocation_in_a_run) {
  EXPECT_EQ(cantFail(executable->workspaceBytes(0, {100})), 6400u);
  ASSERT_EQ(messageOf(executable->reserve(0, {100}, nullptr)), "");
  int before = device->allocations;
  for (int64_t rows : {100, 3, 64}) {
    Matrix x(rows), y(rows);
    ASSERT_EQ(run(x, y), "");
  }
  EXPECT_EQ(device->allocations, before);
  EXPECT_CONTAINS(messageOf(executable->workspaceBytes(0, {})),
                  "expected 1 symbol value (M), got 0");
  EXPECT_CONTAINS(messageOf(executable->workspaceBytes(0, {-1})), "expected M from 0 to");
}

TEST_F(ExecutableTest, growing_tokens_do_not_allocate_each_time) {
  int before = device->allocations;
  for (int64_t rows = 1; rows <= 1000; ++rows) {
    Matrix x(rows), y(rows);
    ASSERT_EQ(run(x, y), "");
  }
  EXPECT_LE(device->allocations - before, 20);
  EXPECT_EQ(device->live, 2);
}

TEST_F(ExecutableTest, streams_have_their_own_workspaces) {
  int a, b;
  ASSERT_EQ(messageOf(executable->reserve(0, {8}, &a)), "");
  ASSERT_EQ(messageOf(executable->reserve(0, {8}, &b)), "");
  EXPECT_EQ(device->live, 3);
  executable.reset();
  EXPECT_EQ(device->live, 0);
}

TEST_F(ExecutableTest, workspaces_do_not_pile_up_with_streams) {
  char streams[1024];
  Matrix x(5), y(5);
  for (char &stream : streams) {
    RunOptions options;
    options.stream = &stream;
    ASSERT_EQ(run(x, y, options), "");
  }
  EXPECT_EQ(device->live, 1 + 64);
  EXPECT_EQ(device->waits, 1024 / 64 - 1);
  // A capture cannot wait for the device.
  device->capturing = true;
  char another;
  RunOptions options;
  options.stream = &another;
  int waits = device->waits;
  EXPECT_CONTAINS(run(x, y, options), "reserve it");
  EXPECT_EQ(device->waits, waits);
}

TEST_F(ExecutableTest, the_callers_workspace_is_checked_and_used) {
  Matrix x(5), y(5), space(8);
  RunOptions options;
  options.workspace = space.data;
  options.workspaceBytes = 511;
  EXPECT_CONTAINS(run(x, y, options),
                  "expected a workspace of 512 bytes aligned to 256, got 511 bytes");
  options.workspaceBytes = 512;
  int before = device->allocations;
  EXPECT_EQ(run(x, y, options), "");
  EXPECT_EQ(device->allocations, before);
  EXPECT_EQ(space.at(1, 0), 2 * x.at(1, 0));
  options.workspace = space.data + 1;
  EXPECT_CONTAINS(run(x, y, options), "aligned to 256");
}

TEST_F(ExecutableTest, a_capture_neither_allocates_nor_loses_its_workspace) {
  Matrix x(5), y(5);
  device->capturing = true;
  EXPECT_CONTAINS(
      run(x, y),
      "expected a workspace of 512 bytes, got 0 while the stream is being captured; reserve it");
  device->capturing = false;
  ASSERT_EQ(messageOf(executable->reserve(0, {5}, nullptr)), "");
  device->capturing = true;
  ASSERT_EQ(run(x, y), "");
  device->capturing = false;
  // The captured graph still refers to the old one.
  int live = device->live;
  ASSERT_EQ(messageOf(executable->reserve(0, {500}, nullptr)), "");
  EXPECT_EQ(device->live, live + 1);
}

TEST_F(ExecutableTest, buffers_that_do_not_fit_their_slots_are_refused) {
  Manifest manifest = makeManifest();
  manifest.functions[0].programs[0].slots[0].sizes[0].cap = 2;
  load(cantFail(ProgramFile::create(manifest, makeTensors())));
  Matrix x(50), y(50);
  EXPECT_CONTAINS(run(x, y), "expected buffer 2 to fit its slot of 256 bytes, got 3200");
}

//===-- Variants and the report --------------------------------------------------------------===//

static std::string pathFor(Executable &executable, int64_t tokens) {
  json::Value report = cantFail(executable.report(0, ArrayRef<int64_t>(tokens)));
  return (*report.getAsObject()->getArray("steps"))[1].getAsObject()->getString("path")->str();
}

TEST_F(ExecutableTest, variants_are_chosen_by_tokens) {
  EXPECT_EQ(pathFor(*executable, 0), "sparse mma.sp");
  EXPECT_EQ(pathFor(*executable, 64), "sparse mma.sp");
  EXPECT_EQ(pathFor(*executable, 65), "dense mma");
}

TEST_F(ExecutableTest, the_report_names_what_ran) {
  EXPECT_CONTAINS(messageOf(executable->report(0, std::nullopt)),
                  "expected to have run, or values for its symbols (M)");
  Matrix x(100), y(100);
  ASSERT_EQ(run(x, y), "");
  json::Value report = cantFail(executable->report(0, std::nullopt));
  std::string text = formatv("{0}", report);
  for (const char *part :
       {R"("device":"test")", R"("M":100)", R"("label":"sf.matmul 16x16 f32 2:4")",
        R"("reason":"measured faster")", R"("name":"k1")", R"("registers":40)", R"("mma_sp":8)",
        R"("grid":[26,1,1])", R"("target":"sm_80")"})
    EXPECT_CONTAINS(text, part);
}

//===-- Host tensors -------------------------------------------------------------------------===//

TEST_F(ExecutableTest, host_tensors_are_staged_for_a_device) {
  device->hostMemory = false;
  Matrix x(5), y(5);
  int live = device->live;
  ASSERT_EQ(messageOf(executable->runHost(0, x.ref(), y.ref())), "");
  expectResult(x, y);
  EXPECT_EQ(device->live, live + 1) << "only the workspace stays";
}

TEST_F(ExecutableTest, host_tensors_may_lie_anywhere) {
  Matrix x(5, 19), y(5, 21);
  ++x.data;
  ++y.data;
  ASSERT_EQ(messageOf(executable->runHost(0, x.ref(), y.ref())), "");
  expectResult(x, y);
  // A transposed view: rows one element apart.
  Matrix source(columns, 5, 5), target(5);
  TensorRef transposed = source.ref();
  std::vector<int64_t> shape = {5, columns}, strides = {1, 5};
  transposed.shape = shape;
  transposed.strides = strides;
  ASSERT_EQ(messageOf(executable->runHost(0, transposed, target.ref())), "");
  EXPECT_EQ(target.at(2, 3), source.data[3 * 5 + 2] * 6 + 1.5f);
  // As an input it may show one element twice, as a result it may not.
  std::vector<int64_t> overlapping = {1, 1};
  transposed.strides = overlapping;
  EXPECT_EQ(messageOf(executable->runHost(0, transposed, target.ref())), "");
  EXPECT_CONTAINS(messageOf(executable->runHost(0, x.ref(), transposed)),
                  "output 'y' expected memory of its own for each element, got shape [5,16] with "
                  "strides [1,1]; write to a contiguous tensor");
  TensorRef null = x.ref();
  null.data = nullptr;
  EXPECT_CONTAINS(messageOf(executable->runHost(0, null, y.ref())),
                  "expected a pointer to data, got a null pointer");
}

TEST_F(ExecutableTest, host_tensors_in_place_are_not_copied) {
  Matrix x(5), y(5);
  ASSERT_EQ(run(x, y), "");
  int before = device->allocations;
  ASSERT_EQ(messageOf(executable->runHost(0, x.ref(), y.ref())), "");
  EXPECT_EQ(device->allocations, before);
}

//===-- Threads ------------------------------------------------------------------------------===//

TEST_F(ExecutableTest, threads_share_an_executable) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      // Two threads on each stream: their runs must not mix in its workspace.
      RunOptions options;
      options.stream = reinterpret_cast<void *>(uintptr_t(0x1000 + t / 2));
      for (int i = 0; i < 50; ++i) {
        Matrix x(1 + (t * 50 + i) % 90), y(1 + (t * 50 + i) % 90);
        x.data[0] = float(t);
        ASSERT_EQ(run(x, y, options), "");
        expectResult(x, y);
      }
    });
  for (std::thread &thread : threads)
    thread.join();
}

//===-- Devices ------------------------------------------------------------------------------===//

TEST(DeviceRegistry, opens_what_was_registered) {
  int made = 0;
  registerDevice("fake", [&]() -> Expected<std::shared_ptr<Device>> {
    ++made;
    return std::make_shared<TestDevice>();
  });
  std::shared_ptr<Device> first = cantFail(openDevice("fake"));
  std::shared_ptr<Device> second = cantFail(openDevice("fake"));
  EXPECT_EQ(first, second);
  EXPECT_EQ(made, 1);
  first.reset();
  second.reset();
  cantFail(openDevice("fake"));
  EXPECT_EQ(made, 2);
  registerDevice("fake", [&]() -> Expected<std::shared_ptr<Device>> {
    return makeError(Status::Unsupported, "not here");
  });
  EXPECT_EQ(messageOf(openDevice("fake")), "not here");
  EXPECT_CONTAINS(messageOf(openDevice("gpu")),
                  "expected a device ('cuda', 'cuda:N', 'fake'), got 'gpu'");
  EXPECT_CONTAINS(messageOf(openDevice("cuda:x")), "expected a device");
}

TEST(DeviceDefaults, a_host_device_refuses_graphs) {
  auto device = std::make_shared<TestDevice>();
  std::unique_ptr<Executable> executable = cantFail(Executable::create(makeProgram(), device));
  Matrix x(2), y(2);
  EXPECT_CONTAINS(messageOf(executable->capture(0, x.ref(), y.ref())),
                  "expected a GPU to capture a graph on, got device 'test'");
  executable.reset();
  EXPECT_EQ(device->live, 0);
}
