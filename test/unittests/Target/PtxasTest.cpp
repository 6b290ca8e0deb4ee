//===- PtxasTest.cpp - What ptxas prints, read back -----------------------===//
//
// The texts are ptxas's own, so that a change of its format is seen here and not as zero registers.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Target/Ptxas.h"
#include "sparseflow/Target/CodeGen.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"
#include "gtest/gtest.h"
#include <cstdlib>
#include <map>

using namespace sparseflow::target;

TEST(PtxasOutput, kernels_and_their_resources) {
  PtxasReport report = parsePtxasOutput(
      "ptxas info    : 0 bytes gmem, 16 bytes cmem[4]\n"
      "ptxas info    : Compiling entry function 'gemm' for 'sm_80'\n"
      "ptxas info    : Function properties for gemm\n"
      "    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n"
      "ptxas info    : Used 168 registers, used 2 barriers, 49152 bytes smem, 400 bytes cmem[0], "
      "8 bytes cmem[2]\n"
      "ptxas info    : Compiling entry function 'quantize' for 'sm_80'\n"
      "ptxas info    : Function properties for quantize\n"
      "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
      "ptxas info    : Used 32 registers, 380 bytes cmem[0]\n");
  ASSERT_EQ(report.kernels.size(), 2u);
  const KernelResources *gemm = report.find("gemm");
  ASSERT_TRUE(gemm);
  EXPECT_EQ(gemm->registers, 168u);
  EXPECT_EQ(gemm->stackBytes, 8u);
  EXPECT_EQ(gemm->spillStores, 4u);
  EXPECT_EQ(gemm->spillLoads, 12u);
  EXPECT_EQ(gemm->sharedBytes, 49152u);
  EXPECT_EQ(gemm->constantBytes, 408u);
  EXPECT_EQ(gemm->barriers, 2u);
  const KernelResources *quantize = report.find("quantize");
  ASSERT_TRUE(quantize);
  EXPECT_EQ(quantize->registers, 32u);
  EXPECT_EQ(quantize->spillStores + quantize->spillLoads, 0u);
  EXPECT_EQ(quantize->barriers, 0u);
  EXPECT_EQ(report.find("other"), nullptr);
  EXPECT_TRUE(report.errors.empty());
  EXPECT_TRUE(report.warnings.empty());
  EXPECT_EQ(report.serialization, "");
}

TEST(PtxasOutput, device_functions_are_not_taken_for_kernels) {
  PtxasReport report =
      parsePtxasOutput("ptxas info    : Compiling entry function 'k' for 'sm_80'\n"
                       "ptxas info    : Function properties for k\n"
                       "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
                       "ptxas info    : Used 40 registers, 360 bytes cmem[0]\n"
                       "ptxas info    : Function properties for helper\n"
                       "    64 bytes stack frame, 60 bytes spill stores, 60 bytes spill loads\n");
  ASSERT_EQ(report.kernels.size(), 1u);
  EXPECT_EQ(report.kernels[0].stackBytes, 0u);
}

TEST(PtxasOutput, errors_warnings_and_serialized_wgmma) {
  PtxasReport report = parsePtxasOutput(
      "ptxas /tmp/a; b/kernel.ptx, line 12; error   : Unknown modifier '.foo'\n"
      "ptxas fatal   : Ptx assembly aborted due to errors\n"
      "ptxas warning : Value of threads per SM is out of range\n"
      "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are "
      "serialized due to non wgmma instructions defining accumulator registers of a wgmma\n");
  ASSERT_EQ(report.errors.size(), 2u);
  EXPECT_EQ(report.errors[0], "line 12: Unknown modifier '.foo'");
  EXPECT_EQ(report.errors[1], "Ptx assembly aborted due to errors");
  EXPECT_EQ(report.warnings.size(), 2u);
  EXPECT_EQ(report.serialization, report.warnings[1]);
}

