// Logits of many rows, and how to sample each -> an id each: what engine/sampling.py defines.
//
// e^x of all ids is one vectorised pass. Top-k, top-p and min-p then look only at ids above a bound
// that none of those they keep is below, usually few; nobody puts a vocabulary in order. The rows are
// dealt out among the threads that the model's step uses.
#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>

#include "kernels.h"
#include "pool.h"

namespace lmapps {
namespace {

struct Row {                // filled by sampler.py, in this order
  int32_t number, top_k;    // number: which row of the logits it is
  double temperature, top_p, min_p, point;   // point: a random number from 0 up to 1
  int32_t changed, banned;  // so many of the next ids have another logit; so many more, none
};

constexpr double NOTHING = -std::numeric_limits<double>::infinity();
constexpr int CLASSES = 1024;   // of weights, 16 to each power of two; the last is all below 2^-63

int class_of(double weight) {   // from 0 for 1: the upper bits of a double are a coarse logarithm
  uint64_t bits;
  memcpy(&bits, &weight, sizeof bits);
  return int(std::min<uint64_t>((0x3ff0000000000000 - bits) >> 48, CLASSES - 1));
}

// The k-th largest; the largest k come to stand in front.
double largest(double *values, int count, int k) {
  std::nth_element(values, values + k - 1, values + count, std::greater<double>());
  return values[k - 1];
}

// Where the running sum exceeds the target, of which is left what is behind the places before.
int reached(const double *weights, int count, double &target) {
  int last = 0;
  for (int i = 0; i < count; i++) {
    if (weights[i] <= 0) continue;
    if (target < weights[i]) return i;
    target -= weights[last = i];
  }
  target += weights[last];  // rounding: the sum in another order was larger
  return last;
}

struct Room {               // the caller's memory, for one row at a time
  const Kernels &k;
  const int vocab, spans;
  double *x, *sums, *highs;             // of all ids: logits, then weights; of each span of weights
  double *weights, *sorted;             // of the ids that may come
  int32_t *ids, count = 0;

  Room(const Kernels &kernels, double *from, int vocab)
      : k(kernels), vocab(vocab), spans((vocab + SPAN - 1) / SPAN), x(from), sums(x + spans * SPAN),
        highs(sums + spans), weights(highs + spans), sorted(weights + spans * SPAN),
        ids((int32_t *)(sorted + spans * SPAN)) {}

  void from_bound(double bound) {       // behind the last id there are only zeros
    count = 0;
    for (int span = 0; span < spans; span++)
      if (highs[span] >= bound) count += k.at_least(x + span * SPAN, bound, span * SPAN, ids + count);
    for (int i = 0; i < count; i++) weights[i] = x[ids[i]];
  }

  // The largest, until they reach the target or there are no more above `least`. Usually few do: to
  // look for them within wider and wider bounds takes less time than to look at all.
  void from_top(double target, double least) {
    double bound = 1;
    do from_bound(bound = std::max(bound / 32, least));
    while (bound > least && sum() < target);
  }

  template <class May> void keep(May may) {
    int kept = 0;
    for (int i = 0; i < count; i++) {
      const double weight = weights[i];
      ids[kept] = ids[i], weights[kept] = weight, kept += may(weight);
    }
    count = kept;
  }

  double sum() const { return std::accumulate(weights, weights + count, 0.0); }

