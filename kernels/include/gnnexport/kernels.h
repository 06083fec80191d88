/* Message passing on the processor: the C interface of gnnexport's kernels.
 *
 * Structures are CSR by destination. `rowptr` [num_rows + 1] starts at 0, never falls and ends at `num_slots`; `col`
 * [num_slots] names the source of each slot. Both are int32 or both int64. Matrices are dense, row by row. Every
 * function checks what it is given and returns a status; nothing is read or written outside the buffers, and on an
 * error the contents of the outputs are unspecified. Results do not depend on the number of threads, to the last bit.
 */
#ifndef GNNEXPORT_KERNELS_H
#define GNNEXPORT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define GNX_API __declspec(dllexport)
#else
#define GNX_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Grows whenever a structure or a function changes its meaning. */
#define GNX_ABI 6

typedef enum gnx_status {
  GNX_OK = 0,
  GNX_NULL = 1,   /* a pointer that is needed is null */
  GNX_SHAPE = 2,  /* a size is negative, or sizes do not fit each other */
  GNX_INDEX = 3,  /* rowptr falls or ends elsewhere, or an index is out of range */
  GNX_OPTION = 4, /* a type, reduction, activation or combination that is not known */
  GNX_MEMORY = 5  /* memory ran out */
} gnx_status;

/* GNX_U8 and GNX_U4 are levels, of which `zero` stands for 0. A row of `width` levels of 4 bits has (width + 1) / 2
 * bytes: the even columns are the low halves, and the last half of an odd width is not read. */
typedef enum gnx_type { GNX_F32 = 0, GNX_BF16 = 1, GNX_F16 = 2, GNX_I8 = 3, GNX_U8 = 4, GNX_U4 = 5 } gnx_type;

/* A row without slots gives 0, and 1 for GNX_PROD. NaN is handed on by every reduction. */
typedef enum gnx_reduce { GNX_SUM = 0, GNX_MEAN = 1, GNX_MAX = 2, GNX_MIN = 3, GNX_PROD = 4 } gnx_reduce;

typedef enum gnx_activation {
  GNX_IDENTITY = 0,
  GNX_RELU = 1,
  GNX_LEAKY_RELU = 2, /* slope */
  GNX_ELU = 3         /* alpha 1 */
} gnx_activation;

typedef enum gnx_loops {
  GNX_LOOPS_KEPT = 0, /* edges as they are */
  GNX_LOOPS_ONE = 1   /* the loops of a node give way to exactly one, its last slot */
} gnx_loops;

/* How the host runs tasks: `run` calls task(data, i) once for each i < count, on any threads, and returns when all are
 * done. Where `run` is null the library's own threads serve: `count` of them, or all that the process may use for 0. */
typedef struct gnx_threads {
  void (*run)(void *host, void (*task)(void *data, size_t index), size_t count, void *data);
  void *host;
  int32_t count;
} gnx_threads;

typedef struct gnx_csr {
  const void *rowptr;
  const void *col; /* null: slot s reads row s, as edge messages and readouts do; then num_src is num_slots, if any */
  int64_t num_rows, num_slots, num_src;
  int32_t index_bits; /* 32 or 64 */
} gnx_csr;

/* out = activation(scale * reduced + root + bias); parts that are null are left out. */
typedef struct gnx_epilogue {
  const float *root; /* [num_rows, width] */
  const float *bias; /* [width] */
  int32_t activation;
  float slope;
  const float *scale; /* [num_rows] */
} gnx_epilogue;

/* A result that is handed on as levels of 4 or 8 bits, laid out as GNX_U4 and GNX_U8 are; the half that an odd width
 * leaves over is 0. With z = value * (1 / step), `most` = 2^bits - 1 where zero is 0, and 2^(bits - 1) - 1 where it is
 * 2^(bits - 1), there is no other: the level is zero + floor(min(max(z, 0), most) + 0.5), or
 * zero + sign(z) * floor(min(|z|, most) + 0.5). What is no number has some level. */
typedef struct gnx_narrow {
  const float *step; /* [width], positive */
  int32_t bits, zero;
  uint8_t *out; /* null: the result is handed on as it is; else that is not written */
} gnx_narrow;

/* out[i] = reduce over the slots s of row i of weight[s] * x[col[s]].
 *
 * With GNX_I8, GNX_U8 and GNX_U4 a row stands for (x - zero) * row_scale[source] * column_scale. Sums and means without
 * weight and row_scale add integers, exactly, and are scaled once at the end. Levels know no GNX_PROD; a mean of them is
 * their sum times the reciprocal of the number of slots, and what is made of them has the same bits on every instruction
 * set. */
