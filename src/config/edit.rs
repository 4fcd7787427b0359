//! Changing one setting in the file: comments and everything else stay.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

use super::{Config, Error, read_text};
use crate::file;

/// Settings as a table, by name.
pub fn table(config: &Config) -> toml::Table {
    toml::Table::try_from(config).expect("settings are a table; a test of theirs says so")
}

/// A value without TOML's quotes; lists separated by commas, as they are set.
pub fn plain(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(items) => {
            let items: Vec<String> = items.iter().map(plain).collect();
            items.join(",")
        }
        other => other.to_string(),
    }
}

/// Changes one setting in the file and gives its value. The file is replaced as a whole, or left as
/// it was.
///
/// # Errors
/// [`Error::Value`] for an unknown setting or a wrong value, [`Error::Parse`] for a file that is
/// wrong, [`Error::Io`].
pub fn set_in_file(path: &Path, name: &str, text: &str) -> Result<toml::Value, Error> {
    let mut config = Config::default();
    config.set(name, text)?;
    config.check()?;
    let value = table(&config).remove(name).ok_or_else(|| Error::Value {
        name: name.to_owned(),
        message: "there is no such setting".to_owned(),
    })?;
    let io = |source: std::io::Error| Error::Io {
        path: path.to_owned(),
        source,
    };
    let directory = path.parent().unwrap_or(Path::new("."));
    // Of two changes at once each would write what it read, and one would be lost.
    let turn = std::fs::create_dir_all(directory).and_then(|()| file::Turn::take(directory));
    let _turn = turn.map_err(io)?;
    let old = read_text(path)?.unwrap_or_default();
    let new = edit(&old, name, &value).map_err(|message| Error::Parse {
        path: path.to_owned(),
        message,
    })?;
    file::replace(path, new.as_bytes()).map_err(io)?;
    Ok(value)
}

/// The text with one value replaced, or added at the end. Everything else stays, comments too.
fn edit(old: &str, name: &str, value: &toml::Value) -> Result<String, String> {
    let parsed = toml::de::DeTable::parse(old).map_err(|error| {
        let at = error.span().map(|span| span.start);
        file::at_line(old, at, error.message())
    })?;
    let found: Option<Range<usize>> = parsed
        .get_ref()
        .iter()
        .find(|(key, _)| key.get_ref().as_ref() == name)
        .map(|(_, value)| value.span());
    let mut new = old.to_owned();
    match found {
        Some(span) => new.replace_range(span, &value.to_string()),
        None => {
            if !new.is_empty() && !new.ends_with('\n') {
                new.push('\n');
            }
            let _ = writeln!(new, "{name} = {value}");
        }
    }
    // What is written must be read again.
    let reread: toml::Table = new
        .parse()
        .map_err(|error: toml::de::Error| error.to_string())?;
    if reread.get(name) == Some(value) {
        Ok(new)
    } else {
        Err(format!("{name} can't be changed here; edit the file"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::FILE_NAME;

    #[test]
    fn a_value_is_replaced_in_place_and_comments_stay() {
        let old = "# mine\nquota = \"1GiB\" # small\nlisten = [\n  \"/ip4/0.0.0.0/tcp/1\", # one\n]\nmdns = true";
        let new = edit(old, "quota", &toml::Value::from("2 GiB")).expect("valid");
        assert_eq!(new, old.replace("1GiB", "2 GiB"));
        let new = edit(old, "listen", &toml::Value::from(vec!["/x"])).expect("valid");
        assert_eq!(
            new,
            "# mine\nquota = \"1GiB\" # small\nlisten = [\"/x\"]\nmdns = true"
        );
        let new = edit(old, "network", &toml::Value::from("n")).expect("valid");
        assert_eq!(new, format!("{old}\nnetwork = \"n\"\n"));
        assert!(edit("quota =", "quota", &toml::Value::from("1")).is_err());
        // Added behind a table it would not be the setting.
        assert!(edit("[other]\n", "quota", &toml::Value::from("1")).is_err());
    }

    #[test]
    fn what_is_set_is_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("new").join(FILE_NAME);
        set_in_file(&path, "quota", "3GiB").expect("set");
        set_in_file(&path, "bootstrap", "/a,/b").expect("set");
        let config = Config::load(path.parent().expect("below"), &BTreeMap::new()).expect("valid");
        assert_eq!(config.quota.0, 3 << 30);
        assert_eq!(config.bootstrap, ["/a", "/b"]);
        // Saved since by an editor that marks its texts.
        let marked = format!("\u{feff}{}", std::fs::read_to_string(&path).expect("there"));
        std::fs::write(&path, marked).expect("written");
        set_in_file(&path, "lend", "1GiB").expect("set");
        let config = Config::load(path.parent().expect("below"), &BTreeMap::new()).expect("valid");
        assert_eq!((config.quota.0, config.lent_bytes()), (3 << 30, 1 << 30));
        let before = std::fs::read(&path).expect("there");
        for (name, value) in [("quota", "lots"), ("nothing", "1"), ("http", "0.0.0.0:1")] {
            let refused = set_in_file(&path, name, value);
            assert!(matches!(refused, Err(Error::Value { .. })), "{name}");
        }
        assert_eq!(std::fs::read(&path).expect("there"), before);
    }

    #[test]
    fn settings_that_are_changed_at_the_same_time_are_all_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE_NAME);
        let values = [
            ("quota", "3 GiB"),
            ("lend", "1 GiB"),
            ("network", "here"),
            ("announce", "roots"),
        ];
        for _ in 0..8 {
            std::fs::write(&path, "").expect("written");
            let start = std::sync::Barrier::new(values.len());
            std::thread::scope(|scope| {
                for (name, value) in values {
                    let (path, start) = (&path, &start);
                    scope.spawn(move || {
                        start.wait();
                        set_in_file(path, name, value).expect("set");
                    });
                }
            });
            let config = Config::load(dir.path(), &BTreeMap::new()).expect("valid");
            let table = table(&config);
            for (name, value) in values {
                assert_eq!(plain(&table[name]), value, "{name}");
            }
        }
    }
}
