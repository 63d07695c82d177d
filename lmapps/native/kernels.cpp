// Arithmetic of one instruction set. compile.py builds this file once for each, with LEVEL as the
// name; nothing here may come from the C++ library's templates, or the linker could give a machine
// without AVX-512 a copy that was compiled with it.
#include "kernels.h"

#include <cfloat>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace lmapps {
namespace {

#if defined(__AVX512F__)
constexpr int L = 16, REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int L = 8, REGISTERS = 16;
#elif defined(__ARM_NEON)
constexpr int L = 4, REGISTERS = 32;
#else
constexpr int L = 4, REGISTERS = 16;
#endif

// GCC's and Clang's vectors: + - * and comparisons work lane by lane on every machine.
typedef float F __attribute__((vector_size(4 * L)));
typedef int32_t I __attribute__((vector_size(4 * L)));
typedef uint32_t U __attribute__((vector_size(4 * L)));
typedef uint16_t H __attribute__((vector_size(2 * L)));
typedef int8_t B __attribute__((vector_size(L)));
typedef double D __attribute__((vector_size(4 * L)));   // half as many
typedef uint64_t W __attribute__((vector_size(4 * L)));
typedef float N __attribute__((vector_size(2 * L)));    // what becomes a D

template <class V, class T> inline V load(const T *from) { V v; memcpy(&v, from, sizeof v); return v; }
template <class V, class T> inline void store(T *to, V v) { memcpy(to, &v, sizeof v); }
inline F splat(float x) { return x - F{}; }   // x - 0 is x also for -0, and costs nothing
inline I splat(int32_t x) { return x - I{}; }
inline F as_float(U v) { return (F)v; }
inline F greater(F a, F b) { return a > b ? a : b; }
inline float widen(float x) { return x; }
inline float widen(uint16_t x) { uint32_t bits = uint32_t(x) << 16; float y; memcpy(&y, &bits, 4); return y; }
inline F load_numbers(const float *from) { return load<F>(from); }
inline F load_numbers(const uint16_t *from) {   // compilers widen __builtin_convertvector by halves
#if defined(__AVX512F__)
  return as_float((U)_mm512_cvtepu16_epi32(load<__m256i>(from)) << 16);
#elif defined(__AVX2__)
  return as_float((U)_mm256_cvtepu16_epi32(load<__m128i>(from)) << 16);
#else
  return as_float(__builtin_convertvector(load<H>(from), U) << 16);
#endif
}
inline H to_bfloat16(F x) {   // to the nearest, to even where two are as near
  U bits = (U)x;
  return __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, H);
}
inline void narrow(float x, float *to) { *to = x; }
inline void narrow(float x, uint16_t *to) { *to = to_bfloat16(splat(x))[0]; }
inline F nearest(F x) {       // 1.5 * 2^23: adding it leaves no room for a fraction
  const F magic = splat(12582912.0f);
  return (x + magic) - magic;
}

// One number from the N lanes of a vector of T, by halves: `join` gets two vectors, then two numbers.
template <class T, int N> struct Lanes { typedef T Type __attribute__((vector_size(sizeof(T) * N))); };
template <class T, int N, class V, class Join> inline T fold(V v, Join join) {
  if constexpr (N == 2) {
    return join(v[0], v[1]);
  } else if constexpr (N == 4) {   // vectors of two are none everywhere
    return join(join(v[0], v[2]), join(v[1], v[3]));
  } else {
    typename Lanes<T, N / 2>::Type half[2];
    memcpy(half, &v, sizeof v);
    return fold<T, N / 2>(join(half[0], half[1]), join);
  }
}
inline float sum(F v) { return fold<float, L>(v, [](auto a, auto b) { return a + b; }); }
inline float most(F v) { return fold<float, L>(v, [](auto a, auto b) { return a > b ? a : b; }); }

