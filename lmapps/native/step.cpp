// Embedded tokens and a state -> logits: one step of a whole model in one call. C interface below.
//
// All threads walk through `transformer` or `recurrent` side by side. Each multiplies its share of
// a matrix's rows; a barrier stands where one needs what the others made. Cheap work (norms,
// rounding to bf16 or int8) every thread does for itself: a barrier would cost more.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kernels.h"
#include "pool.h"

namespace lmapps {

#if defined(__x86_64__)
extern const Kernels kernels_avx512_bf16, kernels_avx512, kernels_avx2;
#elif defined(__aarch64__)
extern const Kernels kernels_neon_dotprod;
#endif
extern const Kernels kernels_baseline;

// A compiler that does not know an instruction set has not built its kernels (compile.py then says
// WITHOUT_ it), and may not know how to ask a processor for it either.
int levels(const Kernels *(&found)[4]) {
  int count = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
#ifndef WITHOUT_avx2
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#ifndef WITHOUT_avx512
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vnni");
#ifndef WITHOUT_avx512_bf16
  if (avx512 && __builtin_cpu_supports("avx512bf16")) found[count++] = &kernels_avx512_bf16;
#endif
  if (avx512) found[count++] = &kernels_avx512;
#endif
  if (avx2) found[count++] = &kernels_avx2;
#endif
#elif defined(__aarch64__) && !defined(WITHOUT_neon_dotprod)
#if defined(__APPLE__)
  found[count++] = &kernels_neon_dotprod;
#elif defined(__linux__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) found[count++] = &kernels_neon_dotprod;
#endif
#endif
  found[count++] = &kernels_baseline;
  return count;
}

enum MatrixName { QKV, OUT, GATE, UP, DOWN, MATRICES = 8 };   // recurrent: gates, then 4 + gates
enum VectorName { INPUT_NORM, MIDDLE_NORM, QUERY_NORM, KEY_NORM, VECTORS };
enum Body : int { TRANSFORMER, RNN, GRU, LSTM };
constexpr int GATES[] = {0, 1, 3, 4};

struct Shape {   // filled by step.py, in this order
  int body, kind, vocab, width, hidden, layers, heads, kv_heads, head_size, inner, places;
};

// What a model needs lies one thing behind another in large pages, where the system has them: a core
// looks up fewer addresses, and one stream in fp32 is a third faster. All is given back at its end.
class Memory {
 public:
  template <class T> T *zeros(size_t count) {   // from a cache line's start
    const size_t bytes = (count * sizeof(T) + LINE - 1) / LINE * LINE;
    if (bytes > left) add(std::max(bytes, BLOCK_BYTES));
    void *taken = memset(next, 0, bytes);
    next += bytes, left -= bytes;
    return (T *)taken;
  }

 private:
  static constexpr size_t LINE = 64, LARGE_PAGE = 2 << 20;
#if defined(__SANITIZE_ADDRESS__)   // a block for each thing shows who reads past its end
  static constexpr size_t BLOCK_BYTES = 0;
#else
  static constexpr size_t BLOCK_BYTES = 32 * LARGE_PAGE;
#endif

  void add(size_t bytes) {   // the part of a block that is not used takes no memory
    void *block = nullptr;
    if (posix_memalign(&block, LARGE_PAGE, bytes)) throw std::bad_alloc();
    blocks.emplace_back(block, free);
#if defined(__linux__)
    madvise(block, bytes, MADV_HUGEPAGE);
#endif
    next = (char *)block, left = bytes;
  }

