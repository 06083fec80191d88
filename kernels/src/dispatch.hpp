#pragma once

#include "plan.hpp"

namespace gnx {

// The path in use; null where GNNEXPORT_KERNELS names one that this processor lacks.
const Path *current_path();

// Use the path of this name, the best one for null; false where this processor lacks it.
bool use_path(const char *name);

}  // namespace gnx
