//! What to read, from where.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::DatasetError;
use super::folds::Fold;
use super::kinds::{All, Draw, Format, Layout, Sections, Task, Variant};

/// Parameters of a data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasetParams {
    /// How the data set is laid out.
    pub layout: Layout,
    /// Which of its annotations to read.
    pub task: Task,
    /// Folder of the recordings. Their extension does not matter, and they may lie in subfolders.
    pub audio: String,
    /// Folder or file of the annotations, as they were published. Only genres of GTZAN need none: they are in the names
    /// of the recordings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<String>,
    /// What recordings are used for, instead of what the layout says: a folder with one list per split (`train`,
    /// `valid` or `val`, `test`, as text, TSV or npy), or one list of names with a split or the number of a fold each
    /// (the `.split` files of beat_this).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub splits: Option<String>,
    /// Which fold is the test set, where `splits` numbers folds (the next one is the validation set); which of the five
    /// splits of PianoSyllabus, by default 0. `all`: each in turn, and figures are means over them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fold: Option<Fold>,
    /// Draws a split for the recordings that nothing else gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draw: Option<Draw>,
    /// Puts all recordings into one split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<All>,
    /// A table with the columns `id` and `audio` (below the audio folder), for recordings that are not named as the
    /// data set names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<String>,
    /// A table with the columns `id`, `offset` and optionally `stretch`, for recordings of another master than the
    /// annotated one: what is annotated at `t` seconds is at `offset + stretch * t` in the recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offsets: Option<String>,
    /// Whether the first problem (missing audio or labels, a malformed line, a track without a split) is an error
    /// instead of a part of the report.
    #[serde(default)]
    pub strict: bool,
    /// Tags and their order, for tagging with `magnatagatune` or `generic`: one tag per line, or an npy array of text.
    /// By default the 50 most frequent tags of MagnaTagATune; in a generic data set all tags by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<String>,
    /// How sections are named, for structure. By default `functions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sections: Option<Sections>,
    /// Which chord files of `billboard`. By default `full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<Variant>,
    /// The index of `billboard` (songs that were annotated twice belong to one split). By default the file
    /// `billboard-2.0-index.csv` beside or above the annotations, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    /// Labels of a `generic` data set: a table with the columns `path` or `id`, `label`, and optionally `task`, `start`
    /// and `end` (seconds); or a folder with a file for each recording, named like it. By default they are in the
    /// annotations, which list the recordings: in a column `label`, or in the files that a column `labels` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
    /// Format of the label files of a `generic` data set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
}

impl DatasetParams {
    /// With everything else at its default.
    pub fn new(layout: Layout, task: Task, audio: impl Into<String>) -> Self {
        Self {
            layout,
            task,
            audio: audio.into(),
            annotations: None,
            splits: None,
            fold: None,
            draw: None,
            all: None,
            names: None,
            offsets: None,
            strict: false,
            tags: None,
            sections: None,
            variant: None,
            index: None,
            labels: None,
            format: None,
        }
    }

    /// Whether the parameters fit each other; reads nothing.
    ///
    /// # Errors
    /// When the layout does not serve the task, a parameter has no effect there, or one is missing.
    pub fn check(&self) -> Result<(), DatasetError> {
        self.check_task()?;
        self.check_effects()?;
        self.check_splits()?;
        let genres = self.layout == Layout::Gtzan && self.task == Task::Tagging;
        if self.annotations.is_none() && !genres {
            let layout = self.layout.as_str();
            return Err(DatasetError::param("annotations", format!("layout `{layout}` reads them, found none")));
        }
        Ok(())
    }

    fn check_task(&self) -> Result<(), DatasetError> {
        let (layout, task) = (self.layout.as_str(), self.task.as_str());
        if self.layout.tasks().contains(&self.task) {
            return Ok(());
        }
        let tasks: Vec<_> = self.layout.tasks().iter().map(|task| task.as_str()).collect();
        let others: Vec<_> = Layout::ALL
            .iter()
            .filter(|layout| layout.tasks().contains(&self.task))
            .map(|layout| layout.as_str())
            .collect();
        let message = format!(
            "layout `{layout}` has annotations for {}, found `{task}`; hint: {task} is in the layouts {}",
            tasks.join(" and "),
            others.join(", ")
        );
        Err(DatasetError::param("task", message))
    }

    fn check_effects(&self) -> Result<(), DatasetError> {
        use Layout::{Billboard, Generic, Magnatagatune};
        let is = |layouts: &[Layout]| layouts.contains(&self.layout);
        let genres = self.layout == Layout::Gtzan && self.task == Task::Tagging;
        let tagging = is(&[Magnatagatune, Generic]) && self.task == Task::Tagging;
        for (name, given, effect, of) in [
            ("annotations", self.annotations.is_some(), !genres, "other layouts, or beats"),
            ("tags", self.tags.is_some(), tagging, "tagging with magnatagatune or generic"),
            ("sections", self.sections.is_some(), self.task == Task::Structure, "structure"),
            ("variant", self.variant.is_some(), is(&[Billboard]) && self.task == Task::Chords, "chords of billboard"),
            ("index", self.index.is_some(), is(&[Billboard]), "billboard"),
            ("labels", self.labels.is_some(), is(&[Generic]), "generic"),
            ("format", self.format.is_some(), is(&[Generic]), "generic"),
        ] {
            if given && !effect {
                let (layout, task) = (self.layout.as_str(), self.task.as_str());
                let message = format!("has no effect on {task} of `{layout}`, only on {of}; hint: remove it");
                return Err(DatasetError::param(name, message));
            }
        }
        Ok(())
    }

