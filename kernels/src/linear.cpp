// Linear layers over reduced rows: some rows are reduced, and multiplied while they are in the cache.
#include <algorithm>
#include <memory>

#include "checks.hpp"
#include "matrix.hpp"
#include "tiles.hpp"

namespace gnx {
namespace {

constexpr int64_t MOST_WIDTH = INT32_MAX;
constexpr int MOST_FACTORS = 2;

int32_t check(const gnx_linear &work) {
  const gnx_matrix *matrix = work.matrix ? work.matrix : work.own_matrix;
  if (!matrix) return GNX_NULL;
  // A matrix of levels has no product of floats, and those of two instruction sets do not go together.
  if (!matrix->product) return GNX_OPTION;
  if (work.own_matrix && (!work.own_matrix->product || work.own_matrix->path != matrix->path)) return GNX_OPTION;
  if (!known(work.epilogue)) return GNX_OPTION;
  const int64_t out_width = matrix->packed.out_width;
  if (work.own_matrix && work.own_matrix->packed.out_width != out_width) return GNX_SHAPE;
  const int64_t own_width = work.own_matrix ? work.own_matrix->packed.width : 0;
  const gnx_csr &csr = work.sum.csr;
  if (csr.num_rows < 0 || csr.num_rows > INT64_MAX / 64 / std::max<int64_t>({own_width, out_width, 1}))
    return GNX_SHAPE;
  const bool writes = csr.num_rows > 0 && out_width > 0;
  if (writes && (!work.out || (own_width > 0 && !work.own))) return GNX_NULL;
  if (!work.matrix) return GNX_OK;
  if (work.matrix->packed.width != work.sum.width) return GNX_SHAPE;
  gnx_aggregate sum = work.sum;
  sum.epilogue = {};
  sum.next = {};
  float none;
  sum.out = &none;  // what is reduced stays here, and an output without columns may well have no address
  return gnx::check(sum);
}

class Linear final : public Tiles {
 public:
  Linear(const gnx_linear &work, const gnx_aggregate &sum, const Path &path, const gnx_threads *threads)
      : Tiles(sum, work.matrix, tile_of(work), path, threads), work_(work) {
    for (const gnx_matrix *each : {work.matrix, work.own_matrix}) {
      if (each) scratch_ += each->product->scratch_size(tile_of(work), each->packed);
    }
  }

  int32_t run() {
    const int64_t out_width = (work_.matrix ? work_.matrix : work_.own_matrix)->packed.out_width;
    const int64_t rows = work_.sum.csr.num_rows;
    past_ = rows * out_width * static_cast<int64_t>(sizeof(float)) > PAST_BYTES;
    return Tiles::run(rows == 0 || out_width == 0);
  }

 private:
  static int64_t tile_of(const gnx_linear &work) {
    int64_t most = 0;
    for (const gnx_matrix *each : {work.matrix, work.own_matrix}) most = std::max(most, each ? each->product->tile : 0);
    return most;
  }

  void work_on(const float *reduced, int64_t first, int64_t count, float *own) override {
    Factor factors[MOST_FACTORS];
    const Product *products[MOST_FACTORS] = {};
    int num = 0;
    if (work_.matrix) {
      products[num] = work_.matrix->product;
      factors[num++] = {reduced, work_.matrix->packed};
    }
    if (work_.own_matrix) {
      const Packed &packed = work_.own_matrix->packed;
      products[num] = work_.own_matrix->product;
      factors[num++] = {work_.own + first * packed.width, packed};
    }
    const gnx_epilogue &epilogue = work_.epilogue;
    if (num == 1 || products[0] == products[1])
      return products[0]->multiply({factors, num, first, count, epilogue, work_.out, own, past_});
    // Of two layouts: the second product adds to what the first one wrote, which is in the cache.
    const gnx_epilogue before{epilogue.root, nullptr, GNX_IDENTITY, 0.0f, epilogue.scale};
    products[0]->multiply({factors, 1, first, count, before, work_.out, own, false});
    const gnx_epilogue after{work_.out, epilogue.bias, epilogue.activation, epilogue.slope, epilogue.scale};
    products[1]->multiply({factors + 1, 1, first, count, after, work_.out, own, false});
  }

  const gnx_linear &work_;
  bool past_ = false;
};

int32_t linear(const gnx_linear &work, const gnx_threads *threads) {
  const Path *path = current_path();
  if (!path) return GNX_OPTION;
  const int32_t status = check(work);
  if (status != GNX_OK) return status;
  gnx_aggregate sum = work.sum;
  sum.epilogue = {};
  sum.next = {};
  return Linear(work, sum, *path, threads).run();
}

int32_t pack(const float *values, int64_t out_width, int64_t width, int32_t layout, gnx_matrix **out) {
  const Path *path = current_path();
  if (!path || layout < GNX_DENSE || layout >= LAYOUTS) return GNX_OPTION;
  if (out_width < 0 || width < 0 || out_width > MOST_WIDTH || width > MOST_WIDTH) return GNX_SHAPE;
  if (out_width > INT64_MAX / 64 / std::max<int64_t>(width, 1)) return GNX_SHAPE;
  if (!out || (!values && out_width > 0 && width > 0)) return GNX_NULL;
  auto matrix = std::make_unique<gnx_matrix>();
  const Product &product = path->products[layout];
  matrix->path = path;
  matrix->product = &product;
  matrix->memory.resize(product.packed_size(values, out_width, width) + LINE_FLOATS);
  float *const begin = at_line(matrix->memory.data());
  product.pack(values, out_width, width, begin);
  matrix->packed = {out_width, width, begin};
  *out = matrix.release();
  return GNX_OK;
}

}  // namespace
}  // namespace gnx

extern "C" {

int32_t gnx_pack_matrix(const float *values, int64_t out_width, int64_t width, int32_t layout, gnx_matrix **out) {
  return gnx::guarded([=] { return gnx::pack(values, out_width, width, layout, out); });
}

void gnx_free_matrix(gnx_matrix *matrix) { delete matrix; }

int32_t gnx_run_linear(const gnx_linear *work, const gnx_threads *threads) {
  return work ? gnx::guarded([=] { return gnx::linear(*work, threads); }) : GNX_NULL;
}
}
