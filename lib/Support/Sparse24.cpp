//===- Sparse24.cpp - The canonical form of a 2:4 weight ------------------===//
//
// One selection rule serves every mode: keep the two elements of a group that are beaten by fewer
// than two others, where a larger magnitude beats a smaller one and a lower position an equal one.
// A 2:4 group then keeps its nonzeros and, at the lowest free positions, zeros; that is the
// canonical form. The loops carry no branch on data: they only collect the evidence of an offence,
// and a second pass words the error.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Support/Sparse24.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/ErrorHandling.h"
#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

using namespace llvm;

namespace sparseflow {
namespace {

//===----------------------------------------------------------------------===//
// Element types, as bit patterns
//===----------------------------------------------------------------------===//

/// Arrays come out of files and other programs: they need not be aligned.
template <typename T> struct UnalignedOf {
  typedef T type __attribute__((aligned(1), may_alias));
};
template <typename T> using Unaligned = typename UnalignedOf<T>::type;

/// A float of bit pattern T: magnitudes order like their patterns without the sign, and everything
/// from `Special` on is infinity or NaN.
template <typename T, T Special> struct FloatBits {
  using Storage = T;
  static constexpr T kSpecial = Special;
  static constexpr bool kHasSpecial = true;
  static T magnitude(T bits) { return bits & T(T(~T(0)) >> 1); }
};

template <typename T> struct IntBits {
  using Storage = std::make_unsigned_t<T>;
  static constexpr Storage kSpecial = 0;
  static constexpr bool kHasSpecial = false;
  static Storage magnitude(Storage bits) {
    if constexpr (std::is_signed_v<T>)
      return T(bits) < 0 ? Storage(0) - bits : bits;
    return bits;
  }
};

/// Calls `function` with the traits of an element type.
template <typename Function> decltype(auto) dispatch(DType type, Function &&function) {
  switch (type) {
  case DType::f16:
    return function(FloatBits<uint16_t, 0x7c00>());
  case DType::bf16:
    return function(FloatBits<uint16_t, 0x7f80>());
  case DType::f32:
    return function(FloatBits<uint32_t, 0x7f800000>());
  case DType::e4m3:
    return function(FloatBits<uint8_t, 0x7f>());
  case DType::e5m2:
    return function(FloatBits<uint8_t, 0x7c>());
  case DType::i8:
    return function(IntBits<int8_t>());
  case DType::i32:
    return function(IntBits<int32_t>());
  case DType::u8:
    return function(IntBits<uint8_t>());
  }
  llvm_unreachable("unknown element type");
}

//===----------------------------------------------------------------------===//
// Groups
//===----------------------------------------------------------------------===//

/// The two positions of each four-bit mask; {0, 0} for a mask without exactly two bits.
struct Positions {
  uint8_t first, second;
};
constexpr std::array<Positions, 16> makePositions() {
  std::array<Positions, 16> table{};
  for (unsigned first = 0; first < 4; ++first)
    for (unsigned second = first + 1; second < 4; ++second)
      table[1u << first | 1u << second] = {uint8_t(first), uint8_t(second)};
  return table;
}
constexpr std::array<Positions, 16> kPositions = makePositions();

bool isLegalMask(unsigned mask) { return kPositions[mask].second != 0; }

/// The mask of the two elements to keep.
template <typename T> T selectTwo(const T (&m)[4]) {
  // b_ij: element i beats the later element j.
  T b01 = m[0] >= m[1], b02 = m[0] >= m[2], b03 = m[0] >= m[3];
  T b12 = m[1] >= m[2], b13 = m[1] >= m[3], b23 = m[2] >= m[3];
  T wins0 = b01 + b02 + b03, wins1 = b12 + b13 + 1 - b01;
  T wins2 = b23 + 2 - b02 - b12, wins3 = 3 - b03 - b13 - b23;
  // The order is total, so the four counts are 0, 1, 2 and 3: bit 1 marks the two winners.
  return (wins0 >> 1) | (wins1 & 2) | (wins2 & 2) << 1 | (wins3 & 2) << 2;
}

Error checkShape(int64_t n, int64_t k) {
  if (n < 0 || k < 0)
    return createStringError(formatv("expected a shape [N, K], got [{0}, {1}]", n, k).str());
  if (k % 4)
    return createStringError(
        formatv("expected K to be a multiple of 4 for 2:4, got {0}; pad K to {1}", k,
                (k + 3) / 4 * 4)
            .str());
  return Error::success();
}

template <typename Traits>
Sparse24Report inspect(int64_t n, int64_t k, const Unaligned<typename Traits::Storage> *dense) {
  using T = typename Traits::Storage;
  Sparse24Report report;
  for (int64_t row = 0; row < n; ++row)
    for (int64_t group = 0; group < k / 4; ++group) {
      const Unaligned<T> *source = dense + row * k + group * 4;
      unsigned nonzeros = 0;
      for (int64_t i = 0; i < 4; ++i) {
        T magnitude = Traits::magnitude(source[i]);
        nonzeros += magnitude != 0;
        if (Traits::kHasSpecial && magnitude >= Traits::kSpecial && report.nonFinite++ == 0) {
          report.nonFiniteRow = row;
          report.nonFiniteColumn = group * 4 + i;
        }
      }
      if (nonzeros > 2 && report.offendingGroups++ == 0) {
        report.firstRow = row;
        report.firstGroup = group;
        report.firstNonzeros = nonzeros;
      }
    }
  return report;
}

Error toError(const Sparse24Report &report, DType type, int64_t k, const void *dense,
              CompressMode mode) {
  if (report.nonFinite) {
    size_t index = size_t(report.nonFiniteRow * k + report.nonFiniteColumn);
    float value = loadAsFloat(type, dense, index);
    return createStringError(
        formatv("expected finite weights, got {0} at row {1}, column {2} ({3} value{4} not finite)",
                value != value ? "nan"
                : value < 0    ? "-inf"
                               : "inf",
                report.nonFiniteRow, report.nonFiniteColumn, report.nonFinite,
                report.nonFinite == 1 ? " is" : "s are")
            .str());
  }
  if (report.offendingGroups && mode == CompressMode::Verify)
    return createStringError(
        formatv(
            "expected at most 2 nonzeros in each group of 4 along K, got {0} in row {1}, group {2} "
            "(columns {3} to {4}), and {5} such group{6} in all; prune the weight first",
            report.firstNonzeros, report.firstRow, report.firstGroup, report.firstGroup * 4,
            report.firstGroup * 4 + 3, report.offendingGroups,
            report.offendingGroups == 1 ? "" : "s")
            .str());
  return Error::success();
}

/// Compresses one row; returns true if it holds an offence against `mode`. Choosing is a loop of
/// its own over a block of groups, which the compiler vectorizes; moving the elements is not.
template <typename Traits, CompressMode Mode>
bool compressRow(int64_t groups, const Unaligned<typename Traits::Storage> *source,
                 Unaligned<typename Traits::Storage> *values, uint8_t *bitmask) {
  using T = typename Traits::Storage;
  constexpr int64_t kBlock = 64;
  T largest = 0, crowded = 0;
  for (int64_t first = 0; first < groups; first += kBlock) {
    int64_t count = std::min(kBlock, groups - first);
    T masks[kBlock];
    for (int64_t g = 0; g < count; ++g) {
      const Unaligned<T> *in = source + (first + g) * 4;
      T m[4] = {Traits::magnitude(in[0]), Traits::magnitude(in[1]), Traits::magnitude(in[2]),
                Traits::magnitude(in[3])};
      if (Traits::kHasSpecial)
        largest = std::max({largest, m[0], m[1], m[2], m[3]});
      if (Mode == CompressMode::Verify)
        crowded |= T(T(m[0] != 0) + T(m[1] != 0) + T(m[2] != 0) + T(m[3] != 0)) > T(2);
      masks[g] = selectTwo(m);
    }
    for (int64_t g = 0; g < count; ++g) {
      const Unaligned<T> *in = source + (first + g) * 4;
      Unaligned<T> *out = values + (first + g) * 2;
      Positions kept = kPositions[masks[g]];
      T low = in[kept.first], high = in[kept.second];
      out[0] = Traits::magnitude(low) ? low : T(0); // it may be -0.0
      out[1] = Traits::magnitude(high) ? high : T(0);
    }
    for (int64_t g = 0; g < count; g += 2)
      bitmask[(first + g) / 2] = uint8_t(masks[g] | (g + 1 < count ? masks[g + 1] << 4 : 0));
  }
  return crowded || (Traits::kHasSpecial && largest >= Traits::kSpecial);
}

template <typename Traits, CompressMode Mode>
bool compressRows(int64_t n, int64_t k, const Unaligned<typename Traits::Storage> *dense,
                  Unaligned<typename Traits::Storage> *values, uint8_t *bitmask) {
  bool offence = false;
  for (int64_t row = 0; row < n; ++row)
    offence |= compressRow<Traits, Mode>(k / 4, dense + row * k, values + row * (k / 2),
                                         bitmask + row * ((k + 7) / 8));
  return offence;
}

} // namespace

//===----------------------------------------------------------------------===//
// Entry points
//===----------------------------------------------------------------------===//

Expected<Sparse24Report> inspect24(DType type, int64_t n, int64_t k, const void *dense) {
  if (Error error = checkShape(n, k))
    return std::move(error);
  return dispatch(type, [&](auto traits) {
    using Traits = decltype(traits);
    return inspect<Traits>(n, k, static_cast<const Unaligned<typename Traits::Storage> *>(dense));
  });
}

Error validate24(DType type, int64_t n, int64_t k, const void *dense) {
  Expected<Sparse24Report> report = inspect24(type, n, k, dense);
  if (!report)
    return report.takeError();
  return toError(*report, type, k, dense, CompressMode::Verify);
}

Error compress24(DType type, int64_t n, int64_t k, const void *dense, CompressMode mode,
                 void *values, uint8_t *bitmask) {
  if (Error error = checkShape(n, k))
    return error;
  bool offence = dispatch(type, [&](auto traits) {
    using Traits = decltype(traits);
    using T = typename Traits::Storage;
    auto *in = static_cast<const Unaligned<T> *>(dense);
    auto *out = static_cast<Unaligned<T> *>(values);
    return mode == CompressMode::Verify
               ? compressRows<Traits, CompressMode::Verify>(n, k, in, out, bitmask)
               : compressRows<Traits, CompressMode::Prune>(n, k, in, out, bitmask);
  });
  if (!offence)
    return Error::success();
  Expected<Sparse24Report> report = inspect24(type, n, k, dense);
  if (!report)
    return report.takeError();
  return toError(*report, type, k, dense, mode);
}

Error validateBitmask24(int64_t n, int64_t k, const uint8_t *bitmask) {
  if (Error error = checkShape(n, k))
    return error;
  int64_t rowBytes = (k + 7) / 8;
  for (int64_t row = 0; row < n; ++row)
    for (int64_t group = 0; group < rowBytes * 2; ++group) {
      unsigned mask = bitmask[row * rowBytes + group / 2] >> (group % 2 * 4) & 0xf;
      bool isPadding = group * 4 >= k;
      if (isPadding ? mask != 0 : !isLegalMask(mask))
        return createStringError(
            formatv("expected {0} mask bits in row {1}, group {2} of a 2:4 bitmask, got {3}",
                    isPadding ? 0 : 2, row, group, llvm::popcount(mask))
                .str());
    }
  return Error::success();
}

Error decompress24(DType type, int64_t n, int64_t k, const void *values, const uint8_t *bitmask,
                   void *dense) {
  if (Error error = validateBitmask24(n, k, bitmask))
    return error;
  dispatch(type, [&](auto traits) {
    using T = typename decltype(traits)::Storage;
    auto *in = static_cast<const Unaligned<T> *>(values);
    auto *out = static_cast<Unaligned<T> *>(dense);
    for (int64_t row = 0; row < n; ++row) {
      const uint8_t *masks = bitmask + row * ((k + 7) / 8);
      for (int64_t group = 0; group < k / 4; ++group, in += 2, out += 4) {
        Positions kept = kPositions[masks[group / 2] >> (group % 2 * 4) & 0xf];
        std::memset(out, 0, 4 * sizeof(T));
        out[kept.first] = in[0];
        out[kept.second] = in[1];
      }
    }
  });
  return Error::success();
}

Error prune24(DType type, int64_t n, int64_t k, void *dense) {
  Expected<Sparse24Report> report = inspect24(type, n, k, dense);
  if (!report)
    return report.takeError();
  if (Error error = toError(*report, type, k, dense, CompressMode::Prune))
    return error;
  dispatch(type, [&](auto traits) {
    using Traits = decltype(traits);
    using T = typename Traits::Storage;
    auto *group = static_cast<Unaligned<T> *>(dense);
    for (int64_t index = 0; index < n * (k / 4); ++index, group += 4) {
      T m[4];
      for (int i = 0; i < 4; ++i)
        m[i] = Traits::magnitude(group[i]);
      unsigned mask = selectTwo(m);
      for (int i = 0; i < 4; ++i)
        group[i] = (mask >> i & 1) && m[i] ? group[i] : T(0);
    }
  });
  return Error::success();
}

uint8_t maskToNibble24(uint8_t mask) {
  Positions kept = kPositions[mask & 0xf];
  return uint8_t(kept.second << 2 | kept.first);
}

uint8_t nibbleToMask24(uint8_t nibble) {
  unsigned first = nibble & 3, second = nibble >> 2 & 3;
  return nibble <= 0xf && first < second ? uint8_t(1u << first | 1u << second) : 0;
}

} // namespace sparseflow
