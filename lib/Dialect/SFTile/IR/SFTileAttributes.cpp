//===- SFTileAttributes.cpp - Layouts, atoms, grids -----------------------===//

#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"

#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

#include "sparseflow/Dialect/SFTile/IR/SFTileEnums.cpp.inc"

#define GET_ATTRDEF_CLASSES
#include "sparseflow/Dialect/SFTile/IR/SFTileAttributes.cpp.inc"

void SFTileDialect::registerAttributes() {
  addAttributes<
#define GET_ATTRDEF_LIST
#include "sparseflow/Dialect/SFTile/IR/SFTileAttributes.cpp.inc"
      >();
}

//===----------------------------------------------------------------------===//
// LayoutAttr
//===----------------------------------------------------------------------===//

/// What is wrong with the sizes of a layout that somebody wrote, or "". Within these bounds its map
/// has at most 64 bits on either side, and every product of extents fits.
static std::string findExcess(ArrayRef<StringAttr> inputs, ArrayRef<DenseI32ArrayAttr> bases,
                              unsigned rank, ArrayRef<int64_t> warps) {
  constexpr unsigned maxRegisterBits = 10, maxLaneBits = 5, maxOffsetBits = 30, maxWarps = 32;
  for (auto [name, flat] : llvm::zip_equal(inputs, bases)) {
    unsigned most = llvm::StringSwitch<unsigned>(name)
                        .Case("register", maxRegisterBits)
                        .Case("lane", maxLaneBits)
                        .Case("offset", maxOffsetBits)
                        .Default(0);
    if (!most)
      return llvm::formatv("the inputs register, lane or offset, got {0}", name.getValue());
    if (unsigned bits = flat.size() / rank; bits > most)
      return llvm::formatv("at most {0} bases of {1}, got {2}", most, name.getValue(), bits);
  }
  SmallVector<int32_t> reached(rank, 0);
  for (DenseI32ArrayAttr flat : bases)
    for (auto [i, coord] : llvm::enumerate(flat.asArrayRef()))
      reached[i % rank] |= coord;
  unsigned bits = 0;
  for (int32_t coordinate : reached)
    bits += llvm::Log2_64_Ceil(int64_t(coordinate) + 1);
  if (bits > maxOffsetBits)
    return llvm::formatv("at most 2^{0} elements, got 2^{1}", maxOffsetBits, bits);
  int64_t count = 1;
  for (int64_t each : warps)
    if (each < 1 || (count *= std::min<int64_t>(each, maxWarps + 1)) > maxWarps)
      return llvm::formatv(
          "from 1 to {0} warps, got [{1}]", maxWarps,
          llvm::join(llvm::map_range(warps, [](int64_t w) { return std::to_string(w); }), ", "));
  return "";
}