// Lanes of a, and of b where bit H of the lane's number is set: the same lane of each, or the other
// one of its two.
template <int H> struct Halves {
  int32_t same[L] = {}, other[L] = {};
  constexpr Halves() {
    for (int lane = 0; lane < L; lane++) {
      same[lane] = lane + (lane & H ? L : 0);
      other[lane] = (lane ^ H) + (lane & H ? L : 0);
    }
  }
};
inline F pick(F a, F b, I lanes) {
#if defined(__clang__)
  F v;
  for (int i = 0; i < L; i++) v[i] = lanes[i] < L ? a[lanes[i]] : b[lanes[i] - L];
  return v;
#else
  return __builtin_shuffle(a, b, lanes);
#endif
}
// The sums of L vectors, that of v[i] in lane i: two vectors become one, and again, until one is
// left. One by one they would take four times as many steps.
template <int H> inline F sums(const F *v) {
  if constexpr (H == L) {
    return *v;
  } else {
    static constexpr Halves<H> halves;
    F a = sums<2 * H>(v), b = sums<2 * H>(v + H);
    return pick(a, b, load<I>(halves.same)) + pick(a, b, load<I>(halves.other));
  }
}

// e^x by 2^n e^r, |r| <= ln(2)/2, r's series to the sixth power: relative error under 2e-7.
// What is no number stays so: each comparison with it is false.
inline F exp(F x) {
  x = x > splat(88.0f) ? splat(88.0f) : x;
  x = x < splat(-87.0f) ? splat(-87.0f) : x;
  F n = nearest(x * splat(1.44269504f));
  F r = (x - n * splat(0.693359375f)) - n * splat(-2.12194440e-4f);
  F y = splat(1.0f / 720);
  const float series[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  for (float c : series) y = y * r + splat(c);
  return y * (F)((__builtin_convertvector(n, I) + splat(127)) << 23);
}
inline F sigmoid(F x) { return splat(1.0f) / (splat(1.0f) + exp(-x)); }
inline F tanh(F x) { return splat(1.0f) - splat(2.0f) / (splat(1.0f) + exp(x + x)); }

// Calls body(i, load, store) for each vector of n numbers; the last, short one through a copy.
template <class Body> inline void each(int n, Body body) {
  int i = 0;
  for (; i + L <= n; i += L)
    body([i](const float *x) { return load<F>(x + i); }, [i](float *x, F v) { store(x + i, v); });
  if (int rest = n - i)
    body([i, rest](const float *x) { F v{}; memcpy(&v, x + i, 4 * rest); return v; },
         [i, rest](float *x, F v) { memcpy(x + i, &v, 4 * rest); });
}

// ---- matrix times columns ------------------------------------------------------------------

// Each kind: how a sum begins, goes on unit by unit, and ends as fp32. An int8 sum ends after each
// BLOCK of units, where the activations have another scale.
struct Float32 {
  typedef F Sum;
  static constexpr bool blocks = false;
  static Sum begin(const Columns &, int) { return F{}; }
  static Sum dot(Sum s, U w, U x) { return s + (F)w * (F)x; }
  static F end(Sum s, const Columns &, int) { return s; }
};

struct Bfloat16 {
  typedef F Sum;
  static constexpr bool blocks = false;
  static Sum begin(const Columns &, int) { return F{}; }
  static Sum dot(Sum s, U w, U x) {
#if defined(__AVX512BF16__)
    return (F)_mm512_dpbf16_ps((__m512)s, (__m512bh)w, (__m512bh)x);
#else   // a bf16 number is the upper half of an fp32 one
    s += as_float(w << 16) * as_float(x << 16);
    return s + as_float(w & 0xffff0000u) * as_float(x & 0xffff0000u);
#endif
  }
  static F end(Sum s, const Columns &, int) { return s; }
};

struct Int8 {
  typedef I Sum;
  static constexpr bool blocks = true;
#if defined(__AVX512VNNI__)   // takes one side without sign: weights are stored with 128 added,
  static constexpr bool unsigned_weights = true;   // and 128 x (sum of x) is taken off again
#else
  static constexpr bool unsigned_weights = false;
#endif
  static Sum begin(const Columns &x, int at) { return splat(unsigned_weights ? -128 * x.sum[at] : 0); }
  static Sum dot(Sum s, U w, U x) {
#if defined(__AVX512VNNI__)
    return (I)_mm512_dpbusd_epi32((__m512i)s, (__m512i)w, (__m512i)x);
#elif defined(__AVX2__)       // |w| x (x with w's sign): two products fit 16 bits, 127 at most
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)w),
                                         _mm256_sign_epi8((__m256i)x, (__m256i)w));
    return s + (I)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(__ARM_FEATURE_DOTPROD)
    return (I)vdotq_s32((int32x4_t)s, (int8x16_t)w, (int8x16_t)x);
