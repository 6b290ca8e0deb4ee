// Deterministic mutation fuzzing of everything that reads files: each case must end in success or
// in an error, under sanitizers too (tools/dev/fuzz runs millions; here a few thousand). What is
// accepted is loaded and run on a device that does not compute, since a manifest that passes the
// checks must not be able to break the executor.
#include "TestProgram.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/FormatVariadic.h"
#include <cstdlib>
#include <random>

using namespace llvm;
using namespace sparseflow::runtime;

static uint64_t caseCount() {
  const char *count = std::getenv("SPARSEFLOW_FUZZ_CASES");
  return count ? std::strtoull(count, nullptr, 10) : 4000;
}

namespace {
class Mutator {
public:
  explicit Mutator(uint64_t seed) : random(seed) {}

  std::string mutate(std::string text) {
    for (size_t n = 1 + below(4); n > 0; --n)
      mutateOnce(text);
    return text;
  }
  size_t below(size_t limit) { return limit ? random() % limit : 0; }

private:
  /// Values at the edges of what is checked, and pieces of the formats.
  void mutateOnce(std::string &text) {
    static const char *const tokens[] = {"0",
                                         "-1",
                                         "1",
                                         "2147483647",
                                         "2147483648",
                                         "4294967296",
                                         "9223372036854775807",
                                         "18446744073709551615",
                                         "-9223372036854775808",
                                         "281474976710656",
                                         "1e308",
                                         "0.5",
                                         "null",
                                         "true",
                                         "[]",
                                         "{}",
                                         "\"M\"",
                                         "\"\"",
                                         "\"k0\"",
                                         "[",
                                         "]",
                                         "{",
                                         "}",
                                         ":",
                                         ",",
                                         "\"",
                                         "\\",
                                         "\"max\":0",
                                         "\"symbol\":null",
                                         "\"F16\"",
                                         "\"dtype\"",
                                         "\"data_offsets\""};
    size_t at = below(text.size());
    switch (below(8)) {
    case 0: // a bit
      if (!text.empty())
        text[at] ^= char(1u << below(8));
      break;
    case 1: // a byte
      if (!text.empty())
        text[at] = char(random());
      break;
    case 2: // cut off
      text.resize(at);
      break;
    case 3: // a piece removed
      text.erase(at, below(32));
      break;
    case 4: // a piece repeated
      text.insert(below(text.size()), text.substr(at, below(64)));
      break;
    case 5: // a token put in
      text.insert(at, tokens[below(std::size(tokens))]);
      break;
    default: // a number or word replaced, which keeps the rest well formed
      replaceWord(text, at, tokens[below(16)]);
      break;
    }
  }

  static void replaceWord(std::string &text, size_t at, const char *token) {
    auto isWord = [](char c) {
      return isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '.';
    };
    while (at < text.size() && !isWord(text[at]))
      ++at;
    size_t end = at;
    while (end < text.size() && isWord(text[end]))
      ++end;
    text.replace(std::min(at, text.size()), end - at, token);
  }

  std::mt19937_64 random;
};
} // namespace

static std::string sampleFile() {
  std::string bytes;
  raw_string_ostream os(bytes);
  cantFail(makeProgram()->write(os));
  return bytes;
}

/// Everything that a holder of an accepted program can ask of it without kernels.
static void exercise(const ProgramFile::Ptr &file) {
  auto device = std::make_shared<TestDevice>();
  device->compute = false;
  device->memoryLimit = 1 << 20;
  Expected<std::unique_ptr<Executable>> executable = Executable::create(file, device);
  if (!executable)
    return consumeError(executable.takeError());
  std::vector<float> memory(4096);
  for (size_t f = 0; f < file->manifest().functions.size(); ++f) {
    const Function &function = file->manifest().functions[f];
    for (int64_t tokens : {int64_t(0), int64_t(1), int64_t(65), int64_t(1) << 39}) {
      std::vector<int64_t> symbols(function.symbols.size(), tokens);
      consumeError((*executable)->workspaceBytes(f, symbols).takeError());
      consumeError((*executable)->warmUp(f, symbols));
      consumeError((*executable)->report(f, ArrayRef<int64_t>(symbols)).takeError());
      std::vector<std::vector<int64_t>> shapes;
      std::vector<TensorRef> tensors;
      for (const std::vector<TensorSpec> *specs : {&function.inputs, &function.outputs})
        for (const TensorSpec &spec : *specs) {
          shapes.emplace_back();
          for (const Dimension &dim : spec.shape)
            shapes.back().push_back(dim.isSymbol() ? tokens : dim.size);
          tensors.push_back({memory.data(), spec.dtype, {}, {}});
        }
      for (size_t i = 0; i < tensors.size(); ++i)
        tensors[i].shape = shapes[i];
      ArrayRef<TensorRef> all = tensors;
      consumeError((*executable)
                       ->run(f, all.take_front(function.inputs.size()),
                             all.drop_front(function.inputs.size()), {}));
    }
  }
}

TEST(Fuzz, files) {
  std::string sample = sampleFile();
  Mutator mutator(1);
  for (uint64_t i = 0; i < caseCount(); ++i) {
    std::string bytes = mutator.mutate(sample);
    Expected<ProgramFile::Ptr> file =
        ProgramFile::fromMemory(arrayRefFromStringRef(bytes), mutator.below(2));
    if (file)
      exercise(*file);
    else
      EXPECT_FALSE(toString(file.takeError()).empty());
  }
}

TEST(Fuzz, headers_with_a_right_length) {
  std::string sample = sampleFile();
  size_t headerBytes = support::endian::read64le(sample.data());
  std::string header = sample.substr(8, headerBytes), data = sample.substr(8 + headerBytes);
  Mutator mutator(2);
  for (uint64_t i = 0; i < caseCount(); ++i) {
    std::string mutated = mutator.mutate(header);
    std::string bytes(8, '\0');
    support::endian::write64le(bytes.data(), mutated.size());
    bytes += mutated + data;
    Expected<SafeTensors> file = SafeTensors::fromMemory(arrayRefFromStringRef(bytes), "fuzz");
    if (!file) {
      consumeError(file.takeError());
      continue;
    }
    uint64_t sum = 0;
    for (const StoredTensor &tensor : file->tensors())
      sum += tensor.data.size();
    EXPECT_EQ(sum, data.size());
  }
}

TEST(Fuzz, manifests) {
  std::string samples[] = {formatv("{0}", toJSON(makeManifest())),
                           formatv("{0}", toJSON(makeMapManifest())),
                           formatv("{0}", toJSON(makeMatmulManifest("sm_90a")))};
  std::vector<StoredTensor> allTensors[] = {makeTensors(), makeMapTensors(), makeMatmulTensors()};
  Mutator mutator(3);
  uint64_t accepted = 0;
  for (uint64_t i = 0; i < caseCount(); ++i) {
    Expected<Manifest> manifest = parseManifest(mutator.mutate(samples[i % 3]));
    if (!manifest) {
      consumeError(manifest.takeError());
      continue;
    }
    Expected<ProgramFile::Ptr> file = ProgramFile::create(std::move(*manifest), allTensors[i % 3]);
    if (!file) {
      consumeError(file.takeError());
      continue;
    }
    ++accepted;
    exercise(*file);
  }
  EXPECT_GT(accepted, caseCount() / 100) << "the mutations no longer reach the executor";
}
