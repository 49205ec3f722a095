#pragma once
// The instruction set of tensor operations. It decides the last bits of results and the speed, so
// the program chooses it, not the environment.

#include <string>

namespace espalier {

/// "avx512" or "avx2": the best of this machine.
std::string best_isa();
/// Sets the instruction set. Call it before the first tensor. InputError if the machine lacks it.
void apply_isa(const std::string& isa);

}  // namespace espalier