#elif defined(__ARM_NEON)
    int16x8_t low = vmull_s8(vget_low_s8((int8x16_t)w), vget_low_s8((int8x16_t)x));
    int16x8_t high = vmull_s8(vget_high_s8((int8x16_t)w), vget_high_s8((int8x16_t)x));
    return s + (I)vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
#else
    for (int shift = 0; shift < 32; shift += 8)
      s += ((I)(w << (24 - shift)) >> 24) * ((I)(x << (24 - shift)) >> 24);
    return s;
#endif
  }
  static F end(Sum s, const Columns &x, int at) {
    return __builtin_convertvector(s, F) * splat(x.scale[at]);
  }
};

// One tile times C columns. Always eight running sums, since an addition takes four steps to
// finish and two can start in each: with few columns they are sums of different units.
template <class K, int C>
inline void tile(const Matrix &m, const Columns &x, int number, int column, float *y, int stride,
                 bool add) {
  constexpr int WAYS = 8 / C;
  const uint32_t *w = m.packed + size_t(number) * m.units * L;
  const uint32_t *units = x.units + size_t(column) * m.units;
  F totals[C] = {};
  for (int first = 0, block = 0; first < m.units; block += MOST_COLUMNS) {
    const int last = K::blocks && first + BLOCK < m.units ? first + BLOCK : m.units;
    typename K::Sum sums[WAYS][C] = {};
    for (int c = 0; c < C; c++) sums[0][c] = K::begin(x, block + column + c);
    for (int u = first; u < last; u += WAYS)
      for (int way = 0; way < WAYS; way++) {
        U wu = load<U>(w + size_t(u + way) * L);
        for (int c = 0; c < C; c++)
          sums[way][c] = K::dot(sums[way][c], wu, units[(u + way) * C + c] - U{});
      }
    for (int c = 0; c < C; c++) {
      for (int way = 1; way < WAYS; way++) sums[0][c] += sums[way][c];
      totals[c] += K::end(sums[0][c], x, block + column + c);
    }
    first = last;
  }
  int row = number * L, count = m.rows - row < L ? m.rows - row : L;
  for (int c = 0; c < C; c++) {
    F v = totals[c];
    if (K::blocks) v *= load<F>(m.scale + row);
    float *to = y + size_t(column + c) * stride + row;
    F before{}, bias{};
    if (m.bias) memcpy(&bias, m.bias + row, 4 * count);
    if (add) memcpy(&before, to, 4 * count);
    v += bias + before;
    if (count == L) store(to, v);
    else memcpy(to, &v, 4 * count);
  }
}

// Blocks of 8 columns, then 4, 2, 1; their size is a type, so that loops over it are unrolled.
template <int N> struct Size { static constexpr int value = N; };
template <class Visit> inline void each_block(int columns, Visit visit) {
  int column = 0;
  for (; column + 8 <= columns; column += 8) visit(column, Size<8>{});
  if (columns & 4) visit(column, Size<4>{}), column += 4;
  if (columns & 2) visit(column, Size<2>{}), column += 2;
  if (columns & 1) visit(column, Size<1>{});
}

