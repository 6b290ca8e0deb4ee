//===- UntrustedText.cpp - IR that anybody may have written ---------------===//
//
// The parser and the printer recurse over what nests. Three things do: brackets; aliases, whose
// attributes hold those of earlier aliases; and affine expressions, which need no brackets to be
// deep. The parser stops at the first bracket that does not match, so a text may look shallower
// here than it is only where the parser does not come.
//
//===----------------------------------------------------------------------===//

#include "UntrustedText.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/FormatVariadic.h"

using namespace llvm;

static constexpr unsigned maxNesting = 200;
/// Words and signs between two separators; an affine expression has no other bound.
static constexpr unsigned maxTerms = 1000;

//===----------------------------------------------------------------------===//
// Nesting
//===----------------------------------------------------------------------===//

namespace {
class Scanner {
public:
  explicit Scanner(StringRef source) : source(source) {}
  std::optional<std::string> run();

private:
  std::optional<std::string> tooDeep(StringRef what, unsigned most) const {
    return formatv("{0}: expected {1} at most {2} deep", line, what, most).str();
  }
  size_t skipString(size_t begin) const;
  void close(char opening);
  unsigned enterWord(StringRef word, StringRef rest);
  bool arePropertiesNoDictionary(char c, StringRef word);

  StringRef source;
  unsigned line = 1;
  SmallVector<char> open;
  unsigned terms = 0;
  /// How deep the attribute or type behind an alias nests.
  StringMap<unsigned> aliases;
  unsigned *defined = nullptr;
  /// Behind the name of an operation of linalg, or behind the `<` that follows it.
  enum { Elsewhere, Name, Properties } place = Elsewhere;
};
} // namespace

/// The position of the closing quote, or before the end of the line, where the lexer gives up.
size_t Scanner::skipString(size_t i) const {
  for (++i; i < source.size() && source[i] != '"'; ++i) {
    if (source[i] == '\\')
      ++i;
    if (source.substr(i, 1) == "\n")
      return i - 1;
  }
  return i;
}

/// A `>` closes nothing but a `<`: it may be of `->` or `>=`. A `<` of `<=` is never closed.
void Scanner::close(char opening) {
  size_t depth = open.size();
  if (opening != '<')
    while (depth > 0 && open[depth - 1] == '<')
      --depth;
  if (depth > 0 && open[depth - 1] == opening)
    open.truncate(depth - 1);
}

/// The depth at a word: an alias brings its own.
unsigned Scanner::enterWord(StringRef word, StringRef rest) {
  unsigned depth = open.size();
  if (word.front() != '#' && word.front() != '!')
    return depth;
  if (open.empty() && rest.ltrim().starts_with("=")) {
    defined = &aliases[word];
    return depth;
  }
  if (auto known = aliases.find(word); known != aliases.end())
    depth += known->second + 1;
  return depth;
}

/// Whether the properties of an operation of linalg, `linalg.matmul <{...}>`, are something else
/// than a dictionary: its parser takes them for one, and crashes. Told by the first character and,
/// if it is one, the word of each token.
bool Scanner::arePropertiesNoDictionary(char c, StringRef word) {
  bool isWrong = place == Properties && c != '{';
  if (word.starts_with("linalg."))
    place = Name;
  else
    place = place == Name && c == '<' ? Properties : Elsewhere;
  return isWrong;
}

std::optional<std::string> Scanner::run() {
  auto isWord = [](char c) { return isAlnum(c) || StringRef("_.$#!%@^").contains(c); };
  auto isAlias = [&](char c) { return isWord(c) || c == '-'; };
  char previous = 0;
  for (size_t i = 0; i < source.size(); ++i) {
    char c = source[i];
    line += c == '\n';
    if (isSpace(c))
      continue;
    if (source.substr(i, 2) == "//") {
      i = std::min(source.find_first_of("\r\n", i), source.size()) - 1;
      continue;
    }
    unsigned depth = open.size();
    ++terms;
    if (arePropertiesNoDictionary(c, source.substr(i, 7)))
      return formatv("{0}: expected properties in braces, as in <{{}>, got something else", line)
          .str();
    if (c == '"' || isWord(c)) {
      // Only what follows these belongs to an alias's definition without brackets around it.
      if (open.empty() && previous != '=' && previous != ':')
        defined = nullptr;
      if (c == '"') { // constants are megabytes of digits
        i = skipString(i);
      } else {
        StringRef rest = source.substr(i);
        StringRef word = c == '#' || c == '!' ? rest.take_while(isAlias) : rest.take_while(isWord);
        i += word.size() - 1;
        depth = enterWord(word, source.substr(i + 1));
      }
    } else if (StringRef("([{<").contains(c)) {
      open.push_back(c);
      depth = open.size();
    } else if (size_t kind = StringRef(")]}>").find(c); kind != StringRef::npos) {
      close("([{<"[kind]);
    }
    if (StringRef("([{<>}]),:=").contains(c))
      terms = 0;
    previous = source.substr(i, 2) == "->" ? '=' : c;
    i += source.substr(i, 2) == "->";
    if (depth > maxNesting)
      return tooDeep("brackets and aliases to nest", maxNesting);
    if (terms > maxTerms)
      return tooDeep("expressions to nest", maxTerms);
    if (defined)
      *defined = std::max(*defined, depth);
  }
  return std::nullopt;
}

//===----------------------------------------------------------------------===//
// Dimensions
//===----------------------------------------------------------------------===//

/// Whether text begins with a list of numbers in brackets.
static bool beginsWithNumbers(StringRef text) {
  size_t end = text.find(']');
  if (end == StringRef::npos || !text.consume_front("["))
    return false;
  StringRef numbers = text.take_front(end - 1).trim();
  return numbers.empty() || all_of(split(numbers, ','), [](StringRef number) {
           int64_t value;
           return !number.trim().getAsInteger(10, value);
         });
}

/// The line of a list of dimensions that is no list of numbers; 0 if there is none. The parsers of
/// linalg.transpose, reduce and broadcast go on without the list, and crash.
static unsigned findBrokenDimensions(StringRef source) {
  for (StringRef keyword : {"permutation", "dimensions"})
    for (size_t at = source.find(keyword); at != StringRef::npos;
         at = source.find(keyword, at + 1)) {
      StringRef rest = source.substr(at + keyword.size()).ltrim();
      bool isList = rest.consume_front("=") && !(rest = rest.ltrim()).starts_with("array<");
      if (isList && !beginsWithNumbers(rest))
        return 1 + source.take_front(at).count('\n');
    }
  return 0;
}

std::optional<std::string> sparseflow::findUnparsable(StringRef source) {
  // As .sf files, arrays and checkpoints have in their first bytes.
  if (size_t at = source.find('\0'); at != StringRef::npos)
    return formatv("{0}: expected MLIR text, got a file with a zero byte: another kind of file",
                   1 + source.take_front(at).count('\n'))
        .str();
  if (unsigned line = findBrokenDimensions(source))
    return formatv("{0}: expected a list of dimensions such as [1, 0], got something else", line)
        .str();
  return Scanner(source).run();
}
