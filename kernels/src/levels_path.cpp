// The kernels of one instruction set that work on levels. Products and sums of floats are never taken together here, as
// the compiler's flags say, so that every instruction set has the same bits.
#include "narrow_aggregate.hpp"
#if GNX_LANES < 16
#include "pairs.hpp"
#endif

namespace gnx {

extern const Levels GNX_LEVELS;
const Levels GNX_LEVELS = {{reduce_levels, join_levels},
                           narrow_rows,
#if GNX_LANES < 16
                           {ROWS_OF_TILE, pairs_size, pack_pairs, rows_of_pairs_size, multiply_pairs_of}};
#else
                           {}};  // dispatch.cpp says which products go with the widest vectors
#endif

}  // namespace gnx
