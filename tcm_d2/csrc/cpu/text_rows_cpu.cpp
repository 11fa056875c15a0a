// Result files as text: rows "name number number ..." to arrays and back.
//
// Parsing takes the plain decimal numbers that tools write and lists all other
// lines for the caller to judge: it never guesses. Writing rounds as printf
// does, to the nearest and from exact ties to the even digit.

#include <ATen/ATen.h>
#include <torch/library.h>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <vector>

namespace tcm_d2 {
namespace {

// Powers of ten that a double holds exactly, and integers below which it holds
// all: the quotient or product of two such is rounded once, hence correct.
constexpr double kPowersOfTen[] = {
    1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
constexpr int kMaxPower = 22;
constexpr uint64_t kMaxMantissa = uint64_t(1) << 53;
constexpr int kMaxDigits = 19;  // of a mantissa in 64 bits

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\v' || c == '\f';
}
bool is_line_end(char c) { return c == '\n' || c == '\r'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

double parse_slowly(std::string_view text) {
#if defined(__cpp_lib_to_chars)
  double value = 0.0;
  const auto result =
      std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec == std::errc()) return value;
#endif
  return std::strtod(std::string(text).c_str(), nullptr);
}

// Reads a decimal number that fills the text; false for anything else.
bool parse_number(std::string_view text, double* value) {
  const char* at = text.data();
  const char* end = at + text.size();
  bool negative = false;
  if (at < end && (*at == '-' || *at == '+')) negative = *at++ == '-';
  const char* unsigned_start = at;
  uint64_t mantissa = 0;
  int num_digits = 0;
  int power = 0;
  const char* digits = at;
  for (; at < end && is_digit(*at); ++at) {
    mantissa = 10 * mantissa + static_cast<uint64_t>(*at - '0');
    num_digits += mantissa != 0;
  }
  int64_t num_seen = at - digits;
  if (at < end && *at == '.') {
    const char* fraction = ++at;
    for (; at < end && is_digit(*at); ++at) {
      mantissa = 10 * mantissa + static_cast<uint64_t>(*at - '0');
      num_digits += mantissa != 0;
    }
    power = -static_cast<int>(std::min<int64_t>(at - fraction, 1000));
    num_seen += at - fraction;
  }
  if (num_seen == 0) return false;
  if (at < end && (*at == 'e' || *at == 'E')) {
    ++at;
    const bool minus = at < end && *at == '-';
    if (at < end && (*at == '-' || *at == '+')) ++at;
    if (at == end) return false;
    int exponent = 0;
    for (; at < end && is_digit(*at) && exponent < 10000; ++at) {
      exponent = 10 * exponent + (*at - '0');
    }
    power += minus ? -exponent : exponent;
  }
  if (at != end) return false;
  double magnitude;
  if (num_digits <= kMaxDigits && mantissa <= kMaxMantissa &&
      power >= -kMaxPower && power <= kMaxPower) {
    const double whole = static_cast<double>(mantissa);
    magnitude =
        power < 0 ? whole / kPowersOfTen[-power] : whole * kPowersOfTen[power];
  } else {
    magnitude = parse_slowly(
        {unsigned_start, static_cast<size_t>(end - unsigned_start)});
  }
  *value = negative ? -magnitude : magnitude;
  return std::isfinite(magnitude);
}

std::string_view next_field(const char*& at, const char* end) {
  while (at < end && is_space(*at)) ++at;
  const char* start = at;
  while (at < end && !is_space(*at)) ++at;
  return {start, static_cast<size_t>(at - start)};
}

template <typename Value>
at::Tensor to_tensor(const std::vector<Value>& values, at::ScalarType dtype,
                     int64_t columns) {
  const int64_t size = static_cast<int64_t>(values.size());
  at::Tensor tensor = columns == 0
                          ? at::empty({size}, dtype)
                          : at::empty({size / columns, columns}, dtype);
  if (size != 0) {
    std::memcpy(tensor.mutable_data_ptr(), values.data(), size * sizeof(Value));
  }
  return tensor;
}

struct ParsedRows {
  std::unordered_map<std::string_view, int64_t> index_of_name;
  std::vector<int64_t> name_index, name_spans, lines, bad_lines;
  std::vector<double> values;

