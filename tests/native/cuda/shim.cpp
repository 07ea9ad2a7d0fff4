#include "cuda/shim.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/cluster.h"
#include "cuda/fiber.h"

namespace fasttriplet::cuda::shim {

Position position;

namespace {

constexpr int kMostThreads = 1024;

Cluster* running = nullptr;
const Settings* running_settings = nullptr;

struct KnownSite {
  Site site;
  std::string name;
  int64_t waits;  // of single threads
};
std::vector<KnownSite> known_sites;

// Whether a site is the one to be broken; `names` gets its name. Asked at every wait, so known sites are found by
// pointer and line.
bool is_broken(std::vector<std::string>& names, Site site) {
  auto found = std::find_if(known_sites.begin(), known_sites.end(), [&](const KnownSite& other) {
    return other.site.line == site.line && other.site.file == site.file;
  });
  if (found == known_sites.end()) {
    const std::string file = site.file;
    known_sites.push_back({site, file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line), 0});
    found = known_sites.end() - 1;
    if (std::find(names.begin(), names.end(), found->name) == names.end()) names.push_back(found->name);
  }
  ++found->waits;
  return found->name == running_settings->broken_site;
}

}  // namespace

Sites& sites() {
  static Sites all;
  return all;
}

std::map<std::string, int64_t> take_waits() {
  std::map<std::string, int64_t> waits;
  for (KnownSite& known : known_sites) {
    waits[known.name] += known.waits;
    known.waits = 0;
  }
  return waits;
}

void meet(const char* operation, void* own, void (*combine)(void* const lanes[32])) {
  running->meet(operation, own, combine);
}
bool wait_for_block(bool value, Site site) {
  if (is_broken(sites().block, site)) return value;
  return running->wait_for_block(value);
}
bool last_of_blocks(uint32_t* arrived, uint32_t blocks) { return running->last_of_blocks(arrived, blocks); }
int cluster_rank() { return running->rank(); }
void wait_for_cluster(Site site) {
  if (!is_broken(sites().block, site)) running->wait_for_cluster();
}
void wait_for_warp(Site site) {
  if (!is_broken(sites().warp, site)) running->meet("warp_barrier", nullptr, nullptr);
}
void copy(void* shared, const void* global, int bytes) { running->copy({shared, global, bytes}); }
void commit_copies() { running->commit(); }
void wait_for_copies(int pending, Site site) {
  running->wait_for_copies(is_broken(sites().copies, site) ? pending + 1 : pending);
}

void start_arrivals(uint64_t* barrier, int count) { running->start_arrivals(barrier, count); }
void arrive_at(uint64_t* barrier, int rank) { running->arrive_at(barrier, rank); }
void end_arrivals(uint64_t* barrier) { running->end_arrivals(barrier); }
void expect_arrivals(uint64_t* barrier, int bytes) { running->expect_arrivals(barrier, bytes); }
void copy_box(char* shared, const TileMap& map, int k, int row, uint64_t* barrier, bool to_both) {
  running->copy_box(shared, map, k, row, barrier, to_both);
}
void wait_for_arrivals(uint64_t* barrier, int parity, Site site) {
  if (!is_broken(sites().arrivals, site)) running->wait_for_arrivals(barrier, parity);
}
void multiply_by_group(float* sum, int columns, const void* a, const void* b) {
  running->multiply_by_group(sum, columns, a, b);
}
void commit_group() { running->commit_group(); }
void wait_for_group(int pending, Site site) {
  running->wait_for_group(is_broken(sites().groups, site) ? pending + 1 : pending);
}

void run_grid(const Settings& settings, const Grid& grid, void (*body)(const void*), const void* kernel) {
  static std::vector<Fiber> fibers(kMostThreads);
  std::minstd_rand random(static_cast<unsigned>(settings.seed * 2654435761u + 1));
  if (grid.blocks % grid.cluster != 0) throw std::runtime_error("a grid is not made of whole clusters");
  std::vector<int64_t> order(grid.blocks / grid.cluster);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  Cluster cluster(settings, grid, fibers, random, body, kernel);
  running = &cluster;
  running_settings = &settings;
  for (const int64_t number : order) cluster.run(number * grid.cluster);
}

}  // namespace fasttriplet::cuda::shim