typedef struct gnx_aggregate {
  gnx_csr csr;
  const void *x; /* [num_src, width] of type `type` */
  int64_t width;
  int32_t type, reduce;
  const float *row_scale;    /* [num_src], only with integers and with GNX_SUM and GNX_MEAN */
  const float *column_scale; /* [width], likewise; of levels it is positive, and goes with GNX_MAX and GNX_MIN too */
  const float *weight;       /* [num_slots, heads], only with GNX_SUM and GNX_MEAN */
  int64_t heads;             /* that share the width evenly; 1 without weight, and with levels */
  gnx_epilogue epilogue;
  float *out;      /* [num_rows, width] */
  int32_t zero;    /* of levels: 0, or 2^(bits - 1) */
  gnx_narrow next; /* only with levels */
} gnx_aggregate;

/* A matrix [out_width, width] of weights, laid out for products by the instruction set that is in force: made once, read
 * by any number of threads. */
typedef struct gnx_matrix gnx_matrix;

/* What of a matrix is stored and multiplied. With GNX_BLOCKS the outputs are taken sixteen at a time, and of each input
 * the weights of all sixteen or, where they are all zero, none. A weight that is not multiplied adds nothing whatever the
 * row holds: of infinite numbers and NaN too, of which a dense product makes NaN. */
typedef enum gnx_layout {
  GNX_DENSE = 0,  /* all weights */
  GNX_SPARSE = 1, /* those that are not zero, wherever they stand */
  GNX_BLOCKS = 2
} gnx_layout;

/* out = activation(reduced . matrix^T + own . own_matrix^T + root + bias), some rows at a time, so that what is reduced
 * is never in memory as a whole.
 *
 * `sum` says what is reduced; its out, its epilogue and its next are not read. Either product may be left out: without
 * `matrix` only sum.csr.num_rows is read of `sum`. The two matrices may have different layouts. Products are as accurate
 * as float32 sums of float32 products, in an order that the instruction set and the layout decide; `amx` takes numbers
 * and sums below 2^-126 for 0 where it multiplies all weights, which moves a result by at most
 * 2^-125 * (|a| + |b| + 6) for each product a * b in it. `out` may be what `root` is, to add to what is there;
 * it shares memory with nothing else. */
typedef struct gnx_linear {
  gnx_aggregate sum;
  const gnx_matrix *matrix;     /* [out_width, sum.width], or null */
  const float *own;             /* [num_rows, width of own_matrix] */
  const gnx_matrix *own_matrix; /* [out_width, ..], or null */
  gnx_epilogue epilogue;
  float *out; /* [num_rows, out_width] */
} gnx_linear;

/* How rows of floats turn into levels: row i has the step and the bits, from 1 to 8, of entry i % count. With `nearest`
 * it has those of the entry whose reach, step * most, is nearest to the row's largest size; of two as near it is the one
 * that reaches less, and then the first. Levels are rounded as gnx_narrow says, most of one signed bit being 0. */
typedef struct gnx_quantiser {
  const float *step;   /* [count], positive */
  const uint8_t *bits; /* [count] */
  int64_t count;
  int32_t is_signed, nearest;
} gnx_quantiser;

/* A product of rows with a matrix of levels: rows [num_rows, width] turn into levels, these are multiplied and added as
 * integers, and the sum is worth step of the row * step of the matrix's row. */
typedef struct gnx_level_product {
  const float *rows;     /* null: levels, or without these what is reduced */
  const uint8_t *levels; /* rows that were given as levels by the same quantiser, without nearest */
  gnx_quantiser quantiser;
  const gnx_matrix *matrix; /* [out_width, width], made by gnx_pack_levels */
  const float *step;        /* [out_width] */
} gnx_level_product;

/* A result as the levels that a product of its rows reads: bytes [num_rows, width], 128 more than a level that has a
 * sign. */
typedef struct gnx_given {
  gnx_quantiser quantiser; /* without nearest */
  uint8_t *out;            /* null: it is not given so */
} gnx_given;

/* out = activation(scale * (product + own) + root + bias), some rows at a time. `sum` says what is reduced where
 * the product has neither rows nor levels, and is finished by its own epilogue before its rows turn into levels; else
 * only sum.csr.num_rows is read of it. Without own.matrix there is no second product. With `given` the result may leave
 * in no other way: `out` may then be null. Results have the same bits on every
 * instruction set where sum.x has levels or nothing is reduced. */
typedef struct gnx_level_linear {
  gnx_aggregate sum; /* its out and its next are not read */
  gnx_level_product product, own;
  gnx_epilogue epilogue;
  float *out; /* [num_rows, out_width] */
  gnx_narrow next;
  gnx_given given;
} gnx_level_linear;