template <class K>
void multiply_kind(const Matrix &m, const Columns &x, int first, int last, float *y, int stride,
                   bool add) {
  // All columns of one tile before the next: its weights are read from memory once, then from cache.
  for (int number = first; number < last; number++)
    each_block(x.count, [&](int column, auto size) {
      tile<K, size.value>(m, x, number, column, y, stride, add);
    });
}

void multiply(const Matrix &m, const Columns &x, int first, int last, float *y, int stride,
              bool add) {
  if (m.kind == Kind::float32) multiply_kind<Float32>(m, x, first, last, y, stride, add);
  else if (m.kind == Kind::bfloat16) multiply_kind<Bfloat16>(m, x, first, last, y, stride, add);
  else multiply_kind<Int8>(m, x, first, last, y, stride, add);
}

// BLOCK units of one column: 16 numbers of fp32, 32 of bf16 or 64 of int8.
void round_block(Kind kind, const float *x, uint32_t *units, float &scale, int32_t &sum_of_x) {
  const int count = BLOCK * per_unit(kind);
  if (kind == Kind::float32) { memcpy(units, x, BLOCK * 4); return; }
  if (kind == Kind::bfloat16) {
    for (int i = 0; i < count; i += L) store((uint16_t *)units + i, to_bfloat16(load<F>(x + i)));
    return;
  }
  F high{}, nothing{};   // x - x is no number where x is none, or infinite
  for (int i = 0; i < count; i += L) {
    F v = load<F>(x + i);
    high = greater(high, greater(v, -v)), nothing += v - v;
  }
  scale = most(high) / 127 + sum(nothing);
  if (!(scale >= FLT_MIN)) {   // all are (nearly) zero; or the scale says that there is no number
    memset(units, 0, BLOCK * 4);
    sum_of_x = 0;
    return;
  }
  const float inverse = 1 / scale;
  I total{};
  for (int i = 0; i < count; i += L) {
    I whole = __builtin_convertvector(nearest(load<F>(x + i) * splat(inverse)), I);
    store((int8_t *)units + i, __builtin_convertvector(whole, B));
    total += whole;
  }
  sum_of_x = 0;
  for (int i = 0; i < L; i++) sum_of_x += total[i];
}

void prepare(const Matrix &m, const float *x, int stride, int count, Columns &to) {
  to.count = count;
  const int per = per_unit(m.kind), numbers = BLOCK * per;
  each_block(count, [&](int column, auto size) {
    uint32_t *block = to.units + size_t(column) * m.units;
    for (int c = column; c < column + size.value; c++, block++)
      for (int u = 0, at = c; u < m.units; u += BLOCK, at += MOST_COLUMNS) {
        const float *from = x + size_t(c) * stride + u * per;
        const int left = m.inputs - u * per;
        float filled[BLOCK * 4];
        if (left < numbers) {   // the end of a column: zeros behind it
          memset(filled, 0, sizeof filled);
          if (left > 0) memcpy(filled, from, left * sizeof(float));
          from = filled;
        }
        uint32_t units[BLOCK];
        round_block(m.kind, from, units, to.scale[at], to.sum[at]);
        for (int i = 0; i < BLOCK && u + i < m.units; i++) block[(u + i) * size.value] = units[i];
      }
  });
}

// ---- norms, attention, gates ---------------------------------------------------------------

void rms_norm(const float *x, const float *weight, float epsilon, int n, float *y) {
  F squares{};
  each(n, [&](auto in, auto) { F v = in(x); squares += v * v; });
  float root = 1 / __builtin_sqrtf(sum(squares) / n + epsilon);
  each(n, [&](auto in, auto out) { out(y, in(x) * splat(root) * in(weight)); });
}

