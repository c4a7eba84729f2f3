//! Tags of a recording, several at once (MagnaTagATune, Law et al. 2009).
//!
//! `published`: on the first 30 s of a recording, tags without a positive among the answers count as 0 in the mean, and
//! scores are probabilities in single precision, so that far ones become equal (torchmetrics). `standard`: such tags are
//! left out, and the report says how many.

use std::collections::BTreeSet;

use super::{Annotated, Answer, Figure, Protocol, Scored, Statement, Task, TaskSetting, Unit};
use crate::probe::ProbeError;
use crate::probe::objective::{Objective, sigmoid};
use crate::score::ranking;

/// The metric that the task is judged by: average precision, the mean over tags.
pub(super) const METRIC: &str = "mAP";

/// See the module.
#[derive(Debug)]
pub struct Tagging {
    protocol: Protocol,
    tags: Vec<String>,
}

impl Tagging {
    /// The task, with the tags in the order of the data set, or of all labels in that of the alphabet.
    ///
    /// # Errors
    /// When there is one tag only, and every recording of `train` has it.
    pub fn new(setting: &TaskSetting<'_>) -> Result<Self, ProbeError> {
        let labels = || setting.recordings.iter().flat_map(|recording| &recording.labels);
        let tags: Vec<String> = match setting.classes {
            Some(classes) => classes.to_vec(),
            None => labels().map(|label| label.label.clone()).collect::<BTreeSet<_>>().into_iter().collect(),
        };
        if tags.len() < 2 {
            let found = tags.first().map_or("none".to_owned(), |tag| format!("`{tag}` alone"));
            return Err(ProbeError::Shape(format!("expected at least two tags to tell apart, found {found}")));
        }
        Ok(Self { protocol: setting.protocol, tags })
    }

    /// Scores and truths of a tag.
    fn column(&self, answers: &[Answer<'_>], tag: usize) -> (Vec<f64>, Vec<bool>) {
        let name = &self.tags[tag];
        let score = |logit: f32| match self.protocol {
            Protocol::Standard => f64::from(logit),
            Protocol::Published => f64::from(sigmoid(logit)),
        };
        answers.iter().map(|answer| (score(answer.logits[tag]), has(answer.of, name))).unzip()
    }
}

fn has(of: &Annotated, tag: &str) -> bool {
    of.labels.iter().any(|label| label.label == tag)
}

/// The mean of what is defined.
fn mean(values: &[Option<f64>]) -> f64 {
    let defined: Vec<f64> = values.iter().flatten().copied().collect();
    defined.iter().sum::<f64>() / defined.len().max(1) as f64
}

impl Task for Tagging {
    fn unit(&self) -> Unit {
        Unit::Recording
    }

    fn outputs(&self) -> usize {
        self.tags.len()
    }

    fn objective(&self) -> Objective {
        Objective::Binary { weights: Vec::new() }
    }

    fn targets(&self, of: &Annotated) -> Result<Vec<f32>, String> {
        if let Some(unknown) = of.labels.iter().find(|label| !self.tags.contains(&label.label)) {
            return Err(format!("the tag `{}` is none of the {} of the data set", unknown.label, self.tags.len()));
        }
        Ok(self.tags.iter().map(|tag| f32::from(u8::from(has(of, tag)))).collect())
    }

    fn quality(&self, answers: &[Answer<'_>]) -> f64 {
        let each = (0..self.tags.len()).map(|tag| {
            let (scores, positive) = self.column(answers, tag);
            positive.contains(&true).then(|| ranking::average_precision(&scores, &positive))
        });
        mean(&each.collect::<Vec<_>>())
    }

    fn score(&self, answers: &[Answer<'_>]) -> Result<Scored, ProbeError> {
        let n = answers.len();
        let (mut precisions, mut areas, mut classes) = (Vec::new(), Vec::new(), Vec::new());
        let (mut all_scores, mut all_positive) = (Vec::new(), Vec::new());
        for (tag, name) in self.tags.iter().enumerate() {
            let (scores, positive) = self.column(answers, tag);
            let count = positive.iter().filter(|positive| **positive).count();
            let counts_as = |defined: bool, value: &dyn Fn() -> f64| match (defined, self.protocol) {
                (true, _) => Some(value()),
                (false, Protocol::Published) => Some(0.0),
                (false, Protocol::Standard) => None,
            };
            let precision = counts_as(count > 0, &|| ranking::average_precision(&scores, &positive));
            let area = counts_as(count > 0 && count < n, &|| ranking::roc_auc(&scores, &positive));
            classes.extend(precision.map(|value| Figure::whole("average precision", value, count).of_class(name)));
            classes.extend(area.map(|value| Figure::whole("ROC-AUC", value, count).of_class(name)));
            precisions.push(precision);
            areas.push(area);
            all_scores.extend(scores);
            all_positive.extend(positive);
        }
        let undefined = precisions.iter().filter(|precision| precision.is_none()).count();
        let mut figures = vec![
            Figure::whole(METRIC, mean(&precisions), n),
            Figure::whole("ROC-AUC", mean(&areas), n),
            Figure::whole("micro mAP", ranking::average_precision(&all_scores, &all_positive), n),
            Figure::whole("micro ROC-AUC", ranking::roc_auc(&all_scores, &all_positive), n),
            Figure::whole("tags left out", undefined as f64, n),
        ];
        figures.extend(classes);
        let answered = |answer: &Answer<'_>| {
            let above = self.tags.iter().zip(answer.logits).filter(|(_, logit)| **logit > 0.0);
            above.map(|(tag, _)| Statement::whole(tag.clone())).collect()
        };
        Ok(Scored { figures, confusion: None, predictions: answers.iter().map(answered).collect() })
    }
}
