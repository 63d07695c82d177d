// Runs small models, and sampling, through the C interface with every instruction set of this
// machine, and prints logits and ids: for sanitizers, and for processors that it only emulates.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

extern "C" {
const char *lmapps_level(int);
void *lmapps_threads(int);
void lmapps_threads_free(void *);
void *lmapps_new(void *, const int *, float, const float *, int);
void lmapps_free(void *);
int lmapps_matrix(void *, int, int, const float *, int, int, const float *);
int lmapps_vector(void *, int, int, const float *, int);
void lmapps_step(void *, float *, int, int, void *const *, int, int, const int64_t *, float *);
int lmapps_room(int);
void lmapps_sample(void *, int, const float *, int, int, const void *, int, const int32_t *,
                   const double *, double *, int32_t *);
}

static uint32_t seed = 1;
static std::vector<float> numbers(int count, float size) {   // a small random generator of our own
  std::vector<float> out(count);
  for (float &x : out) {
    seed = seed * 1664525u + 1013904223u;
    x = size * (int32_t(seed) / 2147483648.0f);
  }
  return out;
}

// body, vocab, width, hidden, layers, heads, kv_heads, head_size, inner
static const int SHAPES[][9] = {{0, 37, 24, 24, 2, 3, 1, 10, 18}, {0, 50, 33, 33, 1, 1, 1, 6, 7},
                                {0, 45, 40, 40, 1, 7, 1, 64, 30},
                                {0, 64, 64, 64, 2, 4, 2, 64, 96}, {1, 41, 19, 23, 2, 0, 0, 0, 0},
                                {2, 41, 19, 23, 2, 0, 0, 0, 0},  {3, 41, 32, 40, 1, 0, 0, 0, 0}};
static const int GATES[] = {0, 1, 3, 4};

static void run(const int *shape, int kind, int level, int threads, int rows, bool is_bfloat16) {
  const int body = shape[0], vocab = shape[1], width = shape[2], hidden = shape[3], layers = shape[4];
  const int heads = shape[5], kv = shape[6], head = shape[7], inner = shape[8], places = 32;
  seed = 7;
  int all[] = {body, kind, vocab, width, hidden, layers, heads, kv, head, inner, places};
  std::vector<float> table = numbers(places * (head + 1), 1);
  void *pool = lmapps_threads(threads);
  void *model = lmapps_new(pool, all, 1e-5f, table.data(), level);
  auto matrix = [&](int layer, int name, int r, int c, bool bias) {
    std::vector<float> w = numbers(r * c, 0.5f), b = numbers(r, 0.5f);
    lmapps_matrix(model, layer, name, w.data(), r, c, bias ? b.data() : nullptr);
  };
  auto vector = [&](int layer, int name, int n) {
    std::vector<float> v = numbers(n, 1);
    lmapps_vector(model, layer, name, v.data(), n);
  };
  for (int layer = 0; layer < layers; layer++)
    if (body == 0) {
      matrix(layer, 0, (heads + 2 * kv) * head, width, false);
      matrix(layer, 1, width, heads * head, false);
      matrix(layer, 2, inner, width, false);
      matrix(layer, 3, inner, width, false);
      matrix(layer, 4, width, inner, false);
      for (int name = 0; name < 4; name++) vector(layer, name, name < 2 ? width : head);
    } else {
      for (int gate = 0; gate < GATES[body]; gate++) {
        matrix(layer, gate, hidden, layer ? hidden : width, true);
        matrix(layer, 4 + gate, hidden, hidden, true);
      }
    }
  if (body == 0) vector(layers, 0, width);
  matrix(layers, 0, vocab, hidden, body != 0);

  const int parts = body == 0 || body == 3 ? 2 : 1;
  const int size = body == 0 ? rows * kv * places * head : rows * hidden;
  std::vector<std::vector<uint8_t>> state(layers * parts, std::vector<uint8_t>(size * (is_bfloat16 ? 2 : 4)));
  std::vector<void *> pointers;
  for (auto &part : state) pointers.push_back(part.data());
  std::vector<int64_t> lengths(rows);
  for (int row = 0; row < rows; row++) lengths[row] = row % 5;
  std::vector<float> logits(rows * vocab);
  for (int tokens : {1, 3, 1, 17, 1}) {
    std::vector<float> x = numbers(rows * tokens * width, 1);
    lmapps_step(model, x.data(), rows, tokens, pointers.data(), is_bfloat16, places, lengths.data(), logits.data());
    for (int64_t &length : lengths) length += tokens;
  }
  printf("%d%s %d %s %d %d:", int((shape - SHAPES[0]) / 9), is_bfloat16 ? "b" : "", kind, lmapps_level(level), threads, rows);
  for (float y : logits) printf(" %.6g", y);
  printf("\n");
  for (int64_t &length : lengths) length = 0;   // what is no number, or too small for a scale
  std::vector<float> bad = numbers(rows * width, 1);
  for (int i = 0; i < width; i++) bad[i] = i % 3 ? 1e-42f : i % 2 ? NAN : INFINITY;
  lmapps_step(model, bad.data(), rows, 1, pointers.data(), is_bfloat16, places, lengths.data(), logits.data());
  lmapps_free(model);
  lmapps_threads_free(pool);
}