void swiglu(float *gate, const float *up, int n) {
  each(n, [&](auto in, auto out) { F g = in(gate); out(gate, g * sigmoid(g) * in(up)); });
}

void rotate(float *x, const float *cos_sin, int width) {
  float *first = x, *second = x + width / 2;
  const float *cos = cos_sin, *sin = cos_sin + width / 2;
  each(width / 2, [&](auto in, auto out) {
    F a = in(first), b = in(second);
    out(first, a * in(cos) - b * in(sin));
    out(second, b * in(cos) + a * in(sin));
  });
}

template <class T>
void remember_as(const float *key, const float *value, int head, int place, const Cache &cache) {
  size_t at = (size_t(head) * cache.capacity + place) * cache.width;
  for (int i = 0; i < cache.width; i++) {
    narrow(key[i], (T *)cache.keys + at + i);
    narrow(value[i], (T *)cache.values + at + i);
  }
}

// G queries times K keys, as far as whole vectors go: the lanes of parts[g][first + k] sum up to a
// product.
template <int G, int K, class T>
inline void dots(const float *queries, const T *keys, int width, F (&parts)[G][L], int first) {
  F sums[G][K] = {};
  for (int i = 0; i + L <= width; i += L)
    for (int k = 0; k < K; k++) {
      F key = load_numbers(keys + size_t(k) * width + i);
      for (int g = 0; g < G; g++) sums[g][k] += load<F>(queries + size_t(g) * width + i) * key;
    }
  for (int g = 0; g < G; g++)
    for (int k = 0; k < K; k++) parts[g][first + k] = sums[g][k];
}

// out = sum over places of share x value, for each of G queries and N vectors of a head's width at a
// time: their sums stay in registers.
template <int G, int N, class T>
inline void mix(const float *shares, int room, const T *values, int count, int width, float *out) {
  F sums[G][N] = {};
  for (int s = 0; s < count; s++)
    for (int i = 0; i < N; i++) {
      F value = load_numbers(values + size_t(s) * width + i * L);
      for (int g = 0; g < G; g++) sums[g][i] += splat(shares[g * room + s]) * value;
    }
  for (int g = 0; g < G; g++)
    for (int i = 0; i < N; i++) store(out + g * width + i * L, sums[g][i]);
}

// G query heads that share a key-value head: keys and values are read once for all of them.
template <int G, class T>
void attend_to(const float *queries, int head, int count, const Cache &cache, float *scores, float *out) {
  constexpr int SOME = REGISTERS / 8;   // keys, or vectors of a value, at a time
  const int width = cache.width, whole = width / L * L, room = (count + L - 1) / L * L;
  const T *keys = (const T *)cache.keys + size_t(head) * cache.capacity * width;
  const T *values = (const T *)cache.values + size_t(head) * cache.capacity * width;
  const float scale = 1 / __builtin_sqrtf(float(width));
  for (int s = 0; s < count; s += L) {
    F parts[G][L] = {};
    int k = 0;
    for (; k + SOME <= L && s + k + SOME <= count; k += SOME)
      dots<G, SOME>(queries, keys + size_t(s + k) * width, width, parts, k);
    for (; k < L && s + k < count; k++)
      dots<G, 1>(queries, keys + size_t(s + k) * width, width, parts, k);
    for (int g = 0; g < G; g++) store(scores + g * room + s, sums<1>(parts[g]));
  }
  float totals[G];
  for (int g = 0; g < G; g++, queries += width) {
    float *own = scores + g * room;
    if (whole < width)
      for (int s = 0; s < count; s++)
        for (int i = whole; i < width; i++) own[s] += queries[i] * widen(keys[size_t(s) * width + i]);
    for (int s = count; s < room; s++) own[s] = -3e38f;   // no place: its share is nothing
    F best = splat(-3e38f), total{};
    for (int s = 0; s < room; s += L) best = greater(best, load<F>(own + s));
    best = splat(most(best));
    for (int s = 0; s < room; s += L) {
      F share = exp((load<F>(own + s) - best) * splat(scale));
      total += share;
      store(own + s, share);
    }
    totals[g] = sum(total);
  }
  int i = 0;
  for (; i + SOME * L <= width; i += SOME * L) mix<G, SOME>(scores, room, values + i, count, width, out + i);
  for (; i + L <= width; i += L) mix<G, 1>(scores, room, values + i, count, width, out + i);
  for (int g = 0; g < G; g++, scores += room, out += width) {
    for (int j = whole; j < width; j++) {
      out[j] = 0;
      for (int s = 0; s < count; s++) out[j] += scores[s] * widen(values[size_t(s) * width + j]);
    }
    const F share = splat(1 / totals[g]);
    each(width, [&](auto in, auto to) { to(out, in(out) * share); });
  }
}

