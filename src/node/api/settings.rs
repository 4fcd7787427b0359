//! Calls that show settings, change them, and have changed ones taken over.

use serde::{Deserialize, Serialize};

use super::{Call, call};

/// Has the node read its settings file again. One that is wrong changes nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Reload {}
call!(Reload, "reload", ReloadReply);

/// What [`Reload`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReply {
    /// Settings that have changed and hold now.
    pub applied: Vec<String>,
    /// Settings that are not as the node was started with, and hold from its next start on.
    pub waiting: Vec<String>,
    /// Settings that the node has from its flags or its environment: what the file says of them does not count.
    pub overridden: Vec<String>,
}

/// Lists the settings.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SettingsList {}
call!(SettingsList, "settings", SettingsReply);

/// The settings.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SettingsReply {
    /// Settings in the order in which they are explained.
    pub settings: Vec<Setting>,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its meaning.
    pub meaning: String,
    /// The value that the node goes by, as [`SettingSet`] takes it.
    pub value: String,
    /// The value of the file, if the node goes by it from its next start on only.
    pub waiting: Option<String>,
    /// The value of a new node.
    pub default: String,
    /// Whether a change holds at once; else from the next start of the node on.
    pub live: bool,
    /// Whether it comes from the node's flags or environment, which beat the file.
    pub overridden: bool,
}

/// Changes one setting in the file, and takes it over if that can be done while the node runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SettingSet {
    /// Its name.
    pub name: String,
    /// Its value; lists are separated by commas.
    pub value: String,
}
call!(SettingSet, "setting-set", ReloadReply);
