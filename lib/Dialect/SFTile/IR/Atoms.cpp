//===- Atoms.cpp - The table of tensor-core instructions ------------------===//
//
// Fragment conventions: PTX ISA, 9.7.14.5 (mma) and 9.7.14.6 (mma.sp): "Matrix Fragments for ...".
// All instructions here share one pattern once k is counted in bytes: a 32-bit register holds 4
// consecutive bytes of a row, 4 lanes make 16 bytes, the next register bits go to row + 8 (a only)
// and to the next 16 bytes. wgmma (9.7.15.5): each of its four warps holds the accumulator, the
// metadata, and a where that is in registers, of 16 rows as an m16 mma would.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Dialect/SFTile/IR/Atoms.h"
#include "sparseflow/Support/PackedLayout.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/MathExtras.h"

using namespace sparseflow;
using namespace sparseflow::sf_tile;

// The ordered form of the metadata alone: the plain one is documented as slow on Hopper and later.
#define SPARSE_INTRINSIC(suffix) "llvm.nvvm.mma.sp.ordered.metadata." suffix
#define WGMMA(sparsity, suffix) "wgmma.mma_async" sparsity ".sync.aligned.m64n{0}" suffix

static constexpr Atom kAtoms[] = {
    {"mma_m16n8k16_f16", DType::f16, false, 16, 8, 16, "llvm.nvvm.mma.m16n8k16.row.col.f32.f32",
     true, 80},
    {"mma_m16n8k16_bf16", DType::bf16, false, 16, 8, 16, "llvm.nvvm.mma.m16n8k16.row.col.bf16",
     false, 80},
    {"mma_m16n8k32_s8", DType::i8, false, 16, 8, 32, "llvm.nvvm.mma.m16n8k32.row.col.s8", false,
     80},
    {"mma_m16n8k32_e4m3", DType::e4m3, false, 16, 8, 32,
     "llvm.nvvm.mma.m16n8k32.row.col.f32.e4m3.e4m3.f32", false, 89},
    {"mma_m16n8k32_e5m2", DType::e5m2, false, 16, 8, 32,
     "llvm.nvvm.mma.m16n8k32.row.col.f32.e5m2.e5m2.f32", false, 89},
    {"mma_sp_m16n8k32_f16", DType::f16, true, 16, 8, 32,
     SPARSE_INTRINSIC("m16n8k32.row.col.f32.f32"), true, 80},
    {"mma_sp_m16n8k32_bf16", DType::bf16, true, 16, 8, 32,
     SPARSE_INTRINSIC("m16n8k32.row.col.bf16"), false, 80},
    {"mma_sp_m16n8k64_s8", DType::i8, true, 16, 8, 64, SPARSE_INTRINSIC("m16n8k64.row.col.s8"),
     false, 80},
    {"mma_sp_m16n8k64_e4m3", DType::e4m3, true, 16, 8, 64,
     SPARSE_INTRINSIC("m16n8k64.row.col.f32.e4m3.e4m3.f32"), false, 89},
    {"mma_sp_m16n8k64_e5m2", DType::e5m2, true, 16, 8, 64,
     SPARSE_INTRINSIC("m16n8k64.row.col.f32.e5m2.e5m2.f32"), false, 89},
    {"wgmma_m64k16_f16", DType::f16, false, 64, 8, 16, WGMMA("", "k16.f32.f16.f16"), false, 90, 4},
    {"wgmma_m64k16_bf16", DType::bf16, false, 64, 8, 16, WGMMA("", "k16.f32.bf16.bf16"), false, 90,
     4},
    {"wgmma_m64k32_s8", DType::i8, false, 64, 8, 32, WGMMA("", "k32.s32.s8.s8"), false, 90, 4},
    {"wgmma_m64k32_e4m3", DType::e4m3, false, 64, 8, 32, WGMMA("", "k32.f32.e4m3.e4m3"), false, 90,
     4},
    {"wgmma_m64k32_e5m2", DType::e5m2, false, 64, 8, 32, WGMMA("", "k32.f32.e5m2.e5m2"), false, 90,
     4},
    {"wgmma_sp_m64k32_f16", DType::f16, true, 64, 8, 32, WGMMA(".sp", "k32.f32.f16.f16"), false, 90,
     4},
    {"wgmma_sp_m64k32_bf16", DType::bf16, true, 64, 8, 32, WGMMA(".sp", "k32.f32.bf16.bf16"), false,
     90, 4},
    {"wgmma_sp_m64k64_s8", DType::i8, true, 64, 8, 64, WGMMA(".sp", "k64.s32.s8.s8"), false, 90, 4},
    {"wgmma_sp_m64k64_e4m3", DType::e4m3, true, 64, 8, 64, WGMMA(".sp", "k64.f32.e4m3.e4m3"), false,
     90, 4},
    {"wgmma_sp_m64k64_e5m2", DType::e5m2, true, 64, 8, 64, WGMMA(".sp", "k64.f32.e5m2.e5m2"), false,
     90, 4},
    {"wgmma_sp_rs_m64k32_f16", DType::f16, true, 64, 8, 32, WGMMA(".sp", "k32.f32.f16.f16"), false,
     90, 4, true},
    {"wgmma_sp_rs_m64k32_bf16", DType::bf16, true, 64, 8, 32, WGMMA(".sp", "k32.f32.bf16.bf16"),
     false, 90, 4, true},
    {"wgmma_sp_rs_m64k64_s8", DType::i8, true, 64, 8, 64, WGMMA(".sp", "k64.s32.s8.s8"), false, 90,
     4, true},
    {"wgmma_sp_rs_m64k64_e4m3", DType::e4m3, true, 64, 8, 64, WGMMA(".sp", "k64.f32.e4m3.e4m3"),
     false, 90, 4, true},
    {"wgmma_sp_rs_m64k64_e5m2", DType::e5m2, true, 64, 8, 64, WGMMA(".sp", "k64.f32.e5m2.e5m2"),
     false, 90, 4, true},
};

