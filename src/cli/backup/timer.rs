//! What makes a machine run `libernet backup --due` by itself: units for systemd, lines for cron. They are printed, never installed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use jiff::civil::Weekday;
use serde_json::json;

use crate::backup::schedule::Schedule;
use crate::backup::sets::Sets;
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::output;

const HOUR_MIN: u32 = 60;
const DAY_MIN: u32 = 24 * HOUR_MIN;
/// How often to look what is due where a schedule does not divide the day.
const LOOK_MIN: u32 = 15;

/// Prints them.
///
/// # Errors
/// When no set has a schedule.
pub(super) fn print(systemd: bool, context: &Context) -> Result<(), Failure> {
    let sets = Sets::load(&context.data_dir)?;
    let schedules: Vec<Schedule> = sets.as_slice().iter().filter_map(|s| s.schedule).collect();
    if schedules.is_empty() {
        return Err(Failure::usage("no set has a schedule")
            .with_hint("`libernet backup add PATH --schedule 'daily 03:00'` adds one that has"));
    }
    let program = std::env::current_exe()
        .map_err(|error| Failure::io("this program can't find itself", &error))?;
    let words = words(&program, &context.data_dir);
    if systemd {
        let (service, timer) = (service(&words), timer(&schedules));
        if context.json {
            return output::json(&json!({ "service": service, "timer": timer }));
        }
        output::stdout(
            format!("# libernet-backup.service\n{service}\n# libernet-backup.timer\n{timer}")
                .as_bytes(),
        )?;
        context.notice(
            "put each part into a file of that name in ~/.config/systemd/user, then: systemctl --user daemon-reload && systemctl \
             --user enable --now libernet-backup.timer; `loginctl enable-linger` lets it run while you are not logged in",
        );
    } else {
        let lines = cron(&schedules, &words);
        if context.json {
            return output::json(&json!({ "cron": lines }));
        }
        output::stdout(format!("{}\n", lines.join("\n")).as_bytes())?;
        context.notice("add this with `crontab -e`");
    }
    Ok(())
}

/// The command, word by word.
fn words(program: &Path, data_dir: &Path) -> Vec<String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    vec![
        text(program),
        "--data-dir".to_owned(),
        text(data_dir),
        "backup".to_owned(),
        "--due".to_owned(),
    ]
}

fn service(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| systemd_quoted(word)).collect();
    format!(
        "[Unit]\nDescription=libernet backup of what is due\n\n[Service]\nType=oneshot\nNice=10\nIOSchedulingClass=idle\nExecStart={}\n",
        quoted.join(" ")
    )
}

fn timer(schedules: &[Schedule]) -> String {
    let times: BTreeSet<String> = schedules.iter().map(|s| calendar(*s)).collect();
    let mut text =
        "[Unit]\nDescription=When libernet backups are due\n\n[Timer]\nPersistent=true\n"
            .to_owned();
    for time in times {
        let _ = writeln!(text, "OnCalendar={time}");
    }
    text.push_str("\n[Install]\nWantedBy=timers.target\n");
    text
}

/// A schedule as systemd has it (systemd.time(7)).
fn calendar(schedule: Schedule) -> String {
    match schedule {
        Schedule::Hourly => "*-*-* *:00:00".to_owned(),
        Schedule::Every { minutes } => match steps(minutes) {
            Step::Days => "*-*-* *:00:00".to_owned(),
            Step::Hours(hours) => format!("*-*-* 00/{hours}:00:00"),
            Step::Minutes(minutes) => format!("*-*-* *:00/{minutes}:00"),
        },
        Schedule::Daily { at } => format!("*-*-* {:02}:{:02}:00", at.hour(), at.minute()),
        Schedule::Weekly { day, at } => format!(
            "{} *-*-* {:02}:{:02}:00",
            short_day(day),
            at.hour(),
            at.minute()
        ),
    }
}

