//! Progress on a terminal: a bar with rate and time left, and which peers give. In a pipe there is
//! none; warnings are told either way.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output;
use super::show::{self, printable};
use crate::monitor::{Giver, Monitor, Progress};

/// How often the bar is redrawn.
const REDRAW: Duration = Duration::from_millis(100);

/// Shows progress and warnings on stderr.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    verb: &'static str,
    warnings: bool,
    shown: Mutex<Shown>,
}

/// Texts that stand behind the bar.
#[derive(Debug, Default)]
struct Shown {
    files: String,
    givers: String,
}

impl Shown {
    fn message(&self) -> String {
        let parts = [&self.files, &self.givers];
        let parts: Vec<&str> = parts
            .into_iter()
            .map(String::as_str)
            .filter(|part| !part.is_empty())
            .collect();
        parts.join(" ")
    }
}

impl Bar {
    /// A bar for work that `verb` describes. It is drawn only when `visible` and stderr is a terminal.
    pub fn new(verb: &'static str, visible: bool, warnings: bool) -> Arc<Self> {
        let visible = visible && output::is_watched();
        let bar = if visible {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style(false));
            bar.enable_steady_tick(REDRAW);
            bar
        } else {
            ProgressBar::hidden()
        };
        bar.set_prefix(verb);
        Arc::new(Self {
            bar,
            verb,
            warnings,
            shown: Mutex::default(),
        })
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Writes a line of its own above the bar.
    pub fn line(&self, text: &str) {
        self.bar.suspend(|| output::stderr(&format!("{text}\n")));
    }

    fn show(&self, change: impl FnOnce(&mut Shown)) {
        // Texts are whole between two statements.
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut shown);
        self.bar.set_message(shown.message());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(with_total: bool) -> ProgressStyle {
    let template = if with_total {
        "{prefix} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left {msg}"
    } else {
        "{spinner} {prefix} {binary_bytes} {binary_bytes_per_sec} {elapsed} {msg}"
    };
    ProgressStyle::with_template(template)
        .expect("the template is a constant that a test reads")
        .progress_chars("=> ")
}

/// Number of files that are done.
fn files(progress: &Progress) -> String {
    if progress.tries_expected > 0 {
        return format!(
            "{} of about {} tries for the id",
            progress.tries, progress.tries_expected
        );
    }
    match (progress.files_total, progress.files) {
        (0, 0) => String::new(),
        (0, files) => show::count(files, "file"),
        (total, files) => format!("{files}/{}", show::count(total, "file")),
    }
}

/// Which peer gives most, and how many others give.
fn from(givers: &[Giver]) -> String {
    let Some(first) = givers.first() else {
        return String::new();
    };
    let peer = show::short(&first.peer);
    match givers.len() - 1 {
        0 => format!("from {peer}"),
        others => format!("from {peer} and {}", show::count(others as u64, "other")),
    }
}

impl Monitor for Bar {
    fn progress(&self, progress: Progress) {
        if self.bar.is_hidden() {
            return;
        }
        if progress.bytes_total > 0 && self.bar.length() != Some(progress.bytes_total) {
            if self.bar.length().is_none() {
                self.bar.set_style(style(true));
            }
            self.bar.set_length(progress.bytes_total);
        }
        self.bar.set_position(progress.bytes);
        self.show(|shown| shown.files = files(&progress));
    }

    fn warning(&self, message: &str) {
        if self.warnings {
            let verb = self.verb;
            self.line(&format!("warning: {verb}: {}", printable(message)));
        }
    }

    fn givers(&self, givers: &[Giver]) {
        self.show(|shown| shown.givers = from(givers));
    }

    fn wants_totals(&self) -> bool {
        !self.bar.is_hidden()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_valid_and_a_hidden_bar_takes_everything() {
        let _ = (style(false), style(true));
        let bar = Bar::new("put", false, false);
        bar.progress(Progress {
            bytes: 1,
            bytes_total: 2,
            ..Progress::default()
        });
        bar.warning("nothing");
        bar.givers(&[]);
        assert!(bar.bar.is_hidden() && !bar.wants_totals());
    }

    #[test]
    fn files_and_givers_stand_behind_the_bar() {
        let giver = |peer: &str| Giver {
            peer: peer.to_owned(),
            bytes: 1,
        };
        let mut shown = Shown::default();
        assert_eq!(shown.message(), "");
        let mut progress = Progress::default();
        assert_eq!(files(&progress), "");
        progress.files = 1;
        assert_eq!(files(&progress), "1 file");
        let search = Progress {
            tries: 7,
            tries_expected: 4096,
            ..progress
        };
        assert_eq!(files(&search), "7 of about 4096 tries for the id");
        progress.files_total = 3;
        shown.files = files(&progress);
        assert_eq!(shown.message(), "1/3 files");
        assert_eq!(from(&[]), "");
        shown.givers = from(&[giver("12D3KooWabcdefgh")]);
        assert_eq!(shown.message(), "1/3 files from 12D3KooWabcd");
        assert_eq!(
            from(&[giver("short"), giver("b")]),
            "from short and 1 other"
        );
        let three = [giver("a"), giver("b"), giver("c")];
        assert_eq!(from(&three), "from a and 2 others");
    }
}