  std::vector<std::unique_ptr<void, void (*)(void *)>> blocks;
  char *next = nullptr;
  size_t left = 0;
};

struct Layer {
  Matrix matrices[MATRICES];
  float *vectors[VECTORS] = {};
};

struct Own {      // what one thread works in
  float *normed, *scores;
  Columns columns, hidden_columns;
};

struct Call {     // one step: `rows` rows of `tokens` tokens each
  float *x;                 // embedded tokens, (rows, tokens, width); overwritten
  int rows, tokens;
  void *const *state;       // keys and values, or hidden (and cell), of each layer
  int is_bfloat16, capacity;
  const int64_t *lengths;   // tokens that each row has seen
  float *logits;            // (rows, vocab), after each row's last token
};

class Model {
 public:
  Model(Pool &pool, const Shape &shape, float epsilon, const float *cos_sin, const Kernels &kernels)
      : s(shape), k(kernels), epsilon(epsilon), pool(pool), layers(shape.layers + 1),
        own(pool.count) {
    int q = s.heads * s.head_size, kv = s.kv_heads * s.head_size;
    int widest = std::max({s.width, s.hidden, q, s.inner}) + 4 * UNIT_GROUP;
    for (Own &mine : own) {
      mine.normed = memory.zeros<float>(size_t(MOST_COLUMNS) * widest);
      mine.scores = memory.zeros<float>(size_t(k.lanes) * (s.places + 2 * s.head_size) +
                                        KEY_BLOCK * s.head_size);
      for (Columns *columns : {&mine.columns, &mine.hidden_columns}) {
        columns->units = memory.zeros<uint32_t>(size_t(MOST_COLUMNS) * widest);
        columns->scale = memory.zeros<float>(size_t(MOST_COLUMNS) * (widest / BLOCK + 1));
        columns->sum = memory.zeros<int32_t>(size_t(MOST_COLUMNS) * (widest / BLOCK + 1));
      }
    }
    for (auto &buffer : shared)
      buffer = memory.zeros<float>(size_t(MOST_COLUMNS) * std::max(widest, q + 2 * kv));
    if (s.body != TRANSFORMER) {
      for (auto &gate : gates) gate = memory.zeros<float>(size_t(MOST_COLUMNS) * s.hidden);
    } else {
      positions = memory.zeros<float>(size_t(s.places) * s.head_size);
      memcpy(positions, cos_sin, size_t(s.places) * s.head_size * sizeof(float));
    }
  }

  void set_matrix(int layer, int name, const float *data, int rows, int inputs, const float *bias);

  void set_vector(int layer, int name, const float *data, int count) {
    layers[layer].vectors[name] = memory.zeros<float>(count);
    memcpy(layers[layer].vectors[name], data, count * sizeof(float));
  }

  void step(const Call &call) {
    pool.run([&](int thread) {
      if (s.body == TRANSFORMER) transformer(thread, call);
      else recurrent(thread, call);
    });
  }

 private:
  Matrix &matrix(int layer, int name) { return layers[layer].matrices[name]; }
  float *vector(int layer, int name) { return layers[layer].vectors[name]; }

  // This thread's part of `count` things: from .first to .second - 1.
  std::pair<int, int> share(int thread, int count) const {
    return {int(int64_t(count) * thread / pool.count), int(int64_t(count) * (thread + 1) / pool.count)};
  }
  std::pair<int, int> tiles(int thread, const Matrix &m) const {
    return share(thread, (m.rows + k.lanes - 1) / k.lanes);
  }

  void multiply(int thread, const Matrix &m, const Columns &x, float *y, int stride, bool add = false) {
    auto [first, last] = tiles(thread, m);
    k.multiply(m, x, first, last, y, stride, add);
  }

  void norm_columns(int thread, const float *x, int count, const float *weight) {
    for (int c = 0; c < count; c++)
      k.rms_norm(x + size_t(c) * s.width, weight, epsilon, s.width,
                 own[thread].normed + size_t(c) * s.width);
  }

  void transformer(int thread, const Call &);
  void layer(int thread, int number, const Call &, int first_column, int count);
  void attention(int thread, int number, const Call &, int first_column, int count);
  void head(int thread, const float *x, int stride, int count, float *logits, bool norm);
  void recurrent(int thread, const Call &);
  void recurrent_layer(int thread, int number, const Call &, const float *x, int stride, int row, int count,
                       int steps);

