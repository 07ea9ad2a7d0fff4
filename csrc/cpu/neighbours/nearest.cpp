#include "cpu/neighbours/nearest.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>

#include "cpu/neighbours/lists.h"
#include "cpu/neighbours/walk.h"
#include "cpu/rows/prepare.h"
#include "cpu/rows/sampled_keys.h"

namespace fasttriplet::cpu {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Rows in an order in which neighbours are far apart, whatever order they came in: every anchor meets some of its near
// candidates early. A step by the golden ratio.
std::vector<int32_t> scattered(int64_t count) {
  std::vector<int32_t> order(count);
  int64_t step = std::max<int64_t>(1, static_cast<int64_t>(0.6180339887498949 * static_cast<double>(count)));
  while (std::gcd(step, count) > 1) ++step;
  for (int64_t at = 0, place = 0; at < count; ++at, place = (place + step) % count)
    order[at] = static_cast<int32_t>(place);
  return order;
}

// Queries against candidates, as the walk has them: anchors are representatives where the queries are the candidates,
// else queries.
template <typename T>
class Search {
 public:
  Search(const Batch<T>& batch, const NeighbourRules& rules, const Parallel& parallel)
      : batch_(batch),
        parallel_(parallel),
        survey_(survey_rows(batch, parallel)),
        candidates_(batch, survey_, rules),
        score_(batch, survey_.factors),
        order_(scattered(candidates_.representatives())) {
    if (candidates_.own()) {
      anchors_.resize(order_.size());
      std::transform(order_.begin(), order_.end(), anchors_.begin(),
                     [&](int32_t representative) { return candidates_.row_of(representative); });
    } else {
      for (int64_t i = 0; i < candidates_.queries(); ++i)
        if (survey_.finite(i)) anchors_.push_back(static_cast<int32_t>(i));
    }
  }

  const Candidates& candidates() const { return candidates_; }
  const Parallel& parallel() const { return parallel_; }
  const Batch<T>& batch() const { return batch_; }
  int64_t anchors() const { return static_cast<int64_t>(anchors_.size()); }
  int32_t anchor_row(int64_t anchor) const { return anchors_[anchor]; }  // of the batch

  // Of an anchor and the candidate at a place.
  int32_t representative_at(int32_t place) const { return order_[place - first_candidate_]; }
  int32_t row_at(int32_t place) const { return candidates_.row_of(representative_at(place)); }
  bool barred(int64_t anchor, int32_t place) const {
    return candidates_.has_keys() && candidates_.barred(anchors_[anchor], representative_at(place));
  }
  double score(int64_t anchor, int32_t place) const { return score_(anchors_[anchor], row_at(place)); }
  void scores(int64_t anchor, const std::vector<int32_t>& rows, std::vector<double>& scores) const {
    scores.resize(rows.size());
    score_.many(anchors_[anchor], rows.data(), static_cast<int64_t>(rows.size()), scores.data());
  }
  double row_score(int64_t a, int64_t b) const { return score_(a, b); }
  double key_of_score(int64_t anchor, double score) const { return key_of(prepared_, batch_.distance, anchor, score); }
  const std::vector<RowTerms>& terms() const { return terms_; }
  bool screened() const { return prepared_.scale != 0; }

  // Calls attempt(walked, may_give_up) with ever finer tiers until it returns true; the last must.
  template <typename Attempt>
  void refine(Attempt&& attempt) {
    if (anchors_.empty() || order_.empty()) return;
    for (const Tier* tier = &batch_.tier.for_depth(batch_.d, batch_.distance); tier != nullptr; tier = tier->finer) {
      const int64_t width = tier->layout.width;
      std::vector<int32_t> source = anchors_;
      first_candidate_ = 0;
      if (!candidates_.own()) {
        source.resize((source.size() + width - 1) / width * width, source[0]);
        first_candidate_ = static_cast<int64_t>(source.size());
        for (const int32_t representative : order_) source.push_back(candidates_.row_of(representative));
      }
      prepared_ = prepare_rows(batch_, *tier, survey_, source, common_centre(batch_, survey_, source), parallel_);
      if (prepared_.too_coarse) continue;
      terms_.resize(source.size());
      for (size_t place = 0; place < source.size(); ++place)
        terms_[place] = terms_of(prepared_, batch_.distance, static_cast<int64_t>(place), false);
      classes_.resize(prepared_.padded);
      std::iota(classes_.begin(), classes_.end(), 0);
      const Walked walked = {*tier, prepared_, terms_, anchors(), first_candidate_, candidates_.representatives()};
      if (attempt(walked, tier->finer != nullptr && prepared_.scale != 0)) return;
    }
  }
  bool walk(const Walked& walked, HitConsumer& consumer) const {
    return walk_pairs(walked, classes_.data(), consumer, parallel_);
  }

