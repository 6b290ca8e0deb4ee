// The header of a .npy file is a Python dictionary literal with three known keys; this reads
// exactly that form.
#include "Npy.h"
#include "sparseflow/Runtime/Error.h"
#include "sparseflow/Runtime/Manifest.h"
#include "sparseflow/Runtime/SafeTensors.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/MemoryBuffer.h"

using namespace llvm;
using namespace sparseflow;
using namespace sparseflow::capi;
using runtime::makeError;
using runtime::Status;

static constexpr StringLiteral magic = "\x93NUMPY";

bool capi::npyIsRaw(runtime::DType dtype) {
  return dtype == runtime::DType::BF16 || dtype == runtime::DType::E4M3 ||
         dtype == runtime::DType::E5M2;
}

StringRef capi::npyDescr(runtime::DType dtype) {
  switch (dtype) {
  case runtime::DType::F16:
    return "<f2";
  case runtime::DType::F32:
    return "<f4";
  case runtime::DType::F64:
    return "<f8";
  case runtime::DType::I8:
    return "|i1";
  case runtime::DType::I16:
    return "<i2";
  case runtime::DType::I32:
    return "<i4";
  case runtime::DType::I64:
    return "<i8";
  case runtime::DType::U8:
  case runtime::DType::E4M3:
  case runtime::DType::E5M2:
    return "|u1";
  case runtime::DType::U16:
  case runtime::DType::BF16:
    return "<u2";
  case runtime::DType::U32:
    return "<u4";
  case runtime::DType::U64:
    return "<u8";
  case runtime::DType::Bool:
    return "|b1";
  }
  return "";
}

bool capi::npyHolds(StringRef descr, runtime::DType dtype) {
  if (descr == npyDescr(dtype))
    return true;
  // The byte order of single bytes and of opaque elements is written in several ways.
  StringRef kind = descr.drop_front(descr.empty() ? 0 : 1);
  if (byteSize(dtype) == 1 && kind == npyDescr(dtype).drop_front())
    return true;
  return npyIsRaw(dtype) && kind == (byteSize(dtype) == 2 ? "V2" : "V1");
}

/// Bytes of an element, or 0 for what cannot be read.
static unsigned elementBytes(StringRef descr) {
  unsigned bytes = 0;
  if (descr.size() < 3 || descr.front() == '>' ||
      StringRef("fiubV").find(descr[1]) == StringRef::npos ||
      descr.drop_front(2).getAsInteger(10, bytes) || bytes > 8)
    return 0;
  return bytes;
}

namespace {
class HeaderParser {
public:
  explicit HeaderParser(StringRef text) : rest(text) {}

  /// {'descr': '<f2', 'fortran_order': False, 'shape': (3, 4), }
  bool parse(NpyArray &array, bool &fortranOrder) {
    if (!take("{"))
      return false;
    while (!take("}")) {
      StringRef key;
      if (!string(key) || !take(":"))
        return false;
      if (key == "descr") {
        StringRef descr;
        if (!string(descr))
          return false;
        array.descr = descr.str();
      } else if (key == "fortran_order") {
        fortranOrder = take("True");
        if (!fortranOrder && !take("False"))
          return false;
      } else if (key != "shape" || !tuple(array.shape)) {
        return false;
      }
      take(",");
    }
    return !array.descr.empty();
  }

private:
  bool take(StringRef token) {
    rest = rest.ltrim();
    return rest.consume_front(token);
  }
  bool string(StringRef &value) {
    if (!take("'"))
      return false;
    size_t end = rest.find('\'');
    if (end == StringRef::npos)
      return false;
    value = rest.take_front(end);
    rest = rest.drop_front(end + 1);
    return true;
  }
  bool tuple(std::vector<int64_t> &values) {
    if (!take("("))
      return false;
    while (!take(")")) {
      int64_t value;
      rest = rest.ltrim();
      if (rest.consumeInteger(10, value) || value < 0 || values.size() == runtime::maxRank)
        return false;
      values.push_back(value);
      take(",");
    }
    return true;
  }

  StringRef rest;
};
} // namespace

Expected<NpyArray> capi::parseNpy(StringRef bytes, StringRef what) {
  auto fail = [&](const Twine &expected, const Twine &got) {
    return makeError(Status::InvalidArgument, what + ": expected " + expected + ", got " + got);
  };
  if (!bytes.starts_with(magic) || bytes.size() < 10)
    return fail("a .npy file", "something else; save it with numpy.save");
  unsigned version = uint8_t(bytes[6]);
  size_t prefix = version == 1 ? 10 : 12;
  if (version < 1 || version > 3 || bytes.size() < prefix)
    return fail("a .npy file of version 1 to 3", "version " + Twine(version));
  size_t headerBytes = version == 1 ? support::endian::read16le(bytes.data() + 8)
                                    : support::endian::read32le(bytes.data() + 8);
  if (headerBytes > bytes.size() - prefix)
    return fail("a header of " + Twine(headerBytes) + " bytes", "a truncated file");
  NpyArray array;
  bool fortranOrder = false;
  if (!HeaderParser(bytes.substr(prefix, headerBytes)).parse(array, fortranOrder))
    return fail("a plain array's header", "another one; save it with numpy.save");
  if (fortranOrder)
    return fail("rows to be contiguous", "Fortran order; save numpy.ascontiguousarray(x)");
  uint64_t size = elementBytes(array.descr);
  if (size == 0)
    return fail("little-endian numbers", "'" + array.descr + "'; convert it with astype");
  for (int64_t extent : array.shape)
    size = SaturatingMultiply<uint64_t>(size, extent);
  StringRef data = bytes.drop_front(prefix + headerBytes);
  if (size != data.size())
    return fail(Twine(size) + " bytes of data", Twine(data.size()));
  array.data.assign(data.bytes_begin(), data.bytes_end());
  return array;
}

Expected<NpyArray> capi::readNpy(StringRef path) {
  ErrorOr<std::unique_ptr<MemoryBuffer>> file =
      MemoryBuffer::getFile(path, /*IsText=*/false, /*RequiresNullTerminator=*/false);
  if (!file)
    return runtime::makeOpenError(path, file.getError());
  return parseNpy((*file)->getBuffer(), path);
}

Error capi::writeNpy(StringRef path, const NpyArray &array) {
  std::string shape;
  for (int64_t extent : array.shape)
    shape += std::to_string(extent) + ",";
  std::string header =
      formatv("{{'descr': '{0}', 'fortran_order': False, 'shape': ({1}), }", array.descr, shape);
  // NumPy aligns the data to 64 bytes and ends the header with a newline.
  header.append(alignTo(10 + header.size() + 1, 64) - 10 - header.size() - 1, ' ');
  header += '\n';
  return runtime::writeFileAtomically(path, [&](raw_ostream &os) {
    char prefix[4] = {1, 0};
    support::endian::write16le(prefix + 2, header.size());
    os << magic;
    os.write(prefix, sizeof(prefix));
    os << header << toStringRef(array.data);
    return Error::success();
  });
}
