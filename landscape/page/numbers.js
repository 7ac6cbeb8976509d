// Numbers as a reader sees them, with the digits of landscape/formatting.py (but for exact ties, which round away).
const brief = (value, digits = 3) => (Number.isFinite(value) ? String(Number(value.toPrecision(digits))) : String(value));
function short(value) { // three significant digits
  if (!Number.isFinite(value)) return { Infinity: "inf", "-Infinity": "-inf" }[value] ?? "nan";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(2).replace(/e\+(\d)$/, "e$1");
  return value.toFixed(size ? Math.max(2 - Math.floor(Math.log10(size)), 0) : 0);
}
function plusMinus(value, error) { // two digits of the uncertainty, five of the value at most
  const known = Number.isFinite(value);
  if (!known || !Number.isFinite(error) || error <= 0) return short(value) + (error === 0 && known ? " ± 0" : "");
  const size = Math.floor(Math.log10(Math.max(Math.abs(value), error)));
  if (size < -4 || size >= 6) return `${exponential(value, 2)} ± ${exponential(error, 1)}`;
  const decimals = Math.min(Math.max(1 - Math.floor(Math.log10(error)), 0), Math.max(4 - size, 0));
  const rounded = error.toFixed(decimals);
  return `${value.toFixed(decimals)} ± ${Number(rounded) ? rounded : `<${(10 ** -decimals).toFixed(decimals)}`}`;
}
const signed = (value, error) => (value < 0 ? plusMinus(value, error).replace("-", "−") : `+${plusMinus(value, error)}`);
const rightAt = (share, before) => (Number.isFinite(share) ? `${before}accuracy ${(100 * share).toFixed(1)} %` : "");
const exponential = (value, digits) => value.toExponential(digits).replace(/(?<=e[+-])(?=\d$)/, "0");
