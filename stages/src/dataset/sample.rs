//! Folders of small files for tests.

use std::fmt::Display;
use std::path::PathBuf;

use super::kinds::{Layout, Task};
use super::params::DatasetParams;

/// A folder that goes away with the test.
pub(super) struct Folder(tempfile::TempDir);

impl Folder {
    /// With these files, by their paths below it.
    pub(super) fn new(files: &[(&str, &[u8])]) -> Self {
        let folder = Self(tempfile::tempdir().expect("a temporary folder"));
        std::fs::create_dir(folder.path("audio")).expect("a folder");
        files.iter().for_each(|(path, content)| folder.write(path, content));
        folder
    }

    pub(super) fn write(&self, path: &str, content: &[u8]) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    pub(super) fn text(&self, path: &str) -> String {
        self.path(path).display().to_string()
    }

    /// A message without the path of the folder.
    pub(super) fn shorten(&self, message: impl Display) -> String {
        message.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }

    /// Parameters with the audio in `audio` and the annotations at a path below this folder.
    pub(super) fn params(&self, layout: Layout, task: Task, annotations: &str) -> DatasetParams {
        let annotations = Some(self.text(annotations));
        DatasetParams { annotations, ..DatasetParams::new(layout, task, self.text("audio")) }
    }
}
