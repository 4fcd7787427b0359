//! `--set`, `--tag`, `--machine`, `--path`: which snapshots a command is about.

use std::path::PathBuf;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::target::Target;
use crate::node::api::Choice;

/// Which snapshots are meant. Several flags narrow the choice.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Which snapshots")]
pub(in crate::cli) struct Which {
    /// Only snapshots of this set: its name, or the beginning of it.
    #[arg(long, value_name = "NAME")]
    set: Option<String>,
    /// Only snapshots with this tag. May be repeated: with all of them.
    #[arg(long)]
    tag: Vec<String>,
    /// Only snapshots of this machine: its name, or the beginning of it.
    #[arg(long, value_name = "NAME")]
    machine: Option<String>,
    /// Only snapshots that hold this path of the machine that was backed up.
    #[arg(long)]
    path: Option<PathBuf>,
}

impl Which {
    /// Choice for a command that names a snapshot or a bundle by `name`: behind a link there is
    /// nothing to choose from.
    ///
    /// # Errors
    /// When something is chosen and the name is a link, and as [`choice`](Self::choice).
    pub(in crate::cli) fn choice_beside(&self, name: &Target) -> Result<Choice, Failure> {
        let choice = self.choice()?;
        let by_link = match name {
            Target::Bundle(..) => true,
            Target::Snapshot(name, _) => name.starts_with("libernet:"),
        };
        if by_link && choice != Choice::default() {
            let text = "a link names one tree: there is nothing to choose";
            let hint = "say latest in place of the link, or leave --set and the like out";
            return Err(Failure::usage(text).with_hint(hint));
        }
        Ok(choice)
    }

    /// As the node takes it.
    ///
    /// # Errors
    /// When the working directory is gone.
    pub(super) fn choice(&self) -> Result<Choice, Failure> {
        let mut paths = Vec::new();
        if let Some(path) = &self.path {
            paths.push(Context::absolute(path)?);
            // Snapshots name resolved paths; those of another machine can't be resolved here.
            let resolved = path.canonicalize().ok();
            paths.extend(resolved.filter(|resolved| !paths.contains(resolved)));
        }
        Ok(Choice {
            set: self.set.clone(),
            tags: self.tag.clone(),
            machine: self.machine.clone(),
            paths,
        })
    }
}
