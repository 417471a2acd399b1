//! Calendar arithmetic without a clock or a zone.

use super::Type;

/// Milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;
/// Nanoseconds of a millisecond.
pub const MS_NANOS: i64 = 1_000_000;
/// Nanoseconds of a day.
const DAY_NANOS: i128 = 86_400_000_000_000;
/// The last day that has a four-digit year, as days since 1970: 9999-12-31.
const LAST_DAY: i64 = 2_932_896;
/// The first day that has a positive year: 0001-01-01.
const FIRST_DAY: i64 = -719_162;

/// Returns year, month (1-12) and day (1-31) of a day counted from 1970-01-01.
#[must_use]
pub fn civil(days: i64) -> (i64, i64, i64) {
    // Counted from 0000-03-01, so that the leap day is the last of its year; eras of 400 years.
    let shifted = days.saturating_add(719_468);
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// Returns the day counted from 1970-01-01, if there is such a date.
#[must_use]
pub fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    (civil(days) == (year, month, day)).then_some(days)
}

/// Returns the moment as nanoseconds since 1970, for types that name one (not TIME, MINUTE, …).
#[must_use]
pub fn moment_nanos(ty: Type, number: i64) -> Option<i128> {
    if ty == Type::Month {
        let day = days(number.div_euclid(12), number.rem_euclid(12) + 1, 1)?;
        return Some(i128::from(day) * DAY_NANOS);
    }
    let units = [
        (Type::Date, DAY_NANOS),
        (Type::DateHour, 3_600_000_000_000),
        (Type::DateTime, 1_000_000_000),
        (Type::Timestamp, 1_000_000),
        (Type::NanoTimestamp, 1),
    ];
    let (_, unit) = units.into_iter().find(|(known, _)| *known == ty)?;
    Some(i128::from(number) * unit)
}

/// Returns the nanoseconds of one unit, for the types that count within a day.
#[must_use]
pub fn clock_unit(ty: Type) -> Option<i64> {
    let units = [
        (Type::Minute, 60_000_000_000),
        (Type::Second, 1_000_000_000),
        (Type::Time, MS_NANOS),
        (Type::NanoTime, 1),
    ];
    units.into_iter().find(|(known, _)| *known == ty).map(|(_, unit)| unit)
}

/// Returns the value of type `ty` at a moment (nanoseconds since 1970), rounded down.
#[must_use]
pub fn at_moment(ty: Type, nanos: i128) -> Option<i64> {
    let of_day = i64::try_from(nanos.rem_euclid(DAY_NANOS)).ok()?;
    if let Some(unit) = clock_unit(ty) {
        return Some(of_day / unit);
    }
    let day = i64::try_from(nanos.div_euclid(DAY_NANOS)).ok()?;
    if ty == Type::Month {
        let (year, month, _) = civil(day);
        return Some(year * 12 + month - 1);
    }
    let unit = moment_nanos(ty, 1)?;
    i64::try_from(nanos.div_euclid(unit)).ok()
}

/// Writes a value of a date or time type as DolphinDB does; `None` for other types and for years
/// that have no four digits.
#[must_use]
pub fn text(ty: Type, number: i64) -> Option<String> {
    if let Some(unit) = clock_unit(ty) {
        let nanos = number.checked_mul(unit)?;
        if ty == Type::Minute {
            return Some(format!("{:02}:{:02}m", number / 60 % 24, number % 60));
        }
        return Some(clock(nanos, digits(ty)));
    }
    let nanos = moment_nanos(ty, number)?;
    let day = i64::try_from(nanos.div_euclid(DAY_NANOS)).ok()?;
    if !(FIRST_DAY..=LAST_DAY).contains(&day) {
        return None;
    }
    let of_day = i64::try_from(nanos.rem_euclid(DAY_NANOS)).ok()?;
    let (year, month, day) = civil(day);
    let date = format!("{year:04}.{month:02}.{day:02}");
    if ty == Type::Month {
        return Some(format!("{year:04}.{month:02}M"));
    }
    if ty == Type::DateHour {
        return Some(format!("{date}T{:02}", of_day / 3_600_000_000_000));
    }
    Some(if ty == Type::Date { date } else { format!("{date}T{}", clock(of_day, digits(ty))) })
}

/// Returns the digits behind the second of a type.
fn digits(ty: Type) -> u32 {
    if matches!(ty, Type::Second | Type::DateTime) {
        0
    } else if matches!(ty, Type::Time | Type::Timestamp) {
        3
    } else {
        9
    }
}

/// Writes nanoseconds of a day as hh:mm:ss with so many digits behind the point.
fn clock(nanos: i64, digits: u32) -> String {
    let seconds = nanos.div_euclid(1_000_000_000);
    let fraction = nanos.rem_euclid(1_000_000_000);
    let head = format!("{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match digits {
        0 => head,
        3 => format!("{head}.{:03}", fraction / MS_NANOS),
        _ => format!("{head}.{fraction:09}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_lead_there_and_back() {
        assert_eq!(days(1970, 1, 1), Some(0));
        assert_eq!(days(2023, 1, 1), Some(19_358));
        assert_eq!(days(2024, 2, 29), Some(19_782));
        assert_eq!(days(2023, 2, 29), None);
        assert_eq!(days(2000, 2, 29), Some(11_016));
        assert_eq!(days(1900, 2, 29), None);
        for day in (-200_000..200_000).step_by(7) {
            let (year, month, of_month) = civil(day);
            assert_eq!(days(year, month, of_month), Some(day));
        }
    }

    #[test]
    fn values_are_written_as_the_server_writes_them() {
        assert_eq!(text(Type::Date, 19_358).as_deref(), Some("2023.01.01"));
        assert_eq!(
            text(Type::Timestamp, 1_672_531_200_123).as_deref(),
            Some("2023.01.01T00:00:00.123")
        );
        assert_eq!(text(Type::Month, 2023 * 12).as_deref(), Some("2023.01M"));
        assert_eq!(text(Type::Second, 3_661).as_deref(), Some("01:01:01"));
        assert_eq!(text(Type::Timestamp, i64::MAX), None);
        assert_eq!(text(Type::Int, 1), None);
    }

    #[test]
    fn moments_convert_between_types() {
        let nanos = moment_nanos(Type::Timestamp, 1_672_531_200_123).unwrap();
        assert_eq!(at_moment(Type::Date, nanos), Some(19_358));
        assert_eq!(at_moment(Type::Month, nanos), Some(2023 * 12));
        assert_eq!(at_moment(Type::Time, nanos), Some(123));
        let before = moment_nanos(Type::Timestamp, -1).unwrap();
        assert_eq!(at_moment(Type::Date, before), Some(-1));
    }
}
