// A matrix as it was laid out, of floats or of levels.
#pragma once

#include <vector>

#include "plan.hpp"

struct gnx_matrix {
  std::vector<float> memory;
  const gnx::Path *path = nullptr;  // that laid it out
  const gnx::Product *product = nullptr;  // null: it has levels
  gnx::Packed packed{};
  const gnx::LevelProduct *level_product = nullptr;
  gnx::PackedLevels levels{};
  std::vector<int32_t> sums;
};
