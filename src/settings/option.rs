//! One option: its names, its type, its default, and the field of the settings that holds its value.

use std::path::PathBuf;

use super::{MetricsAddress, Settings};
use crate::forward::ForwardFrom;
use crate::limits::Networks;
use crate::storage;
use pyzor_wire::forward_id::ForwardOrigin;

/// Stores an option's checked value in the settings.
type Setter<T> = fn(&mut Settings, T);

/// The type of an option's value, and the field of [`Settings`] that holds it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OptionKind {
    /// A command-line option without a value.
    Switch(Setter<bool>),
    /// Any text.
    Text(Setter<String>),
    /// The path of a file: relative to the homedir, with `~` and `~user` expanded. Empty: none.
    File(Setter<PathBuf>),
    /// A path relative to the working directory. Empty: none.
    Path(Setter<PathBuf>),
    /// A whole number between two bounds, inclusive. The setter returns whether the number fits the field.
    Number(i64, i64, NumberCheck, fn(&mut Settings, i64) -> bool),
    /// `true` in any case; everything else is false.
    Truth(Setter<bool>),
    /// `true` or `false` in any case; everything else is refused.
    StrictTruth(Setter<bool>),
    /// A list of networks.
    Networks(Setter<Networks>),
    /// An address and a port, or an absolute path of a Unix socket. Empty: none.
    Metrics(Setter<Option<MetricsAddress>>),
    /// One of these words.
    Word(&'static [&'static str], Setter<&'static str>),
    /// Some of these words, at least one, with commas or blanks between.
    Words(&'static [&'static str], Setter<Vec<&'static str>>),
    /// A list of networks and accounts.
    Senders(Setter<ForwardFrom>),
    /// The origin of forwarded requests. Empty: none.
    Origin(Setter<Option<ForwardOrigin>>),
}

/// The stage that refuses a value that is not a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberCheck {
    /// The reader of the command line, which also accepts hexadecimal, octal and binary numbers.
    OnCommandLine,
    /// The checks of all settings.
    Later,
}

/// The effect of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OptionEffect {
    /// The option does what its help says.
    Honoured,
    /// None, because one loop serves all requests. Deployed configurations have the option.
    NoConcurrency,
    /// None, because nothing is ever sent to Sentry. Deployed configurations have the option.
    NoSentry,
}

/// The consequence of a bad value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadValue {
    /// The start is refused.
    Refused,
    /// A warning, and the default: the Python server never reads the value.
    Default,
    /// With `Threads` the start is refused; without, the Python server does not read the value: a warning, and the
    /// default.
    DefaultWithoutThreads,
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerOption {
    /// The name in the config file; the flag of an option that only the command line has.
    pub(crate) key: &'static str,
    /// The name on the command line, without the dashes. Options without one are in the config file only.
    pub(crate) flag: Option<&'static str>,
    /// The short name on the command line.
    pub(crate) short: Option<char>,
    pub(crate) kind: OptionKind,
    /// The default, as text of the config file.
    pub(crate) default: &'static str,
    help: &'static str,
    pub(crate) effect: OptionEffect,
    pub(crate) bad_value: BadValue,
    /// Whether the value may hold a password.
    pub(crate) is_secret: bool,
    /// Whether the Python server has the option, so that it may be abbreviated on the command line.
    pub(crate) established: bool,
    /// Whether the config file may set the option.
    pub(crate) in_file: bool,
}

/// An option that the Python server has, too.
pub(super) const fn established(
    key: &'static str,
    kind: OptionKind,
    default: &'static str,
    help: &'static str,
) -> ServerOption {
    ServerOption {
        key,
        flag: None,
        short: None,
        kind,
        default,
        help,
        effect: OptionEffect::Honoured,
        bad_value: BadValue::Refused,
        is_secret: false,
        established: true,
        in_file: true,
    }
}

/// An option that the Python server does not have.
pub(super) const fn recent(
    key: &'static str,
    kind: OptionKind,
    default: &'static str,
    help: &'static str,
) -> ServerOption {
    ServerOption { established: false, ..established(key, kind, default, help) }
}

impl ServerOption {
    /// The line of help, in which `ENGINES` stands for the names of all engines.
    pub(crate) fn help(&self) -> String {
        self.help.replace("ENGINES", &storage::listed())
    }

    pub(super) const fn flag(self, flag: &'static str) -> Self {
        Self { flag: Some(flag), ..self }
    }

    pub(super) const fn short(self, short: char) -> Self {
        Self { short: Some(short), ..self }
    }

    pub(super) const fn effect(self, effect: OptionEffect) -> Self {
        Self { effect, ..self }
    }

    pub(super) const fn bad_value(self, bad_value: BadValue) -> Self {
        Self { bad_value, ..self }
    }

    pub(super) const fn secret(self) -> Self {
        Self { is_secret: true, ..self }
    }

    pub(super) const fn command_line_only(self) -> Self {
        Self { in_file: false, flag: Some(self.key), ..self }
    }
}