template <class T>
void attend_as(const float *queries, int group, int head, int count, const Cache &cache, float *scores,
               float *out) {
  for (; group > 0; group -= 4, queries += 4 * cache.width, out += 4 * cache.width) {
    if (group == 1) attend_to<1, T>(queries, head, count, cache, scores, out);
    else if (group == 2) attend_to<2, T>(queries, head, count, cache, scores, out);
    else if (group == 3) attend_to<3, T>(queries, head, count, cache, scores, out);
    else attend_to<4, T>(queries, head, count, cache, scores, out);
  }
}

// sums[j] (+)= sum over i of a[i * step + j * stride] x w[i], for N vectors w[i] and sums[j].
template <int N>
inline void combine(const float *w, const float *a, int count, int step, int stride, float *sums) {
  F total[N];
  for (int j = 0; j < N; j++) total[j] = load<F>(sums + j * L);
  for (int i = 0; i < count; i++) {
    F v = load<F>(w + size_t(i) * L);
    for (int j = 0; j < N; j++) total[j] += v * splat(a[size_t(i) * step + size_t(j) * stride]);
  }
  for (int j = 0; j < N; j++) store(sums + j * L, total[j]);
}

// Up to L queries at once, one in each lane: keys and values are read once for all of them, and no
// sum goes across lanes. Some keys at a time are widened to fp32 and stay in the nearest cache.
template <class T>
void attend_many_as(const Queries &q, int head, int first, const Cache &cache, float *scratch) {
  const int width = cache.width, keys = first + q.count;
  const T *from[] = {(const T *)cache.keys + size_t(head) * cache.capacity * width,
                     (const T *)cache.values + size_t(head) * cache.capacity * width};
  float *turned = scratch, *sums = turned + width * L, *plain = sums + width * L;
  float *scores = plain + KEY_BLOCK * width;
  auto each_keys = [&](const T *rows, auto visit) {
    for (int s = 0; s < keys; s += KEY_BLOCK) {
      const int count = keys - s < KEY_BLOCK ? keys - s : KEY_BLOCK;
      for (int i = 0; i < count * width; i++) plain[i] = widen(rows[size_t(s) * width + i]);
      visit(s, count);
    }
  };
  const float scale = 1 / __builtin_sqrtf(float(width));
  I last;
  for (int c = 0; c < L; c++) {
    last[c] = first + c;
    for (int i = 0; i < width; i++)
      turned[i * L + c] = c < q.count ? q.queries[size_t(c) * q.stride + i] * scale : 0;
  }
  memset(scores, 0, size_t(keys) * L * sizeof(float));
  memset(sums, 0, size_t(width) * L * sizeof(float));
  each_keys(from[0], [&](int s, int count) {
    each_block(count, [&](int key, auto size) {
      combine<size.value>(turned, plain + key * width, width, 1, width, scores + size_t(s + key) * L);
    });
  });
  F best = splat(-3e38f), total{};
  for (int s = 0; s < keys; s++) {
    F score = load<F>(scores + size_t(s) * L);
    best = splat(s) <= last ? greater(best, score) : best;
  }
  for (int s = 0; s < keys; s++) {
    F share = exp(load<F>(scores + size_t(s) * L) - best);
    share = splat(s) <= last ? share : F{};
    store(scores + size_t(s) * L, share);
    total += share;
  }
  each_keys(from[1], [&](int s, int count) {
    each_block(width, [&](int i, auto size) {
      combine<size.value>(scores + size_t(s) * L, plain + i, count, width, 1, sums + i * L);
    });
  });
  for (int c = 0; c < q.count; c++)
    for (int i = 0; i < width; i++) q.out[size_t(c) * q.out_stride + i] = sums[i * L + c] / total[c];
}

