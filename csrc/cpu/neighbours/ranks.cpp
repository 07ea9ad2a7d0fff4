#include "cpu/neighbours/ranks.h"

#include <algorithm>
#include <numeric>

#include "cpu/neighbours/ranked.h"

namespace fasttriplet::cpu {
namespace {

// Positives an anchor up to which a walk keeps them all, in the mean, and the share of negatives nearer than the
// farthest positive up to which it is the faster: a hit costs some twenty products.
constexpr int64_t kKept = 64;
constexpr double kNearShare = 0.04;

// Of some anchors and some of their candidates: which share is nearer than the farthest positive.
template <typename T>
double near_share(const Batch<T>& batch, const RankTask& task) {
  constexpr int64_t kAnchors = 64, kCandidates = 256;
  const ExactScore<T> score(batch, task.survey.factors);
  const Pairing& pairing = task.pairing;
  const Groups& columns = pairing.columns();
  RankedPositives<T> ranked(pairing, score);
  int64_t near = 0, seen = 0;
  const int64_t anchors = pairing.anchors(), m = columns.representatives();
  for (int64_t s = 0; s < std::min(kAnchors, anchors); ++s) {
    const int64_t anchor = (2 * s + 1) * anchors / (2 * std::min(kAnchors, anchors));
    if (task.positives[anchor] == 0) continue;
    const std::vector<Neighbour>& positives = ranked.of(anchor);
    for (int64_t c = 0; c < std::min(kCandidates, m); ++c) {
      const int64_t column = (2 * c + 1) * m / (2 * std::min(kCandidates, m));
      if (pairing.role(anchor, columns.representative_class[column]) != Role::kNegative) continue;
      ++seen;
      near += !(positives.back().score < score(anchor, pairing.first_candidate() + columns.source[column]));
    }
  }
  return seen == 0 ? 0 : static_cast<double>(near) / static_cast<double>(seen);
}

// As if every row were finite.
Survey pretended(const Survey& survey) {
  Survey all = survey;
  for (RowSurvey& row : all.rows)
    if (row.largest != row.largest) row.largest = 0;
  return all;
}

}  // namespace

void summarise(const int64_t* before, int64_t count, int64_t positives, int64_t candidates, const RankOptions& options,
               double* row) {
  const auto asked = static_cast<int64_t>(options.at.size());
  std::fill_n(row, options.columns(), 0.0);
  row[0] = static_cast<double>(positives);
  row[6] = static_cast<double>(candidates);
  double* const hits = row + RankOptions::kWhole;
  double* const gains = hits + asked;
  for (int64_t j = 0; j < count; ++j) {
    const int64_t rank = before[j] + j + 1;
    const double precision = static_cast<double>(j + 1) / static_cast<double>(rank);
    if (j == 0) row[1] = static_cast<double>(rank);
    if (j == count - 1) row[2] = static_cast<double>(rank);
    row[3] += precision;
    if (rank <= positives) {
      row[4] += precision;
      row[5] += 1;
    }
    for (int64_t a = 0; a < asked; ++a) {
      if (rank > options.at[a]) continue;
      hits[a] += 1;
      gains[a] += precision;
    }
  }
}

template <typename T>
void retrieval_ranks(const Batch<T>& batch, const PairingInput& input, const RankOptions& options,
                     const Parallel& parallel, double* table) {
  const KeepDenormals mode;
  const Survey survey = survey_rows(batch, parallel);
  const Pairing pairing(batch, survey, input, EqualRows::kApart);
  const int64_t anchors = pairing.anchors();
  std::vector<int64_t> positives(anchors, 0), relevant(anchors, 0), candidates(anchors, 0);
  for (int64_t i = 0; i < anchors; ++i) {
    if (!pairing.takes_part(i)) continue;
    relevant[i] = positives[i] = pairing.count(i, Role::kPositive);
    candidates[i] = positives[i] + pairing.count(i, Role::kNegative);
  }
  if (options.count_missing && !survey.all_finite) {
    const Survey all = pretended(survey);
    const Pairing everyone(batch, all, input, EqualRows::kApart);
    for (int64_t i = 0; i < anchors; ++i) relevant[i] = everyone.takes_part(i) ? everyone.count(i, Role::kPositive) : 0;
  }
  for (int64_t i = 0; i < anchors; ++i)
    summarise(nullptr, 0, relevant[i], candidates[i], options, table + i * options.columns());
  const int64_t total = std::accumulate(positives.begin(), positives.end(), int64_t{0});
  if (total == 0) return;
  const RankTask task = {survey, pairing, parallel, positives, relevant, candidates, options, table};
  const bool quicker = total <= kKept * anchors && near_share(batch, task) <= kNearShare;
  if (options.way == RankWay::kWalk || (options.way == RankWay::kQuicker && quicker))
    rank_by_walk(batch, task);
  else
    rank_by_rows(batch, task);
}

template void retrieval_ranks(const Batch<float>&, const PairingInput&, const RankOptions&, const Parallel&, double*);
template void retrieval_ranks(const Batch<double>&, const PairingInput&, const RankOptions&, const Parallel&, double*);

}  // namespace fasttriplet::cpu
