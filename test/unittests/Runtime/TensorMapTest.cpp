// Tensor maps: what kernels get for each kind of buffer, when a map is encoded again, and what is
// refused, in the manifest and in a call.
#include "TestProgram.h"
#include "llvm/Support/FormatVariadic.h"
#include <thread>

using namespace llvm;
using namespace sparseflow::runtime;

namespace {
/// Keeps the maps of the last launch and counts encodings.
class MapDevice : public TestDevice {
public:
  struct Loaded : LoadedFunction {
    Loaded(MapDevice &device, const Program *program) : device(device), chosen(program) {}
    const Program *program() const override { return chosen; }
    Error launch(size_t, const std::array<uint32_t, 3> &grid, void *const *params,
                 void *) override {
      std::lock_guard<std::mutex> lock(device.mutex);
      device.grid = grid;
      EXPECT_EQ(*static_cast<const int32_t *>(params[1]), 7);
      const int indices[] = {0, 2, 3, 4};
      for (auto [map, index] : zip(device.maps, indices)) {
        EXPECT_EQ(reinterpret_cast<uintptr_t>(params[index]) % tensorMapAlignment, 0u);
        memcpy(&map, params[index], sizeof(map));
      }
      return Error::success();
    }
    MapDevice &device;
    const Program *chosen;
  };

  Expected<std::unique_ptr<LoadedFunction>> load(const ProgramFile::Ptr &,
                                                 const Function &function) override {
    return std::make_unique<Loaded>(*this, &function.programs.front());
  }
  Error encodeTensorMap(DType dtype, const HostTensorMap &map, void *out) const override {
    ++encoded;
    if (fail)
      return makeError(Status::DeviceError, "no maps today");
    return Device::encodeTensorMap(dtype, map, out);
  }

  mutable std::atomic<int> encoded{0};
  bool fail = false;
  std::array<uint32_t, 3> grid;
  std::array<HostTensorMap, 4> maps; // x, w, workspace, y
};

class TensorMapTest : public testing::Test {
protected:
  void SetUp() override { load(makeMapManifest()); }
  void load(Manifest manifest) {
    executable = cantFail(Executable::create(
        cantFail(ProgramFile::create(std::move(manifest), makeMapTensors())), device));
  }
  /// `x` and `y` of some rows, at byte offsets from aligned memory.
  std::string run(int64_t rows, int64_t stride = mapColumns, size_t offset = 0) {
    std::vector<int64_t> shape = {rows, mapColumns}, strides = {stride, 1};
    TensorRef in{memory + offset, DType::F16, shape, strides};
    TensorRef out{memory + 65536, DType::F16, shape, strides};
    return messageOf(executable->run(0, in, out, {}));
  }

  std::shared_ptr<MapDevice> device = std::make_shared<MapDevice>();
  std::unique_ptr<Executable> executable;
  alignas(256) char memory[131072];
};
} // namespace

TEST_F(TensorMapTest, maps_say_where_the_buffers_lie) {
  ASSERT_EQ(run(10, 72), "");
  auto [x, w, workspace, y] = device->maps;
  EXPECT_EQ(x.base, memory);
  EXPECT_EQ(x.rows, 10u);
  EXPECT_EQ(x.columns, 64u);
  EXPECT_EQ(x.rowStrideBytes, 144u);
  EXPECT_EQ(x.elementBytes, 2u);
  EXPECT_EQ(x.boxRows, 256u);
  EXPECT_EQ(x.boxColumns, 64u);
  EXPECT_EQ(x.swizzleBytes, 128u);
  EXPECT_EQ(w.rows, 48u);
  EXPECT_EQ(w.columns, 32u);
  EXPECT_EQ(w.rowStrideBytes, 64u);
  EXPECT_EQ(workspace.rows, 20u);
  EXPECT_EQ(workspace.columns, 128u);
  EXPECT_EQ(workspace.rowStrideBytes, 128u);
  EXPECT_EQ(workspace.elementBytes, 1u);
  EXPECT_EQ(y.base, memory + 65536);
  EXPECT_EQ(y.swizzleBytes, 0u);
}

