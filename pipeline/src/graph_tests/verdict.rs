//! What came out of a test against what was expected.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;

use super::amount::Rejects;
use super::values::Column;
use super::{Expect, Values};
use crate::diagnostic::did_you_mean;
use crate::expectations::{Given, type_words};
use crate::quarantine::RejectClass;

/// What came out of a test.
pub(super) struct Outcome {
    pub(super) schema: SchemaRef,
    pub(super) version: u32,
    pub(super) fingerprint: String,
    pub(super) rows: u64,
    /// The columns that are expected to hold something.
    pub(super) columns: BTreeMap<String, Column>,
    pub(super) rejects: Vec<RejectClass>,
}

impl Outcome {
    /// What is not as expected, a sentence each; nothing if the test is passed.
    pub(super) fn failures(&self, expect: &Expect) -> Vec<String> {
        let mut failures = Vec::new();
        if let Some(rows) = expect.rows.filter(|rows| !rows.holds(self.rows)) {
            failures.push(format!("rows: expected {rows}, found {}", self.rows));
        }
        self.rejects(&expect.rejects, &mut failures);
        let given = Given { schema: &self.schema, version: self.version, fingerprint: self.fingerprint.clone() };
        for mismatch in given.mismatches(&expect.schema) {
            let hint = mismatch.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            failures.push(format!("schema: {}{hint}", mismatch.message));
        }
        for (name, values) in &expect.values {
            self.values(name, values, &mut failures);
        }
        failures
    }

    fn rejects(&self, expected: &Rejects, failures: &mut Vec<String>) {
        let words = |class: &RejectClass| {
            let example = class.examples.first();
            let example = example.map(|example| format!(" ({}: {})", example.path, example.message));
            format!("{} {}{}", class.count, class.class, example.unwrap_or_default())
        };
        match expected {
            Rejects::InAll(amount) => {
                let count = self.rejects.iter().map(|class| class.count).sum();
                if !amount.holds(count) {
                    let found: Vec<String> = self.rejects.iter().map(words).collect();
                    let found = if found.is_empty() { "none".to_owned() } else { found.join("; ") };
                    failures.push(format!("rejects: expected {amount}, found {found}"));
                }
            }
            Rejects::ByClass(classes) => {
                for (class, amount) in classes {
                    let found = self.rejects.iter().find(|found| found.class == *class);
                    let count = found.map_or(0, |found| found.count);
                    if !amount.holds(count) {
                        failures.push(format!("rejects: expected {amount} {class}, found {count}"));
                    }
                }
                for class in self.rejects.iter().filter(|found| !classes.contains_key(&found.class)) {
                    failures.push(format!("rejects: expected no {}, found {}", class.class, words(class)));
                }
            }
        }
    }

    fn values(&self, name: &str, expected: &Values, failures: &mut Vec<String>) {
        let Ok(field) = self.schema.field_with_name(name) else {
            let names = || self.schema.fields().iter().map(|field| field.name().as_str());
            let all = || format!("the columns are {}", names().collect::<Vec<_>>().join(", "));
            let hint = did_you_mean(name, names()).unwrap_or_else(all);
            failures.push(format!("values: there is no column `{name}` ({hint})"));
            return;
        };
        let empty = Column::default();
        let column = self.columns.get(name).unwrap_or(&empty);
        let of_numbers = expected.min.is_some() || expected.max.is_some() || expected.finite.is_some();
        if of_numbers && !column.numeric && self.rows > 0 {
            failures.push(format!("values of `{name}`: expected numbers, found {}", type_words(field.data_type())));
            return;
        }
        if let (Some(min), Some(found)) = (expected.min, column.min.filter(|found| expected.min > Some(*found))) {
            failures.push(format!("values of `{name}`: expected at least {min}, found {found}"));
        }
        if let (Some(max), Some(found)) = (expected.max, column.max.filter(|found| expected.max < Some(*found))) {
            failures.push(format!("values of `{name}`: expected at most {max}, found {found}"));
        }
        if let Some(amount) = expected.distinct.filter(|amount| !amount.holds(column.distinct())) {
            let found = column.distinct();
            failures.push(format!("values of `{name}`: expected {amount} that are distinct, found {found}"));
        }
        match expected.finite {
            Some(true) if column.not_finite > 0 => {
                let found = column.not_finite;
                failures.push(format!("values of `{name}`: expected finite numbers only, found {found} that are not"));
            }
            Some(false) if column.not_finite == 0 => {
                failures.push(format!("values of `{name}`: expected some that are not finite, found none"));
            }
            _ => {}
        }
    }
}
