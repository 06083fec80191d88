// What every entry of the C interface asks before it works.
#pragma once

#include <exception>

#include "plan.hpp"

namespace gnx {

bool known(const gnx_epilogue &epilogue);

// Whether a matrix with a row for each row, slot and source can have an address.
bool buffers_fit(const gnx_csr &csr, int64_t width);

int32_t check(const gnx_aggregate &work);

Sum sum_of(const gnx_aggregate &work);

int64_t bytes_of(int32_t type);

// Nothing may leave the C interface but a status.
template <class Call>
int32_t guarded(Call call) {
  try {
    return call();
  } catch (const std::exception &) {
    return GNX_MEMORY;
  }
}

}  // namespace gnx
