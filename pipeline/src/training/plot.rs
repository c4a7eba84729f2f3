//! A curve in characters: two by four dots a character, as braille has them.

/// The dots of a braille character by (column, row), as bits over U+2800.
const DOTS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
/// Marks of the second curve.
const MARK: char = '•';

/// Draws `line` as a curve and `marks` as single points, with the range of values at the left and of `x` below.
/// `width` and `height` are those of the plot itself in characters, without its labels.
///
/// Values that are not finite are left out. Nothing to draw gives no lines.
pub(crate) fn plot(line: &[(f64, f64)], marks: &[(f64, f64)], width: usize, height: usize) -> Vec<String> {
    let finite = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
        points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
    };
    let (line, marks) = (finite(line), finite(marks));
    let all = || line.iter().chain(&marks).copied();
    if all().next().is_none() || width < 2 || height < 2 {
        return Vec::new();
    }
    let span = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)))
    };
    let (x, y) = (span(&mut all().map(|point| point.0)), span(&mut all().map(|point| point.1)));
    let (columns, rows) = (2 * width, 4 * height);
    let to = |value: f64, (low, high): (f64, f64), cells: usize| {
        let share = if high > low { (value - low) / (high - low) } else { 0.5 };
        (share * (cells - 1) as f64).round() as usize
    };
    let at = |point: (f64, f64)| (to(point.0, x, columns), rows - 1 - to(point.1, y, rows));

    let mut cells = vec![vec![0u32; width]; height];
    let mut last: Option<(usize, usize)> = None;
    for (column, row) in by_column(&line, |point| to(point.0, x, columns)).into_iter().map(at) {
        // From dot to dot, so that steep parts have no gaps.
        let (from_column, from_row) = last.unwrap_or((column, row));
        let steps = column.abs_diff(from_column).max(row.abs_diff(from_row)).max(1);
        for step in 0..=steps {
            let between = |from: usize, to: usize| {
                (from as f64 + (to as f64 - from as f64) * step as f64 / steps as f64).round() as usize
            };
            let (c, r) = (between(from_column, column), between(from_row, row));
            cells[r / 4][c / 2] |= DOTS[c % 2][r % 4];
        }
        last = Some((column, row));
    }
    let mut text: Vec<Vec<char>> =
        cells.iter().map(|row| row.iter().map(|&dots| if dots == 0 { ' ' } else { braille(dots) }).collect()).collect();
    for (column, row) in marks.iter().copied().map(at) {
        text[row / 4][column / 2] = MARK;
    }
    let label = |row: usize| match row {
        0 => short(y.1),
        row if row == height - 1 => short(y.0),
        _ => String::new(),
    };
    let margin = label(0).len().max(label(height - 1).len());
    let mut lines: Vec<String> = text
        .iter()
        .enumerate()
        .map(|(row, cells)| {
            let tick = if label(row).is_empty() { '│' } else { '┤' };
            let cells: String = cells.iter().collect();
            format!("{:>margin$} {tick}{}", label(row), cells.trim_end())
        })
        .collect();
    let (first, end) = (format!("{:.0}", x.0), format!("{:.0}", x.1));
    let gap = width.saturating_sub(first.len() + end.len());
    lines.push(format!("{:margin$}  {first}{:gap$}{end}", "", ""));
    lines
}

/// The mean of the points of every column of dots.
fn by_column(line: &[(f64, f64)], column: impl Fn((f64, f64)) -> usize) -> Vec<(f64, f64)> {
    let mean = |points: &[(f64, f64)]| {
        let n = points.len() as f64;
        (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n)
    };
    line.chunk_by(|a, b| column(*a) == column(*b)).map(mean).collect()
}

fn braille(dots: u32) -> char {
    char::from_u32(0x2800 + dots).unwrap_or(' ')
}

/// A number in about four digits.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_curve_falls() {
        let line: Vec<(f64, f64)> = (0..=40).map(|i| (f64::from(i), 8.0 / (1.0 + f64::from(i) / 4.0))).collect();
        let found = plot(&line, &[(40.0, 2.0)], 20, 4);
        let expected =
            ["8.00 ┤⢣", "     │ ⢣", "     │  ⠑⠤⣀", "0.73 ┤     ⠉⠑⠒⠒⠢⠤⠤⠤⠤⢄⣀⣀⣀⣀•", "      0                 40"];
        assert_eq!(found, expected, "\n{}", found.join("\n"));
    }

    #[test]
    fn nothing_and_constants_and_no_numbers_are_drawn_without_trouble() {
        assert!(plot(&[], &[], 20, 4).is_empty());
        assert!(plot(&[(1.0, f64::NAN)], &[], 20, 4).is_empty());
        let flat = plot(&[(1.0, 3.0), (2.0, 3.0), (3.0, f64::INFINITY)], &[], 8, 3);
        assert_eq!(flat.len(), 4, "{flat:?}");
        assert_eq!(plot(&[(5.0, 1.0)], &[], 8, 3).len(), 4);
    }

    #[test]
    fn every_line_keeps_to_the_width() {
        let line: Vec<(f64, f64)> = (0..1000).map(|i| (f64::from(i), f64::from(i * 37 % 101))).collect();
        for (width, height) in [(6, 2), (10, 3), (80, 12)] {
            for text in plot(&line, &line, width, height) {
                assert!(text.chars().count() <= width + 7, "{text}");
            }
        }
    }
}
