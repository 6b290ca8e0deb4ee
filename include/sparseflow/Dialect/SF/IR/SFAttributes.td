// Attributes of the `sf` dialect: how a weight is stored, which chip is meant, how one kernel is tiled.
// Every field is typed; there is no attribute that is a free dictionary.

#ifndef SPARSEFLOW_DIALECT_SF_IR_SFATTRIBUTES_TD
#define SPARSEFLOW_DIALECT_SF_IR_SFATTRIBUTES_TD

include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"
include "mlir/IR/TensorEncoding.td"
include "sparseflow/Dialect/SF/IR/SFDialect.td"

class SF_I32Enum<string name, string summary, list<EnumCase> cases> : I32Enum<name, summary, cases> {
  let cppNamespace = "::sparseflow::sf";
}

def SF_Sparsity : SF_I32Enum<"Sparsity", "Structure of a weight along K", [
  I32EnumCase<"Dense", 0, "dense">,
  I32EnumCase<"Sp24", 1, "sp24">
]>;

def SF_Pack : SF_I32Enum<"Pack", "Order in which a weight lies in memory", [
  I32EnumCase<"None", 0, "none">,
  I32EnumCase<"Mma", 1, "mma">,
  I32EnumCase<"Wgmma", 2, "wgmma">
]>;

def SF_Atom : SF_I32Enum<"Atom", "Tensor-core instruction family", [
  I32EnumCase<"Mma", 0, "mma">,
  I32EnumCase<"MmaSp", 1, "mma_sp">,
  I32EnumCase<"Wgmma", 2, "wgmma">,
  I32EnumCase<"WgmmaSp", 3, "wgmma_sp">,
  I32EnumCase<"WgmmaSpRs", 4, "wgmma_sp_rs">
]>;

def SF_Library : SF_I32Enum<"Library", "A library with dense products", [
  I32EnumCase<"CublasLt", 0, "cublaslt">
]>;

def SF_CompressMode : SF_I32Enum<"CompressMode", "What happens to a group with more than two non-zeros", [
  I32EnumCase<"Verify", 0, "verify">,
  I32EnumCase<"Prune", 1, "prune">
]>;

def SF_QuantizeAxis : SF_I32Enum<"QuantizeAxis", "What one dynamic scale covers", [
  I32EnumCase<"Token", 0, "token">,
  I32EnumCase<"Group", 1, "group">
]>;

// An enum that is spelled as a string in an operation's attribute dictionary: `{mode = "prune"}`.
class SF_StrEnumAttr<EnumInfo enum> : Attr<
    CPred<"::llvm::isa<::mlir::StringAttr>($_self) && " # enum.cppNamespace # "::" #
          enum.stringToSymbolFnName # "(::llvm::cast<::mlir::StringAttr>($_self).getValue())">,
    "one of " # !interleave(!foreach(case, enum.enumerants, "'" # case.str # "'"), ", ")> {
  let storageType = "::mlir::StringAttr";
  let returnType = enum.cppNamespace # "::" # enum.className;
  let convertFromStorage = "*" # enum.cppNamespace # "::" # enum.stringToSymbolFnName #
                           "($_self.getValue())";
  let constBuilderCall = "$_builder.getStringAttr(" # enum.cppNamespace # "::" #
                         enum.symbolToStringFnName # "($0))";
}

class SF_Attr<string name, string attrMnemonic, list<Trait> traits = []>
    : AttrDef<SF_Dialect, name, traits> {
  let mnemonic = attrMnemonic;
}

def SF_WeightAttr : SF_Attr<"Weight", "weight", [DeclareAttrInterfaceMethods<VerifiableTensorEncoding>]> {
  let summary = "how a weight is stored: sparsity along K, packing";
  let description = [{
    The encoding of a weight tensor. The tensor's shape stays the logical one, `[N, K]`.

    | encoding | bytes of a constant |
    |---|---|
    | none | the dense elements, row-major |
    | `#sf.weight<sp24>` (canonical) | kept values `[N, K/2]`, then a bitmask `[N, ceil(K/8)]` of u8, little bit order, exactly two bits in each group of four |
    | `#sf.weight<sp24, pack = mma>` | the order in which the `mma.sp` kernels read values and metadata |
    | `#sf.weight<dense, pack = mma>` | the order in which the dense `mma` kernels read the elements |
    | `#sf.weight<..., pack = wgmma>` | the same for the kernels of Hopper's `wgmma` and `wgmma.sp` |

    A canonical weight can be cut along both axes; a packed weight is what the kernels read. All
    kernels of one element type share one packed order, whatever their tile.

    Element types: `f16`, `bf16`, `i8`, `f8E4M3FN`, `f8E5M2`; a canonical weight may also be `f32`,
    which only `sf.decompress` reads.

    Preconditions: rank 2, static shape, and for `sp24` a K that is a multiple of 4.

    ```mlir
    func.func @weights(%canonical: tensor<64x128xf16, #sf.weight<sp24>>,
                       %packed: tensor<64x128xf16, #sf.weight<sp24, pack = mma>>,
                       %dense: tensor<64x128xf16, #sf.weight<dense, pack = mma>>) {
      return
    }
    ```
  }];
  let parameters = (ins
    "::sparseflow::sf::Sparsity":$sparsity,
    DefaultValuedParameter<"::sparseflow::sf::Pack", "::sparseflow::sf::Pack::None">:$pack
  );
  let assemblyFormat = "`<` $sparsity (`,` `pack` `=` $pack^)? `>`";
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    bool isSparse() const { return getSparsity() == ::sparseflow::sf::Sparsity::Sp24; }
    bool isPacked() const { return getPack() != ::sparseflow::sf::Pack::None; }
    /// The packed order; none when not packed.
    std::optional<::sparseflow::PackOrder> getPackOrder() const;
    bool isCanonical() const { return isSparse() && !isPacked(); }
  }];
}

