//! Progress on a terminal: a bar with rate and time left. In a pipe there is none; warnings are told either way.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output;
use super::show::printable;
use crate::monitor::{Monitor, Progress};

/// How often the bar is redrawn.
const REDRAW: Duration = Duration::from_millis(100);

/// Shows progress and warnings on stderr.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    verb: &'static str,
    warnings: bool,
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
        })
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
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
        let message = match (progress.files_total, progress.files) {
            (0, 0) => String::new(),
            (0, files) => format!("{files} files"),
            (total, files) => format!("{files}/{total} files"),
        };
        self.bar.set_message(message);
    }

    fn warning(&self, message: &str) {
        if self.warnings {
            let verb = self.verb;
            let text = format!("warning: {verb}: {}\n", printable(message));
            self.bar.suspend(|| output::stderr(&text));
        }
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
        assert!(bar.bar.is_hidden());
    }
}