  // An anchor's neighbours among representatives, ascending, as those of query row i: each representative becomes its
  // candidates, and of the query's own the others join them. At most k.
  void expand(int64_t query, const std::vector<Neighbour>& representatives, int64_t k,
              std::vector<Neighbour>& neighbours) const {
    neighbours.clear();
    const bool own = candidates_.own();
    const int32_t twin = own ? candidates_.representative_of(query) : -1;
    const bool twins = twin >= 0 && !candidates_.is_alone(twin) && !candidates_.barred(query, twin);
    if (candidates_.all_apart() && !candidates_.has_self_indices()) {
      neighbours.assign(representatives.begin(),
                        representatives.begin() + std::min<int64_t>(k, static_cast<int64_t>(representatives.size())));
      for (Neighbour& neighbour : neighbours)
        neighbour.candidate = candidates_.lowest(static_cast<int32_t>(neighbour.candidate));
      return;
    }
    const auto add = [&](int32_t representative, double score) {
      int64_t left = k;
      candidates_.for_each_member(representative, [&](int64_t candidate) {
        if (!candidates_.is_self(query, candidate)) {
          neighbours.push_back({score, candidate});
          --left;
        }
        return left > 0;
      });
    };
    if (twins) add(twin, row_score(query, query));
    // Beyond a representative that fills the list only equal distances matter.
    for (const Neighbour& each : representatives) {
      if (static_cast<int64_t>(neighbours.size()) > 4 * k) {
        std::nth_element(neighbours.begin(), neighbours.begin() + (k - 1), neighbours.end());
        neighbours.resize(k);
        if (neighbours.back().score < each.score) break;
      }
      add(static_cast<int32_t>(each.candidate), each.score);
    }
    std::sort(neighbours.begin(), neighbours.end());
    if (static_cast<int64_t>(neighbours.size()) > k) neighbours.resize(k);
  }
  // Calls f(query) for the queries that an anchor stands for.
  template <typename F>
  void for_each_query(int64_t anchor, F&& f) const {
    if (!candidates_.own()) return f(int64_t{anchors_[anchor]});
    candidates_.for_each_member(order_[anchor], [&](int64_t candidate) {
      f(candidate);
      return true;
    });
  }
  // By score and then index of what stands for it.
  bool before(const Neighbour& a, const Neighbour& b) const {
    return goes_before(a.score, candidates_.lowest(static_cast<int32_t>(a.candidate)), b.score,
                       candidates_.lowest(static_cast<int32_t>(b.candidate)));
  }

 private:
  const Batch<T>& batch_;
  const Parallel& parallel_;
  const Survey survey_;
  const Candidates candidates_;
  const ExactScore<T> score_;
  const std::vector<int32_t> order_;  // [representatives] by place
  std::vector<int32_t> anchors_;      // rows of the batch
  int64_t first_candidate_ = 0;
  Prepared prepared_;
  std::vector<RowTerms> terms_;
  std::vector<int32_t> classes_;  // each row by itself
};

// Exact scores that full lists may take, for each anchor and k of them, before the products are too coarse.
constexpr int64_t kMostScored = 8;

template <typename T>
class NearestConsumer : public HitConsumer {
 public:
  NearestConsumer(const Search<T>& search, int64_t k, bool may_give_up)
      : search_(search),
        k_(k),
        left_(may_give_up ? kMostScored * (k + 1) * search.anchors() : std::numeric_limits<int64_t>::max()),
        lists_(search.anchors(), k,
               [this](int64_t anchor, std::vector<NearestLists::Entry>& entries) { return settle(anchor, entries); }) {}

  NearestLists& lists() { return lists_; }

  void load(int64_t begin, int64_t end, double* bounds) const override {
    std::copy(lists_.bounds() + begin, lists_.bounds() + end, bounds);
  }
  void look(std::vector<Hit>&) override {}
  bool merge(const std::vector<Hit>& hits) override {
    for (const Hit& hit : hits) {
      if (!(hit.lower <= lists_.bound(hit.anchor)) || search_.barred(hit.anchor, hit.candidate)) continue;
      const double slack = search_.terms()[hit.anchor].anchor_slack + search_.terms()[hit.candidate].candidate_slack;
      lists_.offer(hit.anchor, hit.candidate, hit.lower, hit.lower + slack);
    }
    return left_ >= 0;
  }

