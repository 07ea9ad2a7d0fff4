#include "cpu/rows/sampled_keys.h"

namespace fasttriplet::cpu {

void SampledKeys::write(int64_t anchors_begin, int64_t rows, float* keys) const {
  const std::vector<float> no_terms(tier.layout.width, 0.0f);
  std::vector<float> column_terms(samples);
  StripTask strip;
  strip.panels = prepared.view();
  strip.row_begin = anchors_begin;
  strip.rows = rows;
  strip.column_begin = begin(anchors_begin);
  strip.columns = samples;
  for (int64_t c = 0; c < samples; ++c) {
    const RowTerms& candidate = terms[strip.column_begin + c];
    column_terms[c] = float_above(candidate.candidate + candidate.candidate_slack);
  }
  strip.row_terms = no_terms.data();
  strip.column_terms = column_terms.data();
  strip.keys = keys;
  tier.scan.strip(strip);
}

}  // namespace fasttriplet::cpu