  void add_line(const char* start, const char* end, const char* text,
                int64_t line_number, int64_t num_values) {
    const char* at = start;
    const std::string_view name = next_field(at, end);
    if (name.empty()) return;
    const size_t before = values.size();
    bool good = true;
    for (int64_t i = 0; good && i < num_values; ++i) {
      double value = 0.0;
      good = parse_number(next_field(at, end), &value);
      values.push_back(value);
    }
    if (!good || !next_field(at, end).empty()) {
      values.resize(before);
      bad_lines.push_back(line_number);
      return;
    }
    const auto [entry, is_new] = index_of_name.try_emplace(
        name, static_cast<int64_t>(index_of_name.size()));
    if (is_new) {
      name_spans.push_back(name.data() - text);
      name_spans.push_back(name.data() - text +
                           static_cast<int64_t>(name.size()));
    }
    name_index.push_back(entry->second);
    lines.push_back(line_number);
  }
};

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>
parse_text_rows_cpu(const at::Tensor& text, int64_t num_values) {
  TORCH_CHECK(text.dim() == 1 && text.scalar_type() == at::kByte,
              "text: expected a vector of uint8, got ", text.scalar_type(), " ",
              text.sizes());
  TORCH_CHECK(num_values >= 0, "num_values: expected at least 0, got ",
              num_values);
  const at::Tensor bytes = text.contiguous();
  const char* begin =
      reinterpret_cast<const char*>(bytes.const_data_ptr<uint8_t>());
  const char* end = begin + bytes.numel();
  ParsedRows rows;
  const char* at = begin;
  for (int64_t line_number = 1; at < end; ++line_number) {
    const char* start = at;
    while (at < end && !is_line_end(*at)) ++at;
    rows.add_line(start, at, begin, line_number, num_values);
    if (at < end && *at++ == '\r' && at < end && *at == '\n') ++at;
  }
  at::Tensor values =
      num_values == 0
          ? at::empty({static_cast<int64_t>(rows.lines.size()), 0}, at::kDouble)
          : to_tensor(rows.values, at::kDouble, num_values);
  return {to_tensor(rows.name_index, at::kLong, 0),
          to_tensor(rows.name_spans, at::kLong, 2), values,
          to_tensor(rows.lines, at::kLong, 0),
          to_tensor(rows.bad_lines, at::kLong, 0)};
}

void append_unsigned(uint64_t value, int min_digits, std::string& out) {
  char digits[24];
  int num = 0;
  for (; value != 0 || num < min_digits; value /= 10) {
    digits[num++] = static_cast<char>('0' + value % 10);
  }
  while (num > 0) out.push_back(digits[--num]);
}

// |value| * power as the nearest integer, exact ties to the even one; false
// where doubles cannot tell.
bool scale_exactly(double value, double power, uint64_t* whole) {
  const double scaled = value * power;
  if (!(scaled < 9e15)) return false;
  const double error = std::fma(value, power, -scaled);  // exact
  const double down = std::floor(scaled);
  const double rest = scaled - down;  // exact
  uint64_t result = static_cast<uint64_t>(down);
  if (rest == 0.5 ? (error > 0 || (error == 0 && result % 2 == 1))
                  : rest > 0.5) {
    ++result;
  }
  *whole = result;
  return true;
}

void append_printed(const char* format, int precision, double value,
                    std::string& out) {
  char buffer[512];
  const int size =
      std::snprintf(buffer, sizeof(buffer), format, precision, value);
  for (int i = 0; i < size && i < static_cast<int>(sizeof(buffer)) - 1; ++i) {
    out.push_back(buffer[i] == ',' ? '.' : buffer[i]);  // of some locales
  }
}

// As "%.*f".
void append_fixed(double value, int decimals, std::string& out) {
  uint64_t whole = 0;
  if (!scale_exactly(std::fabs(value), kPowersOfTen[decimals], &whole)) {
    append_printed("%.*f", decimals, value, out);
    return;
  }
  if (std::signbit(value)) out.push_back('-');
  const uint64_t unit = static_cast<uint64_t>(kPowersOfTen[decimals]);
  append_unsigned(whole / unit, 1, out);
  if (decimals > 0) {
    out.push_back('.');
    append_unsigned(whole % unit, decimals, out);
  }
}

// As "%.*g".
void append_general(double value, int digits, std::string& out) {
  // Scores lie between 0 and 1: a fixed number of decimals for each decade.
  int decimals = digits;
  for (double decade = 0.1; decade > 1e-4 && value < decade; decade /= 10) {
    ++decimals;
  }
  uint64_t whole = 0;
  const uint64_t limit = static_cast<uint64_t>(kPowersOfTen[digits]);
  // Decades that are off by rounding, or rounded up to the next, fail the last
  // two conditions.
  if (!(value >= 1e-4 && value < 1) || decimals > 15 ||
      !scale_exactly(value, kPowersOfTen[decimals], &whole) || whole >= limit ||
      whole < limit / 10) {
    append_printed("%.*g", digits, value, out);
    return;
  }
  out += "0.";
  append_unsigned(whole, decimals, out);
  while (out.back() == '0') out.pop_back();
}

at::Tensor format_text_rows_cpu(const at::Tensor& names,
                                const at::Tensor& name_spans,
                                const at::Tensor& name_index,
                                const at::Tensor& scores,
                                const at::Tensor& values, int64_t score_digits,
                                int64_t decimals) {
  const int64_t num_rows = name_index.size(0);
  TORCH_CHECK(names.dim() == 1 && names.scalar_type() == at::kByte &&
                  name_spans.dim() == 2 && name_spans.size(1) == 2 &&
                  name_spans.scalar_type() == at::kLong &&
                  name_index.dim() == 1 &&
                  name_index.scalar_type() == at::kLong,
              "names: expected uint8 text, int64 spans (U, 2) and index (N,)");
  TORCH_CHECK(
      scores.dim() == 1 && scores.size(0) == num_rows && values.dim() == 2 &&
          values.size(0) == num_rows && scores.scalar_type() == at::kDouble &&
          values.scalar_type() == at::kDouble,
      "scores, values: expected float64 (N,) and (N, C) with N = ", num_rows,
      ", got ", scores.sizes(), " and ", values.sizes());
  TORCH_CHECK(score_digits >= 1 && score_digits <= 15 && decimals >= 0 &&
                  decimals <= 15,
              "score_digits, decimals: expected at most 15, got ", score_digits,
              " and ", decimals);
  const at::Tensor name_bytes = names.contiguous();
  const at::Tensor spans = name_spans.contiguous();
  const at::Tensor index = name_index.contiguous();
  const at::Tensor score_rows = scores.contiguous();
  const at::Tensor value_rows = values.contiguous();
  const char* text =
      reinterpret_cast<const char*>(name_bytes.const_data_ptr<uint8_t>());
  const int64_t* span = spans.const_data_ptr<int64_t>();
  const int64_t* name_of = index.const_data_ptr<int64_t>();
  const double* score = score_rows.const_data_ptr<double>();
  const double* value = value_rows.const_data_ptr<double>();
  const int64_t num_values = values.size(1);
  std::string out;
  out.reserve(static_cast<size_t>(num_rows * (24 + 9 * num_values)));
  for (int64_t row = 0; row < num_rows; ++row) {
    const int64_t name = name_of[row];
    TORCH_CHECK(name >= 0 && name < spans.size(0), "name_index: expected 0 to ",
                spans.size(0) - 1, ", got ", name);
    const int64_t from = span[2 * name];
    const int64_t to = span[2 * name + 1];
    TORCH_CHECK(0 <= from && from <= to && to <= name_bytes.numel(),
                "name_spans: expected spans inside the names, got ", from,
                " to ", to);
    out.append(text + from, static_cast<size_t>(to - from));
    out.push_back(' ');
    append_general(score[row], static_cast<int>(score_digits), out);
    for (int64_t i = 0; i < num_values; ++i) {
      out.push_back(' ');
      append_fixed(*value++, static_cast<int>(decimals), out);
    }
    out.push_back('\n');
  }
  at::Tensor result =
      at::empty({static_cast<int64_t>(out.size())}, names.options());
  if (!out.empty()) {
    std::memcpy(result.mutable_data_ptr(), out.data(), out.size());
  }
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(tcm_d2, CPU, m) {
  m.impl("parse_text_rows", &parse_text_rows_cpu);
  m.impl("format_text_rows", &format_text_rows_cpu);
}

}  // namespace tcm_d2
