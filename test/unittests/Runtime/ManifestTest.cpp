// The manifest's JSON round trip, and each rule that a manifest can break.
#include "TestProgram.h"
#include "llvm/Support/FormatVariadic.h"
#include <functional>

using namespace llvm;
using namespace sparseflow::runtime;

static std::string text(const Manifest &manifest) { return formatv("{0}", toJSON(manifest)); }

TEST(Manifest, round_trip_keeps_everything) {
  Manifest manifest = makeManifest("sm_90a");
  Expected<Manifest> read = parseManifest(text(manifest));
  ASSERT_TRUE(bool(read)) << toString(read.takeError());
  EXPECT_EQ(text(*read), text(manifest));
}

TEST(Manifest, json_has_the_documented_form) {
  json::Value value = toJSON(makeManifest());
  const json::Object &function = *(*value.getAsObject()->getArray("functions"))[0].getAsObject();
  const json::Object &program = *(*function.getArray("programs"))[0].getAsObject();
  EXPECT_EQ(
      (*program.getArray("buffers"))[2],
      json::Value(json::Object{
          {"kind", "workspace"}, {"slot", 0}, {"dtype", "f32"}, {"shape", json::Array{"M", 16}}}));
  EXPECT_EQ(
      (*program.getArray("slots"))[0],
      json::Value(json::Object{
          {"sizes", json::Array{json::Object{
                        {"symbol", "M"}, {"bytes_per", 64}, {"bytes", 0}, {"cap", nullptr}}}}}));
  const json::Object &kernel = *(*program.getArray("kernels"))[0].getAsObject();
  EXPECT_EQ(*kernel.getArray("grid"),
            (json::Array{json::Object{{"symbol", "M"}, {"per", 8}, {"mul", 2}},
                         json::Object{{"const", 1}}, json::Object{{"const", 1}}}));
}

TEST(Manifest, dependent_launches_are_written_only_where_there_are_any) {
  Manifest manifest = makeManifest();
  EXPECT_EQ(text(manifest).find("dependent_launch"), std::string::npos);
  manifest.functions[0].programs[0].kernels[1].dependentLaunch = true;
  std::string written = text(manifest);
  Manifest read = cantFail(parseManifest(written));
  EXPECT_FALSE(read.functions[0].programs[0].kernels[0].dependentLaunch);
  EXPECT_TRUE(read.functions[0].programs[0].kernels[1].dependentLaunch);
  StringRef flag = R"("dependent_launch":true)";
  written.replace(written.find(flag.str()), flag.size(), R"("dependent_launch":1)");
  EXPECT_CONTAINS(messageOf(parseManifest(written)),
                  "kernels[1].dependent_launch expected true or false, got 1");
}

TEST(Manifest, chips_are_parsed) {
  EXPECT_EQ(parseChip("sm_80")->number, 80u);
  EXPECT_EQ(parseChip("sm_90a")->suffix, 'a');
  EXPECT_EQ(parseChip("sm_120")->major(), 12u);
  EXPECT_EQ(parseChip("sm_100f")->suffix, 'f');
  for (const char *bad : {"", "sm_", "sm_8", "sm_80b", "80", "sm_8x", "sm_1000", "sm_-8"})
    EXPECT_FALSE(parseChip(bad)) << bad;
}

TEST(Manifest, a_later_format_is_refused_with_its_producer) {
  EXPECT_CONTAINS(messageOf(parseManifest(R"({"format":2,"producer":"sparseflow 9.0"})")),
                  "expected manifest format 1, got 2; open it with the SparseFlow that wrote it "
                  "(sparseflow 9.0)");
}