void attend_many(const Queries &q, int head, int first, const Cache &cache, float *scratch) {
  if (cache.is_bfloat16) attend_many_as<uint16_t>(q, head, first, cache, scratch);
  else attend_many_as<float>(q, head, first, cache, scratch);
}

void remember(const float *key, const float *value, int head, int place, const Cache &cache) {
  if (cache.is_bfloat16) remember_as<uint16_t>(key, value, head, place, cache);
  else remember_as<float>(key, value, head, place, cache);
}

void attend(const float *queries, int group, int head, int count, const Cache &cache, float *scores,
            float *out) {
  if (cache.is_bfloat16) attend_as<uint16_t>(queries, group, head, count, cache, scores, out);
  else attend_as<float>(queries, group, head, count, cache, scores, out);
}

void rnn(float *const *in, float *const *rec, float *hidden, int n) {
  each(n, [&](auto get, auto put) { put(hidden, tanh(get(in[0]) + get(rec[0]))); });
}

// Gates r, z, n; the reset gate acts on the product with the hidden vector (torch's form).
void gru(float *const *in, float *const *rec, float *hidden, int n) {
  each(n, [&](auto get, auto put) {
    F r = sigmoid(get(in[0]) + get(rec[0])), z = sigmoid(get(in[1]) + get(rec[1]));
    F fresh = tanh(get(in[2]) + r * get(rec[2]));
    put(hidden, fresh + z * (get(hidden) - fresh));
  });
}

// Gates i, f, g, o.
void lstm(float *const *in, float *const *rec, float *hidden, float *cell, int n) {
  each(n, [&](auto get, auto put) {
    F i = sigmoid(get(in[0]) + get(rec[0])), f = sigmoid(get(in[1]) + get(rec[1]));
    F g = tanh(get(in[2]) + get(rec[2])), o = sigmoid(get(in[3]) + get(rec[3]));
    F c = f * get(cell) + i * g;
    put(cell, c);
    put(hidden, o * tanh(c));
  });
}

// ---- sampling, in float64 ------------------------------------------------------------------

constexpr int LD = L / 2;
inline D splat(double x) { return x - D{}; }
inline double sum(D v) { return fold<double, LD>(v, [](auto a, auto b) { return a + b; }); }
inline double most(D v) { return fold<double, LD>(v, [](auto a, auto b) { return a > b ? a : b; }); }

// As above, for x <= 0 and to r's ninth power: relative error under 1e-11, and 0 below e^-708.
// 1.5 * 2^52 leaves n in the lowest bits of what it is added to, from where it can be an exponent.
inline D exp(D x) {
  const D magic = splat(6755399441055744.0), least = splat(-708.0);
  D from = x < least ? least : x, shifted = from * splat(1.4426950408889634) + magic;
  D n = shifted - magic;
  D r = (from - n * splat(6.93145751953125e-1)) - n * splat(1.42860682030941723212e-6);
  D y = splat(1.0 / 362880);
  const double series[] = {1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0};
  for (double c : series) y = y * r + splat(c);
  y *= (D)(((W)shifted + 1023) << 52);
  return x < least ? D{} : y;
}

