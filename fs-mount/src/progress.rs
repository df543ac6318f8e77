//! Progress bars: on standard error, and only when that is a terminal.

use std::{cell::Cell, io::IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar, or nothing when nobody watches. It goes away when dropped.
pub(crate) struct Bar {
    bar: ProgressBar,
    /// The most there ever was to do: work that turns up later makes the bar longer, never shorter.
    total: Cell<u64>,
}

impl Bar {
    /// A bar under the title `what`.
    pub(crate) fn new(what: &str) -> Self {
        let target = match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(0), target).with_prefix(what.to_owned());
        let style = ProgressStyle::with_template("{prefix} [{bar:30}] {msg}");
        bar.set_style(style.expect("the template is right").progress_chars("=> "));
        Self { bar, total: Cell::new(0) }
    }

    /// `done` of `total` are done.
    pub(crate) fn at(&self, done: u64, total: u64, message: String) {
        self.bar.set_message(message);
        let total = self.total.get().max(total);
        self.total.set(total);
        // Nothing to do yet is an empty bar, not a full one.
        self.bar.set_length(total.max(1));
        self.bar.set_position(done.min(total));
    }

    /// `left` are left to do, of as many as there ever were.
    pub(crate) fn left(&self, left: u64, message: String) {
        let total = self.total.get().max(left);
        self.at(total - left, total, message);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_work_makes_the_bar_longer() {
        let bar = Bar::new("waiting");
        bar.left(4, String::new());
        bar.left(1, String::new());
        assert_eq!((bar.bar.position(), bar.bar.length()), (3, Some(4)));
        bar.left(6, String::new());
        assert_eq!((bar.bar.position(), bar.bar.length()), (0, Some(6)));
    }
}
