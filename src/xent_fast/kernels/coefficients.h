/* Made by make_coefficients.py; do not edit.  Knows: numbers alone. */
/* clang-format off */
#ifndef XENT_FAST_COEFFICIENTS_H
#define XENT_FAST_COEFFICIENTS_H

#include <stdint.h>

static const float log2_e_f32 = 0x1.7154760000000p+0f;
static const float log2_e_low_f32 = 0x1.4ae0c00000000p-26f;
static const float log2_e_first_f32 = 0x1.7140000000000p+0f;
static const float log2_e_second_f32 = 0x1.4760000000000p-12f;
static const float log2_e_third_f32 = 0x1.4ae0c00000000p-26f;
static const float ln_2_f32 = 0x1.62e4300000000p-1f;
static const float ln_2_tail_f32 = -0x1.05c6100000000p-29f;
static const float ln_2_high_f32 = 0x1.62e0000000000p-1f;
static const float ln_2_low_f32 = 0x1.0bfbe80000000p-15f;
/* K 2^(j/8) 2^32 as bits, less j eighths of an exponent; off by at most 2^-28.25 but for a constant in K. */
static const uint32_t table_of_eighths_f32[8] = {0x4fc4e5beu, 0x4fc6b7dau, 0x4fca26deu, 0x4fcf5829u, 0x4fcb3a3eu, 0x4fc7d424u, 0x4fc59202u, 0x4fc48e45u};
static const double unit_of_eighths_f32 = 0x1.89cb7c0004fb1p+0; /* K */
/* 2^(f/8) - 1 over f; relative error of 2^(f/8) at most 2^-30.73 in exact arithmetic. */
static const float polynomial_of_eighths_f32[4] = {0x1.62e4300000000p-4f, 0x1.ebfbe00000000p-9f, 0x1.c6be500000000p-14f, 0x1.3b24580000000p-19f};
/* K 2^(j/2) 2^32 as bits, less j halves of an exponent; off by at most 2^-27.37 but for a constant in K. */
static const uint32_t table_of_halves_f32[1] = {0x4f9a827au};
static const double unit_of_halves_f32 = 0x1.3504f3dbf492ap+0; /* K */
/* 2^(f/2) - 1 over f; relative error of 2^(f/2) at most 2^-28.31 in exact arithmetic. */
static const float polynomial_of_halves_f32[5] = {0x1.62e4300000000p-2f, 0x1.ebfbb20000000p-5f, 0x1.c6b0f40000000p-8f, 0x1.3ba4a40000000p-11f, 0x1.5d27520000000p-15f};
/* Relative error at most 2^-34.77 in exact arithmetic. */
static const float atanh_polynomial_f32[4] = {0x1.5555540000000p-1f, 0x1.999be60000000p-2f, 0x1.23e9040000000p-2f, 0x1.eda3c40000000p-3f};

static const double log2_e_f64 = 0x1.71547652b82fep+0;
static const double log2_e_low_f64 = 0x1.777d0ffda0d24p-56;
static const double log2_e_first_f64 = 0x1.7154760000000p+0;
static const double log2_e_second_f64 = 0x1.4ae0bf8000000p-26;
static const double log2_e_third_f64 = 0x1.777d0ffda0d24p-56;
static const double ln_2_f64 = 0x1.62e42fefa39efp-1;
static const double ln_2_tail_f64 = 0x1.abc9e3b39803fp-56;
static const double ln_2_high_f64 = 0x1.62e42fefa3000p-1;
static const double ln_2_low_f64 = 0x1.3de6af278ece6p-42;
/* K 2^(j/8) 2^64 as bits, less j eighths of an exponent; off by at most 2^-56.55 but for a constant in K. */
static const uint64_t table_of_eighths_f64[8] = {0x43f7166fa0000000ull, 0x43f72d604ea0a773ull, 0x43f774bb8abdcea9ull, 0x43f7f0e321dfba8eull, 0x43f8534f34da75feull, 0x43f7cd91b847d8bbull, 0x43f76a1081677088ull, 0x43f72be4cc3b861cull};
static const double unit_of_eighths_f64 = 0x1.7166fa0000000p+0; /* K */
/* 2^(f/8) - 1 over f; relative error of 2^(f/8) at most 2^-57.59 in exact arithmetic. */
static const double polynomial_of_eighths_f64[7] = {0x1.62e42fefa39efp-4, 0x1.ebfbdff82c865p-9, 0x1.c6b08d7049567p-14, 0x1.3b2ab6ed911acp-19, 0x1.5d87fea0779fbp-25, 0x1.430ea93bfe863p-31, 0x1.ffc52050fe26ep-38};
/* K 2^(j/2) 2^64 as bits, less j halves of an exponent; off by at most 2^-56.87 but for a constant in K. */
static const uint64_t table_of_halves_f64[1] = {0x43f3504f333f9de6ull};
static const double unit_of_halves_f64 = 0x1.3504f333f9de6p+0; /* K */
/* 2^(f/2) - 1 over f; relative error of 2^(f/2) at most 2^-56.78 in exact arithmetic. */
static const double polynomial_of_halves_f64[10] = {0x1.62e42fefa39efp-2, 0x1.ebfbdff82c58ep-5, 0x1.c6b08d7049fe8p-8, 0x1.3b2ab6fba522cp-11, 0x1.5d87fe793c622p-15, 0x1.430912f5fbd05p-19, 0x1.ffcbf1b35945cp-24, 0x1.62c035e9c208dp-28, 0x1.b579d8d908477p-33, 0x1.e48135f9ca8eep-38};
/* Relative error at most 2^-62.44 in exact arithmetic. */
static const double atanh_polynomial_f64[8] = {0x1.555555555554fp-1, 0x1.999999999c1acp-2, 0x1.24924921e17d1p-2, 0x1.c71c749208677p-3, 0x1.745c4a5bac1c2p-3, 0x1.3b35d03fbfd30p-3, 0x1.0dca9d4a7bb9dp-3, 0x1.1b87e858bfeafp-3};

#endif
