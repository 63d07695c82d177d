// What the model (step.cpp) and sampling (sample.cpp) ask of an instruction set: kernels.cpp, which
// is compiled once for each.
#pragma once
#include <cstdint>

namespace lmapps {

enum class Kind : int { float32 = 0, bfloat16 = 1, int8 = 2 };

// Weights and activations are cut into units of 32 bits along the inputs: one fp32 number, two
// bf16 or four int8. One instruction multiplies a unit of one input row with a unit of each of
// `lanes` weight rows, so the three kinds share layout and loops:
//
//   packed[tile][unit][lane]     a tile is `lanes` rows; a tile is read from end to end
//   units[block][unit][column]   a block is 8, 4, 2 or 1 columns (activations of one token each)
//
// Rows are filled up to whole tiles and inputs to a multiple of eight units with zeros. int8
// activations have a scale for each BLOCK of units: one outlier coarsens 64 numbers, not all.
static inline int per_unit(Kind kind) { return kind == Kind::float32 ? 1 : kind == Kind::bfloat16 ? 2 : 4; }
constexpr int UNIT_GROUP = 8, BLOCK = 16;
constexpr int MOST_COLUMNS = 64;

struct Matrix {
  Kind kind = Kind::float32;
  int rows = 0, inputs = 0, units = 0;
  uint32_t *packed = nullptr;
  float *scale = nullptr;        // int8: of each row
  float *bias = nullptr;         // or none
};

struct Columns {                 // activations, made ready for one kind of matrix
  int count = 0;
  uint32_t *units = nullptr;
  float *scale = nullptr;        // int8: [block][column]
  int32_t *sum = nullptr;        // int8: of the whole numbers, [block][column]
};

struct Cache {                   // keys and values of one layer and row, (heads, places, width)
  void *keys, *values;
  bool is_bfloat16;
  int capacity, width;
};

struct Queries {                 // of one head, for tokens one behind the other
  const float *queries;
  float *out;
  int count, stride, out_stride;
};

constexpr int KEY_BLOCK = 32;    // keys that `attend_many` looks at together
constexpr int SPAN = 64;         // ids that sampling looks at together

struct Kernels {
  const char *name;
  int lanes;
  bool unsigned_weights;         // int8 weights are stored with 128 added
  // Rounds `count` rows of x to the matrix's kind and interleaves them.
  void (*prepare)(const Matrix &, const float *x, int stride, int count, Columns &);
  // y[column][row] = (or +=) matrix x columns + bias, for rows of tiles first..last-1.
  void (*multiply)(const Matrix &, const Columns &, int first, int last, float *y, int stride, bool add);
  void (*rms_norm)(const float *x, const float *weight, float epsilon, int n, float *y);
  void (*swiglu)(float *gate, const float *up, int n);   // gate = silu(gate) * up
  // The new key (turned to its position) and value of one head go into the cache.
  void (*remember)(const float *key, const float *value, int head, int place, const Cache &);
  // Softmax of query x keys over places 0..count-1, times values, for each of `group` queries that
  // stand one behind the other; `scores` holds 4 x (count + lanes) numbers.
  void (*attend)(const float *queries, int group, int head, int count, const Cache &, float *scores,
                 float *out);
  // The same for up to `lanes` queries, the first of which stands at place `first`; `scratch` holds
  // lanes x (first + count + 2 width) + KEY_BLOCK x width numbers.
  void (*attend_many)(const Queries &, int head, int first, const Cache &, float *scratch);
  void (*rotate)(float *x, const float *cos_sin, int width);   // pairs (i, i + width/2)
  // New hidden vectors of a part of the units; in, rec: products with the input and the hidden
  // vector, one array of n for each gate, in torch's order of gates.
  void (*rnn)(float *const *in, float *const *rec, float *hidden, int n);
  void (*gru)(float *const *in, float *const *rec, float *hidden, int n);
  void (*lstm)(float *const *in, float *const *rec, float *hidden, float *cell, int n);
  // For sampling. The first of the n logits that are the highest; -1 where one is no number or
  // infinite, or all are -inf (some may be).
  int (*top)(const float *logits, int n);
  // n logits as doubles, -inf behind them up to a whole SPAN; false where one is no number or infinite.
  bool (*spread)(const float *logits, int n, double *x);
  double (*highest)(const double *x, int spans);
  // to = exp((x - best) * scale), 0 behind the last; and of each span the sum, and the highest.
  void (*weigh)(const double *x, int n, double best, double scale, double *to, double *sums, double *highs);
  void (*weigh_floats)(const float *x, int n, double best, double scale, double *to, double *sums, double *highs);
  // Which of a span are at least the bound; how many. May write at `ids` as many as a span has.
  int (*at_least)(const double *span, double bound, int first, int32_t *ids);
};

int levels(const Kernels *(&found)[4]);   // this machine's, best first, and how many they are

}  // namespace lmapps
