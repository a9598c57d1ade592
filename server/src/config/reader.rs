//! From texts to values: every value is read on its own, and every problem is remembered.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use humantime::{format_duration, parse_duration};
use ipnet::IpNet;

use super::{
    Problem,
    layers::{Layers, Source},
    settings::{self, Kind},
};

/// Reads settings. A setting that cannot be read becomes a problem, and its default stands in for it, so that reading goes on.
pub(super) struct Reader<'a> {
    layers: &'a Layers,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(layers: &'a Layers, problems: &'a mut Vec<Problem>) -> Self {
        Self { layers, problems }
    }

    /// Whether any layer gives the setting.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.layers.contains_key(name)
    }

    /// Records a problem of a setting that was read well but does not fit the others.
    pub(super) fn refuse(&mut self, name: &'static str, problem: impl fmt::Display) {
        let source = self.layers.get(name).map_or(Source::Default(name), |given| given.source.clone());
        self.problems.push(Problem::new(source, problem));
    }

    /// Reads a single value.
    pub(super) fn one<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> T {
        let default =
            || parse(settings::known(name).default).unwrap_or_else(|problem| unreachable!("{name}: {problem}"));
        let Some(given) = self.layers.get(name) else { return default() };
        let parsed = match given.values.as_slice() {
            [value] => parse(value.trim()).map_err(|problem| format!("`{value}` {problem}")),
            values => Err(format!("takes one value, not {}", values.len())),
        };
        parsed.unwrap_or_else(|problem| {
            self.problems.push(Problem::new(&given.source, problem));
            default()
        })
    }

    /// Reads a value that is in no message.
    pub(super) fn secret<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<(&'a Source, T)> {
        let given = self.layers.get(name)?;
        let parsed = given.values.first().map_or_else(|| Err("is empty".into()), |value| parse(value));
        let refused = |problem| self.problems.push(Problem::new(&given.source, problem));
        parsed.map_err(refused).ok().map(|value| (&given.source, value))
    }

    /// Reads a list; each of its wrong entries is a problem of its own.
    pub(super) fn many<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let setting = settings::known(name);
        debug_assert!(matches!(setting.kind, Kind::Many(_)), "{name} is a list");
        let default = [setting.default.to_owned()];
        let (texts, source) = match self.layers.get(name) {
            Some(given) => (given.values.as_slice(), given.source.clone()),
            None => (default.as_slice(), Source::Default(name)),
        };
        let entries: Vec<&str> = texts.iter().flat_map(|text| text.split(',')).map(str::trim).collect();
        if let [] | ["" | "none"] = entries.as_slice() {
            return Vec::new();
        }
        let mut values = Vec::with_capacity(entries.len());
        for entry in entries.into_iter().filter(|entry| !entry.is_empty()) {
            match parse(entry) {
                Ok(value) => values.push(value),
                Err(problem) => self.problems.push(Problem::new(&source, format!("`{entry}` {problem}"))),
            }
        }
        values
    }

    /// Reads a duration within bounds.
    pub(super) fn duration(&mut self, name: &'static str, bounds: RangeInclusive<Duration>) -> Duration {
        self.one(name, |text| duration(text, &bounds))
    }

    /// Reads a whole number within bounds.
    pub(super) fn count<T>(&mut self, name: &'static str, bounds: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + fmt::Display,
    {
        self.one(name, |text| count(text, &bounds))
    }

    /// Reads a switch.
    pub(super) fn switch(&mut self, name: &'static str) -> bool {
        self.one(name, |text| text.parse().map_err(|_| "is neither true nor false".into()))
    }
}

/// A duration in the notation of `humantime`.
pub(super) fn duration(text: &str, bounds: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let value = parse_duration(text).map_err(|_| "is not a duration such as 100ms, 15s, 5m or 24h")?;
    if !bounds.contains(&value) {
        let [least, most] = [bounds.start(), bounds.end()].map(|bound| format_duration(*bound));
        return Err(format!("is not between {least} and {most}"));
    }
    Ok(value)
}

/// A whole number; underscores may group its digits.
pub(super) fn count<T>(text: &str, bounds: &RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + fmt::Display,
{
    match text.replace('_', "").parse() {
        Ok(value) if bounds.contains(&value) => Ok(value),
        Ok(_) | Err(_) => Err(format!("is not a whole number between {} and {}", bounds.start(), bounds.end())),
    }
}

/// A fraction from 0 to 1.
pub(super) fn fraction(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|value| (0.0..=1.0).contains(value)).ok_or_else(|| "is not a number from 0 to 1".into())
}

/// A number of bytes, with or without a binary unit.
pub(super) fn bytes(text: &str, bounds: &RangeInclusive<usize>) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: usize = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err("does not end in one of the units B, KiB, MiB, GiB and TiB".into()),
    };
    let value = digits.trim().parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
    value
        .filter(|value| bounds.contains(value))
        .ok_or_else(|| format!("is not a size between {}MiB and {}MiB", bounds.start() >> 20, bounds.end() >> 20))
}

/// An IP address with a port.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "is not an IP address with a port, such as 127.0.0.1:50051 or [::1]:50051".into())
}

/// An address range, or a single address. Bits beyond the prefix are refused: they are usually a slip.
pub(super) fn range(text: &str) -> Result<IpNet, String> {
    let range: IpNet = text
        .parse()
        .or_else(|_| text.parse().map(|address: IpAddr| IpNet::from(address)))
        .map_err(|_| "is not an address range such as 127.0.0.0/8 or fd00::/8")?;
    if range.addr() != range.network() {
        return Err(format!("has bits set beyond its prefix; did you mean {}?", range.trunc()));
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let bounds = 1 << 20..=1 << 40;
        let check = |text: &str, expect: Option<usize>| assert_eq!(bytes(text, &bounds).ok(), expect, "{text}");
        check("1048576", Some(1 << 20));
        check("64MiB", Some(64 << 20));
        check("64 mib", Some(64 << 20));
        check("1tib", Some(1 << 40));
        check("2048KiB", Some(2 << 20));
        check("1023KiB", None);
        check("64MB", None);
        check("MiB", None);
        check("-1MiB", None);
        check("99999999999999999TiB", None);
    }

    #[test]
    fn ranges() {
        let check = |text: &str, expect: &str| match range(text) {
            Ok(range) => assert_eq!(range.to_string(), expect),
            Err(problem) => assert!(problem.contains(expect), "{text}: {problem}"),
        };
        check("127.0.0.0/8", "127.0.0.0/8");
        check("::1", "::1/128");
        check("10.0.0.1", "10.0.0.1/32");
        check("127.0.0.1/8", "did you mean 127.0.0.0/8?");
        check("localhost", "is not an address range");
        check("10.0.0.0/33", "is not an address range");
    }

    #[test]
    fn counts_and_fractions() {
        assert_eq!(count("10_000", &(1..=65_536_usize)), Ok(10_000));
        for wrong in ["0", "-1", "65537", "1.5", "", "ten"] {
            assert!(count(wrong, &(1..=65_536_usize)).is_err(), "{wrong}");
        }
        assert_eq!(fraction("0.2"), Ok(0.2));
        for wrong in ["NaN", "1.01", "-0.1", "20%"] {
            assert!(fraction(wrong).is_err(), "{wrong}");
        }
    }
}