  struct Scratch {
    std::vector<Neighbour> nearest;
    std::vector<int32_t> rows;
    std::vector<double> scores;
  };
  // The k nearest representatives of an anchor, ascending.
  const std::vector<Neighbour>& finish(int64_t anchor, Scratch& scratch) {
    std::vector<Neighbour>& nearest = scratch.nearest;
    nearest.clear();
    scratch.rows.clear();
    lists_.for_each(anchor, [&](int32_t place) {
      nearest.push_back({0, search_.representative_at(place)});
      scratch.rows.push_back(search_.row_at(place));
    });
    search_.scores(anchor, scratch.rows, scratch.scores);
    for (size_t at = 0; at < nearest.size(); ++at) nearest[at].score = scratch.scores[at];
    std::sort(nearest.begin(), nearest.end(),
              [this](const Neighbour& a, const Neighbour& b) { return search_.before(a, b); });
    if (static_cast<int64_t>(nearest.size()) > k_) nearest.resize(k_);
    return nearest;
  }

 private:
  bool settle(int64_t anchor, std::vector<NearestLists::Entry>& entries) {
    struct Scored {
      Neighbour neighbour;
      int32_t place;
    };
    std::vector<Scored> scored;
    for (const NearestLists::Entry& entry : entries)
      scored.push_back(
          {{search_.score(anchor, entry.candidate), search_.representative_at(entry.candidate)}, entry.candidate});
    left_ -= static_cast<int64_t>(entries.size());
    const auto before = [this](const Scored& a, const Scored& b) { return search_.before(a.neighbour, b.neighbour); };
    std::nth_element(scored.begin(), scored.begin() + (k_ - 1), scored.end(), before);
    scored.resize(k_);
    entries.clear();
    bool known = true;
    for (const Scored& each : scored) {
      const double key = search_.key_of_score(anchor, each.neighbour.score);
      known = known && std::isfinite(key);  // else an overflow, which goes first or last
      entries.push_back({each.place, known ? float_above(key) : -std::numeric_limits<float>::infinity()});
    }
    return known;
  }

  const Search<T>& search_;
  int64_t k_;
  std::atomic<int64_t> left_;
  NearestLists lists_;
};

// The k-th nearest of a few candidates bounds the k-th nearest of all.
template <typename T>
void sample(const Search<T>& search, const Walked& walked, int64_t k, NearestLists& lists) {
  constexpr int64_t kSamples = 96, kPerNeighbour = 3, kLeastSampled = 8;
  const int64_t width = walked.tier.layout.width;
  const int64_t samples = (std::max(kSamples, kPerNeighbour * k) + width - 1) / width * width;
  if (walked.candidates < kLeastSampled * samples || walked.prepared.scale == 0) return;
  const SampledKeys sampled = {walked.tier,       walked.prepared, walked.terms, walked.first_candidate,
                               walked.candidates, samples};
  const double operations =
      static_cast<double>(walked.anchors * samples) * static_cast<double>(walked.prepared.depth + 4) / 8;
  for_each_range(search.parallel(), walked.anchors, width, operations, [&](int64_t begin, int64_t end) {
    const int64_t from = sampled.begin(begin);
    if (walked.symmetric() && from < end && begin < from + samples) return;
    std::vector<float> keys(width * samples);
    sampled.write(begin, end - begin, keys.data());
    for (int64_t anchor = begin; anchor < end; ++anchor) {
      float* const row = keys.data() + (anchor - begin) * samples;
      if (search.candidates().has_keys())
        for (int64_t c = 0; c < samples; ++c)
          if (search.barred(anchor, static_cast<int32_t>(from + c))) row[c] = std::numeric_limits<float>::infinity();
      std::nth_element(row, row + (k - 1), row + samples);
      lists.lower_bound(anchor, SampledKeys::bound(walked.terms[anchor], row[k - 1]));
    }
  });
}

template <typename T>
class WithinConsumer : public HitConsumer {
 public:
  WithinConsumer(const Search<T>& search, double radius)
      : search_(search), radius_(radius), bounds_(search.anchors()), found_(search.anchors()) {
    constexpr double kScoreRounding = 0x1p-40;
    const bool nothing = radius < 0 && search.batch().distance != Distance::kInnerProduct;
    for (int64_t anchor = 0; anchor < search.anchors(); ++anchor) {
      const double key = search.key_of_score(anchor, radius);
      bounds_[anchor] = nothing ? -kInfinity : std::isfinite(key) ? key + kScoreRounding * std::fabs(key) : kInfinity;
    }
  }

