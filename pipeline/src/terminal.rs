//! What stderr is: a terminal or not, how large, and whether it wants colours.

use std::io::{self, IsTerminal};

use console::Term;

/// Whether stderr is a terminal that wants colours (<https://no-color.org>).
pub(crate) fn colour() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !refused && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Rows and columns of stderr now, if it is a terminal that says so.
pub(crate) fn size() -> Option<(usize, usize)> {
    let (rows, columns) = Term::stderr().size_checked()?;
    (rows > 0 && columns > 0).then_some((usize::from(rows), usize::from(columns)))
}
