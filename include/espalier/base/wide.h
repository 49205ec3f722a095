#pragma once
// ESPALIER_WIDE before a function: it is compiled twice, and uses the processor's wider registers
// if there are any. AVX2 alone has no fused multiply-add, so the values are the same either way.
// ESPALIER_WIDE_FMA is for functions that call std::fma, ESPALIER_WIDEST for loops that compute far
// more than they move (products and sums are never contracted: see CMakeLists).
// Sanitizers do not support the dispatch.

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__SANITIZE_ADDRESS__)
#define ESPALIER_WIDE __attribute__((target_clones("avx2", "default")))
#define ESPALIER_WIDE_FMA __attribute__((target_clones("fma", "default")))
#define ESPALIER_WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define ESPALIER_WIDE
#define ESPALIER_WIDE_FMA
#define ESPALIER_WIDEST
#endif