llvm::ArrayRef<Atom> sf_tile::getAtoms() { return kAtoms; }

const Atom *sf_tile::findAtom(llvm::StringRef name) {
  const Atom *atom = llvm::find_if(kAtoms, [&](const Atom &a) { return a.name == name; });
  return atom == std::end(kAtoms) ? nullptr : atom;
}

const Atom *sf_tile::findAtom(DType type, bool sparse, PackOrder order, bool registerA) {
  const Atom *atom = llvm::find_if(kAtoms, [&](const Atom &a) {
    return a.type == type && a.sparse == sparse && a.packOrder() == order &&
           a.registerA == registerA;
  });
  return atom == std::end(kAtoms) ? nullptr : atom;
}

namespace {
/// Collects bases of (register, lane) -> (dim0, dim1).
struct LayoutBuilder {
  std::vector<LinearLayout::Basis> registers, lanes;

  void addRegister(uint64_t d0, uint64_t d1) { registers.push_back({d0, d1}); }
  void addLane(uint64_t d0, uint64_t d1) { lanes.push_back({d0, d1}); }
  LinearLayout build(uint64_t size0, uint64_t size1) const {
    return LinearLayout({{"register", registers}, {"lane", lanes}},
                        {{"dim0", size0}, {"dim1", size1}});
  }
};
} // namespace

// Row g + 8h of m16 block i of a 64-feature chunk is feature 8g + 2i + h; further chunks follow in
// steps of 64.
static void addBlockRegisters(LayoutBuilder &builder, const Atom &atom, unsigned features) {
  // A warp of a warpgroup has one block, whose row is feature 2g + h.
  if (atom.isWarpgroup())
    return;
  builder.addRegister(2, 0);
  builder.addRegister(4, 0);
  for (unsigned f = kPackedChunkFeatures; f < features; f *= 2)
    builder.addRegister(f, 0);
}

// Lane bits 2 to 4: g.
static void addRowLanes(LayoutBuilder &builder, const Atom &atom) {
  for (unsigned bit : {0, 1, 2})
    builder.addLane(atom.isWarpgroup() ? kWgmmaRowFeatures[bit] : 8u << bit, 0);
}

LinearLayout Atom::aLayout(unsigned features) const {
  LayoutBuilder builder;
  unsigned perRegister = 4 / elementBytes(), k = keptPerStep();
  for (unsigned e = 1; e < perRegister; e *= 2)
    builder.addRegister(0, e);
  builder.addRegister(1, 0);
  for (unsigned e = 4 * perRegister; e < k; e *= 2)
    builder.addRegister(0, e);
  addBlockRegisters(builder, *this, features);
  builder.addLane(0, perRegister);
  builder.addLane(0, 2 * perRegister);
  addRowLanes(builder, *this);
  return builder.build(features, k);
}

LinearLayout Atom::bLayout(unsigned tokens) const {
  LayoutBuilder builder;
  unsigned perRegister = 4 / elementBytes();
  for (unsigned e = 1; e < perRegister; e *= 2)
    builder.addRegister(0, e);
  for (unsigned e = 4 * perRegister; e < k; e *= 2)
    builder.addRegister(0, e);
  for (unsigned t = n; t < tokens; t *= 2)
    builder.addRegister(t, 0);
  builder.addLane(0, perRegister);
  builder.addLane(0, 2 * perRegister);
  for (unsigned t : {1, 2, 4})
    builder.addLane(t, 0);
  return builder.build(tokens, k);
}

LinearLayout Atom::accLayout(unsigned features, unsigned tokens) const {
  LayoutBuilder builder;
  // Features first: a lane's registers then stand in the order in which a row of Y is stored.
  builder.addRegister(1, 0);
  addBlockRegisters(builder, *this, features);
  builder.addRegister(0, 1);
  for (unsigned t = n; t < tokens; t *= 2)
    builder.addRegister(0, t);
  builder.addLane(0, 2);
  builder.addLane(0, 4);
  addRowLanes(builder, *this);
  return builder.build(features, tokens);
}

LinearLayout Atom::metadataLayout(unsigned features) const {
  LayoutBuilder builder;
  unsigned groups = k / 4 * selectors();
  if (elementBytes() == 2) {
    // A register: 4 groups of row g, then of row g + 8; lane bit 0 the other half of the step, lane
    // bit 1 the step.
    for (auto [f, g] : {std::pair(0, 1), std::pair(0, 2), std::pair(1, 0)})
      builder.addRegister(f, g);
    addBlockRegisters(builder, *this, features);
    builder.addLane(0, 4);
    builder.addLane(0, 8);
  } else {
    // A register: 8 groups of row g + 8 * lane bit 0; lane bit 1 the other half of the step.
    for (unsigned g : {1, 2, 4})
      builder.addRegister(0, g);
    addBlockRegisters(builder, *this, features);
    builder.addLane(1, 0);
    builder.addLane(0, 8);
  }
  addRowLanes(builder, *this);
  return builder.build(features, groups);
}
