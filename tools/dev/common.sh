# Sourced by the scripts beside it: places, progress and the steps that several of them share.
#
# Everything is made below build/, so removing that folder undoes it all; only Debian packages are installed elsewhere.
# A step logs to build/logs/NAME.log; a terminal sees its latest line, a pipe sees one line when it ends.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$root/build
venv=$build/venv
stamps=$build/stamps
logs=$build/logs
mkdir -p "$stamps" "$logs"

say() { printf '%s\n' "$*"; }
die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# step NAME TITLE COMMAND...: runs a command under its log.
step() {
  local name=$1 title=$2 log=$logs/$1.log begin=$SECONDS rc=0
  shift 2
  if [ -t 1 ]; then
    "$@" </dev/null 2>&1 | tee "$log" | while IFS= read -r line; do
      printf '\r\033[K%s: %.*s' "$title" $((${COLUMNS:-100} - ${#title} - 3)) "$line"
    done || rc=$?
    printf '\r\033[K'
  else
    "$@" </dev/null >"$log" 2>&1 || rc=$?
  fi
  if [ $rc -ne 0 ]; then
    tail -n 40 "$log" >&2
    die "$title: failed with exit code $rc; the whole log is build/logs/$name.log"
  fi
  say "$title: done in $((SECONDS - begin)) s"
}

# unchanged NAME TEXT: whether the step's stamp holds this text already. stamp NAME TEXT records it.
unchanged() { [ -f "$stamps/$1" ] && [ "$(cat "$stamps/$1")" = "$2" ]; }
stamp() { printf '%s\n' "$2" >"$stamps/$1"; }

# The venv's Python and ptxas in front, as after `source build/venv/bin/activate`.
activate() { export VIRTUAL_ENV=$venv PATH="$venv/bin:$PATH"; }

# One compile may take 1.5 GB (MLIR's headers), so a machine short of memory runs fewer than it has cores.
jobs() {
  local cores memory
  cores=$(nproc)
  memory=$(awk '/MemAvailable/ {print int($2 / 1572864)}' /proc/meminfo)
  [ "$memory" -ge 1 ] || memory=1
  echo $((cores < memory ? cores : memory))
}

# The compiler that Debian's MLIR was built with, or what CC and CXX name.
configure_build() {
  local cc=${CC:-} cxx=${CXX:-}
  if [ -z "$cc" ] && command -v clang-22 >/dev/null; then cc=clang-22; fi
  if [ -z "$cxx" ] && command -v clang++-22 >/dev/null; then cxx=clang++-22; fi
  cmake -G Ninja -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release \
    ${cc:+-DCMAKE_C_COMPILER="$cc"} ${cxx:+-DCMAKE_CXX_COMPILER="$cxx"} -DPython3_EXECUTABLE="$venv/bin/python"
}

# build_all [TARGET...]: builds these targets (default: everything), then the wheel over the library and the tools, which
# is installed into the venv.
build_all() {
  [ -f "$build/build.ninja" ] || step configure "Configure" configure_build
  step build "Build" ninja -C "$build" -j "$(jobs)" "$@"
  local content
  content=$(cd "$root" && sha256sum build/lib/libsparseflow.so build/bin/sparseflow-* include/sparseflow-c/*.h \
    pyproject.toml LICENSE README.md $(find python -type f -not -name '*.pyc' -not -path '*/.*' | LC_ALL=C sort) | sha256sum)
  if ! unchanged wheel "$content"; then
    rm -rf "$build/dist"
    step wheel "Wheel" "$venv/bin/pip" wheel "$root" --no-deps --no-build-isolation -w "$build/dist" \
      -C cmake.define.SPARSEFLOW_PREBUILT="$build"
    step wheel-install "Install the wheel" "$venv/bin/pip" install --force-reinstall --no-deps "$build"/dist/*.whl
    stamp wheel "$content"
  fi
}
