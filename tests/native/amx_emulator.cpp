// An illegal instruction reaches the handler below with the thread's registers. It decodes the instruction, keeps eight
// tiles a thread, and steps over it. So the code under test is the very code that runs on a CPU with AMX.
//
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBF16PS, LDTILECFG, TILELOADD and
// so on. All are VEX.128.0F38.W0: opcode 49 (none: ldtilecfg m512, or tilerelease as C0; F2: tilezero), 4B (F2:
// tileloadd; F3: tilestored), 5C (F3: tdpbf16ps). Products are of bfloat16 pairs; each of the even and the odd sums is
// float32, rounded to nearest, denormals are zero before and after every step.
#include "amx_emulator.h"

#if defined(__x86_64__) && defined(__linux__)
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>

namespace fasttriplet::testing {
namespace {

struct Tile {
  int rows = 0, bytes_per_row = 0;  // 0: not configured
  alignas(64) uint8_t data[16][64];
};
thread_local Tile tiles[8];
thread_local int64_t products = 0;

[[noreturn]] void fail(const char* message) {
  const ssize_t written = write(STDERR_FILENO, message, std::strlen(message));
  (void)written;
  std::abort();
}

Tile& configured(int number) {
  if (number > 7 || tiles[number].rows == 0) fail("amx emulator: a tile is used that is not configured\n");
  return tiles[number];
}

inline __attribute__((always_inline)) float flushed(float x) {
  return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x;
}

// Both halves of the words of a tile, as float32.
struct Halves {
  float even[16][16], odd[16][16];
};
Halves halves_of(const Tile& tile) {
  Halves halves = {};
  for (int row = 0; row < tile.rows; ++row)
    for (int word = 0; word < tile.bytes_per_row / 4; ++word) {
      uint32_t bits;
      std::memcpy(&bits, tile.data[row] + 4 * word, sizeof bits);
      const uint32_t low = bits << 16, high = bits & 0xffff0000;
      std::memcpy(&halves.even[row][word], &low, sizeof low);
      std::memcpy(&halves.odd[row][word], &high, sizeof high);
      halves.even[row][word] = flushed(halves.even[row][word]);
      halves.odd[row][word] = flushed(halves.odd[row][word]);
    }
  return halves;
}

void load_config(const uint8_t* config) {
  if (config[0] != 1 || config[1] != 0) fail("amx emulator: palette 1 and start row 0 are what it knows\n");
  for (int t = 0; t < 8; ++t) {
    uint16_t bytes;
    std::memcpy(&bytes, config + 16 + 2 * t, sizeof bytes);
    const int rows = config[48 + t];
    if (rows > 16 || bytes > 64 || (rows == 0) != (bytes == 0)) fail("amx emulator: not a shape of a tile\n");
    tiles[t].rows = rows;
    tiles[t].bytes_per_row = bytes;
    std::memset(tiles[t].data, 0, sizeof tiles[t].data);
  }
}

// Compiled for vectors, which a CPU that is taken for one with AMX has: else most of the tests' time would go here.
__attribute__((target("avx512f,fma"), optimize("O3"))) void multiply(Tile& sums, const Tile& left, const Tile& right) {
  if (left.bytes_per_row % 4 != 0 || left.rows != sums.rows || right.bytes_per_row != sums.bytes_per_row ||
      right.rows != left.bytes_per_row / 4)
    fail("amx emulator: the shapes of the tiles do not fit\n");
  const Halves x = halves_of(left), y = halves_of(right);
  for (int m = 0; m < sums.rows; ++m) {
    float even[16] = {}, odd[16] = {}, sum[16];
    for (int k = 0; k < right.rows; ++k)
      for (int n = 0; n < 16; ++n) {
        even[n] = flushed(std::fma(x.even[m][k], y.even[k][n], even[n]));
        odd[n] = flushed(std::fma(x.odd[m][k], y.odd[k][n], odd[n]));
      }
    std::memcpy(sum, sums.data[m], sums.bytes_per_row);
    for (int n = 0; n < sums.bytes_per_row / 4; ++n) sum[n] = flushed(flushed(sum[n]) + flushed(even[n] + odd[n]));
    std::memcpy(sums.data[m], sum, sums.bytes_per_row);
  }
}

// Where a thread's registers lie, by the number instructions give them.
int64_t register_of(const ucontext_t& context, int number) {
  static constexpr int kPlaces[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                      REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return context.uc_mcontext.gregs[kPlaces[number]];
}

struct Operand {
  uint8_t* address;
  int64_t stride;  // the index register, scaled
  int length;      // bytes of the instruction behind ModRM
};

// A memory operand behind `modrm`; x and b are the fourth bits of index and base.
Operand operand_at(const uint8_t* modrm, int x, int b, const ucontext_t& context) {
  const int mod = *modrm >> 6, rm = *modrm & 7;
  const uint8_t* next = modrm + 1;
  int64_t address = 0, stride = 0;
  bool relative = false, wide = mod == 2;
  if (rm == 4) {
    const int scale = *next >> 6, index = (*next >> 3 & 7) | x << 3, base = *next & 7;
    ++next;
    if (index != 4) stride = register_of(context, index) * (int64_t{1} << scale);
    if (mod == 0 && base == 5)
      wide = true;
    else
      address = register_of(context, base | b << 3);
  } else if (mod == 0 && rm == 5) {
    relative = wide = true;
  } else {
    address = register_of(context, rm | b << 3);
  }
  if (wide) {
    int32_t displacement;
    std::memcpy(&displacement, next, sizeof displacement);
    address += displacement;
    next += 4;
  } else if (mod == 1) {
    address += static_cast<int8_t>(*next++);
  }
  if (relative) address += reinterpret_cast<int64_t>(next);
  return {reinterpret_cast<uint8_t*>(address), stride, static_cast<int>(next - modrm - 1)};
}

// Carries out the instruction at `at`; returns its length, or 0 where it is none of AMX's.
int execute(const uint8_t* at, const ucontext_t& context) {
  if (at[0] != 0xc4 || (at[1] & 0x1f) != 2) return 0;  // three-byte VEX, map 0F38
  if ((at[2] & 0x84) != 0) return 0;                   // W and L are zero
  const int x = (at[1] >> 6 & 1) ^ 1, b = (at[1] >> 5 & 1) ^ 1;
  const int third = (at[2] >> 3 & 15) ^ 15, prefix = at[2] & 3, opcode = at[3];
  const uint8_t* modrm = at + 4;
  const bool memory = *modrm >> 6 != 3;
  const int reg = *modrm >> 3 & 7, rm = *modrm & 7;
  enum { kNone, k66, kF3, kF2 };
  constexpr int kLength = 5;
  if (opcode == 0x49 && prefix == kNone && memory && reg == 0) {
    const Operand operand = operand_at(modrm, x, b, context);
    load_config(operand.address);
    return kLength + operand.length;
  }
  if (opcode == 0x49 && prefix == kNone && *modrm == 0xc0) {
    for (Tile& tile : tiles) tile.rows = tile.bytes_per_row = 0;
    return kLength;
  }
  if (opcode == 0x49 && prefix == kF2 && !memory && rm == 0) {
    Tile& tile = configured(reg);
    std::memset(tile.data, 0, sizeof tile.data);
    return kLength;
  }
  if (opcode == 0x4b && (prefix == kF2 || prefix == kF3) && memory && rm == 4) {
    const Operand operand = operand_at(modrm, x, b, context);
    Tile& tile = configured(reg);
    if (prefix == kF2) std::memset(tile.data, 0, sizeof tile.data);
    for (int row = 0; row < tile.rows; ++row) {
      uint8_t* there = operand.address + row * operand.stride;
      if (prefix == kF2)
        std::memcpy(tile.data[row], there, tile.bytes_per_row);
      else
        std::memcpy(there, tile.data[row], tile.bytes_per_row);
    }
    return kLength + operand.length;
  }
  if (opcode == 0x5c && prefix == kF3 && !memory) {
    multiply(configured(reg), configured(rm), configured(third));
    ++products;
    return kLength;
  }
  return 0;
}

void on_illegal_instruction(int, siginfo_t*, void* opaque) {
  ucontext_t& context = *static_cast<ucontext_t*>(opaque);
  greg_t& place = context.uc_mcontext.gregs[REG_RIP];
  const int length = execute(reinterpret_cast<const uint8_t*>(place), context);
  if (length == 0) signal(SIGILL, SIG_DFL);  // not ours: the instruction runs again and ends the process
  place += length;
}

}  // namespace

bool install_amx_emulator() {
  struct sigaction action = {};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  return sigaction(SIGILL, &action, nullptr) == 0;
}

bool amx_tiles_configured() {
  return std::any_of(std::begin(tiles), std::end(tiles), [](const Tile& tile) { return tile.rows != 0; });
}
int64_t amx_tile_products() { return products; }

}  // namespace fasttriplet::testing
#else
namespace fasttriplet::testing {
bool install_amx_emulator() { return false; }
bool amx_tiles_configured() { return false; }
int64_t amx_tile_products() { return 0; }
}  // namespace fasttriplet::testing
#endif