  const Shape s;
  const Kernels &k;
  const float epsilon;
  Pool &pool;
  Memory memory;
  std::vector<Layer> layers;   // the last one holds the final norm and the head
  std::vector<Own> own;
  float *shared[4], *gates[8], *positions;
};

// ---- weights -------------------------------------------------------------------------------

static uint16_t to_bfloat16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

void Model::set_matrix(int layer, int name, const float *data, int rows, int inputs, const float *bias) {
  Matrix &m = layers[layer].matrices[name];
  const int per = per_unit(m.kind = Kind(s.kind)), lanes = k.lanes;
  m.rows = rows, m.inputs = inputs;
  m.units = ((inputs + per - 1) / per + UNIT_GROUP - 1) / UNIT_GROUP * UNIT_GROUP;
  const int padded = (rows + lanes - 1) / lanes * lanes;
  m.packed = memory.zeros<uint32_t>(size_t(padded) * m.units);
  m.scale = memory.zeros<float>(padded);
  for (int row = 0; row < rows; row++) {
    const float *from = data + size_t(row) * inputs;
    float high = 0;
    for (int i = 0; i < inputs; i++) high = std::max(high, std::fabs(from[i]));
    const float scale = high / 127 >= FLT_MIN ? high / 127 : 1;
    for (int i = 0; i < inputs; i++) {
      uint32_t *unit = m.packed + (size_t(row / lanes) * m.units + i / per) * lanes + row % lanes;
      if (m.kind == Kind::float32) memcpy(unit, from + i, 4);
      else if (m.kind == Kind::bfloat16) *unit |= uint32_t(to_bfloat16(from[i])) << (16 * (i % 2));
      else {
        int q = int(std::nearbyint(from[i] / scale)) + (k.unsigned_weights ? 128 : 0);
        *unit |= uint32_t(uint8_t(q)) << (8 * (i % 4));
      }
    }
    m.scale[row] = scale;
  }
  if (!bias) return;
  m.bias = memory.zeros<float>(rows);
  memcpy(m.bias, bias, rows * sizeof(float));
}

// ---- Transformer ---------------------------------------------------------------------------

// A column is one token of one row; they stand row after row, at most MOST_COLUMNS at a time.
void Model::transformer(int thread, const Call &call) {
  const int all = call.rows * call.tokens;
  for (int first = 0; first < all; first += MOST_COLUMNS) {
    const int count = std::min(MOST_COLUMNS, all - first);
    float *x = call.x + size_t(first) * s.width;
    for (int number = 0; number < s.layers; number++) layer(thread, number, call, first, count);
    // Rows whose last token is among these columns get their logits.
    const int row = first / call.tokens, ended = (first + count) / call.tokens - row;
    const int last = (row + 1) * call.tokens - 1 - first;
    head(thread, x + size_t(last) * s.width, call.tokens * s.width, ended,
         call.logits + size_t(row) * s.vocab, true);
    pool.barrier();
  }
}

void Model::layer(int thread, int number, const Call &call, int first, int count) {
  const int q = s.heads * s.head_size, qkv = q + 2 * s.kv_heads * s.head_size;
  Own &mine = own[thread];
  float *x = call.x + size_t(first) * s.width, *normed = mine.normed;
  Matrix &in = matrix(number, QKV), &out = matrix(number, OUT), &gate = matrix(number, GATE);
  Matrix &up = matrix(number, UP), &down = matrix(number, DOWN);

  norm_columns(thread, x, count, vector(number, INPUT_NORM));
  k.prepare(in, normed, s.width, count, mine.columns);
  multiply(thread, in, mine.columns, shared[0], qkv);
  pool.barrier();
  attention(thread, number, call, first, count);
  pool.barrier();
  k.prepare(out, shared[1], q, count, mine.columns);
  multiply(thread, out, mine.columns, x, s.width, true);
  pool.barrier();
  norm_columns(thread, x, count, vector(number, MIDDLE_NORM));
  k.prepare(gate, normed, s.width, count, mine.columns);
  multiply(thread, gate, mine.columns, shared[2], s.inner);
  multiply(thread, up, mine.columns, shared[3], s.inner);
  auto [begin, end] = tiles(thread, gate);   // the same rows of both: no barrier in between
  const int from = begin * k.lanes, width = std::min(end * k.lanes, s.inner) - from;
  for (int c = 0; c < count && width > 0; c++) {
    const size_t at = size_t(c) * s.inner + from;
    k.swiglu(shared[2] + at, shared[3] + at, width);
  }
  pool.barrier();
  k.prepare(down, shared[2], s.inner, count, mine.columns);
  multiply(thread, down, mine.columns, x, s.width, true);
  pool.barrier();
}

// Queries, keys and values in shared[0] -> what each head read, in shared[1].
void Model::attention(int thread, int number, const Call &call, int first, int count) {
  const int D = s.head_size, group = s.heads / s.kv_heads, q = s.heads * D, kv = s.kv_heads * D;
  const int stride = q + 2 * kv;
  auto place_of = [&](int column) {
    return int(call.lengths[(first + column) / call.tokens]) + (first + column) % call.tokens;
  };
  auto cache_of = [&](int column) {
    const size_t row = (first + column) / call.tokens;
    const size_t behind = row * s.kv_heads * call.capacity * D * (call.is_bfloat16 ? 2 : 4);
    return Cache{(char *)call.state[2 * number] + behind, (char *)call.state[2 * number + 1] + behind,
                 call.is_bfloat16 != 0, call.capacity, D};
  };
  auto turned = [&](int column, int at, int norm) {
    float *x = shared[0] + size_t(column) * stride + at;
    if (const float *weight = vector(number, norm)) k.rms_norm(x, weight, epsilon, D, x);
    k.rotate(x, positions + size_t(place_of(column)) * D, D);
    return x;
  };
  float *out = shared[1], *scores = own[thread].scores;
  auto [begin, end] = share(thread, count * s.kv_heads);
  for (int item = begin; item < end; item++) {
    const int column = item / s.kv_heads, head = item % s.kv_heads;
    const float *key = turned(column, q + head * D, KEY_NORM);
    const Cache cache = cache_of(column);
    k.remember(key, key + kv, head, place_of(column), cache);
    if (call.tokens > 1) continue;
    const int first_query = head * group * D;
    for (int h = 0; h < group; h++) turned(column, first_query + h * D, QUERY_NORM);
    k.attend(shared[0] + size_t(column) * stride + first_query, group, head, place_of(column) + 1, cache,
             scores, out + size_t(column) * q + first_query);   // reads only what was just written
  }
  if (call.tokens == 1) return;
  pool.barrier();
  int item = 0;
  for (int column = 0, some; column < count; column += some) {
    // Tokens of one row, a query in each lane.
    some = std::min({k.lanes, count - column, call.tokens - (first + column) % call.tokens});
    for (int h = 0; h < s.heads; h++) {
      if (item++ % pool.count != thread) continue;
      for (int c = 0; c < some; c++) turned(column + c, h * D, QUERY_NORM);
      const Queries queries = {shared[0] + size_t(column) * stride + h * D,
                               out + size_t(column) * q + h * D, some, stride, q};
      k.attend_many(queries, h / group, place_of(column), cache_of(column), scores);
    }
  }
}

void Model::head(int thread, const float *x, int stride, int count, float *logits, bool norm) {
  if (!count) return;
  Own &mine = own[thread];
  Matrix &out = matrix(s.layers, 0);
  if (norm) {
    for (int c = 0; c < count; c++)
      k.rms_norm(x + size_t(c) * stride, vector(s.layers, INPUT_NORM), epsilon, s.width,
                 mine.normed + size_t(c) * s.width);
    x = mine.normed, stride = s.width;
  }
  k.prepare(out, x, stride, count, mine.columns);
  multiply(thread, out, mine.columns, logits, s.vocab);
}

// ---- RNN, GRU, LSTM ------------------------------------------------------------------------

// Of many rows each has one token; of a longer prompt a layer reads up to MOST_COLUMNS tokens before
// the next one does: so its matrices stay in the caches, and what its input adds is one product.
void Model::recurrent(int thread, const Call &call) {
  const bool one = call.tokens == 1;
  const int rows = one ? MOST_COLUMNS : 1, tokens = one ? 1 : MOST_COLUMNS;
  for (int row = 0; row < call.rows; row += rows)
    for (int token = 0; token < call.tokens; token += tokens) {
      const int count = std::min(rows, call.rows - row), steps = std::min(tokens, call.tokens - token);
      const float *x = call.x + (size_t(row) * call.tokens + token) * s.width;
      int stride = s.width;
      for (int number = 0; number < s.layers; number++) {
        recurrent_layer(thread, number, call, x, stride, row, count, steps);
        x = shared[number % 2], stride = s.hidden;
      }
      if (token + steps == call.tokens)
        head(thread, x + size_t(steps - 1) * s.hidden, stride, count, call.logits + size_t(row) * s.vocab, false);
      pool.barrier();
    }
}

// `steps` tokens, one behind the other, in each of `count` rows; one of both is 1.
void Model::recurrent_layer(int thread, int number, const Call &call, const float *x, int stride,
                            int row, int count, int steps) {
  Own &mine = own[thread];
  const int H = s.hidden, parts = s.body == LSTM ? 2 : 1;
  float *hidden = (float *)call.state[number * parts] + size_t(row) * H;
  float *cell = parts == 2 ? (float *)call.state[number * 2 + 1] + size_t(row) * H : nullptr;
  k.prepare(matrix(number, 0), x, stride, count * steps, mine.columns);
  for (int gate = 0; gate < GATES[s.body]; gate++)
    multiply(thread, matrix(number, gate), mine.columns, gates[gate], H);
  auto [begin, end] = tiles(thread, matrix(number, 0));
  const int from = begin * k.lanes, width = std::min(end * k.lanes, H) - from;
  const float *before = hidden;
  for (int step = 0; step < steps; step++) {
    float *fresh = shared[number % 2] + size_t(step) * H;   // the others may still read the one before
    k.prepare(matrix(number, 4), before, H, count, mine.hidden_columns);
    for (int gate = 0; gate < GATES[s.body]; gate++)
      multiply(thread, matrix(number, 4 + gate), mine.hidden_columns, gates[4 + gate], H);
    for (int c = 0; c < count && width > 0; c++) {
      const size_t at = size_t(c) * H + from;
      float *in[4], *rec[4];
      for (int gate = 0; gate < 4; gate++)
        in[gate] = gates[gate] + size_t(step) * H + at, rec[gate] = gates[4 + gate] + at;
      memcpy(fresh + at, before + at, width * sizeof(float));
      if (s.body == RNN) k.rnn(in, rec, fresh + at, width);
      else if (s.body == GRU) k.gru(in, rec, fresh + at, width);
      else k.lstm(in, rec, fresh + at, cell + at, width);
    }
    pool.barrier();
    before = fresh;
  }
  for (int c = 0; c < count && width > 0; c++)
    memcpy(hidden + size_t(c) * H + from, before + size_t(c) * H + from, width * sizeof(float));
}

}  // namespace lmapps

