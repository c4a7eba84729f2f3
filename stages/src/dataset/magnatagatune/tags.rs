//! Which tags, in which order. No order is to be taken for granted: equally frequent tags stand differently in the
//! lists that are in use.

use std::path::Path;

use super::super::error::DatasetError;
use super::super::{npy, text};

/// Tags of Minz Won's form.
pub(super) const ARRAY: &str = "tags.npy";
/// Tags of musicnn's form.
pub(super) const LIST: &str = "output_labels_mtt.txt";
/// How many tags are used by default.
const TOP: usize = 50;

/// Tags from an npy array, a text file with one per line, or the source of a Python list.
pub(super) fn read(path: &Path) -> Result<Vec<String>, DatasetError> {
    let tags = if path.extension().is_some_and(|extension| extension == "npy") {
        npy::read_text(path)?
    } else {
        let mut problems = Vec::new();
        let text = text::read(path, &mut problems)?;
        if let Some(problem) = problems.first() {
            return Err(DatasetError::file(path, problem.line, problem.message.clone()));
        }
        match text.split_once('[').and_then(|(_, rest)| rest.rsplit_once(']')) {
            Some((list, _)) => quoted(list),
            None => text::rows(&text).map(|(_, tag)| tag.to_owned()).collect(),
        }
    };
    if tags.is_empty() {
        return Err(DatasetError::file(path, None, "expected tags, found none"));
    }
    let mut sorted: Vec<&String> = tags.iter().collect();
    sorted.sort();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(DatasetError::file(path, None, format!("has the tag `{}` twice", pair[0]))),
        None => Ok(tags),
    }
}

/// The strings of a Python list of strings.
fn quoted(list: &str) -> Vec<String> {
    let mut tags = Vec::new();
    let mut rest = list;
    while let Some(start) = rest.find(['\'', '"']) {
        let quote = rest.as_bytes()[start] as char;
        let Some((tag, after)) = rest[start + 1..].split_once(quote) else { break };
        tags.push(tag.to_owned());
        rest = after;
    }
    tags
}

/// The most frequent tags, the first column first among equals.
pub(super) fn top(names: &[&str], counts: &[u64]) -> Vec<String> {
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|&tag| std::cmp::Reverse(counts[tag]));
    order.into_iter().take(TOP).map(|tag| names[tag].to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::sample::Folder;
    use super::*;

    #[test]
    fn tags_stay_in_the_order_of_their_file() {
        let folder = Folder::new(&[
            ("a.txt", b"metal\nfemale voice\n\n"),
            ("b.txt", b"# tags\nTAGS = ['metal', \"female voice\"]\n"),
            ("c.npy", &npy::text(&["metal", "female voice"])),
            ("d.txt", b"metal\nrock\nmetal\n"),
            ("e.npy", &npy::file("|O", false, "2,", b"")),
            ("f.txt", b"\n"),
        ]);
        for name in ["a.txt", "b.txt", "c.npy"] {
            assert_eq!(read(&folder.path(name)), Ok(vec!["metal".to_owned(), "female voice".to_owned()]), "{name}");
        }
        let message = |name: &str| folder.shorten(read(&folder.path(name)).expect_err("it is refused"));
        assert_eq!(message("d.txt"), "`d.txt`: has the tag `metal` twice");
        assert!(message("e.npy").contains("holds pickled Python objects"));
        assert_eq!(message("f.txt"), "`f.txt`: expected tags, found none");
    }

    #[test]
    fn the_most_frequent_come_first() {
        assert_eq!(top(&["a", "b", "c"], &[1, 3, 3]), ["b", "c", "a"]);
    }
}