TEST_F(TensorMapTest, a_box_that_fits_has_no_more_rows_than_the_matrix) {
  Manifest manifest = makeMapManifest();
  manifest.functions[0].programs[0].steps[0].variants[0].launches[0].args[0].box.fits = true;
  load(manifest);
  ASSERT_EQ(run(10), "");
  auto [x, w, workspace, y] = device->maps;
  EXPECT_EQ(x.rows, 10u);
  EXPECT_EQ(x.boxRows, 10u);
  EXPECT_EQ(x.boxColumns, 64u);
  EXPECT_EQ(w.boxRows, 32u);
  // Not asked to fit.
  EXPECT_EQ(y.rows, 10u);
  EXPECT_EQ(y.boxRows, 32u);
  // A box for each number of rows up to its own.
  ASSERT_EQ(run(1), "");
  EXPECT_EQ(device->maps[0].boxRows, 1u);
  ASSERT_EQ(run(256), "");
  EXPECT_EQ(device->maps[0].boxRows, 256u);
  ASSERT_EQ(run(300), "");
  EXPECT_EQ(device->maps[0].boxRows, 256u);
  EXPECT_EQ(run(0), "");
}

TEST_F(TensorMapTest, a_repeated_call_encodes_nothing) {
  ASSERT_EQ(run(10), "");
  EXPECT_EQ(device->encoded, 4);
  ASSERT_EQ(run(10), "");
  EXPECT_EQ(device->encoded, 4);
  ASSERT_EQ(run(11), "");
  // The constant is where it was.
  EXPECT_EQ(device->encoded, 7);
  EXPECT_EQ(device->maps[0].rows, 11u);
  ASSERT_EQ(run(11, mapColumns, 256), "");
  EXPECT_EQ(device->encoded, 8);
  EXPECT_EQ(device->maps[0].base, memory + 256);
  ASSERT_EQ(run(11, 80, 256), "");
  EXPECT_EQ(device->maps[0].rowStrideBytes, 160u);
}

TEST_F(TensorMapTest, a_single_row_has_any_stride) {
  Manifest manifest = makeMapManifest();
  Function &function = manifest.functions[0];
  function.inputs[0].shape[1] = function.outputs[0].shape[1] = 65;
  load(manifest);
  std::vector<int64_t> shape = {1, 65};
  TensorRef in{memory, DType::F16, shape, {}}, out{memory + 65536, DType::F16, shape, {}};
  EXPECT_EQ(messageOf(executable->run(0, in, out, {})), "");
  EXPECT_EQ(device->maps[0].rowStrideBytes, 144u);
  shape[0] = 2;
  EXPECT_CONTAINS(messageOf(executable->run(0, in, out, {})),
                  "'main' expected input 'x' at a multiple of 16 bytes with rows a multiple of 16 "
                  "bytes apart, got address ");
}

TEST_F(TensorMapTest, misaligned_tensors_are_refused) {
  EXPECT_CONTAINS(run(3, mapColumns, 8),
                  "and 128 bytes; copy it to an aligned tensor with padded rows");
  EXPECT_CONTAINS(run(3, 68), "and 136 bytes");
  EXPECT_EQ(run(3, mapColumns, 16), "");
}

TEST_F(TensorMapTest, no_tokens_need_no_map) {
  EXPECT_EQ(run(0), "");
  EXPECT_EQ(device->encoded, 0);
}

TEST_F(TensorMapTest, a_fixed_grid_without_rows_is_a_sentence) {
  Manifest manifest = makeMapManifest();
  manifest.functions[0].programs[0].kernels[0].grid[0] = GridDim::constant(3);
  load(manifest);
  EXPECT_CONTAINS(run(0), "'main' expected input 'x' to have 1 to 4294967296 rows, got 0");
}