inline D wide(N v) {
#if defined(__AVX512F__)   // as with bf16, compilers would do it by halves
  return (D)_mm512_cvtps_pd((__m256)v);
#else
  return __builtin_convertvector(v, D);
#endif
}
inline D wide(D v) { return v; }

// Calls body(first, span) for each span of n numbers; what lacks of the last one is -inf.
template <class T, class Body> inline void each_span(const T *x, int n, Body body) {
  int first = 0;
  for (; first + SPAN <= n; first += SPAN) body(first, x + first);
  if (first == n) return;
  T last[SPAN];
  for (int i = 0; i < SPAN; i++) last[i] = first + i < n ? x[first + i] : -__builtin_inf();
  body(first, last);
}

bool spread(const float *logits, int n, double *x) {
  D odd{};
  each_span(logits, n, [&](int first, const float *span) {
    for (int i = 0; i < SPAN; i += LD) {
      D v = wide(load<N>(span + i));
      odd += v < splat(__builtin_inf()) ? D{} : splat(1.0);   // also where it is no number
      store(x + first + i, v);
    }
  });
  return sum(odd) == 0;
}

double highest(const double *x, int spans) {
  D best[4];   // four at once: each waits only for itself
  for (D &one : best) one = splat(x[0]);
  for (int i = 0; i < spans * SPAN; i += 4 * LD)
    for (int way = 0; way < 4; way++) {
      D v = load<D>(x + i + way * LD);
      best[way] = v > best[way] ? v : best[way];
    }
  double all = x[0];
  for (D one : best) all = most(one) > all ? most(one) : all;
  return all;
}

template <class V, class T>
void weigh(const T *x, int n, double best, double scale, double *to, double *sums, double *highs) {
  each_span(x, n, [&](int first, const T *span) {
    D total{}, high{};
    for (int i = 0; i < SPAN; i += LD) {
      D w = exp((wide(load<V>(span + i)) - splat(best)) * splat(scale));
      total += w, high = w > high ? w : high;
      store(to + first + i, w);
    }
    sums[first / SPAN] = sum(total), highs[first / SPAN] = most(high);
  });
}

int top(const float *logits, int n) {
  float best = -__builtin_inff();
  int at = -1;
  F odd{};
  each_span(logits, n, [&](int first, const float *span) {
    F high = splat(-__builtin_inff());
    for (int i = 0; i < SPAN; i += L) {
      F v = load<F>(span + i);
      odd += v < splat(__builtin_inff()) ? F{} : splat(1.0f);   // also where it is no number
      high = greater(v, high);
    }
    if (most(high) > best) best = most(high), at = first;
  });
  if (at < 0 || sum(odd) != 0) return -1;
  while (logits[at] != best) at++;
  return at;
}

int at_least(const double *span, double bound, int first, int32_t *ids) {
  int found = 0;
#if defined(__AVX512F__)
  for (int i = 0; i < SPAN; i += LD) {
    const __m256i eight = _mm256_add_epi32(_mm256_set1_epi32(first + i), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    const __mmask8 is = _mm512_cmp_pd_mask(_mm512_loadu_pd(span + i), _mm512_set1_pd(bound), _CMP_GE_OQ);
    store(ids + found, _mm256_maskz_compress_epi32(is, eight));
    found += __builtin_popcount(is);
  }
#else
  for (int i = 0; i < SPAN; i++) ids[found] = first + i, found += span[i] >= bound;
#endif
  return found;
}

}  // namespace

#define NAMED(level) kernels_##level
#define TEXT(level) #level
#define TABLE(level)                                                                             \
  extern const Kernels NAMED(level);                                                             \
  const Kernels NAMED(level) = {TEXT(level), L, Int8::unsigned_weights, prepare, multiply, rms_norm, swiglu, remember,    \
                                attend, attend_many, rotate, rnn, gru, lstm, top, spread, highest,       \
                                weigh<D>, weigh<N>, at_least};
TABLE(LEVEL)

}  // namespace lmapps