// ---- C interface; step.py calls it ----------------------------------------------------------

using namespace lmapps;

extern "C" {

int lmapps_sources() { return SOURCES; }   // compile.py's fingerprint of these files

// Names of this machine's instruction sets, best first; null behind the last.
const char *lmapps_level(int number) {
  const Kernels *found[4];
  return number < levels(found) ? found[number]->name : nullptr;
}

#define TEXT(...) #__VA_ARGS__
#define TEXT_OF(...) TEXT(__VA_ARGS__)
// Names, with commas, of the instruction sets that the compiler did not know.
const char *lmapps_left_out() { return TEXT_OF(LEFT_OUT); }

// So many threads, the caller's own among them; null where there is no memory for them. One call at
// a time may use them: those of a model, and sampling in between.
void *lmapps_threads(int count) {
  try {
    return new Pool(count);
  } catch (...) {
    return nullptr;
  }
}

void lmapps_threads_free(void *threads) { delete (Pool *)threads; }

// A model without weights, to be freed before its threads; null where there is not enough memory.
void *lmapps_new(void *threads, const int *shape, float epsilon, const float *cos_sin, int level) {
  const Kernels *found[4];
  levels(found);
  try {
    return new Model(*(Pool *)threads, *(const Shape *)shape, epsilon, cos_sin, *found[level]);
  } catch (...) {
    return nullptr;
  }
}

void lmapps_free(void *model) { delete (Model *)model; }

// 0, or 1 where there is not enough memory. Layer number `layers` is what stands behind the last.
int lmapps_matrix(void *model, int layer, int name, const float *data, int rows, int inputs,
                  const float *bias) {
  try {
    ((Model *)model)->set_matrix(layer, name, data, rows, inputs, bias);
    return 0;
  } catch (...) {
    return 1;
  }
}

int lmapps_vector(void *model, int layer, int name, const float *data, int count) {
  try {
    ((Model *)model)->set_vector(layer, name, data, count);
    return 0;
  } catch (...) {
    return 1;
  }
}

void lmapps_step(void *model, float *x, int rows, int tokens, void *const *state, int is_bfloat16,
                 int capacity, const int64_t *lengths, float *logits) {
  ((Model *)model)->step({x, rows, tokens, state, is_bfloat16, capacity, lengths, logits});
}

}  // extern "C"