TEST_F(TensorMapTest, a_device_that_cannot_is_a_sentence_and_nothing_is_kept) {
  device->fail = true;
  EXPECT_EQ(run(2), "'main', input 'x': no maps today");
  device->fail = false;
  EXPECT_EQ(run(2), "");
}

TEST_F(TensorMapTest, a_persistent_grid_is_bounded) {
  ASSERT_EQ(run(16), "");
  EXPECT_EQ(device->grid[0], 4u);
  ASSERT_EQ(run(17), "");
  EXPECT_EQ(device->grid[0], 5u);
}

TEST_F(TensorMapTest, threads_get_their_own_maps) {
  std::vector<std::thread> threads;
  std::atomic<int> failures{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i)
        failures += !run(1 + (t + i) % 12, mapColumns, 256 * (i % 5)).empty();
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(failures, 0);
}

TEST(TensorMapManifest, json_has_the_documented_form) {
  Manifest manifest = makeMapManifest();
  std::string text = formatv("{0}", toJSON(manifest));
  EXPECT_CONTAINS(text, R"({"tensor_map":{"box":[256,64],"buffer":0,"swizzle":128}})");
  EXPECT_CONTAINS(text, R"({"max":5,"mul":2,"per":8,"symbol":"M"})");
  Manifest read = cantFail(parseManifest(text));
  EXPECT_EQ(formatv("{0}", toJSON(read)).str(), text);
  auto boxOf = [](Manifest &manifest) -> TensorMapSpec & {
    return manifest.functions[0].programs[0].steps[0].variants[0].launches[0].args[0].box;
  };
  EXPECT_FALSE(boxOf(read).fits);
  boxOf(manifest).fits = true;
  text = formatv("{0}", toJSON(manifest));
  EXPECT_CONTAINS(text, R"({"tensor_map":{"box":[256,64],"buffer":0,"fits":true,"swizzle":128}})");
  read = cantFail(parseManifest(text));
  EXPECT_TRUE(boxOf(read).fits);
  EXPECT_EQ(formatv("{0}", toJSON(read)).str(), text);
}

TEST(TensorMapManifest, constants_are_checked_when_they_are_known) {
  auto device = std::make_shared<MapDevice>();
  auto message = [&](std::vector<int64_t> shape) {
    return messageOf(Executable::create(
        cantFail(ProgramFile::create(makeMapManifest(), makeMapTensors(shape))), device));
  };
  EXPECT_EQ(message({4, 3, 32}), "");
  EXPECT_EQ(message({}), "'main': product: constant 'w' expected 1 to 4294967296 columns for a "
                         "tensor map, got 0");
  EXPECT_CONTAINS(message({3, 0}), "got 0");
  Manifest manifest = makeMapManifest();
  manifest.functions[0].programs[0].steps[0].variants[0].launches[0].args[2].box.boxColumns = 33;
  EXPECT_CONTAINS(messageOf(Executable::create(
                      cantFail(ProgramFile::create(manifest, makeMapTensors())), device)),
                  "the tensor map of constant 'w' expected rows of a box in multiples of 16 bytes, "
                  "got 66");
}

