//! Numbers as a person reads them: three significant digits, a unit, a real minus sign.

/// What stands where a number was not measured or is not finite.
pub(crate) const NONE: &str = "–";

/// The unit and the decimals that the numbers of one column share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Unit {
    /// The unit's sign, such as `KiB`.
    pub(crate) sign: &'static str,
    /// How many base units one of these is.
    pub(crate) scale: f64,
    decimals: usize,
}

/// Bytes and their binary multiples.
const BYTES: [(&str, f64); 5] =
    [("B", 1.0), ("KiB", 1024.0), ("MiB", 1048576.0), ("GiB", 1073741824.0), ("TiB", 1099511627776.0)];
/// Milliseconds and their neighbours.
const TIMES: [(&str, f64); 3] = [("µs", 1e-3), ("ms", 1.0), ("s", 1e3)];
/// Megabytes as they are.
const MEGABYTES: [(&str, f64); 1] = [("MB", 1.0)];

impl Unit {
    /// The unit for sizes given in bytes.
    pub(crate) fn bytes(values: impl Iterator<Item = f64>) -> Unit {
        Unit::choose(&BYTES, 1, 1.0, values)
    }

    /// The unit for times given in milliseconds.
    pub(crate) fn times(values: impl Iterator<Item = f64>) -> Unit {
        Unit::choose(&TIMES, 1, 0.01, values)
    }

    /// The unit for memory given in megabytes.
    pub(crate) fn megabytes(values: impl Iterator<Item = f64>) -> Unit {
        Unit::choose(&MEGABYTES, 0, 0.0, values)
    }

