//! Reading dates, times and 16-byte values from their written form.

use super::{Cell, Type, time};

/// Reads a date or time as scripts write it: `2023.01.01`, `2023.01M`, `12:30:00.123`,
/// `2023.01.01T12:30:00.123`; the result's type follows from the form.
#[must_use]
pub fn temporal(text: &str) -> Option<(Type, Cell)> {
    if let Some((date, clock)) = text.split_once(['T', ' ']) {
        let day = date_of(date)?;
        if clock.len() == 2 {
            let hour: i64 = clock.parse().ok()?;
            return (0..24).contains(&hour).then_some((Type::DateHour, Cell::Int(day * 24 + hour)));
        }
        let (nanos, digits) = clock_of(clock)?;
        let seconds = day.checked_mul(86_400)?.checked_add(nanos / 1_000_000_000)?;
        return match digits {
            0 => Some((Type::DateTime, Cell::Int(seconds))),
            1..=3 => Some((Type::Timestamp, Cell::Int(day * time::DAY_MS + nanos / 1_000_000))),
            _ => {
                let total = seconds.checked_mul(1_000_000_000)?;
                Some((Type::NanoTimestamp, Cell::Int(total.checked_add(nanos % 1_000_000_000)?)))
            }
        };
    }
    if let Some(month) = text.strip_suffix('M') {
        let (year, month) = month.split_once('.')?;
        let (year, month): (i64, i64) = (number(year)?, number(month)?);
        return (1..=12)
            .contains(&month)
            .then_some((Type::Month, Cell::Int(year * 12 + month - 1)));
    }
    if let Some(minute) = text.strip_suffix('m') {
        let (hour, minute) = minute.split_once(':')?;
        let (hour, minute) = (number(hour)?, number(minute)?);
        let fits = (0..24).contains(&hour) && (0..60).contains(&minute);
        return fits.then_some((Type::Minute, Cell::Int(hour * 60 + minute)));
    }
    if text.contains(':') {
        let (nanos, digits) = clock_of(text)?;
        return Some(match digits {
            0 => (Type::Second, Cell::Int(nanos / 1_000_000_000)),
            1..=3 => (Type::Time, Cell::Int(nanos / 1_000_000)),
            _ => (Type::NanoTime, Cell::Int(nanos)),
        });
    }
    date_of(text).map(|day| (Type::Date, Cell::Int(day)))
}

/// Reads `2023.01.01`.
fn date_of(text: &str) -> Option<i64> {
    let mut parts = text.split('.');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || year.len() != 4 || month.len() != 2 || day.len() != 2 {
        return None;
    }
    time::days(number(year)?, number(month)?, number(day)?)
}

/// Reads `hh:mm:ss[.fraction]` as nanoseconds of the day, with the number of fraction digits.
fn clock_of(text: &str) -> Option<(i64, usize)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = whole.split(':');
    let (hour, minute, second) =
        (number(parts.next()?)?, number(parts.next()?)?, number(parts.next()?)?);
    let fits = hour < 24 && minute < 60 && second < 60 && fraction.len() <= 9;
    if parts.next().is_some() || !fits {
        return None;
    }
    let mut nanos = 0;
    if !fraction.is_empty() {
        let missing = u32::try_from(9 - fraction.len()).ok()?;
        nanos = number(fraction)? * 10i64.pow(missing);
    }
    Some((((hour * 60 + minute) * 60 + second) * 1_000_000_000 + nanos, fraction.len()))
}

/// Reads digits only, no sign.
fn number(text: &str) -> Option<i64> {
    let digits = !text.is_empty() && text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Reads a UUID, an INT128 in hexadecimal or an IP address.
#[must_use]
pub fn bytes16(text: &str, ty: Type) -> Option<[u8; 16]> {
    if ty == Type::IpAddr {
        return match text.parse().ok()? {
            std::net::IpAddr::V4(address) => {
                let mut bytes = [0; 16];
                bytes.get_mut(12..)?.copy_from_slice(&address.octets());
                Some(bytes)
            }
            std::net::IpAddr::V6(address) => Some(address.octets()),
        };
    }
    let dashes_right = match text.len() {
        32 => !text.contains('-'),
        36 => [8, 13, 18, 23].iter().all(|place| text.as_bytes().get(*place) == Some(&b'-')),
        _ => false,
    };
    if !dashes_right {
        return None;
    }
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    let mut bytes = [0; 16];
    if digits.len() != 32 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let mut value = 0;
        for digit in pair {
            value = value * 16 + char::from(*digit).to_digit(16)?;
        }
        *byte = u8::try_from(value).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_times_are_read() {
        let cases = [
            ("2023.01.01", Type::Date, 19_358),
            ("2023.01M", Type::Month, 2023 * 12),
            ("2023.01.01T00:00:00.123", Type::Timestamp, 1_672_531_200_123),
            ("2023.01.01T00:00:01", Type::DateTime, 1_672_531_201),
            ("01:01:01", Type::Second, 3_661),
            ("00:00:00.5", Type::Time, 500),
            ("2023.01.01T00:00:00.000000001", Type::NanoTimestamp, 1_672_531_200_000_000_001),
        ];
        for (text, ty, number) in cases {
            assert_eq!(temporal(text), Some((ty, Cell::Int(number))), "{text}");
        }
        for bad in ["2023.13.01", "2023.1.1", "24:00:00", "x", "", "2023.01.01T99:00:00"] {
            assert_eq!(temporal(bad), None, "{bad}");
        }
    }

    #[test]
    fn sixteen_bytes_are_read() {
        let id = bytes16("00010203-0405-0607-0809-0a0b0c0d0e0f", Type::Uuid).unwrap();
        assert_eq!(id[15], 15);
        assert_eq!(bytes16("127.0.0.1", Type::IpAddr).unwrap()[12..], [127, 0, 0, 1]);
        assert_eq!(bytes16("zz010203-0405-0607-0809-0a0b0c0d0e0f", Type::Uuid), None);
    }
}
