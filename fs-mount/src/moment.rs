//! Moments as people type them: `2026-11-22`, `2026-11-22T09:15`, `09:15`, `yesterday`, `2h-ago`.

use jiff::{Span, Timestamp, ToSpan, Zoned, civil};

/// Reads a moment as somebody means it at `now`, in the time zone of `now`. A day is meant as it began. Nothing when it
/// is none.
pub fn parse(text: &str, now: &Zoned) -> Option<Timestamp> {
    let zone = now.time_zone();
    let local = |at: civil::DateTime| at.to_zoned(zone.clone()).ok().map(|at| at.timestamp());
    match text {
        "now" => return Some(now.timestamp()),
        "today" => return local(now.date().to_datetime(civil::Time::midnight())),
        "yesterday" => return before(now, 1.day()),
        _ => {}
    }
    if let Some(span) = text.strip_suffix("-ago") {
        return before(now, span_of(span)?);
    }
    // With an offset, or a Z, it says all by itself.
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    let text = text.replace('_', "T");
    let day = |text: &str| text.parse::<civil::Date>().ok().filter(|_| text.len() == "2026-11-22".len());
    if let Some(day) = day(&text) {
        return local(day.to_datetime(civil::Time::midnight()));
    }
    match text.split_once(['T', ' ']) {
        Some((date, time)) => local(day(date)?.to_datetime(time_of(time)?)),
        None => local(now.date().to_datetime(time_of(&text)?)),
    }
}

/// `09:15`, `09:15:30`, with parts of a second if need be.
fn time_of(text: &str) -> Option<civil::Time> {
    let whole = if text.matches(':').count() == 1 { format!("{text}:00") } else { text.to_owned() };
    let plain = whole.bytes().all(|b| b.is_ascii_digit() || matches!(b, b':' | b'.'));
    if plain && whole.contains(':') { whole.parse().ok() } else { None }
}

/// `90s`, `15m`, `2h`, `3d`, `3days`, `2w`, `6months`, `1y`.
fn span_of(text: &str) -> Option<Span> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let count: i64 = count.parse().ok()?;
    let span = Span::new();
    match unit {
        "s" | "sec" | "second" | "seconds" => span.try_seconds(count),
        "m" | "min" | "minute" | "minutes" => span.try_minutes(count),
        "h" | "hour" | "hours" => span.try_hours(count),
        "d" | "day" | "days" => span.try_days(count),
        "w" | "week" | "weeks" => span.try_weeks(count),
        "month" | "months" => span.try_months(count),
        "y" | "year" | "years" => span.try_years(count),
        _ => return None,
    }
    .ok()
}

fn before(now: &Zoned, span: Span) -> Option<Timestamp> {
    now.checked_sub(span).ok().map(|at| at.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let now: Zoned = "2026-11-26T10:20:30[Europe/Berlin]".parse().unwrap();
        let got = parse(text, &now).map(|at| at.to_string()).unwrap_or_default();
        assert_eq!(got, expected, "{text:?}");
    }

    #[test]
    fn what_people_type() {
        check("now", "2026-11-26T09:20:30Z");
        check("today", "2026-11-25T23:00:00Z");
        check("yesterday", "2026-11-25T09:20:30Z");
        check("2h-ago", "2026-11-26T07:20:30Z");
        check("90minutes-ago", "2026-11-26T07:50:30Z");
        check("3days-ago", "2026-11-23T09:20:30Z");
        check("2w-ago", "2026-11-12T09:20:30Z");
        check("1y-ago", "2025-11-26T09:20:30Z");
        check("2026-11-22", "2026-11-21T23:00:00Z");
        check("2026-11-22T09:15", "2026-11-22T08:15:00Z");
        check("2026-11-22 09:15", "2026-11-22T08:15:00Z");
        check("2026-11-22_09:15:10.5", "2026-11-22T08:15:10.5Z");
        check("2026-11-22T09:15:00Z", "2026-11-22T09:15:00Z");
        check("2026-07-22T09:15", "2026-07-22T07:15:00Z");
        check("09:15", "2026-11-26T08:15:00Z");
    }

    #[test]
    fn what_is_no_moment() {
        for text in [
            "",
            "-ago",
            "h-ago",
            "2-ago",
            "2x-ago",
            "-2h-ago",
            "99999999999999999999d-ago",
            "999999999y-ago",
            "2026-13-01",
            "2026-11-22T",
            "2026-11-22T25:00",
            "T09:15",
            "9",
            "2026",
            "tomorrow-ago",
            "..",
            "a:b",
        ] {
            check(text, "");
        }
    }
}
