//! What stderr and stdout are: terminals or not, how large, and whether they want colours.

use std::io::{self, IsTerminal};

use console::Term;

/// Whether stderr is a terminal that wants colours (<https://no-color.org>).
pub(crate) fn colour() -> bool {
    colour_of(&io::stderr())
}

/// The same for any stream.
pub(crate) fn colour_of(stream: &impl IsTerminal) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !refused && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Rows and columns of stderr now, if it is a terminal that says so.
pub(crate) fn size() -> Option<(usize, usize)> {
    size_of(&Term::stderr())
}

/// Columns of stdout now, if it is a terminal that says so.
pub(crate) fn width_of_stdout() -> Option<usize> {
    Some(size_of(&Term::stdout())?.1)
}

/// Rows of stdout in the same way.
pub(crate) fn height_of_stdout() -> Option<usize> {
    Some(size_of(&Term::stdout())?.0)
}

fn size_of(term: &Term) -> Option<(usize, usize)> {
    let (rows, columns) = term.size_checked()?;
    (rows > 0 && columns > 0).then_some((usize::from(rows), usize::from(columns)))
}
