// The kernels of one instruction set. Built several times, with GNX_PATH and the compiler's flags saying for which.
#include "aggregate.hpp"
#include "attention.hpp"
#include "halves.hpp"
#include "product.hpp"
#include "runs.hpp"
#include "sparse.hpp"

namespace {

size_t no_scratch(int64_t, const Packed &) { return 0; }

}  // namespace

namespace gnx {

extern const Path GNX_PATH;
const Path GNX_PATH = {GNX_NAME,
                       GNX_LANES,
                       MOST_VECTORS,
                       {aggregate, join},
                       attend,
                       join_attention,
                       soften,
                       join_softmax,
                       {{ROWS_OF_TILE, packed_size, pack, no_scratch, multiply},
                        {STRIP, sparse_size, pack_sparse, strip_size, multiply_sparse},
                        {ROWS_OF_TILE, runs_size, pack_runs, no_scratch, multiply_all_runs}},
                       round_numbers,
                       {}};

}  // namespace gnx