    /// The largest unit in which the smallest value is still at least `floor`, with decimals for its three significant
    /// digits; `units[default]` where there is no value.
    fn choose(units: &[(&'static str, f64)], default: usize, floor: f64, values: impl Iterator<Item = f64>) -> Unit {
        let least = values.filter(|v| v.is_finite() && *v > 0.0).fold(f64::INFINITY, f64::min);
        let fits = units.iter().rev().find(|(_, scale)| least / scale >= floor);
        let (sign, scale) = if least.is_finite() { *fits.unwrap_or(&units[0]) } else { units[default] };
        let decimals = if sign == "B" { 0 } else { decimals(least / scale) };
        Unit { sign, scale, decimals }
    }

    /// The number without its unit.
    pub(crate) fn number(&self, value: f64) -> String {
        fixed(value / self.scale, self.decimals)
    }

    /// The number with its unit.
    pub(crate) fn show(&self, value: f64) -> String {
        format!("{} {}", self.number(value), self.sign)
    }
}

/// A size in the unit that suits it alone.
pub(crate) fn bytes(value: f64) -> String {
    Unit::bytes(std::iter::once(value)).show(value)
}

/// A time given in milliseconds, in the unit that suits it alone.
pub(crate) fn milliseconds(value: f64) -> String {
    Unit::times(std::iter::once(value)).show(value)
}

/// Seconds as `0.84 s`, `42.0 s`, `1 min 24 s` or `2 h 05 min`.
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return NONE.to_owned();
    }
    if seconds < 59.95 {
        return format!("{} s", fixed(seconds, decimals(seconds).min(2)));
    }
    let whole = seconds.round() as u64;
    match whole {
        0..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A share from 0 to 1 as a percentage.
pub(crate) fn percent(share: f64, decimals: usize) -> String {
    if share.is_finite() { format!("{} %", fixed(share * 100.0, decimals)) } else { NONE.to_owned() }
}

/// A difference of two shares in percentage points, signed.
pub(crate) fn points(difference: f64) -> String {
    let rounded = (difference * 1e4).round() / 1e2;
    let sign = match rounded {
        r if !r.is_finite() => return NONE.to_owned(),
        r if r > 0.0 => "+",
        r if r < 0.0 => "−",
        _ => "±",
    };
    format!("{sign}{}", fixed(rounded.abs(), 2))
}

/// A ratio as `3.91×`.
pub(crate) fn times(ratio: f64) -> String {
    if !ratio.is_finite() {
        return NONE.to_owned();
    }
    let decimals = if ratio < 9.995 { 2 } else { decimals(ratio) };
    let number = if ratio < 0.01 { plain(ratio) } else { fixed(ratio, decimals) };
    format!("{number}×")
}

/// A whole number with its thousands apart.
pub(crate) fn count(value: u64) -> String {
    grouped(&value.to_string())
}

/// A large count as `6.91 M`.
pub(crate) fn short_count(value: u64) -> String {
    let v = value as f64;
    match [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")].into_iter().find(|(scale, _)| v >= *scale) {
        Some((scale, sign)) => format!("{} {sign}", fixed(v / scale, decimals(v / scale))),
        None => value.to_string(),
    }
}

/// Any number to three significant digits, as a loss or an unnamed metric needs it.
pub(crate) fn plain(value: f64) -> String {
    match value.abs() {
        a if !a.is_finite() => NONE.to_owned(),
        0.0 => "0".to_owned(),
        a if !(1e-3..1e15).contains(&a) => format!("{value:.2e}").replace('-', "−"),
        a if a.fract() == 0.0 => fixed(value, 0),
        a => fixed(value, decimals(a)),
    }
}

/// Decimals that leave three significant digits, three at most.
fn decimals(value: f64) -> usize {
    match value.abs() {
        v if !v.is_finite() || v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        v if v >= 0.9995 => 2,
        _ => 3,
    }
}

/// A number with so many decimals, its thousands apart.
pub(crate) fn fixed(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return NONE.to_owned();
    }
    let text = format!("{:.decimals$}", value.abs());
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    format!("{}{}{rest}", if value < 0.0 { "−" } else { "" }, grouped(whole))
}

/// Puts a comma between groups of three digits.
fn grouped(digits: &str) -> String {
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_like_a_person_writes_them() {
        let cases = [
            (bytes(0.0), "0 KiB"),
            (bytes(512.0), "512 B"),
            (bytes(338_012.0), "330 KiB"),
            (bytes(1_300_000.0), "1.24 MiB"),
            (milliseconds(0.0042), "4.20 µs"),
            (milliseconds(0.0423), "0.042 ms"),
            (milliseconds(0.5), "0.500 ms"),
            (milliseconds(1234.0), "1.23 s"),
            (duration(0.5), "0.50 s"),
            (duration(42.04), "42.0 s"),
            (duration(59.99), "1 min 00 s"),
            (duration(84.2), "1 min 24 s"),
            (duration(7500.0), "2 h 05 min"),
            (duration(f64::NAN), "–"),
            (percent(0.98333, 2), "98.33 %"),
            (percent(f64::NAN, 2), "–"),
            (points(-0.0027777), "−0.28"),
            (points(0.0027777), "+0.28"),
            (points(-0.00001), "±0.00"),
            (points(f64::NEG_INFINITY), "–"),
            (times(3.9149), "3.91×"),
            (times(12.34), "12.3×"),
            (times(0.0012), "0.001×"),
            (times(1e-9), "1.00e−9×"),
            (count(1_234_567), "1,234,567"),
            (count(999), "999"),
            (short_count(6_912_000), "6.91 M"),
            (plain(0.06931), "0.069"),
            (plain(1e-5), "1.00e−5"),
            (plain(-1200.0), "−1,200"),
            (plain(2511.3), "2,511"),
        ];
        for (got, want) in cases {
            assert_eq!(got, want);
        }
    }

    #[test]
    fn a_column_shares_one_unit() {
        let unit = Unit::bytes([1_300_000.0, 338_012.0, f64::NAN].into_iter());
        assert_eq!((unit.show(1_300_000.0), unit.show(338_012.0)), ("1,270 KiB".into(), "330 KiB".into()));
        let times = Unit::times([0.005, 0.4].into_iter());
        assert_eq!((times.show(0.005), times.show(0.4)), ("5.00 µs".into(), "400.00 µs".into()));
        assert_eq!(Unit::times(std::iter::empty()).sign, "ms");
    }
}
