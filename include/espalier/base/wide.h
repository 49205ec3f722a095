#pragma once
// ESPALIER_WIDE before a function: compiled twice, and the processor's wider registers are used
// where it has them. AVX2 alone brings no fused multiply-add, so the values are the same either
// way. Sanitizers do not support the dispatch.

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__SANITIZE_ADDRESS__)
#define ESPALIER_WIDE __attribute__((target_clones("avx2", "default")))
#else
#define ESPALIER_WIDE
#endif
