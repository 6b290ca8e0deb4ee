# Finds MLIR 22 and makes it linkable statically.
#
# Debian's MLIR archives name the LLVM dylib as a dependency. Linking both the archives and the dylib would put two
# copies of LLVM (and of its global registries) into one process, so every imported target's interface is rewritten
# once, here, to one interface target that holds the static LLVM components.

if(DEFINED ENV{MLIR_DIR} AND NOT MLIR_DIR)
  set(MLIR_DIR "$ENV{MLIR_DIR}")
endif()
find_package(MLIR 22.1 CONFIG QUIET HINTS "${MLIR_DIR}" PATHS /usr/lib/llvm-22/lib/cmake/mlir)
if(NOT MLIR_FOUND)
  message(FATAL_ERROR "MLIR 22.1 was not found. Install libmlir-22-dev and llvm-22-dev (tools/dev/setup does so on "
    "Debian), or set MLIR_DIR to the folder that holds MLIRConfig.cmake.")
endif()
message(STATUS "MLIR ${LLVM_PACKAGE_VERSION}: ${MLIR_DIR}")

list(APPEND CMAKE_MODULE_PATH "${MLIR_CMAKE_DIR}" "${LLVM_CMAKE_DIR}")
include(TableGen)
include(AddLLVM)
include(AddMLIR)

separate_arguments(SPARSEFLOW_LLVM_DEFINITIONS UNIX_COMMAND "${LLVM_DEFINITIONS}")
add_definitions(${SPARSEFLOW_LLVM_DEFINITIONS})
include_directories(SYSTEM ${LLVM_INCLUDE_DIRS} ${MLIR_INCLUDE_DIRS})

llvm_map_components_to_libnames(SPARSEFLOW_LLVM_COMPONENTS
  core support irreader asmparser bitwriter bitreader linker passes ipo orcjit jitlink executionengine
  nvptxcodegen nvptxdesc nvptxinfo x86codegen x86desc x86info x86asmparser frontendopenmp targetparser)

add_library(sparseflow_llvm_static INTERFACE)
target_link_libraries(sparseflow_llvm_static INTERFACE ${SPARSEFLOW_LLVM_COMPONENTS})

foreach(target IN LISTS MLIR_EXPORTED_TARGETS)
  if(NOT TARGET ${target})
    continue()
  endif()
  get_target_property(links ${target} INTERFACE_LINK_LIBRARIES)
  if(links)
    list(TRANSFORM links REPLACE "^(LLVM|MLIR|\\$<LINK_ONLY:LLVM>|\\$<LINK_ONLY:MLIR>)$" "sparseflow_llvm_static")
    list(REMOVE_DUPLICATES links)
    set_target_properties(${target} PROPERTIES INTERFACE_LINK_LIBRARIES "${links}")
  endif()
endforeach()