    fn check_splits(&self) -> Result<(), DatasetError> {
        if let Some(Draw { valid, test, .. }) = self.draw {
            let share = |share: f64| (0.0..=1.0).contains(&share);
            if !(share(valid) && share(test) && valid + test <= 1.0) {
                let message = format!("expected shares from 0 to 1 that add up to at most 1, found {valid} and {test}");
                return Err(DatasetError::param("draw", message));
            }
        }
        let others = self.splits.is_some() || self.draw.is_some() || self.fold.is_some();
        if self.all.is_some() && others {
            let message = "puts all recordings into one split, so `splits`, `draw` and `fold` have no effect";
            return Err(DatasetError::param("all", message));
        }
        let piano = self.layout == Layout::Pianosyllabus;
        if self.fold.is_some() && !piano && self.splits.is_none() {
            return Err(DatasetError::param("fold", "expected `splits` with numbered folds beside it, found none"));
        }
        if self.fold.is_some() && piano && self.splits.is_some() {
            let message = "is one of the splits of PianoSyllabus, which `splits` replaces; hint: give one of them";
            return Err(DatasetError::param("fold", message));
        }
        let own = match self.layout {
            Layout::Gtzan => self.task == Task::Beats,
            Layout::Harmonix | Layout::Lab | Layout::Billboard => false,
            _ => true,
        };
        if !(own || others || self.all.is_some()) {
            let message = format!(
                "{} of `{}` have no split of their own; hint: give `splits: PATH`, `draw: {{valid: 0.2, test: 0.2}}` or \
                 `all: test`",
                self.task.as_str(),
                self.layout.as_str()
            );
            return Err(DatasetError::param("splits", message));
        }
        Ok(())
    }

    /// Folder or file of the annotations.
    pub(super) fn annotations(&self) -> PathBuf {
        PathBuf::from(self.annotations.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(text: &str) -> Result<DatasetParams, String> {
        let params: DatasetParams = serde_json::from_str(text).map_err(|error| error.to_string())?;
        params.check().map_err(|error| error.to_string()).map(|()| params)
    }

    #[test]
    fn parameters_are_read_and_written() {
        let text = r#"{"layout":"harmonix","task":"beats","audio":"a","annotations":"b","splits":"c","fold":0,"strict":false}"#;
        let read = params(text).expect("they fit");
        assert_eq!(serde_json::to_string(&read).expect("json"), text);
        assert!(params(r#"{"layout":"gtzan","task":"tagging","audio":"a","draw":{"valid":0.2,"test":0.2}}"#).is_ok());
        assert!(
            params(r#"{"layout":"harmonix","task":"beats","audio":"a","x":1}"#)
                .expect_err("x")
                .contains("unknown field `x`")
        );
    }

    #[test]
    fn what_does_not_fit_is_said_with_a_hint() {
        let error = |text: &str| params(&format!("{{{text}}}")).expect_err("it does not fit");
        assert_eq!(
            error(r#""layout":"harmonix","task":"chords","audio":"a","annotations":"b""#),
            "`task`: layout `harmonix` has annotations for beats and structure, found `chords`; hint: chords is in the \
             layouts lab, billboard, generic"
        );
        assert_eq!(
            error(r#""layout":"harmonix","task":"beats","audio":"a","annotations":"b""#),
            "`splits`: beats of `harmonix` have no split of their own; hint: give `splits: PATH`, `draw: {valid: 0.2, \
             test: 0.2}` or `all: test`"
        );
        assert_eq!(
            error(r#""layout":"nsynth","task":"pitch","audio":"a""#),
            "`annotations`: layout `nsynth` reads them, found none"
        );
        assert_eq!(
            error(r#""layout":"nsynth","task":"pitch","audio":"a","annotations":"b","tags":"t""#),
            "`tags`: has no effect on pitch of `nsynth`, only on tagging with magnatagatune or generic; hint: remove it"
        );
        assert!(
            error(r#""layout":"lab","task":"chords","audio":"a","annotations":"b","fold":1"#).starts_with("`fold`: ")
        );
        assert!(
            error(r#""layout":"lab","task":"chords","audio":"a","annotations":"b","draw":{"valid":0.7,"test":0.4}"#)
                .ends_with("found 0.7 and 0.4")
        );
        let all = r#""layout":"lab","task":"chords","audio":"a","annotations":"b","splits":"s","all":"test""#;
        assert!(error(all).starts_with("`all`: "));
    }
}