typedef enum gnx_score {
  GNX_GIVEN = 0, /* score = edge, [num_slots, heads] */
  GNX_GAT = 1,   /* leaky_relu(source + destination + edge), each [.., heads] */
  GNX_GATV2 = 2, /* per head: att . leaky_relu(source + destination + edge), each [.., width] */
  GNX_DOT = 3    /* per head: scale * destination . (source + edge), each [.., width] */
} gnx_score;

/* out[i] = sum over the slots s of row i of softmax(score)[s] * (x[col[s]] + edge_value[s]), head by head. With GNX_U8
 * a row stands for (x - zero) * column_scale. */
typedef struct gnx_attention {
  gnx_csr csr;
  const void *x; /* [num_src, width] of type `type` */
  int64_t width, heads;
  int32_t score;
  const float *source;      /* by source */
  const float *destination; /* [num_rows, ..] */
  const float *edge;        /* [num_slots, ..], or null unless GNX_GIVEN */
  const float *edge_value;  /* [num_slots, width], or null */
  const float *att;         /* [width], only GNX_GATV2 */
  float slope, scale;
  gnx_epilogue epilogue;
  float *out;                /* [num_rows, width] */
  int32_t type, zero;        /* GNX_F32 or GNX_U8; 0 or 128 */
  const float *column_scale; /* [width], only with GNX_U8 */
} gnx_attention;

GNX_API int32_t gnx_abi(void);
GNX_API const char *gnx_message(int32_t status);

/* The instruction set in use: `amx`, `avx512`, `avx2` or `portable`. The environment variable GNNEXPORT_KERNELS names
 * another, read at the first call; gnx_use_path does so later, and says GNX_OPTION where this processor lacks it. */
GNX_API const char *gnx_path(void);
GNX_API int32_t gnx_use_path(const char *name);

GNX_API int32_t gnx_run_aggregate(const gnx_aggregate *work, const gnx_threads *threads);

/* Rows x [num_rows, width] as levels, and besides as those of `given`, which may be null. */
GNX_API int32_t gnx_run_narrow(const float *x, int64_t num_rows, int64_t width, const gnx_narrow *to,
                               const gnx_given *given, const gnx_threads *threads);

/* Numbers x [count] rounded to `type`, GNX_BF16 or GNX_F16: to the nearest one, and of two as near to the one whose last
 * bit is 0. What is too large becomes infinite, and NaN stays NaN. */
GNX_API int32_t gnx_run_round(const float *x, int64_t count, int32_t type, uint16_t *out, const gnx_threads *threads);

/* `values` [out_width, width]; free what is made. Of levels there are at most 65536 columns. */
GNX_API int32_t gnx_pack_matrix(const float *values, int64_t out_width, int64_t width, int32_t layout,
                                gnx_matrix **out);
GNX_API int32_t gnx_pack_levels(const int8_t *values, int64_t out_width, int64_t width, gnx_matrix **out);
GNX_API void gnx_free_matrix(gnx_matrix *matrix);
GNX_API int32_t gnx_run_linear(const gnx_linear *work, const gnx_threads *threads);
GNX_API int32_t gnx_run_level_linear(const gnx_level_linear *work, const gnx_threads *threads);

GNX_API int32_t gnx_run_attention(const gnx_attention *work, const gnx_threads *threads);

/* Softmax of scores [num_slots, heads] over the slots of each row; csr.col is not read. */
GNX_API int32_t gnx_run_softmax(const gnx_csr *csr, const float *scores, int64_t heads, float *out,
                                const gnx_threads *threads);

/* out[s] = x[i] for each slot s of row i: x is [num_rows, width], out [num_slots, width]; csr.col is not read. */
GNX_API int32_t gnx_run_spread(const gnx_csr *csr, const float *x, int64_t width, float *out,
                               const gnx_threads *threads);

/* CSR by destination, stable in the order of edges: `rowptr` [num_rows + 1], and `perm` [num_edges], the edge in each
 * slot. `dst` [num_edges] and both outputs have index_bits bits. */
GNX_API int32_t gnx_build_csr(const void *dst, int64_t num_edges, int64_t num_rows, int32_t index_bits, void *rowptr,
                              void *perm, const gnx_threads *threads);

/* Edges in any order, as `gnx_prepare_edges` reads them. With GNX_LOOPS_ONE a loop weighs `fill`, or what the last loop
 * of its node among the edges weighs. With `normalise` weight w becomes w / sqrt(d[src] d[dst]), where d sums the weights
 * that enter a node, and 0 where that is 0 (Kipf and Welling, ICLR 2017, eq. 2). */
typedef struct gnx_edges {
  const int64_t *src, *dst; /* [num_edges] */
  const float *weight;      /* [num_edges], or null: ones */
  int64_t num_edges, num_nodes;
  int64_t num_slots; /* as gnx_count_slots says */
  int32_t loops;
  float fill;
  int32_t normalise;
} gnx_edges;