  void load(int64_t begin, int64_t end, double* bounds) const override {
    std::copy(bounds_.begin() + begin, bounds_.begin() + end, bounds);
  }
  void look(std::vector<Hit>& hits) override {  // leaves those within, with their scores
    size_t kept = 0;
    for (const Hit& hit : hits) {
      if (search_.barred(hit.anchor, hit.candidate)) continue;
      const double score = search_.score(hit.anchor, hit.candidate);
      if (score <= radius_) hits[kept++] = {hit.anchor, hit.candidate, score};
    }
    hits.resize(kept);
  }
  bool merge(const std::vector<Hit>& hits) override {
    for (const Hit& hit : hits) found_[hit.anchor].push_back({hit.lower, search_.representative_at(hit.candidate)});
    return true;
  }

  std::vector<Neighbour>& found(int64_t anchor) { return found_[anchor]; }

 private:
  const Search<T>& search_;
  double radius_;
  std::vector<double> bounds_;
  std::vector<std::vector<Neighbour>> found_;
};

}  // namespace

template <typename T>
void nearest(const Batch<T>& batch, const NeighbourRules& rules, int64_t k, const Parallel& parallel, double* distances,
             int64_t* indices) {
  const KeepDenormals mode;
  std::fill_n(distances, batch.split * k, std::numeric_limits<double>::quiet_NaN());
  std::fill_n(indices, batch.split * k, -1);
  Search<T> search(batch, rules, parallel);
  const auto write = [&](int64_t query, const std::vector<Neighbour>& neighbours) {
    for (size_t at = 0; at < neighbours.size(); ++at) {
      distances[query * k + static_cast<int64_t>(at)] = neighbours[at].score;
      indices[query * k + static_cast<int64_t>(at)] = neighbours[at].candidate;
    }
  };
  // A query's own copy may take one place of the representatives'.
  const int64_t most = std::min(k + search.candidates().has_self_indices(), search.candidates().representatives());
  search.refine([&](const Walked& walked, bool may_give_up) {
    NearestConsumer<T> consumer(search, most, may_give_up);
    sample(search, walked, most, consumer.lists());
    if (!search.walk(walked, consumer)) return false;
    const double operations = 6.0 * static_cast<double>(walked.anchors * most) * static_cast<double>(batch.d);
    for_each_range(parallel, walked.anchors, 64, operations, [&](int64_t begin, int64_t end) {
      typename NearestConsumer<T>::Scratch scratch;
      std::vector<Neighbour> neighbours;
      for (int64_t anchor = begin; anchor < end; ++anchor) {
        const std::vector<Neighbour>& representatives = consumer.finish(anchor, scratch);
        search.for_each_query(anchor, [&](int64_t query) {
          search.expand(query, representatives, k, neighbours);
          write(query, neighbours);
        });
      }
    });
    return true;
  });
}

template <typename T>
std::vector<std::vector<Neighbour>> within(const Batch<T>& batch, const NeighbourRules& rules, double radius,
                                           const Parallel& parallel) {
  const KeepDenormals mode;
  std::vector<std::vector<Neighbour>> result(batch.split);
  Search<T> search(batch, rules, parallel);
  search.refine([&](const Walked& walked, bool) {
    WithinConsumer<T> consumer(search, radius);
    search.walk(walked, consumer);
    const double operations = 64.0 * static_cast<double>(walked.anchors);
    for_each_range(parallel, walked.anchors, 64, operations, [&](int64_t begin, int64_t end) {
      std::vector<Neighbour> neighbours;
      for (int64_t anchor = begin; anchor < end; ++anchor)
        search.for_each_query(anchor, [&](int64_t query) {
          search.expand(query, consumer.found(anchor), batch.n, neighbours);
          // Its own copies, which no product was taken of.
          while (!neighbours.empty() && !(neighbours.back().score <= radius)) neighbours.pop_back();
          std::sort(neighbours.begin(), neighbours.end());
          result[query] = neighbours;
        });
    });
    return true;
  });
  return result;
}

template void nearest(const Batch<float>&, const NeighbourRules&, int64_t, const Parallel&, double*, int64_t*);
template void nearest(const Batch<double>&, const NeighbourRules&, int64_t, const Parallel&, double*, int64_t*);
template std::vector<std::vector<Neighbour>> within(const Batch<float>&, const NeighbourRules&, double,
                                                    const Parallel&);
template std::vector<std::vector<Neighbour>> within(const Batch<double>&, const NeighbourRules&, double,
                                                    const Parallel&);

}  // namespace fasttriplet::cpu