TEST(TensorMapManifest, rules_are_enforced) {
  auto message = [](function_ref<void(Function &, std::vector<Argument> &)> breakIt) {
    Manifest manifest = makeMapManifest();
    Function &function = manifest.functions[0];
    breakIt(function, function.programs[0].steps[0].variants[0].launches[0].args);
    EXPECT_NE(messageOf(parseManifest(formatv("{0}", toJSON(manifest)).str())), "");
    return messageOf(validate(manifest));
  };
  auto boxed = [&](TensorMapSpec spec) {
    return message([&](Function &, std::vector<Argument> &args) { args[0].box = spec; });
  };
  EXPECT_CONTAINS(boxed({257, 64, 128}), "step 0 ('product') tensor map of buffer 0 expected a box "
                                         "of 1 to 256 rows and columns, got 257 by 64");
  EXPECT_CONTAINS(boxed({8, 0, 0}), "got 8 by 0");
  EXPECT_CONTAINS(boxed({-1, 64, 0}), "got -1 by 64");
  EXPECT_CONTAINS(boxed({8, 64, 16}), "expected a swizzle of 0, 32, 64 or 128 bytes, got 16");
  EXPECT_CONTAINS(boxed({8, 12, 32}), "rows of a box in multiples of 16 bytes, got 24");
  EXPECT_CONTAINS(boxed({8, 64, 64}), "rows of a box of at most the swizzle's 64 bytes, got 128");
  using Args = std::vector<Argument>;
  EXPECT_CONTAINS(message([](Function &, Args &args) { args[0].value = 4; }),
                  "a buffer index below 4, got 4");
  EXPECT_CONTAINS(message([](Function &f, Args &) { f.inputs[0].shape.clear(); }),
                  "symbol in the shape of some input");
  EXPECT_CONTAINS(message([](Function &f, Args &) { f.outputs[0].shape.clear(); }),
                  "a buffer with a static last dimension, got one of rank 0");
  EXPECT_CONTAINS(message([](Function &f, Args &) { f.outputs[0].shape[1] = std::string("M"); }),
                  "a buffer with a static last dimension, got 'M'");
  EXPECT_CONTAINS(message([](Function &f, Args &) { f.outputs[0].shape[1] = 0; }),
                  "expected 1 to 4294967296 columns, got 0");
  EXPECT_CONTAINS(message([](Function &, Args &args) { args.resize(18, args[0]); }),
                  "at most 16 tensor maps, got more");
  EXPECT_CONTAINS(message([](Function &f, Args &) { f.programs[0].kernels[0].grid[0].max = 0; }),
                  "a max of at least 1, got 0");
  GridDim constant = GridDim::constant(3);
  constant.max = 2;
  Manifest manifest = makeMapManifest();
  manifest.functions[0].programs[0].kernels[0].grid[1] = constant;
  EXPECT_CONTAINS(messageOf(validate(manifest)), "a symbol where there is a max");
}

TEST(TensorMapManifest, type_errors_name_the_path) {
  std::string good = formatv("{0}", toJSON(makeMapManifest()));
  auto message = [&](StringRef to) {
    StringRef from = R"({"box":[256,64],"buffer":0,"swizzle":128})";
    std::string text = good;
    return messageOf(parseManifest(text.replace(text.find(from.str()), from.size(), to.str())));
  };
  EXPECT_CONTAINS(message(R"({"box":[256],"buffer":0,"swizzle":128})"),
                  "args[0].tensor_map.box expected two numbers, rows and columns, got an array");
  EXPECT_CONTAINS(message(R"({"box":[256,1e9],"buffer":0,"swizzle":128})"),
                  "tensor_map.box[1] expected an integer from 1 to 256");
  EXPECT_CONTAINS(message(R"({"box":[256,64,1],"buffer":0,"swizzle":128})"),
                  "tensor_map.box expected at most 2 elements, got 3");
  EXPECT_CONTAINS(message(R"({"buffer":0,"swizzle":128})"), "expected a member \"box\"");
  EXPECT_CONTAINS(message(R"({"box":[256,64],"buffer":-1,"swizzle":128})"),
                  "tensor_map.buffer expected an integer from 0");
  EXPECT_CONTAINS(message(R"({"box":[256,64],"buffer":0,"swizzle":"128"})"),
                  "tensor_map.swizzle expected an integer from 0 to 128");
  EXPECT_CONTAINS(message(R"({"box":[256,64],"buffer":0,"fits":1,"swizzle":128})"),
                  "tensor_map.fits expected true or false, got 1");
  EXPECT_CONTAINS(message("7"), "tensor_map expected an object, got 7");
}