fn cron(schedules: &[Schedule], words: &[String]) -> Vec<String> {
    let quoted: Vec<String> = words.iter().map(|word| cron_quoted(word)).collect();
    let command = quoted.join(" ");
    let times: BTreeSet<String> = schedules
        .iter()
        .map(|schedule| match *schedule {
            Schedule::Hourly => "0 * * * *".to_owned(),
            Schedule::Every { minutes } => match steps(minutes) {
                Step::Days => "0 * * * *".to_owned(),
                Step::Hours(hours) => format!("0 */{hours} * * *"),
                Step::Minutes(minutes) => format!("*/{minutes} * * * *"),
            },
            Schedule::Daily { at } => format!("{} {} * * *", at.minute(), at.hour()),
            Schedule::Weekly { day, at } => format!(
                "{} {} * * {}",
                at.minute(),
                at.hour(),
                day.to_sunday_zero_offset()
            ),
        })
        .collect();
    times
        .into_iter()
        .map(|time| format!("{time} {command}"))
        .collect()
}

/// How often to look.
enum Step {
    /// A day or longer: once an hour is often enough.
    Days,
    Hours(u32),
    Minutes(u32),
}

fn steps(minutes: u32) -> Step {
    if minutes >= DAY_MIN {
        Step::Days
    } else if minutes.is_multiple_of(HOUR_MIN) && DAY_MIN.is_multiple_of(minutes) {
        Step::Hours(minutes / HOUR_MIN)
    } else if HOUR_MIN.is_multiple_of(minutes) {
        Step::Minutes(minutes)
    } else {
        Step::Minutes(LOOK_MIN)
    }
}

fn short_day(day: Weekday) -> &'static str {
    match day {
        Weekday::Monday => "Mon",
        Weekday::Tuesday => "Tue",
        Weekday::Wednesday => "Wed",
        Weekday::Thursday => "Thu",
        Weekday::Friday => "Fri",
        Weekday::Saturday => "Sat",
        Weekday::Sunday => "Sun",
    }
}

/// A word of a command in a unit (systemd.service(5), "Command lines").
pub(in crate::cli) fn systemd_quoted(word: &str) -> String {
    let mut quoted = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '%' | '$' => quoted.extend([c, c]),
            '\n' => quoted.push_str("\\n"),
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A word of a command in a crontab: quoted for the shell; cron itself takes a percent sign for a line end.
fn cron_quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:".contains(c);
    if word.chars().all(is_plain) {
        return word.to_owned();
    }
    // The backslash before a percent sign is cron's: it takes it away before the shell sees the line.
    format!("'{}'", word.replace('\'', "'\\''").replace('%', "\\%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedules(texts: &[&str]) -> Vec<Schedule> {
        texts
            .iter()
            .map(|t| t.parse().expect("a schedule"))
            .collect()
    }

    #[test]
    fn schedules_as_systemd_and_cron_have_them() {
        let words = words(Path::new("/usr/bin/libernet"), Path::new("/da ta/50%"));
        for (text, systemd, cron_time) in [
            ("hourly", "*-*-* *:00:00", "0 * * * *"),
            ("every 6h", "*-*-* 00/6:00:00", "0 */6 * * *"),
            ("every 1d", "*-*-* *:00:00", "0 * * * *"),
            ("every 5h", "*-*-* *:00/15:00", "*/15 * * * *"),
            ("every 30m", "*-*-* *:00/30:00", "*/30 * * * *"),
            ("every 3d", "*-*-* *:00:00", "0 * * * *"),
            ("daily 03:05", "*-*-* 03:05:00", "5 3 * * *"),
            ("weekly sun 03:00", "Sun *-*-* 03:00:00", "0 3 * * 0"),
        ] {
            let one = schedules(&[text]);
            assert_eq!(calendar(one[0]), systemd, "{text}");
            let lines = cron(&one, &words);
            assert_eq!(
                lines,
                [format!(
                    "{cron_time} /usr/bin/libernet --data-dir '/da ta/50\\%' backup --due"
                )]
            );
        }
        let all = schedules(&["hourly", "daily 03:00", "hourly"]);
        assert_eq!(timer(&all).matches("OnCalendar=").count(), 2);
        assert!(
            service(&words).contains(
                "ExecStart=\"/usr/bin/libernet\" \"--data-dir\" \"/da ta/50%%\" \"backup\" \"--due\"\n"
            ),
            "{}",
            service(&words)
        );
    }

    #[test]
    fn odd_names_stay_one_word() {
        assert_eq!(systemd_quoted("a\"b\\c$d"), "\"a\\\"b\\\\c$$d\"");
        assert_eq!(cron_quoted("it's"), "'it'\\''s'");
    }
}
