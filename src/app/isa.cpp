#include "espalier/app/isa.h"

#include <cstdlib>

#include "espalier/base/error.h"

namespace espalier {

std::string best_isa() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
             ? "avx512"
             : "avx2";
}

void apply_isa(const std::string& isa) {
  const bool wide = isa == "avx512";
  if (!__builtin_cpu_supports("avx2") || (wide && best_isa() != "avx512")) {
    throw InputError(formatted("this machine has no {}; set run.isa = {}", isa, best_isa()));
  }
  setenv("ATEN_CPU_CAPABILITY", wide ? "avx512" : "avx2", 1);
  setenv("ONEDNN_MAX_CPU_ISA", wide ? "AVX512_CORE" : "AVX2", 1);
  setenv("MKL_ENABLE_INSTRUCTIONS", wide ? "AVX512" : "AVX2", 1);
  // It comes before MKL_ENABLE_INSTRUCTIONS, and would choose other code.
  unsetenv("MKL_CBWR");
}

}  // namespace espalier
