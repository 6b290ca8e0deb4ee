# The lit suite: every test runs the built tools on a file next to it and checks what they print.
# Folders mirror lib/ and tools/. Features say what this machine can do (ptxas, a GPU).
import os
import shutil

import lit.formats
from lit.llvm import llvm_config
from lit.llvm.subst import ToolSubst

config.name = "SparseFlow"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir", ".test", ".td"]
config.excludes = ["Inputs", "unittests", "python", "gpu", "CMakeLists.txt"]
config.test_source_root = os.path.dirname(__file__)
config.test_exec_root = os.path.join(config.sparseflow_obj_root, "test")

llvm_config.with_system_environment(
    ["HOME", "TMP", "TEMP", "CUDA_HOME", "SPARSEFLOW_PTXAS", "ASAN_OPTIONS", "UBSAN_OPTIONS"])
llvm_config.use_default_substitutions()

# A test must never be answered from, or leave anything in, the user's cache or temporary folder.
config.environment["SPARSEFLOW_CACHE_DIR"] = os.path.join(config.test_exec_root, "cache")
config.environment["TMPDIR"] = os.path.join(config.test_exec_root, "tmp")
os.makedirs(config.environment["TMPDIR"], exist_ok=True)

tools = [config.sparseflow_tools_dir, config.llvm_tools_dir]
llvm_config.add_tool_substitutions(
    [
        ToolSubst("sparseflow-opt"),
        ToolSubst("sparseflow-compile", unresolved="ignore"),
        ToolSubst("sparseflow-run", unresolved="ignore"),
    ],
    tools)
for directory in (config.llvm_tools_dir, config.sparseflow_tools_dir):
    llvm_config.with_environment("PATH", directory, append_path=True)
config.substitutions.append(("%python", config.python_executable))
config.substitutions.append(("%source_root", config.sparseflow_src_root))
config.substitutions.append(("%docs_build", config.sparseflow_docs_dir))


def find_ptxas():
    candidates = [os.environ.get("SPARSEFLOW_PTXAS")]
    if os.environ.get("CUDA_HOME"):
        candidates.append(os.path.join(os.environ["CUDA_HOME"], "bin", "ptxas"))
    candidates.append(shutil.which("ptxas"))
    candidates.append("/usr/local/cuda/bin/ptxas")
    return next((path for path in candidates if path and os.access(path, os.X_OK)), None)


ptxas = find_ptxas()
if ptxas:
    config.available_features.add("ptxas")
    config.environment["SPARSEFLOW_PTXAS"] = ptxas
