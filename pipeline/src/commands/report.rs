//! `report RUN`: a page about a run.

use super::{write_message, write_result};
use crate::cli::{Exit, ReportArgs};
use crate::report::{self, ReportError};

/// Writes `report.html` into the folder of a run, and says where it is.
pub fn report(args: &ReportArgs) -> Exit {
    match report::write(&args.run) {
        Ok(path) => {
            write_result(&format!("{}\n", path.display()));
            Exit::Done
        }
        Err(error) => {
            write_message(&format!("error: {error}\n"));
            if let ReportError::NoRun(_) = error { Exit::Usage } else { Exit::Failed }
        }
    }
}