TEST(Manifest, type_errors_name_the_path) {
  std::string good = text(makeManifest());
  auto replaced = [&](StringRef from, StringRef to) {
    std::string result = good;
    size_t at = result.find(from.str());
    EXPECT_NE(at, std::string::npos) << from.str();
    return result.replace(at, from.size(), to.str());
  };
  EXPECT_CONTAINS(messageOf(parseManifest(replaced(R"("dtype":"f32")", R"("dtype":"f17")"))),
                  "manifest: functions[0].inputs[0].dtype expected one of \"f16\"");
  EXPECT_CONTAINS(
      messageOf(parseManifest(replaced(R"("block":[32,1,1])", R"("block":[32,"1",1])"))),
      "functions[0].programs[0].kernels[0].block[1] expected an integer from 1 to 1024, got \"1\"");
  EXPECT_CONTAINS(messageOf(parseManifest(replaced(R"("slots":)", R"("slot":)"))),
                  "functions[0].programs[0] expected a member \"slots\", got none");
  EXPECT_CONTAINS(messageOf(parseManifest(replaced(R"("kind":"input")", R"("kind":"stdin")"))),
                  "expected \"input\", \"output\", \"constant\" or \"workspace\", got \"stdin\"");
  EXPECT_CONTAINS(messageOf(parseManifest(replaced(R"({"i64":-7})", R"({"i65":-7})"))),
                  "expected one of \"buffer\"");
  EXPECT_CONTAINS(messageOf(parseManifest("{")), "expected JSON, got a syntax error");
  EXPECT_CONTAINS(messageOf(parseManifest("[]")), "expected an object, got an array");
}

