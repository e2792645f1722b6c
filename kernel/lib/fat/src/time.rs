//! Times: two seconds at best, from 1980 to 2107, in UTC here.

/// The first day that a date can name, in days since 1970.
const FIRST_DAY: i64 = 3652;
/// The last one: 31 December 2107.
const LAST_DAY: i64 = 50402;
const DAY: i64 = 86400;

/// Days since 1970 of a date of the Gregorian calendar, counted from a March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of a day since 1970.
fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, date)
}

/// Seconds since 1970 of a date and a time; `fine` are hundredths of a second more. Nonsense gives some time.
pub fn decode(date: u16, time: u16, fine: u8) -> (i64, u32) {
    let (year, month, day) = (i64::from(date >> 9) + 1980, i64::from(date >> 5 & 15), i64::from(date & 31));
    let day = days(year, month.clamp(1, 12), day.max(1));
    let (hour, minute, second) = (i64::from(time >> 11), i64::from(time >> 5 & 63), i64::from(time & 31) * 2);
    let fine = i64::from(fine.min(199));
    let seconds = day * DAY + hour * 3600 + minute * 60 + second + fine / 100;
    (seconds, (fine % 100) as u32 * 10_000_000)
}

/// Date, time and hundredths of the time `seconds` since 1970, or of the nearest that there is.
pub fn encode(seconds: i64, nanoseconds: u32) -> (u16, u16, u8) {
    let seconds = seconds.clamp(FIRST_DAY * DAY, LAST_DAY * DAY + DAY - 2);
    let (day, rest) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let (year, month, date) = civil(day);
    let date = (year - 1980) << 9 | month << 5 | date;
    let time = (rest / 3600) << 11 | (rest / 60 % 60) << 5 | (rest % 60 / 2);
    let fine = rest % 2 * 100 + i64::from(nanoseconds / 10_000_000);
    (date as u16, time as u16, fine.min(199) as u8)
}

/// The time that is kept of `seconds` as a time of change.
pub fn rounded(seconds: i64) -> i64 {
    let (date, time, _) = encode(seconds, 0);
    decode(date, time, 0).0
}

/// The time that is kept of `seconds` as a time of access: its day.
pub fn rounded_to_day(seconds: i64) -> i64 {
    decode(encode(seconds, 0).0, 0, 0).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_agree_with_known_ones() {
        assert_eq!(days(1970, 1, 1), 0);
        assert_eq!((days(1980, 1, 1), days(2107, 12, 31)), (FIRST_DAY, LAST_DAY));
        assert_eq!(civil(11_016), (2000, 2, 29));
        // 1 January 2025, 13:25:30 and a half second more than one.
        let noon = days(2025, 1, 1) * DAY + 13 * 3600 + 25 * 60 + 30;
        assert_eq!(decode(0x5a21, 0x6b2f, 150), (noon + 1, 500_000_000));
    }

    #[test]
    fn every_day_goes_there_and_back() {
        for day in FIRST_DAY..=LAST_DAY {
            let (date, time, fine) = encode(day * DAY + 12_345, 670_000_000);
            assert_eq!(decode(date, time, fine), (day * DAY + 12_345, 670_000_000));
            let (year, month, date) = civil(day);
            assert_eq!(days(year, month, date), day);
        }
        assert_eq!(encode(-5, 0), encode(FIRST_DAY * DAY, 0));
        assert_eq!(rounded(1_000_000_001), 1_000_000_000);
        assert_eq!(rounded_to_day(1_000_000_001) % DAY, 0);
    }
}
