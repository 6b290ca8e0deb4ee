//===- SFTileAttributes.cpp - Layouts, atoms, grids -----------------------===//

#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"

#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/TypeSwitch.h"

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

// `<register = [[0, 1], [8, 0]], lane = [...], warps = [4, 2], along = [0, -1]>`
Attribute LayoutAttr::parse(AsmParser &parser, Type) {
  MLIRContext *context = parser.getContext();
  SmallVector<StringAttr> inputs;
  SmallVector<DenseI32ArrayAttr> bases;
  SmallVector<int64_t> warps, along;
  unsigned rank = 0;
  SMLoc loc = parser.getCurrentLocation();
  auto parseEntry = [&]() -> ParseResult {
    std::string name;
    if (parser.parseKeywordOrString(&name) || parser.parseEqual())
      return failure();
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
  if (warps.size() != along.size() || llvm::any_of(warps, [](int64_t w) { return w < 1; }) ||
      llvm::any_of(along, [&](int64_t d) { return d < -1 || d >= int64_t(rank); }))
    return parser.emitError(loc, "expected positive `warps` and, for each, a dimension from -1 to ")
               << int64_t(rank) - 1 << " in `along`",
           Attribute();
  return LayoutAttr::get(context, inputs, bases, rank, warps, along);
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

SmallVector<int64_t> LayoutAttr::getWarpTile() const {
  SmallVector<int64_t> extent(getRank(), 0);
  for (DenseI32ArrayAttr bases : getBases())
    for (auto [i, coord] : llvm::enumerate(bases.asArrayRef()))
      extent[i % getRank()] |= coord;
  for (int64_t &e : extent)
    e = int64_t(1) << (e ? llvm::Log2_64(e) + 1 : 0);
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
  for (StringAttr name : getInputs()) {
    SmallVector<int32_t> flat;
    for (ArrayRef<int32_t> basis : getBases(name.getValue())) {
      SmallVector<int32_t> sliced(basis);
      for (auto [coord, keep] : llvm::zip_equal(sliced, kept))
        coord = keep ? coord : 0;
      // A lane that tells nothing apart still exists; a register does not need to.
      if (name != "register" || llvm::any_of(sliced, [](int32_t c) { return c != 0; }))
        llvm::append_range(flat, sliced);
    }
    bases.push_back(DenseI32ArrayAttr::get(getContext(), flat));
  }
  SmallVector<int64_t> along(getAlong());
  for (int64_t &dim : along)
    if (dim >= 0 && !kept[dim])
      dim = -1;
  return LayoutAttr::get(getContext(), getInputs(), bases, getRank(), getWarps(), along);
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
    outs.emplace_back(dimName(i), size);
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
