# LibTorch's own CMake package requires a CUDA toolkit if the wheel was built with one, and finds Debian's
# libtorch-dev if both are installed. Espalier needs only two libraries and one include folder. This module looks for
# them in this order: Torch_DIR or CMAKE_PREFIX_PATH; the `torch` of the active Python; .venv.
# A LibTorch that is too old, or was built with the C++ ABI from before 2015 (the wheels up to 2.5), cannot be
# linked with the distribution's libraries. The module rejects it and prints the reason.
set(_roots "")
if(Torch_DIR)
  get_filename_component(_root "${Torch_DIR}/../../.." ABSOLUTE)  # .../share/cmake/Torch
  list(APPEND _roots "${_root}" "${Torch_DIR}")
endif()
set(_prefixes ${CMAKE_PREFIX_PATH} "$ENV{CMAKE_PREFIX_PATH}")
string(REPLACE ":" ";" _prefixes "${_prefixes}")
foreach(_prefix IN LISTS _prefixes)
  get_filename_component(_root "${_prefix}/../.." ABSOLUTE)  # torch.utils.cmake_prefix_path is .../share/cmake
  list(APPEND _roots "${_prefix}" "${_root}")
endforeach()
set(_active python3 -c)
set(_own "${PROJECT_SOURCE_DIR}/.venv/bin/python3" -I -c)  # -I ignores PYTHONPATH, which belongs to the active Python
foreach(_python IN ITEMS _active _own)
  execute_process(
    COMMAND ${${_python}}
            "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
    OUTPUT_VARIABLE _root OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(_root)
    list(APPEND _roots "${_root}")
  endif()
endforeach()
list(REMOVE_DUPLICATES _roots)

unset(EspalierTorch_ROOT_DIR)
unset(EspalierTorch_VERSION)
foreach(_root IN LISTS _roots)
  if(NOT EXISTS "${_root}/include/ATen/ATen.h" OR NOT EXISTS "${_root}/lib/libtorch_cpu.so")
    continue()
  endif()
  set(_version "")
  foreach(_header IN ITEMS headeronly/version.h csrc/api/include/torch/version.h)
    if(NOT _version AND EXISTS "${_root}/include/torch/${_header}")
      file(STRINGS "${_root}/include/torch/${_header}" _lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
      string(REGEX MATCHALL "[0-9]+" _numbers "${_lines}")
      list(JOIN _numbers "." _version)
    endif()
  endforeach()
  if(NOT _version OR _version VERSION_LESS "${EspalierTorch_FIND_VERSION}")
    message(STATUS "LibTorch ${_version} in ${_root} rejected: older than ${EspalierTorch_FIND_VERSION}")
    continue()
  endif()
  set(_config "${_root}/share/cmake/Torch/TorchConfig.cmake")
  set(_old_abi "")
  if(EXISTS "${_config}")
    file(STRINGS "${_config}" _old_abi REGEX "_GLIBCXX_USE_CXX11_ABI=0")
  endif()
  if(_old_abi)
    message(STATUS "LibTorch ${_version} in ${_root} rejected: built with the old C++ ABI")
    continue()
  endif()
  set(EspalierTorch_ROOT_DIR "${_root}")
  set(EspalierTorch_VERSION "${_version}")
  break()
endforeach()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  EspalierTorch REQUIRED_VARS EspalierTorch_ROOT_DIR VERSION_VAR EspalierTorch_VERSION
  REASON_FAILURE_MESSAGE "no LibTorch found: run tools/setup.sh, or give -DCMAKE_PREFIX_PATH=<folder of torch>")
if(EspalierTorch_FOUND AND NOT TARGET Espalier::torch)
  set(_lib "${EspalierTorch_ROOT_DIR}/lib")
  add_library(Espalier::torch INTERFACE IMPORTED)
  target_include_directories(
    Espalier::torch SYSTEM INTERFACE "${EspalierTorch_ROOT_DIR}/include"
                                     "${EspalierTorch_ROOT_DIR}/include/torch/csrc/api/include")
  target_link_libraries(Espalier::torch INTERFACE "${_lib}/libtorch_cpu.so" "${_lib}/libc10.so")
  # A wheel built with CUDA needs two NVIDIA libraries to load even on a machine without a GPU.
  file(GLOB _cuda "${EspalierTorch_ROOT_DIR}/../nvidia/*/lib")
  target_link_options(Espalier::torch INTERFACE "-Wl,-rpath,${_lib}" "-Wl,--allow-shlib-undefined")
  foreach(_folder IN LISTS _cuda)
    target_link_options(Espalier::torch INTERFACE "-Wl,-rpath,${_folder}" "-Wl,-rpath-link,${_folder}")
  endforeach()
endif()