// `<register = [[0, 1], [8, 0]], lane = [...], warps = [4, 2], along = [0, -1], used = 3>`
Attribute LayoutAttr::parse(AsmParser &parser, Type) {
  MLIRContext *context = parser.getContext();
  SmallVector<StringAttr> inputs;
  SmallVector<DenseI32ArrayAttr> bases;
  SmallVector<int64_t> warps, along;
  unsigned rank = 0, used = 0;
  SMLoc loc = parser.getCurrentLocation();
  auto parseEntry = [&]() -> ParseResult {
    std::string name;
    if (parser.parseKeywordOrString(&name) || parser.parseEqual())
      return failure();
    if (name == "used")
      return parser.parseInteger(used);
    if (name == "warps" || name == "along")
      return parser.parseCommaSeparatedList(AsmParser::Delimiter::Square, [&] {
        return parser.parseInteger((name == "warps" ? warps : along).emplace_back());
      });
    SmallVector<int32_t> flat;
    auto parseBasis = [&]() -> ParseResult {
      size_t start = flat.size();
      if (parser.parseCommaSeparatedList(AsmParser::Delimiter::Square, [&]() -> ParseResult {
            SMLoc valueLoc = parser.getCurrentLocation();
            int32_t value = 0;
            if (parser.parseInteger(value))
              return failure();
            if (value < 0 || value >= (1 << 30))
              return parser.emitError(valueLoc, "expected a coordinate from 0 to 2^30 - 1");
            flat.push_back(value);
            return success();
          }))
        return failure();
      unsigned length = flat.size() - start;
      if (rank && length != rank)
        return parser.emitError(loc, "expected every basis to have ")
               << rank << " coordinates, got " << length;
      rank = length;
      return success();
    };
    if (parser.parseCommaSeparatedList(AsmParser::Delimiter::Square, parseBasis))
      return failure();
    if (llvm::is_contained(inputs, StringAttr::get(context, name)))
      return parser.emitError(loc, "expected distinct inputs, got `") << name << "` twice";
    inputs.push_back(StringAttr::get(context, name));
    bases.push_back(DenseI32ArrayAttr::get(context, flat));
    return success();
  };
  if (parser.parseCommaSeparatedList(AsmParser::Delimiter::LessGreater, parseEntry))
    return {};
  if (!rank)
    return parser.emitError(loc, "expected at least one basis"), Attribute();
  if (std::string excess = findExcess(inputs, bases, rank, warps); !excess.empty())
    return parser.emitError(loc, "expected ") << excess, Attribute();
  if (warps.size() != along.size() ||
      llvm::any_of(along, [&](int64_t d) { return d < -1 || d >= int64_t(rank); }))
    return parser.emitError(loc, "expected `warps` and, for each, a dimension from -1 to ")
               << int64_t(rank) - 1 << " in `along`",
           Attribute();
  auto layout = LayoutAttr::get(context, inputs, bases, rank, warps, along);
  if (used > layout.getNumRegisters())
    return parser.emitError(loc, "expected `used` to be at most ")
               << layout.getNumRegisters() << ", as many registers as there are, got " << used,
           Attribute();
  return layout.withRegisters(used ? used : layout.getNumRegisters());
}

void LayoutAttr::print(AsmPrinter &printer) const {
  printer << '<';
  llvm::interleaveComma(llvm::zip_equal(getInputs(), getBases()), printer, [&](auto entry) {
    auto [name, bases] = entry;
    printer << name.getValue() << " = [";
    ArrayRef<int32_t> flat = bases.asArrayRef();
    for (size_t i = 0; i < flat.size(); i += getRank()) {
      printer << (i ? ", [" : "[");
      llvm::interleaveComma(flat.slice(i, getRank()), printer);
      printer << ']';
    }
    printer << ']';
  });
  if (!getWarps().empty()) {
    printer << ", warps = [";
    llvm::interleaveComma(getWarps(), printer);
    printer << "], along = [";
    llvm::interleaveComma(getAlong(), printer);
    printer << ']';
  }
  if (getUsed())
    printer << ", used = " << getUsed();
  printer << '>';
}

SmallVector<ArrayRef<int32_t>> LayoutAttr::getBases(StringRef input) const {
  SmallVector<ArrayRef<int32_t>> result;
  for (auto [name, bases] : llvm::zip_equal(getInputs(), getBases()))
    if (name == input)
      for (size_t i = 0; i < bases.asArrayRef().size(); i += getRank())
        result.push_back(bases.asArrayRef().slice(i, getRank()));
  return result;
}

SmallVector<int32_t> LayoutAttr::apply(StringRef input, unsigned value) const {
  SmallVector<int32_t> coords(getRank(), 0);
  for (auto [bit, basis] : llvm::enumerate(getBases(input)))
    if (value >> bit & 1)
      for (auto [coord, b] : llvm::zip_equal(coords, basis))
        coord ^= b;
  return coords;
}

LayoutAttr LayoutAttr::withRegisters(unsigned count) const {
  unsigned all = 1u << getBases("register").size();
  return LayoutAttr::get(getContext(), getInputs(), getBases(), getRank(), getWarps(), getAlong(),
                         count == all ? 0 : count);
}

SmallVector<int64_t> LayoutAttr::getWarpTile() const {
  // The last coordinate along each dimension: of all inputs' bits but the registers', and of the
  // register that reaches farthest.
  SmallVector<int64_t> rest(getRank(), 0), last(getRank(), 0);
  for (auto [name, bases] : llvm::zip_equal(getInputs(), getBases()))
    if (name != "register")
      for (auto [i, coord] : llvm::enumerate(bases.asArrayRef()))
        rest[i % getRank()] |= coord;
  if (getUsed()) {
    for (unsigned i = 0; i < getUsed(); ++i)
      for (auto [farthest, coord] : llvm::zip_equal(last, apply("register", i)))
        farthest = std::max<int64_t>(farthest, coord);
  } else {
    for (ArrayRef<int32_t> basis : getBases("register"))
      for (auto [farthest, coord] : llvm::zip_equal(last, basis))
        farthest |= coord;
  }
  SmallVector<int64_t> extent;
  for (auto [a, b] : llvm::zip_equal(rest, last))
    extent.push_back(getUsed() ? (a | b) + 1 : llvm::PowerOf2Ceil((a | b) + 1));
  return extent;
}