def SF_TargetAttr : SF_Attr<"Target", "target"> {
  let summary = "the chip that a function is compiled for";
  let description = [{
    Names one chip of the list `sm_80`, `sm_86`, `sm_87`, `sm_89`, `sm_90`, `sm_90a`, `sm_100`,
    `sm_120`. The attribute answers what the compiler asks about it: the shared memory that one block
    may use, the tensor-core element types, the PTX version.

    ```mlir
    module attributes {sf.target = #sf.target<"sm_80">} {
    }
    ```
  }];
  let parameters = (ins StringRefParameter<"the chip, such as sm_80">:$chip);
  let assemblyFormat = "`<` $chip `>`";
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    /// What is known about the chip.
    const ::sparseflow::sf::ChipInfo &getInfo() const;
    /// Shared memory that one block may use after opting in, in bytes.
    int64_t getSharedMemoryPerBlock() const { return getInfo().sharedMemoryPerBlock; }
    /// Whether mma takes f8E4M3FN and f8E5M2.
    bool supportsFp8Mma() const { return getInfo().computeCapability >= 89; }
    /// Whether those instructions are the chip's own, not emulated.
    bool hasNativeFp8Mma() const { return getInfo().nativeFp8Mma; }
    /// Whether kernels may begin while the one ahead on the stream ends, and wait for it themselves.
    bool hasGridWait() const { return getInfo().computeCapability >= 90; }
    /// The feature string that makes the back end emit a PTX version with all that is used, "+ptx85".
    ::llvm::StringRef getPtxFeature() const { return getInfo().ptxFeature; }
  }];
}

def SF_VariantConfig : AttrInterface<"VariantConfig"> {
  let cppNamespace = "::sparseflow::sf";
  let description = "How one variant of a matmul is computed, and for which calls.";
  let methods = [
    InterfaceMethod<"The variant serves calls of at most so many tokens; none: any number.",
                    "std::optional<int64_t>", "getMaxTokens">
  ];
}

