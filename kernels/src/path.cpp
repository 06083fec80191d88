// The kernels of one instruction set. Built several times, with GNX_PATH and the compiler's flags saying for which.
#include "aggregate.hpp"
#include "attention.hpp"


namespace gnx {

extern const Path GNX_PATH;
const Path GNX_PATH = {GNX_NAME,  GNX_LANES,      MOST_VECTORS, aggregate,   join,
                       attend,    join_attention, soften,       join_softmax};

}  // namespace gnx
