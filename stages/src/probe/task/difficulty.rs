//! The grade of a piano piece, 0 to 10 (PianoSyllabus, Ramoneda et al. 2024).
//!
//! The head is ordinal (Cheng et al. 2008): output `k` answers whether the grade is at least `k`; the grade is the number
//! of leading outputs above one half, less one. `published`: the same, macro mean squared error is what the published code
//! reports in either protocol.

use super::{Annotated, Answer, Confusion, Figure, Scored, Statement, Task, TaskSetting, Unit};
use crate::probe::ProbeError;
use crate::probe::objective::Objective;
use crate::score::ordinal;

/// The metric that the task is judged by: squared errors, averaged within each grade, then over grades.
pub(super) const METRIC: &str = "macro MSE";
/// Grades.
const GRADES: usize = 11;

/// See the module.
#[derive(Debug)]
pub struct Difficulty;

impl Difficulty {
    /// The task.
    ///
    /// # Errors
    /// When the `train` split has pieces of one grade only.
    pub fn new(setting: &TaskSetting<'_>) -> Result<Self, ProbeError> {
        super::several_classes(setting.recordings, |recording| recording.only_label().ok().map(str::to_owned))?;
        Ok(Self)
    }
}

fn grade(of: &Annotated) -> Result<usize, String> {
    let label = of.only_label()?;
    let grade = label.trim().parse::<usize>().ok().filter(|grade| *grade < GRADES);
    grade.ok_or_else(|| format!("expected a grade from 0 to 10, found `{label}`"))
}

/// The grade that outputs mean; no leading output above one half is grade 0.
fn decode(outputs: &[f32]) -> usize {
    outputs.iter().take_while(|output| **output > 0.5).count().saturating_sub(1)
}

/// True and answered grades.
fn grades(answers: &[Answer<'_>]) -> Result<(Vec<i64>, Vec<i64>), ProbeError> {
    let pair = |answer: &Answer<'_>| {
        let truth = grade(answer.of).map_err(|message| ProbeError::Task(answer.of.name.clone(), message))?;
        Ok((truth as i64, decode(answer.logits) as i64))
    };
    answers.iter().map(pair).collect::<Result<Vec<_>, _>>().map(|pairs| pairs.into_iter().unzip())
}

impl Task for Difficulty {
    fn unit(&self) -> Unit {
        Unit::Recording
    }

    fn outputs(&self) -> usize {
        GRADES
    }

    fn objective(&self) -> Objective {
        Objective::Squares
    }

    fn targets(&self, of: &Annotated) -> Result<Vec<f32>, String> {
        let grade = grade(of)?;
        Ok((0..GRADES).map(|k| f32::from(u8::from(k <= grade))).collect())
    }

    fn quality(&self, answers: &[Answer<'_>]) -> f64 {
        grades(answers).map_or(f64::NAN, |(truth, found)| -ordinal::macro_mse(&truth, &found))
    }

    fn score(&self, answers: &[Answer<'_>]) -> Result<Scored, ProbeError> {
        let (truth, found) = grades(answers)?;
        let n = truth.len();
        let squares: Vec<f64> = truth.iter().zip(&found).map(|(t, f)| ((t - f) as f64).powi(2)).collect();
        let mut confusion = Confusion::new("pieces", (0..GRADES).map(|grade| grade.to_string()).collect());
        truth.iter().zip(&found).for_each(|(t, f)| confusion.counts[*t as usize][*f as usize] += 1.0);
        let exact = truth.iter().zip(&found).map(|(t, f)| f64::from(u8::from(t == f))).collect();
        let figures = vec![
            Figure::whole(METRIC, ordinal::macro_mse(&truth, &found), n),
            Figure::mean("MSE", squares),
            Figure::mean("accuracy", exact),
            Figure::whole("balanced accuracy", ordinal::balanced_accuracy(&truth, &found), n),
            Figure::whole("Kendall tau-b", ordinal::kendall_tau_b(&truth, &found), n),
        ];
        let predictions = found.iter().map(|grade| vec![Statement::whole(grade.to_string())]);
        Ok(Scored { figures, confusion: Some(confusion), predictions: predictions.collect() })
    }
}