struct Row {   // as in sample.cpp
  int32_t number, top_k;
  double temperature, top_p, min_p, point;
  int32_t changed, banned;
};

// Every setting with each other, in one call; some logits are equal, some are -inf, some rows bad.
static void sample(int vocab, int level, int threads) {
  seed = 7;
  const int rows = 4, stride = vocab + 3;
  std::vector<float> logits = numbers(rows * stride, 9);
  for (float &x : logits) x = x < -8 ? -INFINITY : int(x * 4) / 4.0f;
  logits[2 * stride + vocab / 2] = NAN;
  for (int i = 0; i < vocab; i++) logits[3 * stride + i] = -INFINITY;
  std::vector<Row> asked;
  std::vector<int32_t> ids;
  std::vector<double> values;
  for (double temperature : {0.0, 5e-324, 0.7, 100.0})
    for (int top_k : {0, 1, 40, vocab, vocab + 1})
      for (double top_p : {1e-9, 0.9, 1.0})
        for (double min_p : {0.0, 0.1, 1.0})
          for (int banned : {0, 2, vocab}) {
            const int number = int(asked.size()) % rows, changed = banned % 3 ? 1 : 0;
            const double point = numbers(1, 0.4999f)[0] + 0.5;
            asked.push_back({number, top_k, temperature, top_p, min_p, point, changed, 0});
            if (changed) ids.push_back(vocab - 1), values.push_back(20);
            for (int i = 0; i < banned && i < vocab; i++) ids.push_back(i), asked.back().banned++;
          }
  std::vector<double> room(lmapps_room(vocab) * threads);
  void *pool = threads > 1 ? lmapps_threads(threads) : nullptr;
  std::vector<int32_t> next(asked.size(), -2);
  lmapps_sample(pool, level, logits.data(), stride, vocab, asked.data(), int(asked.size()), ids.data(),
                values.data(), room.data(), next.data());
  if (pool) lmapps_threads_free(pool);
  printf("sample 0 %s %d %d:", lmapps_level(level), threads, vocab);
  for (int32_t id : next) printf(" %d", id);
  printf("\n");
}

int main() {
  for (int level = 0; lmapps_level(level); level++)
    for (int vocab : {1, 63, 64, 65, 1000, 5000})
      for (int threads : {1, 3}) sample(vocab, level, threads);
  for (const int *shape : SHAPES)
    for (int kind = 0; kind < 3; kind++)
      for (int level = 0; lmapps_level(level); level++)
        for (int threads : {1, 3})
          for (int rows : {1, 7, 70})
            for (int narrow = 0; narrow <= (shape[0] == 0); narrow++)
              run(shape, kind, level, threads, rows, narrow);
}