SmallVector<int64_t> LayoutAttr::getBlockTile() const {
  SmallVector<int64_t> extent = getWarpTile();
  for (auto [warps, dim] : llvm::zip_equal(getWarps(), getAlong()))
    if (dim >= 0)
      extent[dim] *= warps;
  return extent;
}

LayoutAttr LayoutAttr::slice(ArrayRef<bool> kept) const {
  SmallVector<DenseI32ArrayAttr> bases;
  unsigned used = getUsed();
  for (StringAttr name : getInputs()) {
    SmallVector<int32_t> flat;
    bool isIdle = false;
    for (ArrayRef<int32_t> basis : getBases(name.getValue())) {
      SmallVector<int32_t> sliced(basis);
      for (auto [coord, keep] : llvm::zip_equal(sliced, kept))
        coord = keep ? coord : 0;
      // A lane that tells nothing apart still exists; a register does not need to.
      isIdle = name == "register" && llvm::all_of(sliced, [](int32_t c) { return c == 0; });
      if (isIdle)
        used /= 2;
      else
        llvm::append_range(flat, sliced);
    }
    // Registers that do not exist differ from others in the last bit.
    if (isIdle)
      used = 0;
    bases.push_back(DenseI32ArrayAttr::get(getContext(), flat));
  }
  SmallVector<int64_t> along(getAlong());
  for (int64_t &dim : along)
    if (dim >= 0 && !kept[dim])
      dim = -1;
  return LayoutAttr::get(getContext(), getInputs(), bases, getRank(), getWarps(), along, used);
}

static std::string dimName(unsigned i) { return "dim" + llvm::utostr(i); }

LinearLayout LayoutAttr::toLinearLayout() const {
  std::vector<LinearLayout::InDim> ins;
  for (auto [name, bases] : llvm::zip_equal(getInputs(), getBases())) {
    std::vector<LinearLayout::Basis> list;
    for (ArrayRef<int32_t> basis : getBases(name.getValue()))
      list.emplace_back(basis.begin(), basis.end());
    ins.emplace_back(name.str(), std::move(list));
  }
  std::vector<LinearLayout::OutDim> outs;
  for (auto [i, size] : llvm::enumerate(getWarpTile()))
    outs.emplace_back(dimName(i), llvm::PowerOf2Ceil(size));
  return LinearLayout(ins, outs);
}

LayoutAttr LayoutAttr::fromLinearLayout(MLIRContext *context, const LinearLayout &map,
                                        ArrayRef<int64_t> warps, ArrayRef<int64_t> along) {
  SmallVector<StringAttr> inputs;
  SmallVector<DenseI32ArrayAttr> bases;
  unsigned rank = map.getOutDims().size();
  for (const LayoutDim &in : map.getInDims()) {
    SmallVector<int32_t> flat;
    for (unsigned bit = 0; bit < in.bits; ++bit)
      for (unsigned d = 0; d < rank; ++d)
        flat.push_back(map.getBasis(in.name, bit, dimName(d)));
    inputs.push_back(StringAttr::get(context, in.name));
    bases.push_back(DenseI32ArrayAttr::get(context, flat));
  }
  return LayoutAttr::get(context, inputs, bases, rank, warps, along);
}

//===----------------------------------------------------------------------===//
// AtomAttr
//===----------------------------------------------------------------------===//

LogicalResult AtomAttr::verify(function_ref<InFlightDiagnostic()> emitError, StringRef name) {
  if (findAtom(name))
    return success();
  SmallVector<StringRef> names;
  for (const Atom &atom : getAtoms())
    names.push_back(atom.name);
  return emitError() << "expected an atom of the table, got '" << name << "'; known are "
                     << llvm::join(names, ", ");
}

const Atom &AtomAttr::getAtom() const { return *findAtom(getName()); }
