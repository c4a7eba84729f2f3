//! Which recording belongs to which annotation.
//!
//! A layout says what is stable in a name (four digits, a stem, a path without its extension): its key. Audio may have
//! any extension, since people convert.

use std::collections::HashMap;
use std::path::Path;

use unicode_normalization::UnicodeNormalization;

use super::error::DatasetError;
use crate::corpus::folder::{AUDIO_EXTENSIONS, Selection};

/// Extensions that data sets use beside those that are looked for anyway: GTZAN was published as `.au`.
const MORE_EXTENSIONS: [&str; 2] = ["au", "snd"];

/// Extensions that names in lists may end with beside those of audio.
const LABEL_EXTENSIONS: [&str; 4] = ["lab", "beats", "txt", "csv"];

/// The audio files of a folder by their keys.
pub(super) struct AudioIndex {
    keys: HashMap<String, Vec<String>>,
    /// In the order of their names: path, and key where the name has one.
    files: Vec<(String, Option<String>)>,
}

impl AudioIndex {
    /// Searches a folder.
    pub(super) fn search(root: &Path, key: impl Fn(&str) -> Option<String>) -> Result<Self, DatasetError> {
        let metadata = root.metadata().map_err(|error| DatasetError::io(root, &error))?;
        if !metadata.is_dir() {
            return Err(DatasetError::file(root, None, "expected a folder of audio, found a file"));
        }
        let patterns: Vec<String> =
            AUDIO_EXTENSIONS.iter().chain(&MORE_EXTENSIONS).map(|extension| format!("*.{extension}")).collect();
        let mut index = Self { keys: HashMap::new(), files: Vec::new() };
        let selection = Selection::new(&patterns, &[]).expect("patterns of plain extensions are well formed");
        let searched = selection.search(root, &mut |path, _| {
            let path = slashed(path);
            let key = key(&path);
            if let Some(key) = &key {
                index.keys.entry(key.clone()).or_default().push(path.clone());
            }
            index.files.push((path, key));
        });
        searched.map_err(|error| DatasetError::io(&error.path, &error.source))?;
        Ok(index)
    }

    /// The files of a key, in the order of their names.
    pub(super) fn find(&self, key: &str) -> &[String] {
        self.keys.get(key).map_or(&[], Vec::as_slice)
    }

    /// All files with their keys, in the order of their names.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.files.iter().map(|(path, key)| (path.as_str(), key.as_deref()))
    }
}

/// A path with `/` between its parts.
pub(super) fn slashed(path: &Path) -> String {
    let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

/// Composed (NFC): file systems and archives differ in how they write accents.
pub(super) fn composed(text: &str) -> String {
    text.nfc().collect()
}

/// Without an extension of audio or labels. Other dots belong to the name: titles hold them.
pub(super) fn without_extension(path: &str) -> &str {
    let Some((name, extension)) = path.rsplit_once('.') else { return path };
    let extension = extension.to_ascii_lowercase();
    let known = AUDIO_EXTENSIONS.iter().chain(&MORE_EXTENSIONS).chain(&LABEL_EXTENSIONS);
    if !name.is_empty() && !name.ends_with('/') && known.into_iter().any(|known| *known == extension) {
        name
    } else {
        path
    }
}

/// The last part of a path without its extension, composed.
pub(super) fn stem(path: &str) -> String {
    let path = without_extension(path);
    composed(path.rsplit('/').next().unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_extensions_are_cut_off() {
        for (path, expected) in [
            ("a/blues.00000.au", "blues.00000"),
            ("blues.00000", "blues.00000"),
            ("x/Alt H.I hear a guitar", "Alt H.I hear a guitar"),
            ("Alt H.Op. 3.MP3", "Alt H.Op. 3"),
            ("e\u{301}.wav", "\u{e9}"),
            ("a/.wav", ".wav"),
            ("03.lab", "03"),
        ] {
            assert_eq!(stem(path), expected, "{path}");
        }
    }
}
