//! Aligned columns of text.

use std::fmt;

/// Rows of cells under a header. A name that ends in `>` makes a column of numbers, which are aligned to the right.
#[derive(Debug)]
pub(super) struct Table {
    header: Vec<String>,
    numbers: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<S: AsRef<str>>(header: &[S]) -> Self {
        let names = header.iter().map(AsRef::as_ref);
        Self {
            header: names.clone().map(|name| name.trim_end_matches('>').to_owned()).collect(),
            numbers: names.map(|name| name.ends_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.header.len());
        self.rows.push(cells);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let width = |column: usize| lines().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        for cells in lines() {
            let mut line = String::from(" ");
            for ((cell, &width), &number) in cells.iter().zip(&widths).zip(&self.numbers) {
                let cell = if number { format!(" {cell:>width$} ") } else { format!(" {cell:<width$} ") };
                line.push_str(&cell);
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["name", "rows>"]);
        table.row(vec!["a".to_owned(), "10000".to_owned()]);
        table.row(vec!["längere".to_owned(), "2".to_owned()]);
        assert_eq!(table.to_string(), "  name      rows\n  a        10000\n  längere      2\n");
    }
}
