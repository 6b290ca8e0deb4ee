// Which of a function's programs a GPU runs, and whether a cubin can be shown to the driver.
#include "sparseflow/Runtime/GpuCode.h"
#include "sparseflow/Runtime/Error.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/BinaryFormat/ELF.h"
#include "llvm/Support/FormatVariadic.h"

using namespace llvm;
using namespace sparseflow::runtime;

/// The first chip whose tensor cores take 2:4 operands; no target before it can be compiled for.
static constexpr unsigned firstSparseChip = 80;

bool sparseflow::runtime::cubinRunsOn(Chip code, unsigned chip) {
  if (code.suffix == 'a')
    return code.number == chip;
  return code.major() == chip / 10 && code.number <= chip;
}

bool sparseflow::runtime::ptxRunsOn(Chip code, unsigned chip) {
  return code.suffix ? cubinRunsOn(code, chip) : code.number <= chip;
}

static bool kernelFits(const Kernel &kernel, Chip code, unsigned chip, bool cubinOnly) {
  if (!kernel.cubin.empty() && cubinRunsOn(code, chip))
    return true;
  return !cubinOnly && !kernel.ptx.empty() && ptxRunsOn(code, chip);
}

static std::string listPrograms(const Function &function) {
  if (function.programs.empty())
    return "no kernels at all";
  std::vector<std::string> list;
  for (const Program &program : function.programs) {
    bool cubin = !program.kernels.empty(), ptx = cubin;
    for (const Kernel &kernel : program.kernels) {
      cubin &= !kernel.cubin.empty();
      ptx &= !kernel.ptx.empty();
    }
    list.push_back(program.target + (cubin && ptx ? " (cubin, ptx)"
                                     : cubin      ? " (cubin)"
                                     : ptx        ? " (ptx)"
                                                  : " (no binaries)"));
  }
  return join(list, ", ");
}

Expected<const Program *> sparseflow::runtime::chooseProgram(const Function &function,
                                                             unsigned chip) {
  const Program *best = nullptr;
  std::tuple<bool, unsigned, bool> bestRank;
  for (const Program &program : function.programs) {
    std::optional<Chip> code = parseChip(program.target);
    if (!code)
      continue;
    auto fits = [&](bool cubinOnly) {
      return all_of(program.kernels, [&](const Kernel &kernel) {
        return kernelFits(kernel, *code, chip, cubinOnly);
      });
    };
    if (!fits(/*cubinOnly=*/false))
      continue;
    std::tuple<bool, unsigned, bool> rank(fits(/*cubinOnly=*/true), code->number,
                                          code->suffix != 0);
    if (!best || rank > bestRank) {
      best = &program;
      bestRank = rank;
    }
  }
  if (!best && chip < firstSparseChip)
    return makeError(Status::Unsupported,
                     formatv("expected a GPU with 2:4 sparse tensor cores (sm_{0} or later), got "
                             "sm_{1}; use the devices 'emulator' or 'reference'",
                             firstSparseChip, chip));
  if (!best)
    return makeError(Status::Unsupported,
                     formatv("function '{0}' expected code that runs on sm_{1}, got {2}; compile "
                             "with --target=sm_{1}",
                             function.name, chip, listPrograms(function)));
  return best;
}

Error sparseflow::runtime::checkCubin(ArrayRef<uint8_t> cubin) {
  auto fail = [](const Twine &got) {
    return makeError(Status::InvalidProgram, "expected a whole cubin (ELF file for CUDA), got " +
                                                 got + "; compile the program again");
  };
  ELF::Elf64_Ehdr header;
  if (cubin.size() < sizeof(header))
    return fail(Twine(cubin.size()) + " bytes");
  memcpy(&header, cubin.data(), sizeof(header));
  if (memcmp(header.e_ident, ELF::ElfMagic, 4) != 0 ||
      header.e_ident[ELF::EI_CLASS] != ELF::ELFCLASS64 || header.e_machine != ELF::EM_CUDA)
    return fail("another kind of data");
  auto inside = [&](uint64_t offset, uint64_t bytes) {
    return offset <= cubin.size() && bytes <= cubin.size() - offset;
  };
  if (header.e_shentsize != sizeof(ELF::Elf64_Shdr) || header.e_shnum == 0 ||
      header.e_shstrndx >= header.e_shnum ||
      !inside(header.e_shoff, uint64_t(header.e_shnum) * sizeof(ELF::Elf64_Shdr)))
    return fail("a damaged section table");
  if (header.e_phnum &&
      (header.e_phentsize != sizeof(ELF::Elf64_Phdr) ||
       !inside(header.e_phoff, uint64_t(header.e_phnum) * sizeof(ELF::Elf64_Phdr))))
    return fail("a damaged segment table");
  for (unsigned i = 0; i < header.e_shnum; ++i) {
    ELF::Elf64_Shdr section;
    memcpy(&section, cubin.data() + header.e_shoff + i * sizeof(section), sizeof(section));
    if (section.sh_type != ELF::SHT_NOBITS && !inside(section.sh_offset, section.sh_size))
      return fail("a section beyond its end");
  }
  return Error::success();
}
