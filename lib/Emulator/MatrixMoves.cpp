//===- MatrixMoves.cpp - ldmatrix, stmatrix, movmatrix --------------------===//
//
// An 8x8 matrix of 16-bit elements is spread over a warp: lane l holds elements (l/4, 2*(l%4)) and
// (l/4, 2*(l%4)+1) in one register. In memory its rows are 16 bytes each, at addresses that lanes
// give: row r of the m-th matrix is lane 8m+r's.
//
//===----------------------------------------------------------------------===//

#include "Operations.h"

#include <cstring>

using namespace sparseflow::emulator;

/// [row][column].
using Tile = uint16_t[8][8];

static uint32_t getFragment(const Tile &tile, unsigned lane, bool transposed) {
  unsigned row = lane / 4, column = lane % 4 * 2;
  if (transposed)
    return tile[column][row] | uint32_t(tile[column + 1][row]) << 16;
  return tile[row][column] | uint32_t(tile[row][column + 1]) << 16;
}

static void setFragment(Tile &tile, unsigned lane, bool transposed, uint32_t value) {
  unsigned row = lane / 4, column = lane % 4 * 2;
  (transposed ? tile[column][row] : tile[row][column]) = value;
  (transposed ? tile[column + 1][row] : tile[row][column + 1]) = value >> 16;
}

static uint64_t getRowAddress(const WarpCall &call, unsigned lane) {
  return call.arguments[lane][0] | uint64_t(call.arguments[lane][1]) << 32;
}

/// Traits: the number of matrices, and whether they are transposed.
static void loadMatrix(const WarpCall &call) {
  unsigned count = call.op.traits[0];
  bool transposed = call.op.traits[1];
  SharedMemory &shared = call.warp.block->getShared();
  for (unsigned matrix = 0; matrix != count; ++matrix) {
    Tile tile;
    for (unsigned row = 0; row != 8; ++row) {
      unsigned lane = matrix * 8 + row;
      uint64_t address = getRowAddress(call, lane);
      shared.checkRead(call.getThread(lane), address, 16, 16, AccessMode::Warp, "ldmatrix");
      std::memcpy(tile[row], reinterpret_cast<const void *>(address), 16);
    }
    for (unsigned lane = 0; lane != warpSize; ++lane)
      call.results[lane][matrix] = getFragment(tile, lane, transposed);
  }
}

/// Operands: the address (two registers), then a register for each matrix.
static void storeMatrix(const WarpCall &call) {
  unsigned count = call.op.traits[0];
  bool transposed = call.op.traits[1];
  SharedMemory &shared = call.warp.block->getShared();
  for (unsigned matrix = 0; matrix != count; ++matrix) {
    Tile tile;
    for (unsigned lane = 0; lane != warpSize; ++lane)
      setFragment(tile, lane, transposed, call.arguments[lane][2 + matrix]);
    for (unsigned row = 0; row != 8; ++row) {
      unsigned lane = matrix * 8 + row;
      uint64_t address = getRowAddress(call, lane);
      shared.checkWrite(call.getThread(lane), address, 16, 16, AccessMode::Warp, "stmatrix");
      std::memcpy(reinterpret_cast<void *>(address), tile[row], 16);
    }
  }
}

static void transposeMatrix(const WarpCall &call) {
  Tile tile;
  for (unsigned lane = 0; lane != warpSize; ++lane)
    setFragment(tile, lane, /*transposed=*/false, call.arguments[lane][0]);
  for (unsigned lane = 0; lane != warpSize; ++lane)
    call.results[lane][0] = getFragment(tile, lane, /*transposed=*/true);
}

llvm::ArrayRef<CollectiveOp> sparseflow::emulator::getMatrixMoveOps() {
  static const std::vector<CollectiveOp> ops = [] {
    std::vector<CollectiveOp> ops;
    for (unsigned count : {1, 2, 4})
      for (bool transposed : {false, true})
        for (bool store : {false, true}) {
          CollectiveOp &op = ops.emplace_back();
          op.name = std::string(store ? "stmatrix" : "ldmatrix") + ".sync.aligned.m8n8.x" +
                    std::to_string(count) + (transposed ? ".trans" : "") + ".b16";
          op.function = store ? storeMatrix : loadMatrix;
          op.aligned = true;
          op.traits[0] = count;
          op.traits[1] = transposed;
        }
    CollectiveOp &move = ops.emplace_back();
    move.name = "movmatrix.sync.aligned.m8n8.trans.b16";
    move.function = transposeMatrix;
    move.aligned = true;
    return ops;
  }();
  return ops;
}
