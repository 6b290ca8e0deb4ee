//===- LinearLayout.cpp - GF(2)-linear maps between index spaces ----------===//
//
// Everything works on flat indices: a column of the matrix is one 64-bit word, so that applying,
// composing and inverting a layout are a few XORs, and a dimension is a run of bits with a name.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Support/LinearLayout.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <cassert>

using namespace llvm;

namespace sparseflow {
namespace {

constexpr unsigned kMaxBits = 64;

uint64_t lowMask(unsigned bits) { return bits == 64 ? ~uint64_t(0) : (uint64_t(1) << bits) - 1; }

unsigned totalBits(ArrayRef<LayoutDim> dims) {
  unsigned bits = 0;
  for (const LayoutDim &dim : dims)
    bits += dim.bits;
  return bits;
}

int indexOf(ArrayRef<LayoutDim> dims, StringRef name) {
  for (auto [index, dim] : enumerate(dims))
    if (dim.name == name)
      return index;
  return -1;
}

/// The first flat bit of a dimension.
unsigned offsetOf(ArrayRef<LayoutDim> dims, int index) { return totalBits(dims.take_front(index)); }

struct BitRange {
  unsigned offset, bits;
};

BitRange rangeOf(ArrayRef<LayoutDim> dims, StringRef name) {
  int index = indexOf(dims, name);
  assert(index >= 0 && "no such dimension");
  return {offsetOf(dims, index), dims[index].bits};
}

uint64_t extract(uint64_t flat, BitRange range) {
  return range.bits == 0 ? 0 : (flat >> range.offset) & lowMask(range.bits);
}

uint64_t deposit(uint64_t value, unsigned offset) { return offset >= 64 ? 0 : value << offset; }

/// A basis of the span of some columns in reduced echelon form: no pivot bit stands in another
/// vector. `combination` says which columns a vector is the sum of.
struct EchelonVector {
  uint64_t vector, combination;
  unsigned pivot;
};

SmallVector<EchelonVector, 16> reduceColumns(ArrayRef<uint64_t> columns) {
  SmallVector<EchelonVector, 16> basis;
  for (auto [index, column] : enumerate(columns)) {
    uint64_t vector = column, combination = uint64_t(1) << index;
    for (const EchelonVector &other : basis)
      if (vector >> other.pivot & 1) {
        vector ^= other.vector;
        combination ^= other.combination;
      }
    if (vector == 0)
      continue;
    unsigned pivot = countr_zero(vector);
    for (EchelonVector &other : basis)
      if (other.vector >> pivot & 1) {
        other.vector ^= vector;
        other.combination ^= combination;
      }
    basis.push_back({vector, combination, pivot});
  }
  return basis;
}

} // namespace

//===----------------------------------------------------------------------===//
// Construction
//===----------------------------------------------------------------------===//

LinearLayout::LinearLayout(SmallVector<LayoutDim, 4> ins, SmallVector<LayoutDim, 4> outs,
                           SmallVector<uint64_t, 16> columns)
    : ins(std::move(ins)), outs(std::move(outs)), columns(std::move(columns)) {
  assert(totalBits(this->ins) == this->columns.size() && "one column for each input bit");
}

LinearLayout::LinearLayout(ArrayRef<InDim> inDims, ArrayRef<OutDim> outDims) {
  Expected<LinearLayout> layout = create(inDims, outDims);
  assert(layout && "invalid bases");
  *this = cantFail(std::move(layout));
}

Expected<LinearLayout> LinearLayout::create(ArrayRef<InDim> inDims, ArrayRef<OutDim> outDims) {
  SmallVector<LayoutDim, 4> ins, outs;
  SmallVector<uint64_t, 16> columns;
  for (const auto &[name, size] : outDims) {
    if (!isPowerOf2_64(size))
      return createStringError(
          "expected a power of two as the size of output dimension '%s', got %llu", name.c_str(),
          static_cast<unsigned long long>(size));
    if (indexOf(outs, name) >= 0)
      return createStringError("expected distinct output dimensions, got '%s' twice", name.c_str());
    outs.push_back({name, Log2_64(size)});
  }
  if (totalBits(outs) > kMaxBits)
    return createStringError("expected at most 64 output bits, got %u", totalBits(outs));

  for (const auto &[name, bases] : inDims) {
    if (indexOf(ins, name) >= 0)
      return createStringError("expected distinct input dimensions, got '%s' twice", name.c_str());
    if (columns.size() + bases.size() > kMaxBits)
      return createStringError("expected at most 64 input bits, got %zu",
                               columns.size() + bases.size());
    ins.push_back({name, unsigned(bases.size())});
    for (const Basis &basis : bases) {
      if (basis.size() != outs.size())
        return createStringError(
            "expected %zu coordinates in a basis of input dimension '%s', got %zu",
            size_t(outs.size()), name.c_str(), basis.size());
      uint64_t column = 0;
      unsigned offset = 0;
      for (auto [value, dim] : zip(basis, outs)) {
        if (value & ~lowMask(dim.bits))
          return createStringError("expected a coordinate below %llu of output dimension '%s', got "
                                   "%llu in a basis of '%s'",
                                   static_cast<unsigned long long>(dim.size()), dim.name.c_str(),
                                   static_cast<unsigned long long>(value), name.c_str());
        column |= deposit(value, offset);
        offset += dim.bits;
      }
      columns.push_back(column);
    }
  }
  return LinearLayout(std::move(ins), std::move(outs), std::move(columns));
}

//===----------------------------------------------------------------------===//
// Queries
//===----------------------------------------------------------------------===//

bool LinearLayout::hasOut(StringRef name) const { return indexOf(outs, name) >= 0; }
unsigned LinearLayout::getInBits(StringRef name) const { return rangeOf(ins, name).bits; }
unsigned LinearLayout::getOutBits(StringRef name) const { return rangeOf(outs, name).bits; }
unsigned LinearLayout::getTotalOutBits() const { return totalBits(outs); }

uint64_t LinearLayout::getBasis(StringRef in, unsigned bit, StringRef out) const {
  BitRange range = rangeOf(ins, in);
  assert(bit < range.bits && "no such bit");
  return extract(columns[range.offset + bit], rangeOf(outs, out));
}

LinearLayout::Coords LinearLayout::apply(ArrayRef<Coord> position) const {
  uint64_t flat = 0;
  for (const auto &[name, value] : position) {
    BitRange range = rangeOf(ins, name);
    assert((value & ~lowMask(range.bits)) == 0 && "position outside of its dimension");
    flat |= deposit(value, range.offset);
  }
  uint64_t result = applyFlat(flat);
  Coords coords;
  unsigned offset = 0;
  for (const LayoutDim &dim : outs) {
    coords.push_back({dim.name, extract(result, {offset, dim.bits})});
    offset += dim.bits;
  }
  return coords;
}

uint64_t LinearLayout::apply(ArrayRef<Coord> position, StringRef out) const {
  int index = indexOf(outs, out);
  assert(index >= 0 && "no such dimension");
  return apply(position)[index].second;
}

unsigned LinearLayout::getRank() const { return reduceColumns(columns).size(); }

unsigned LinearLayout::getContiguousBits(StringRef in, StringRef out) const {
  BitRange inRange = rangeOf(ins, in), outRange = rangeOf(outs, out);
  unsigned limit = std::min(inRange.bits, outRange.bits), count = 0;
  for (; count < limit; ++count) {
    uint64_t outBit = uint64_t(1) << (outRange.offset + count);
    if (columns[inRange.offset + count] != outBit)
      break;
    if (llvm::count_if(columns, [&](uint64_t column) { return column & outBit; }) != 1)
      break;
  }
  return count;
}

//===----------------------------------------------------------------------===//
// Algebra
//===----------------------------------------------------------------------===//

LinearLayout operator*(const LinearLayout &inner, const LinearLayout &outer) {
  auto merge = [](ArrayRef<LayoutDim> a, ArrayRef<LayoutDim> b) {
    SmallVector<LayoutDim, 4> dims(a);
    for (const LayoutDim &dim : b) {
      int index = indexOf(dims, dim.name);
      if (index >= 0)
        dims[index].bits += dim.bits;
      else
        dims.push_back(dim);
    }
    return dims;
  };
  SmallVector<LayoutDim, 4> ins = merge(inner.ins, outer.ins);
  SmallVector<LayoutDim, 4> outs = merge(inner.outs, outer.outs);
  assert(totalBits(ins) <= kMaxBits && totalBits(outs) <= kMaxBits &&
         "more than 64 bits on a side");

  // Moves one factor's output bits to where its dimensions stand in the product.
  auto place = [&](const LinearLayout &factor, uint64_t column, bool isOuter) {
    uint64_t result = 0;
    unsigned offset = 0;
    for (const LayoutDim &dim : factor.outs) {
      unsigned target = rangeOf(outs, dim.name).offset;
      int below = isOuter ? indexOf(inner.outs, dim.name) : -1;
      if (below >= 0)
        target += inner.outs[below].bits;
      result |= deposit(extract(column, {offset, dim.bits}), target);
      offset += dim.bits;
    }
    return result;
  };

  SmallVector<uint64_t, 16> columns;
  for (const LayoutDim &dim : ins)
    for (const LinearLayout *factor : {&inner, &outer}) {
      int index = indexOf(factor->ins, dim.name);
      if (index < 0)
        continue;
      unsigned offset = offsetOf(factor->ins, index);
      for (unsigned bit = 0; bit < factor->ins[index].bits; ++bit)
        columns.push_back(place(*factor, factor->columns[offset + bit], factor == &outer));
    }
  return LinearLayout(std::move(ins), std::move(outs), std::move(columns));
}

LinearLayout LinearLayout::compose(const LinearLayout &next) const {
  assert(outs.size() == next.ins.size() && "the dimensions between two layouts differ");
  SmallVector<uint64_t, 64> columnOfOutBit;
  for (const LayoutDim &dim : outs) {
    BitRange range = rangeOf(next.ins, dim.name);
    assert(range.bits >= dim.bits && "the next layout's dimension is too small");
    for (unsigned bit = 0; bit < dim.bits; ++bit)
      columnOfOutBit.push_back(next.columns[range.offset + bit]);
  }
  SmallVector<uint64_t, 16> result;
  for (uint64_t column : columns) {
    uint64_t image = 0;
    for (; column; column &= column - 1)
      image ^= columnOfOutBit[countr_zero(column)];
    result.push_back(image);
  }
  return LinearLayout(ins, next.outs, std::move(result));
}

LinearLayout LinearLayout::pseudoInvert() const {
  // In reduced form a covered y is the sum of the vectors whose pivots stand in y, so a pivot bit
  // maps to the inputs that make its vector and every other output bit carries no information of
  // its own.
  SmallVector<uint64_t, 16> result(getTotalOutBits(), 0);
  for (const EchelonVector &vector : reduceColumns(columns))
    result[vector.pivot] = vector.combination;
  return LinearLayout(outs, ins, std::move(result));
}

LinearLayout LinearLayout::invert() const {
  assert(isBijective() && "only a bijection has an inverse");
  return pseudoInvert();
}

LinearLayout LinearLayout::sublayout(ArrayRef<StringRef> inNames,
                                     ArrayRef<StringRef> outNames) const {
  SmallVector<LayoutDim, 4> newIns, newOuts;
  for (StringRef name : inNames)
    newIns.push_back({name.str(), getInBits(name)});
  for (StringRef name : outNames)
    newOuts.push_back({name.str(), getOutBits(name)});
  SmallVector<uint64_t, 16> result;
  for (StringRef in : inNames) {
    BitRange range = rangeOf(ins, in);
    for (unsigned bit = 0; bit < range.bits; ++bit) {
      uint64_t column = 0;
      unsigned offset = 0;
      for (StringRef out : outNames) {
        BitRange outRange = rangeOf(outs, out);
        column |= deposit(extract(columns[range.offset + bit], outRange), offset);
        offset += outRange.bits;
      }
      result.push_back(column);
    }
  }
  return LinearLayout(std::move(newIns), std::move(newOuts), std::move(result));
}

static SmallVector<StringRef, 4> namesOf(ArrayRef<LayoutDim> dims) {
  SmallVector<StringRef, 4> names;
  for (const LayoutDim &dim : dims)
    names.push_back(dim.name);
  return names;
}

LinearLayout LinearLayout::transposeOuts(ArrayRef<StringRef> names) const {
  assert(names.size() == outs.size() && "every output dimension must be named");
  return sublayout(namesOf(ins), names);
}

LinearLayout LinearLayout::flattenIns(StringRef name) const {
  return LinearLayout({{name.str(), getTotalInBits()}}, outs, columns);
}

LinearLayout LinearLayout::renameOut(StringRef from, StringRef to) const {
  assert(hasOut(from) && (from == to || !hasOut(to)));
  LinearLayout result = *this;
  result.outs[indexOf(outs, from)].name = to.str();
  return result;
}

//===----------------------------------------------------------------------===//
// Text and hash
//===----------------------------------------------------------------------===//

void LinearLayout::print(raw_ostream &os) const {
  unsigned position = 0;
  os << '{';
  for (auto [index, dim] : enumerate(ins)) {
    os << (index ? "; " : "") << dim.name << ':';
    for (unsigned bit = 0; bit < dim.bits; ++bit, ++position) {
      os << " [";
      unsigned offset = 0;
      for (const LayoutDim &out : outs) {
        os << (offset || &out != outs.begin() ? ", " : "")
           << extract(columns[position], {offset, out.bits});
        offset += out.bits;
      }
      os << ']';
    }
  }
  os << "} -> {";
  for (auto [index, dim] : enumerate(outs))
    os << (index ? ", " : "") << dim.name << ": " << dim.size();
  os << '}';
}

std::string LinearLayout::toString() const {
  std::string text;
  raw_string_ostream os(text);
  print(os);
  return text;
}

hash_code hash_value(const LinearLayout &layout) {
  hash_code hash = hash_combine_range(layout.columns.begin(), layout.columns.end());
  for (const auto *dims : {&layout.ins, &layout.outs})
    for (const LayoutDim &dim : *dims)
      hash = hash_combine(hash, dim.name, dim.bits);
  return hash_combine(hash, layout.ins.size());
}

//===----------------------------------------------------------------------===//
// Shared memory
//===----------------------------------------------------------------------===//

BankConflicts bankConflicts(const LinearLayout &laneToOffset, unsigned vectorBytes) {
  constexpr unsigned kLanes = 32, kBanks = 32, kBankBytes = 4;
  assert((vectorBytes == 4 || vectorBytes == 8 || vectorBytes == 16) && "no such access");
  assert(laneToOffset.getInSize("lane") == kLanes && laneToOffset.getOutDims().size() == 1);
  unsigned phases = vectorBytes / kBankBytes, lanesPerPhase = kLanes / phases, wavefronts = 0;
  for (unsigned phase = 0; phase < phases; ++phase) {
    SmallVector<uint64_t, kLanes> words;
    for (unsigned lane = 0; lane < lanesPerPhase; ++lane) {
      uint64_t offset = laneToOffset.apply({{"lane", phase * lanesPerPhase + lane}})[0].second;
      assert(offset % vectorBytes == 0 && "a misaligned access faults");
      for (unsigned word = 0; word < phases; ++word)
        words.push_back(offset / kBankBytes + word);
    }
    llvm::sort(words);
    words.erase(llvm::unique(words), words.end());
    unsigned wordsInBank[kBanks] = {};
    for (uint64_t word : words)
      ++wordsInBank[word % kBanks];
    wavefronts += *std::max_element(std::begin(wordsInBank), std::end(wordsInBank));
  }
  return {wavefronts, phases};
}

} // namespace sparseflow