/* How many slots the edges have once their loops are in order; edges->num_slots is not read. */
GNX_API int32_t gnx_count_slots(const gnx_edges *edges, int64_t *num_slots);

/* CSR by destination, stable in the order of edges: `rowptr` [num_nodes + 1], `col` [num_slots], and unless it is null
 * `weight` [num_slots]. */
GNX_API int32_t gnx_prepare_edges(const gnx_edges *edges, int64_t *rowptr, int64_t *col, float *weight,
                                  const gnx_threads *threads);

/* A structure whose rows lie anywhere in `col`: the slots of row i begin at start[i]. */
typedef struct gnx_rows {
  const int64_t *start, *length; /* [num_rows] */
  const int64_t *col;            /* [num_slots], the source of each slot */
  int64_t num_rows, num_slots, num_src;
} gnx_rows;

/* Neighbours of some rows, which may come more than once. With `fanout` below 0 all slots of each, in order; else at most
 * so many, drawn uniformly without replacement and left in order. A draw depends on the seed and the row alone. */
typedef struct gnx_request {
  gnx_rows rows;
  const int64_t *targets; /* [num_targets] */
  int64_t num_targets, fanout;
  uint64_t seed;
} gnx_request;

/* Where the neighbours of each target begin, and where the last end: [num_targets + 1]. */
GNX_API int32_t gnx_count_neighbours(const gnx_request *request, int64_t *rowptr);

/* Sources `col` and places `slots` in rows.col of the neighbours counted before, both [rowptr[num_targets]]. Where all
 * slots are taken, places may be left out: null. */
GNX_API int32_t gnx_expand(const gnx_request *request, const int64_t *rowptr, int64_t *col, int64_t *slots,
                           const gnx_threads *threads);

/* Distinct ids in the order they come first, and for each id its place among them. `marks` [num_marks] is -1 everywhere,
 * and again afterwards; ids are below num_marks, and there is room for `count` of them in `unique`. */
GNX_API int32_t gnx_number(const int64_t *ids, int64_t count, int32_t *marks, int64_t num_marks, int64_t *unique,
                           int64_t *index, int64_t *num_unique);

/* out[i] = table[ids[i]]: table is [num_rows, width], out [count, width]. */
GNX_API int32_t gnx_gather_rows(const float *table, int64_t num_rows, int64_t width, const int64_t *ids, int64_t count,
                                float *out, const gnx_threads *threads);

/* Rows of numbers of 1, 2, 4 or 8 bits, each row with a width and a step of its own: a number n stands for n * step.
 *
 * A row of `columns` numbers of b bits takes ceil(columns * b / 8) bytes, its first number in the lowest bits of the
 * first byte; row stands behind row. Stored is n + zero, where zero is 0, or 2^(b - 1) with `is_signed`. Where row i
 * begins follows from the byte with which its group of 64 rows begins, anchors[i / 64], and from the widths of the rows
 * before it in the group. Without `codes` all rows have 8 bits; then there are no anchors, and each row may have a zero
 * of its own, 0 or 128. */
typedef struct gnx_packed {
  uint8_t *payload;        /* [payload_bytes], written by gnx_pack_rows alone */
  const uint8_t *codes;    /* [ceil(num_rows / 4)], or null: two bits a row, the first row lowest; b = 1 << code */
  const uint64_t *anchors; /* [ceil(num_rows / 64)], or null without codes */
  const float *step;       /* [num_rows], positive */
  const uint8_t *zero;     /* [num_rows], or null; only without codes */
  int64_t num_rows, columns, payload_bytes;
  int32_t is_signed; /* not read where there is `zero` */
} gnx_packed;

/* Round the rows of x [count, columns] and store them: row i as row ids[i], which are distinct, or as row i where `ids`
 * is null. With z = x * (1 / step) and Q the largest number of the row, 2^b - 1 or with a zero 2^(b - 1) - 1:
 * n = floor(min(max(z, 0), Q) + 0.5), or with a zero n = sign(z) * floor(min(|z|, Q) + 0.5). */
GNX_API int32_t gnx_pack_rows(const gnx_packed *rows, const int64_t *ids, int64_t count, const float *x,
                              const gnx_threads *threads);

/* out[i] = n * step of row ids[i], or of row i: out is [count, columns]. */
GNX_API int32_t gnx_unpack_rows(const gnx_packed *rows, const int64_t *ids, int64_t count, float *out,
                                const gnx_threads *threads);

/* The same without the step: n, and n + 128 where the row has a zero, as products of u8 and s8 take them. */
GNX_API int32_t gnx_unpack_levels(const gnx_packed *rows, const int64_t *ids, int64_t count, uint8_t *out,
                                  const gnx_threads *threads);

#ifdef __cplusplus
}
#endif
#endif