TEST(PtxasOutput, nothing_and_noise) {
  EXPECT_TRUE(parsePtxasOutput("").kernels.empty());
  EXPECT_TRUE(parsePtxasOutput("Segmentation fault\nUsed registers\n : \n").kernels.empty());
  PtxasReport report = parsePtxasOutput(
      "ptxas info    : Compiling entry function 'k' for 'sm_80'\nptxas info    : Used registers\n");
  ASSERT_EQ(report.kernels.size(), 1u);
  EXPECT_EQ(report.kernels[0].registers, 0u);
}

TEST(PtxasOutput, version) {
  EXPECT_EQ(parsePtxasVersion("Cuda compilation tools, release 13.0, V13.0.88\nBuild cuda_13.0\n"),
            "13.0.88");
  EXPECT_EQ(parsePtxasVersion("clang version 22.1.8"), "");
}

TEST(PTX, sparse_instructions_are_counted) {
  EXPECT_EQ(countSparseMma("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col x;\n"
                           "mma.sync.aligned.m16n8k16.row.col.f32 y;\n"
                           "wgmma.mma_async.sp.sync.aligned.m64n128k32.f32.f16.f16 z;\n"
                           "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 z;\n"),
            2u);
}

//===----------------------------------------------------------------------===//
// The search
//===----------------------------------------------------------------------===//

namespace {
/// Folders with programs that answer as ptxas does, and an environment that names none.
class PtxasSearchTest : public testing::Test {
protected:
  void SetUp() override {
    ASSERT_FALSE(llvm::sys::fs::createUniqueDirectory("sfptxas", root));
    for (const char *name : {"SPARSEFLOW_PTXAS", "CUDA_HOME", "CUDA_PATH", "PATH"}) {
      if (const char *value = std::getenv(name))
        environment[name] = value;
      unsetenv(name);
    }
  }
  void TearDown() override {
    for (const auto &[name, value] : environment)
      setenv(name.c_str(), value.c_str(), /*overwrite=*/1);
    llvm::sys::fs::remove_directories(root);
  }

  std::string add(llvm::StringRef folder, llvm::StringRef version) {
    llvm::SmallString<128> path(root);
    llvm::sys::path::append(path, folder);
    EXPECT_FALSE(llvm::sys::fs::create_directories(path));
    llvm::sys::path::append(path, "ptxas");
    std::error_code error;
    llvm::raw_fd_ostream(path, error)
        << "#!/bin/sh\necho 'Cuda compilation tools, release, V" << version << "'\n";
    EXPECT_FALSE(llvm::sys::fs::setPermissions(path, llvm::sys::fs::all_all));
    return path.str().str();
  }

  llvm::SmallString<128> root;
  std::map<std::string, std::string> environment;
};
} // namespace

TEST_F(PtxasSearchTest, python_packages_come_after_the_toolkit) {
  std::vector<std::string> folders = {root.str().str()};
  std::string package = add("nvidia/cu13/bin", "13.0.88");
  EXPECT_EQ(llvm::cantFail(Ptxas::find({"", folders})).path(), package);
  std::string toolkit = add("cuda/bin", "12.9.86");
  setenv("CUDA_PATH", (root + "/cuda").str().c_str(), /*overwrite=*/1);
  EXPECT_EQ(llvm::cantFail(Ptxas::find({"", folders})).path(), toolkit);
}

TEST_F(PtxasSearchTest, what_a_chip_cannot_use_is_passed_over) {
  std::vector<std::string> folders = {root.str().str()};
  std::string package = add("nvidia/cuda_nvcc/bin", "12.9.86");
  add("cuda/bin", "12.8.93");
  setenv("CUDA_HOME", (root + "/cuda").str().c_str(), /*overwrite=*/1);
  EXPECT_EQ(llvm::cantFail(Ptxas::find({"", folders})).version(), "12.8.93");
  const Chip *chips[] = {llvm::cantFail(findChip("sm_80")), llvm::cantFail(findChip("sm_120"))};
  EXPECT_EQ(llvm::cantFail(Ptxas::find({"", folders, chips})).path(), package);
}