TEST(Manifest, hostile_json_is_refused) {
  EXPECT_CONTAINS(messageOf(parseManifest(std::string(1000000, '['))), "nested JSON brackets");
  EXPECT_CONTAINS(
      messageOf(parseManifest(R"({"format":1,"format":1,"producer":"","functions":[]})")),
      "expected every JSON key once, got 1 duplicate(s)");
  EXPECT_CONTAINS(messageOf(parseManifest("{\"format\":1,\"producer\":\"\xff\",\"functions\":[]}")),
                  "syntax error");
  // Brackets and colons inside of strings do not count.
  EXPECT_EQ(messageOf(parseManifest(R"({"format":1,"producer":":[[\"[:","functions":[]})")), "");
}

namespace {
struct Rule {
  const char *name;
  std::function<void(Function &, Program &)> breakIt;
  const char *message;
};
class ManifestRules : public testing::TestWithParam<Rule> {};
} // namespace

TEST_P(ManifestRules, is_enforced) {
  Manifest manifest = makeManifest();
  GetParam().breakIt(manifest.functions[0], manifest.functions[0].programs[0]);
  EXPECT_CONTAINS(messageOf(validate(manifest)), GetParam().message);
  // And just so when it comes from a file.
  EXPECT_NE(messageOf(parseManifest(text(manifest))), "");
}

static const Rule rules[] = {
    {"target", [](Function &, Program &p) { p.target = "gfx90"; }, "expected a chip like 'sm_80'"},
    {"two_programs_alike", [](Function &f, Program &p) { f.programs.push_back(Program(p)); },
     "one program a target, got 'sm_80' twice"},
    {"function_name", [](Function &f, Program &) { f.name = ""; }, "each function named once"},
    {"symbol_twice", [](Function &f, Program &) { f.symbols = {"M", "M"}; }, "'M' twice"},
    {"symbol_unbound", [](Function &f, Program &) { f.symbols = {"M", "Z"}; },
     "every symbol in the shape of some input, got 'Z' in none"},
    {"input_symbol", [](Function &f, Program &) { f.inputs[0].shape[1] = std::string("Q"); },
     "a symbol of the function ('M'), got 'Q'"},
    {"output_symbol", [](Function &f, Program &) { f.outputs[0].shape[1] = std::string("Q"); },
     "output 0 expected a symbol"},
    {"rank", [](Function &f, Program &) { f.outputs[0].shape.resize(9, 1); },
     "rank at most 8, got 9"},
    {"negative_extent", [](Function &f, Program &) { f.inputs[0].shape[1] = -1; },
     "extents of at least 0, got -1"},
    {"alignment", [](Function &f, Program &) { f.inputs[0].align.pointer = 24; },
     "a power of two as pointer alignment"},
    {"stride_alignment", [](Function &f, Program &) { f.inputs[0].align.stride = 0; },
     "positive stride multiple"},
    {"buffer_input", [](Function &, Program &p) { p.buffers[0].index = 1; },
     "buffer 0 expected an input index below 1, got 1"},
    {"buffer_output", [](Function &, Program &p) { p.buffers[3].index = -1; },
     "an output index below 1, got -1"},
    {"buffer_slot", [](Function &, Program &p) { p.buffers[2].slot = 7; },
     "a slot index below 1, got 7"},
    {"buffer_symbol", [](Function &, Program &p) { p.buffers[2].shape[0] = std::string("Q"); },
     "buffer 2 expected a symbol"},
    {"buffer_tensor", [](Function &, Program &p) { p.buffers[1].tensor = ""; }, "a tensor's name"},
    {"slot_symbol", [](Function &, Program &p) { p.slots[0].sizes[0].symbol = "Q"; },
     "slot 0 expected a symbol"},
    {"kernel_twice", [](Function &, Program &p) { p.kernels[1].name = "k0"; },
     "each name once, got 'k0' twice"},
    {"kernel_unnamed", [](Function &, Program &p) { p.kernels[1].name = ""; }, "a name for each"},
    {"block_large", [](Function &, Program &p) { p.kernels[0].block = {1024, 2, 1}; },
     "at most 1024 threads in a block, got 2048"},
    {"block_zero", [](Function &, Program &p) { p.kernels[0].block = {0, 1, 1}; },
     "block extents from 1 to 1024, got 0"},
    {"shared", [](Function &, Program &p) { p.kernels[0].shared = 300000; },
     "0 to 232448 bytes of shared memory, got 300000"},
    {"grid_symbol", [](Function &, Program &p) { p.kernels[0].grid[0].symbol = "Q"; },
     "kernel 'k0' grid expected a symbol"},
    {"grid_per", [](Function &, Program &p) { p.kernels[0].grid[0].per = 0; },
     "per and mul of at least 1, got 0"},
    {"step_symbol", [](Function &, Program &p) { p.steps[1].symbol = "Q"; },
     "step 1 ('sf.matmul 16x16 f32 2:4') expected a symbol"},
    {"no_variant", [](Function &, Program &p) { p.steps[0].variants.clear(); },
     "at least one variant, got none"},
    {"many_variants_without_symbol", [](Function &, Program &p) { p.steps[1].symbol = ""; },
     "one variant, having no symbol to choose by, got 2"},
    {"last_variant_limited", [](Function &, Program &p) { p.steps[1].variants[1].max = 128; },
     "a max in every variant but the last, got one in the last"},
    {"variant_unlimited", [](Function &, Program &p) { p.steps[1].variants[0].max = std::nullopt; },
     "got none in variant 0"},
    {"variants_unordered",
     [](Function &, Program &p) {
       auto &v = p.steps[1].variants;
       v.insert(v.begin() + 1, v[0]);
     },
     "ascending max, got 64 in variant 1"},
    {"no_launch", [](Function &, Program &p) { p.steps[0].variants[0].launches.clear(); },
     "at least one launch in variant 0"},
    {"launch_kernel",
     [](Function &, Program &p) { p.steps[0].variants[0].launches[0].kernel = "k9"; },
     "a kernel of the program, got 'k9'"},
    {"launch_buffer",
     [](Function &, Program &p) { p.steps[0].variants[0].launches[0].args[0].value = 4; },
     "a buffer index below 4, got 4"},
    {"launch_dim",
     [](Function &, Program &p) { p.steps[0].variants[0].launches[0].args[3].symbol = "Q"; },
     "a symbol of the function ('M'), got 'Q'"},
    {"launch_arguments",
     [](Function &, Program &p) {
       p.steps[0].variants[0].launches[0].args.resize(65, Argument::i32(0));
     },
     "at most 64 kernel arguments, got 65"},
};

INSTANTIATE_TEST_SUITE_P(Manifest, ManifestRules, testing::ValuesIn(rules),
                         [](const auto &info) { return info.param.name; });
