// The k nearest candidates of every query, and all within a radius, exactly, in O((N + M) D + N k) memory.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/neighbours/candidates.h"
#include "cpu/rows/batch.h"

namespace fasttriplet::cpu {

// distances [Q, k], indices [Q, k]: by distance and then index; NaN and -1 where there are fewer. Rows that are not
// finite are nobody's neighbours and have none.
template <typename T>
void nearest(const Batch<T>& batch, const NeighbourRules& rules, int64_t k, const Parallel& parallel, double* distances,
             int64_t* indices);

// Of each query the neighbours at a distance of at most `radius`, in the same order.
template <typename T>
std::vector<std::vector<Neighbour>> within(const Batch<T>& batch, const NeighbourRules& rules, double radius,
                                           const Parallel& parallel);

}  // namespace fasttriplet::cpu