def SF_KernelConfigAttr : SF_Attr<"KernelConfig", "kernel_config", [SF_VariantConfig]> {
  let summary = "how one matmul kernel is tiled";
  let description = [{
    One variant of a matmul's kernel.

    | field | meaning | default |
    |---|---|---|
    | `max_tokens` | the variant serves calls of at most so many tokens | any number |
    | `tile` | features x tokens x k elements that one block computes at a time | |
    | `warps` | how the block's warps divide the tile: features x tokens | |
    | `stages` | buffers of the shared-memory ring; `sf-tile-plan-pipeline` chooses when absent | chosen late |
    | `split_k` | blocks that share one tile's K | 1 |
    | `cluster` | blocks that share something, for `wgmma`: side by side along features the tokens they load; with `split_k` one tile's K, whose parts they add up | 1 |
    | `raster` | feature tiles that are walked before the next token tile, for the L2 | 8 |
    | `atom` | `mma` or `wgmma` (dense), `mma_sp`, `wgmma_sp` or `wgmma_sp_rs` (2:4) | |

    The `wgmma` atoms work by warpgroups, four warps along features that share 64 of them, beside which one more
    warp brings the operands: `warps` counts the four, not the one. They read both operands from shared memory, but
    for `wgmma_sp_rs`, to which the weight's values go through registers.

    Preconditions: the tile's sizes are powers of two, its features and its k at least 64 (a packed chunk's
    128 bytes hold 64 elements of 16 bits or 128 of 8 bits; the matmul checks which); every warp gets a
    multiple of 16 features and of 8 tokens, the atom's shape, and for `mma` whole chunks of 64 features, as
    `sf-tile-assign-layouts` demands; the warps are a power of two, at most 16.
    For `wgmma` features are any multiple of 64, 16 for each warp, and every warp has all tokens, which are
    8, 24 or a multiple of 16 up to 256;
    `stages` is from 2 to 16; `split_k` is from 1 to 64.
    `cluster` is 1, 2 or 4, more than 1 with `wgmma` alone; it divides `raster`, and the tile's tokens into multiples of 8.
    With `split_k` it is 1, where a second kernel adds the parts, or equal to it: 2, 4 or 8.

    ```mlir
    module attributes {sf.example =
      #sf.kernel_config<max_tokens = 64, tile = 256x128x64, warps = 4x2, stages = 4, split_k = 1, raster = 8, atom = mma_sp>} {
    }
    ```
  }];
  let parameters = (ins
    OptionalParameter<"std::optional<int64_t>">:$maxTokens,
    "int64_t":$tileFeatures,
    "int64_t":$tileTokens,
    "int64_t":$tileK,
    "int64_t":$warpsFeatures,
    "int64_t":$warpsTokens,
    OptionalParameter<"std::optional<int64_t>">:$stages,
    "int64_t":$splitK,
    "int64_t":$cluster,
    "int64_t":$raster,
    "::sparseflow::sf::Atom":$atom
  );
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    int64_t getNumWarps() const { return getWarpsFeatures() * getWarpsTokens(); }
    /// All threads of the block, a producer warp included.
    int64_t getNumThreads() const { return (getNumWarps() + (isWarpSpecialized() ? 1 : 0)) * 32; }
    int64_t getWarpTileFeatures() const { return getTileFeatures() / getWarpsFeatures(); }
    int64_t getWarpTileTokens() const { return getTileTokens() / getWarpsTokens(); }
    bool isSparse() const;
    /// Whether one warp brings what the others multiply.
    bool isWarpSpecialized() const { return getPackOrder() == ::sparseflow::PackOrder::Wgmma; }
    /// The order in which the atom wants its weight.
    ::sparseflow::PackOrder getPackOrder() const;
    /// Whether the blocks of a cluster divide K, and add up what they have.
    bool splitsInCluster() const { return getSplitK() > 1 && getCluster() > 1; }
    /// Blocks of a cluster that stand side by side along features.
    int64_t getFeatureCluster() const { return splitsInCluster() ? 1 : getCluster(); }
    /// Bytes of shared memory in which a block receives what the others of its cluster send.
    int64_t getInboxBytes(unsigned numWeights) const;
    /// Whether a warpgroup's atom takes the weight's values from registers.
    bool hasValuesInRegisters() const { return getAtom() == ::sparseflow::sf::Atom::WgmmaSpRs; }
    /// The same configuration with the depth of the ring decided.
    KernelConfigAttr withStages(int64_t stages) const;
    /// The same configuration for calls of at most so many tokens; none: any number.
    KernelConfigAttr withMaxTokens(std::optional<int64_t> maxTokens) const;
    /// Bytes of one stage of the ring for `numWeights` weights whose elements have `elementBits` bits.
    int64_t getStageBytes(unsigned elementBits, unsigned numWeights) const;
  }];
}

def SF_LibraryConfigAttr : SF_Attr<"LibraryConfig", "library_config", [SF_VariantConfig]> {
  let summary = "a matmul's products come from a library of dense ones";
  let description = [{
    One variant of a matmul that multiplies the same weights, pruned ones with their zeros, by a library: where
    dense is faster, dense runs. What the library does not compute itself, a kernel behind it does: the epilogue.

    | field | meaning | default |
    |---|---|---|
    | (first) | the library: `cublaslt`, opened at run time | |
    | `max_tokens` | the variant serves calls of at most so many tokens | any number |

    ```mlir
    module attributes {sf.example = #sf.library_config<cublaslt, max_tokens = 256>} {
    }
    ```
  }];
  let parameters = (ins
    "::sparseflow::sf::Library":$library,
    OptionalParameter<"std::optional<int64_t>">:$maxTokens
  );
  let assemblyFormat = "`<` $library (`,` `max_tokens` `=` $maxTokens^)? `>`";
  let genVerifyDecl = 1;
}

def SF_TimesAttr : SF_Attr<"Times", "times"> {
  let summary = "what was measured when a variant was chosen";
  let description = [{
    Microseconds of the fastest sparse kernel and of the dense product, for calls such as the variant serves. A
    matmul may carry one for each of its `configs`, as `sf.times`; they go into the manifest, for reports.

    ```mlir
    module attributes {sf.example = [#sf.times<sparse = 12.5, dense = 9.75>, #sf.times<sparse = 30.0>]} {
    }
    ```
  }];
  let parameters = (ins
    OptionalParameter<"::mlir::FloatAttr">:$sparse,
    OptionalParameter<"::mlir::FloatAttr">:$dense
  );
  let assemblyFormat = "`<` struct(params) `>`";
}

#endif // SPARSEFLOW_DIALECT_SF_IR_SFATTRIBUTES_TD