  // The largest that together reach the target; of equal ones the first. The sum of each class says
  // in which one that is, and its weights alone are put in order.
  void keep_most(double target) {
    double totals[CLASSES] = {}, before = 0;
    int last = 0, some = 0, place = 0;
    for (int i = 0; i < count; i++) totals[class_of(weights[i])] += weights[i];
    while (last + 1 < CLASSES && before + totals[last] < target) before += totals[last++];
    for (int i = 0; i < count; i++)
      if (class_of(weights[i]) == last) sorted[some++] = weights[i];
    std::sort(sorted, sorted + some, std::greater<double>());
    while (place + 1 < some && before + sorted[place] < target) before += sorted[place++];
    const double least = some ? sorted[place] : 0;
    auto equal = std::count(sorted, sorted + std::min(place + 1, some), least);
    keep([&](double w) { return w > least || (w == least && equal-- > 0); });
  }
};

int pick(const Row &row, Room &room) {   // by the weights of all ids, the largest of which is 1
  double whole = std::accumulate(room.sums, room.sums + room.spans, 0.0);
  if (row.top_k > 0 && row.top_k < room.vocab) {
    std::copy(room.highs, room.highs + room.spans, room.sorted);   // k spans reach it: so do k ids
    room.from_bound(row.top_k > room.spans ? 0 : largest(room.sorted, room.spans, row.top_k));
    std::copy(room.weights, room.weights + room.count, room.sorted);
    const double least = largest(room.sorted, room.count, row.top_k);
    room.keep([&](double weight) { return weight >= least; });
    whole = room.sum();
  } else if (row.top_p < 1 || row.min_p > 0) {
    const double rare = (1 - row.top_p) / room.vocab * whole;   // what is rarer does not make up
    room.from_top(row.top_p * whole, std::min(1.0, std::max(rare, row.min_p)));   // 1 - top_p
  } else {
    double target = row.point * whole;
    const int first = reached(room.sums, room.spans, target) * SPAN;
    return first + reached(room.x + first, SPAN, target);
  }
  if (row.top_p < 1) room.keep_most(row.top_p * whole);
  room.keep([&](double weight) { return weight >= row.min_p; });
  double target = row.point * room.sum();
  return room.ids[reached(room.weights, room.count, target)];
}

// At 1e-300 the best one is alone already, and 1 / temperature no infinity yet.
double scale_of(const Row &row) { return 1 / std::max(row.temperature, 1e-300); }

int draw_as_given(const Row &row, const float *logits, Room &room) {
  const int best = room.k.top(logits, room.vocab);
  if (best < 0 || row.temperature == 0) return best;
  room.k.weigh_floats(logits, room.vocab, logits[best], scale_of(row), room.x, room.sums, room.highs);
  return pick(row, room);
}

int draw_changed(const Row &row, const float *logits, const int32_t *ids, const double *values, Room &room) {
  if (!room.k.spread(logits, room.vocab, room.x)) return -1;
  for (int i = 0; i < row.changed; i++) room.x[*ids++] = values[i];
  for (int i = 0; i < row.banned; i++) room.sorted[i] = room.x[ids[i]], room.x[ids[i]] = NOTHING;
  double best = room.k.highest(room.x, room.spans);
  if (best == NOTHING) {    // every id is banned, and one of them it must be
    for (int i = 0; i < row.banned; i++) room.x[ids[i]] = room.sorted[i];
    best = room.k.highest(room.x, room.spans);
  }
  if (best == NOTHING) return -1;
  if (row.temperature == 0) return int(std::find(room.x, room.x + room.vocab, best) - room.x);
  room.k.weigh(room.x, room.spans * SPAN, best, scale_of(row), room.x, room.sums, room.highs);
  return pick(row, room);
}

}  // namespace
}  // namespace lmapps

// ---- C interface; sampler.py calls it --------------------------------------------------------

using namespace lmapps;

extern "C" {

// How many doubles of room `lmapps_sample` needs for each thread.
int lmapps_room(int vocab) { return (vocab + SPAN - 1) / SPAN * (3 * SPAN + SPAN / 2 + 2); }

// next[i] = the id of rows[i], or -1 where its logits allow none, or are no numbers. `ids`, and
// `values` of the changed ones, are those of all rows, one row behind the other. Without threads
// (null) the caller's own does it all.
void lmapps_sample(void *threads, int level, const float *logits, int stride, int vocab, const void *rows,
                   int count, const int32_t *ids, const double *values, double *room, int32_t *next) {
  const Kernels *found[4];
  levels(found);
  const bool alone = !threads || count == 1;
  const int dealt = alone ? 1 : ((Pool *)threads)->count;
  auto part = [&](int thread) {   // every `dealt`-th row
    Room own(*found[level], room + size_t(thread) * lmapps_room(vocab), vocab);
    const int32_t *its_ids = ids;
    const double *its_values = values;
    for (int i = 0; i < count; i++) {
      const Row &row = ((const Row *)rows)[i];
      const float *from = logits + size_t(row.number) * stride;
      if (i % dealt == thread)
        next[i] = row.changed || row.banned ? draw_changed(row, from, its_ids, its_values, own)
                                            : draw_as_given(row, from, own);
      its_ids += row.changed + row.banned, its_values += row.changed;
    }
  };
  if (alone) part(0);
  else ((Pool *)threads)->run(std::ref(part));   // a copy of it could ask for memory
}

}  // extern "C"
