# The project's own rules: how a library, a dialect's generated code, a program and a unit test are declared.

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # The sloppiness that ccache needs to see through a precompiled header.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${CCACHE_PROGRAM})
endif()

add_library(sparseflow_options INTERFACE)
target_compile_options(sparseflow_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wno-unused-parameter;-ffunction-sections;-fdata-sections>)
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  target_compile_options(sparseflow_options INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-Xclang -fno-pch-timestamp>")
endif()
# LLVM's own libraries stay as they are, so that the tests want ASAN_OPTIONS=detect_container_overflow=0:allow_user_poisoning=0.
if(SPARSEFLOW_SANITIZE)
  target_compile_options(sparseflow_options INTERFACE -fsanitize=${SPARSEFLOW_SANITIZE} -fno-omit-frame-pointer -g1)
  # Generated code that is called carries no type to compare.
  target_compile_options(sparseflow_options INTERFACE "$<$<COMPILE_LANG_AND_ID:CXX,Clang>:-fno-sanitize=function>")
  target_link_options(sparseflow_options INTERFACE -fsanitize=${SPARSEFLOW_SANITIZE})
endif()
target_link_options(sparseflow_options INTERFACE -fuse-ld=lld -Wl,--gc-sections,--icf=all,--as-needed)

# MLIR's headers cost 10 to 20 seconds a file; precompiled once, a file costs about two.
add_library(sparseflow_pch OBJECT "${PROJECT_SOURCE_DIR}/cmake/modules/PrecompiledHeaders.cpp")
target_precompile_headers(sparseflow_pch PRIVATE "${PROJECT_SOURCE_DIR}/cmake/modules/PrecompiledHeaders.h")
target_link_libraries(sparseflow_pch PRIVATE sparseflow_options)

# add_sparseflow_library(NAME sources... DEPENDS tablegen-targets... LINK libraries...)
# A static archive. NO_PCH is for code that uses no MLIR.
function(add_sparseflow_library name)
  cmake_parse_arguments(ARG "NO_PCH" "" "DEPENDS;LINK" ${ARGN})
  add_library(${name} STATIC ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE sparseflow_options PUBLIC ${ARG_LINK})
  if(NOT ARG_NO_PCH)
    target_precompile_headers(${name} REUSE_FROM sparseflow_pch)
    add_dependencies(${name} sparseflow-headers)
  endif()
  if(ARG_DEPENDS)
    add_dependencies(${name} ${ARG_DEPENDS})
  endif()
endfunction()

# add_sparseflow_unittest(NAME sources... LINK libraries...): a GoogleTest program, run by ctest.
function(add_sparseflow_unittest name)
  cmake_parse_arguments(ARG "NO_PCH" "" "LINK" ${ARGN})
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE sparseflow_options ${ARG_LINK} GTest::gtest GTest::gtest_main)
  if(NOT ARG_NO_PCH)
    target_precompile_headers(${name} REUSE_FROM sparseflow_pch)
    # The header was built with -fPIC; a program's -fPIE would not match it.
    set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(${name} PRIVATE -fPIC)
  endif()
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/unittests")
  add_test(NAME ${name} COMMAND ${name})
endfunction()

# add_sparseflow_tool(NAME sources...): a program over libsparseflow.so, which it finds beside itself in ../lib.
function(add_sparseflow_tool name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE sparseflow_options sparseflow)
  set_target_properties(${name} PROPERTIES BUILD_WITH_INSTALL_RPATH ON INSTALL_RPATH "$ORIGIN/../lib")
endfunction()
