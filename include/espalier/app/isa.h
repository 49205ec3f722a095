#pragma once
// The instruction set that tensors are computed with. It decides the last bits of results and the
// speed of everything, so it is chosen by the program and not by the environment.

#include <string>

namespace espalier {

/// "avx512" or "avx2": the best of this machine.
std::string best_isa();
/// Fixes the instruction set; before the first tensor. InputError where the machine has none such.
void apply_isa(const std::string& isa);

}  // namespace espalier
