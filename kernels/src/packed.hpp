// Rows of numbers of a few bits: what the loops of one instruction set offer.
#pragma once

#include <cstdint>

#include "gnnexport/kernels.h"

namespace gnx {
namespace packed {

// Rows [begin, end) of a request; row `at` is row ids[at], or row `at` where ids is null. False where there is none such,
// or one that does not lie inside the payload. Results begin with row 0.
struct Loops {
  bool (*pack)(const gnx_packed &rows, const int64_t *ids, int64_t begin, int64_t end, const float *x);
  bool (*unpack)(const gnx_packed &rows, const int64_t *ids, int64_t begin, int64_t end, float *out);
  bool (*levels)(const gnx_packed &rows, const int64_t *ids, int64_t begin, int64_t end, uint8_t *out);
};

extern const Loops PORTABLE;
#if defined(GNX_X86)
extern const Loops AVX2, AVX512;
#endif

}  // namespace packed
}  // namespace gnx
