//! Codebooks as lines of text.

use super::CodebookHealth;
use crate::summary::align;

/// Views with more codebooks than this have one line for all of them.
const SHOWN: usize = 4;

/// What helps.
const REMEDY: &str = "a model learns little from such targets: try `standardize: per_bin` or another `mean` and `std` in \
                      the features, fewer codes, or the `finite_scalar` quantizer; much silence in the corpus has the \
                      same effect";

/// One line per codebook, or per view with many of them. Empty without codebooks.
pub(crate) fn table(books: &[CodebookHealth]) -> String {
    if books.is_empty() {
        return String::new();
    }
    let header = ["codes of", "codebook", "size", "tokens", "used %", "perplexity", "entropy, bits", "top code %"];
    let mut rows = vec![header.map(str::to_owned)];
    let mut ranges = false;
    for view in books.chunk_by(same_view) {
        if view.len() <= SHOWN {
            rows.extend(view.iter().map(line));
        } else {
            rows.push(range(view));
            ranges = true;
        }
    }
    let mut text = align(&rows);
    if ranges {
        text.push_str("(of many codebooks: lowest, median and highest; each of them is in codebooks.parquet)\n");
    }
    text
}

/// One line per view with collapsed codebooks, and one that says what to do.
pub(crate) fn warnings(books: &[CodebookHealth]) -> Vec<String> {
    let mut lines = Vec::new();
    for view in books.chunk_by(same_view) {
        let collapsed: Vec<(&CodebookHealth, &str)> =
            view.iter().filter_map(|book| Some((book, book.collapse.as_deref()?))).collect();
        let Some((worst, reason)) = collapsed.iter().min_by(|a, b| a.0.perplexity.total_cmp(&b.0.perplexity)) else {
            continue;
        };
        let (stream, codebook, many) = (worst.stream(), worst.codebook, view.len());
        lines.push(match collapsed.len() {
            1 => format!("warning: {stream}: codebook {codebook} has collapsed: {reason}"),
            n => {
                format!("warning: {stream}: {n} of {many} codebooks have collapsed, codebook {codebook} most: {reason}")
            }
        });
    }
    if !lines.is_empty() {
        lines.push(format!("  = help: {REMEDY}"));
    }
    lines
}

/// Whether two codebooks are of the same view of the same node.
pub(super) fn same_view(a: &CodebookHealth, b: &CodebookHealth) -> bool {
    (&a.node, &a.view) == (&b.node, &b.view)
}

fn line(book: &CodebookHealth) -> [String; 8] {
    [
        book.stream(),
        book.codebook.to_string(),
        book.size.to_string(),
        book.tokens.to_string(),
        format!("{:.1}", book.usage_percent),
        format!("{:.1}", book.perplexity),
        format!("{:.2} of {}", book.entropy_bits, bits(book)),
        format!("{:.2}", book.top_percent()),
    ]
}

fn range(view: &[CodebookHealth]) -> [String; 8] {
    let (first, last) = (&view[0], &view[view.len() - 1]);
    let three = |of: fn(&CodebookHealth) -> f64, digits: usize| {
        let [low, middle, high] = low_median_high(view, of);
        format!("{low:.digits$} {middle:.digits$} {high:.digits$}")
    };
    [
        first.stream(),
        format!("{}-{}", first.codebook, last.codebook),
        first.size.to_string(),
        first.tokens.to_string(),
        three(|book| book.usage_percent, 1),
        three(|book| book.perplexity, 1),
        format!("{} of {}", three(|book| book.entropy_bits, 2), bits(first)),
        three(CodebookHealth::top_percent, 2),
    ]
}

/// The smallest, the median (the lower of two) and the largest of a figure.
pub(super) fn low_median_high(view: &[CodebookHealth], of: fn(&CodebookHealth) -> f64) -> [f64; 3] {
    let mut values: Vec<f64> = view.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    [values[0], values[(values.len() - 1) / 2], values[values.len() - 1]]
}

/// `13`, or `9.97` where the size is no power of two.
fn bits(book: &CodebookHealth) -> String {
    let text = format!("{:.2}", book.max_entropy_bits());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::tests::book;
    use super::*;

    #[test]
    fn few_codebooks_have_lines_and_many_a_range() {
        let mut books = vec![book("mel", 0, 64, 0.0), book("mel", 1, 1000, 0.5)];
        books.extend((0..16).map(|codebook| book("cqt", codebook, 64, f64::from(codebook) / 4.0)));
        let text = table(&books);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert_eq!(
            lines[1],
            ["tokens/mel", "0", "64", "6400000", "100.0", "64.0", "6.00", "of", "6", "1.56"],
            "even use"
        );
        assert!(lines[2].contains(&"9.97"), "{text}");
        assert_eq!(lines[3][..3], ["tokens/cqt", "0-15", "64"], "{text}");
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn a_collapse_is_said_once_for_a_view_with_what_helps() {
        let view = |exponents: [f64; 3]| -> Vec<CodebookHealth> {
            (0..3).zip(exponents).map(|(codebook, exponent)| book("mel", codebook, 64, exponent)).collect()
        };
        assert!(warnings(&view([0.0, 0.5, 1.0])).is_empty());
        let one = warnings(&view([0.0, 3.0, 1.0]));
        assert!(one[0].starts_with("warning: tokens/mel: codebook 1 has collapsed: code 0 has 83 %"), "{one:?}");
        assert!(one[1].contains("standardize: per_bin") && one[1].contains("finite_scalar"), "{one:?}");
        let two = warnings(&view([2.0, 0.0, 3.0]));
        assert!(two.len() == 2 && two[0].contains("2 of 3 codebooks have collapsed, codebook 2 most"), "{two:?}");
    }
}
