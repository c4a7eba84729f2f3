//! Codebooks as a picture: an SVG file that needs nothing else.
//!
//! One panel per view. A curve is a codebook: its codes from the most frequent to the rarest, against their share of the
//! tokens, both axes logarithmic. Even use is the dashed line; a healthy codebook stays near it and reaches its right
//! end, a collapsed one falls from the top left.

use std::fmt::Write as _;

use super::CodebookHealth;
use super::table::{low_median_high, same_view};
use crate::svg::{escape, text};

/// Panels in a row.
const COLUMNS: usize = 3;
/// Size of a panel, and what its plot leaves of it.
const PANEL: (f64, f64) = (400.0, 368.0);
const PLOT: (f64, f64) = (318.0, 210.0);
/// Where the plot is in the panel.
const PLOT_AT: (f64, f64) = (62.0, 58.0);
/// Around everything, and what is above the panels.
const MARGIN: f64 = 24.0;
const HEAD: f64 = 92.0;
/// Curves that are told apart by colour; of more, only the most and the least even are.
const TOLD_APART: usize = 4;
const COLOURS: [&str; TOLD_APART] = ["#2563eb", "#0d9488", "#b45309", "#7c3aed"];
const COLLAPSED: &str = "#dc2626";
const QUIET: &str = "#94a3b8";
/// Points of a curve, at most.
const POINTS: usize = 160;

/// Where shares and ranks are: the same in all panels, so that they can be compared.
struct Axes {
    /// Powers of ten.
    ranks: f64,
    shares: f64,
}

/// Draws the codebooks of a run.
pub(crate) fn draw(name: &str, books: &[CodebookHealth]) -> String {
    let views: Vec<&[CodebookHealth]> = books.chunk_by(same_view).collect();
    let columns = if views.len() == 4 { 2 } else { views.len().clamp(1, COLUMNS) };
    let rows = views.len().div_ceil(columns);
    let width = (2.0 * MARGIN + columns as f64 * PANEL.0).max(640.0);
    let height = HEAD + rows as f64 * PANEL.1 + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"Inter, Helvetica, Arial, sans-serif\" font-size=\"11\" \
         fill=\"#334155\">\n<title>Codebooks of {0}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
        escape(name)
    );
    head(&mut svg, name, books);
    let axes = Axes::of(books);
    for (index, view) in views.iter().enumerate() {
        let (x, y) = (MARGIN + (index % columns) as f64 * PANEL.0, HEAD + (index / columns) as f64 * PANEL.1);
        let _infallible = writeln!(svg, "<g transform=\"translate({x} {y})\">");
        panel(&mut svg, &axes, view);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

/// Title and legend.
fn head(svg: &mut String, name: &str, books: &[CodebookHealth]) {
    text(svg, (MARGIN, 34.0), "font-size=\"18\" font-weight=\"600\" fill=\"#0f172a\"", &format!("Codebooks of {name}"));
    let what = "share of the tokens that each code has, from the most frequent code to the rarest";
    text(svg, (MARGIN, 54.0), "font-size=\"12\" fill=\"#64748b\"", what);
    let mut x = MARGIN;
    let mut entry = |svg: &mut String, colour: &str, dash: &str, words: &str| {
        let _infallible = writeln!(
            svg,
            "<line x1=\"{x}\" y1=\"74\" x2=\"{}\" y2=\"74\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
            x + 22.0
        );
        text(svg, (x + 28.0, 78.0), "", words);
        x += 56.0 + 5.2 * words.len() as f64;
    };
    entry(svg, COLOURS[0], "", "a codebook, to its rarest code that occurs");
    entry(svg, QUIET, " stroke-dasharray=\"5 4\"", "even use of all codes");
    if books.iter().any(|book| book.collapse.is_some()) {
        entry(svg, COLLAPSED, "", "a collapsed codebook");
    }
}

impl Axes {
    fn of(books: &[CodebookHealth]) -> Self {
        let size = books.iter().map(|book| book.size).max().unwrap_or(1);
        let rarest = books.iter().filter_map(|book| {
            let count = book.counts.iter().copied().filter(|&count| count > 0).min()?;
            Some(count as f64 / book.tokens as f64)
        });
        let floor = rarest.chain(books.iter().map(|book| 1.0 / f64::from(book.size.max(1)))).fold(0.1, f64::min);
        Self { ranks: f64::from(size).log10().max(1.0), shares: floor.log10().floor().max(-9.0) }
    }

    fn x(&self, rank: f64) -> f64 {
        PLOT_AT.0 + PLOT.0 * rank.log10() / self.ranks
    }

    fn y(&self, share: f64) -> f64 {
        PLOT_AT.1 + PLOT.1 * (share.log10() / self.shares).clamp(0.0, 1.0)
    }
}

fn panel(svg: &mut String, axes: &Axes, view: &[CodebookHealth]) {
    let first = &view[0];
    text(svg, (PLOT_AT.0, 26.0), "font-size=\"13\" font-weight=\"600\" fill=\"#0f172a\"", &first.stream());
    let (size, tokens) = (first.size, short(first.tokens));
    let subtitle = match view.len() {
        1 => format!("{size} codes, {tokens} tokens"),
        n => format!("{n} codebooks of {size} codes, {tokens} tokens each"),
    };
    text(svg, (PLOT_AT.0, 43.0), "fill=\"#64748b\"", &subtitle);
    grid(svg, axes);
    let even = 1.0 / first.ideal().max(1.0);
    let _infallible = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{2:.1}\" x2=\"{:.1}\" y2=\"{2:.1}\" stroke=\"{QUIET}\" stroke-width=\"1.4\" \
         stroke-dasharray=\"5 4\"/>",
        axes.x(1.0),
        axes.x(first.ideal()),
        axes.y(even)
    );
    if view.len() <= TOLD_APART {
        for (index, (book, colour)) in view.iter().zip(COLOURS).enumerate() {
            let colour = if book.collapse.is_some() { COLLAPSED } else { colour };
            curve(svg, axes, book, colour, 2.0);
            label(svg, index, colour, &format!("codebook {}", book.codebook), &figures(book));
        }
        return;
    }
    let by_perplexity = |a: &&CodebookHealth, b: &&CodebookHealth| a.perplexity.total_cmp(&b.perplexity);
    let (Some(low), Some(high)) = (view.iter().min_by(by_perplexity), view.iter().max_by(by_perplexity)) else {
        return;
    };
    for book in view.iter().filter(|book| book.codebook != low.codebook && book.codebook != high.codebook) {
        curve(svg, axes, book, if book.collapse.is_some() { COLLAPSED } else { QUIET }, 0.9);
    }
    let low_colour = if low.collapse.is_some() { COLLAPSED } else { COLOURS[2] };
    curve(svg, axes, high, COLOURS[0], 2.0);
    curve(svg, axes, low, low_colour, 2.0);
    label(svg, 0, COLOURS[0], &format!("codebook {}", high.codebook), &figures(high));
    label(svg, 1, low_colour, &format!("codebook {}", low.codebook), &figures(low));
    let [used, perplexity] = [(|book| book.usage_percent) as fn(&CodebookHealth) -> f64, |book| book.perplexity]
        .map(|of| low_median_high(view, of)[1]);
    let collapsed = view.iter().filter(|book| book.collapse.is_some()).count();
    let collapsed = if collapsed > 0 { format!(", {collapsed} collapsed") } else { String::new() };
    label(svg, 2, QUIET, "median", &format!("{used:.0} % used, perplexity {}{collapsed}", number(perplexity)));
}

/// Frame, a line for every power of ten, and their names.
fn grid(svg: &mut String, axes: &Axes) {
    let (left, top) = PLOT_AT;
    let (right, bottom) = (left + PLOT.0, top + PLOT.1);
    let mut line = |x1: f64, y1: f64, x2: f64, y2: f64| {
        let _infallible = writeln!(
            svg,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#e2e8f0\" stroke-width=\"1\"/>"
        );
    };
    let decades = axes.shares.abs() as i32;
    let ranks = axes.ranks.floor() as i32;
    (0..=decades).for_each(|power| line(left, axes.y(10f64.powi(-power)), right, axes.y(10f64.powi(-power))));
    (0..=ranks).for_each(|power| line(axes.x(10f64.powi(power)), top, axes.x(10f64.powi(power)), bottom));
    let small = "font-size=\"10\" fill=\"#64748b\"";
    // With many decades, every second or third has a name.
    for power in (0..=decades).step_by(decades as usize / 6 + 1) {
        let at = (left - 7.0, axes.y(10f64.powi(-power)) + 3.5);
        text(svg, at, &format!("{small} text-anchor=\"end\""), &percent(power));
    }
    for power in 0..=ranks {
        let at = (axes.x(10f64.powi(power)), bottom + 14.0);
        text(svg, at, &format!("{small} text-anchor=\"middle\""), &short(10u64.pow(power.unsigned_abs())));
    }
    let middle = (left + right) / 2.0;
    text(svg, (middle, bottom + 29.0), &format!("{small} text-anchor=\"middle\""), "codes, the most frequent first");
    let (x, y) = (left - 47.0, (top + bottom) / 2.0);
    let turned = format!("{small} text-anchor=\"middle\" transform=\"rotate(-90 {x} {y})\"");
    text(svg, (x, y), &turned, "share of the tokens");
}

fn curve(svg: &mut String, axes: &Axes, book: &CodebookHealth, colour: &str, width: f64) {
    let mut counts: Vec<u64> = book.counts.iter().copied().filter(|&count| count > 0).collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let at = |rank: usize| (axes.x(rank as f64), axes.y(counts[rank - 1] as f64 / book.tokens as f64));
    let ratio = (counts.len() as f64).powf(1.0 / POINTS as f64);
    let (mut path, mut last) = (String::new(), (0.0, 0.0));
    let (mut rank, mut real) = (1, 1.0);
    while rank <= counts.len() {
        last = at(rank);
        let _infallible = write!(path, "{}{:.1} {:.1}", if path.is_empty() { "M" } else { "L" }, last.0, last.1);
        if rank == counts.len() {
            break;
        }
        real *= ratio;
        rank = (rank + 1).max(real as usize).min(counts.len());
    }
    let _infallible = writeln!(
        svg,
        "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linejoin=\"round\" \
         stroke-linecap=\"round\"/>"
    );
    if width > 1.0 {
        let _infallible =
            writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", last.0, last.1);
    }
}

/// A line of the panel's own legend, below the plot.
fn label(svg: &mut String, index: usize, colour: &str, name: &str, figures: &str) {
    let y = PLOT_AT.1 + PLOT.1 + 49.0 + 15.0 * index as f64;
    let _infallible =
        writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/>", PLOT_AT.0, y - 4.0);
    text(svg, (PLOT_AT.0 + 10.0, y), "font-weight=\"600\"", name);
    text(svg, (PLOT_AT.0 + 86.0, y), "", figures);
}

fn figures(book: &CodebookHealth) -> String {
    let (used, perplexity, top) = (book.usage_percent, number(book.perplexity), book.top_percent());
    let (digits, more) = (usize::from(used < 10.0), if top < 0.1 { 3 } else { 1 });
    let collapsed = if book.collapse.is_some() { ", collapsed" } else { "" };
    format!("{used:.digits$} % used, perplexity {perplexity}, top code {top:.more$} %{collapsed}")
}

impl CodebookHealth {
    /// How many codes can be used evenly: all, or one per token.
    fn ideal(&self) -> f64 {
        self.tokens.min(u64::from(self.size)) as f64
    }
}

/// `100 %`, `0.01 %`: ten to the minus `power`.
fn percent(power: i32) -> String {
    match power {
        0..=2 => format!("{} %", 10i32.pow((2 - power).unsigned_abs())),
        _ => format!("0.{}1 %", "0".repeat((power - 3).unsigned_abs() as usize)),
    }
}

/// A count in at most four characters: `950`, `12k`, `1.2M`.
fn short(count: u64) -> String {
    let (value, unit) = match count {
        0..1000 => return count.to_string(),
        1000..1_000_000 => (count as f64 / 1e3, "k"),
        1_000_000..1_000_000_000 => (count as f64 / 1e6, "M"),
        _ => (count as f64 / 1e9, "G"),
    };
    let text = if value < 9.95 { format!("{value:.1}") } else { format!("{value:.0}") };
    format!("{}{unit}", text.trim_end_matches(".0"))
}

/// A perplexity: with a decimal where it matters.
fn number(value: f64) -> String {
    if value < 99.95 { format!("{value:.1}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::super::tests::book;
    use super::*;

    #[test]
    fn every_view_has_a_panel_and_every_curve_stays_in_it() {
        let mut books = vec![book("mel", 0, 8192, 0.3), book("mel", 1, 8192, 2.5), book("<odd> & \"view\"", 0, 5, 0.0)];
        books.extend((0..16).map(|codebook| book("cqt", codebook, 256, f64::from(codebook) / 5.0)));
        let svg = draw("test", &books);
        assert_eq!(svg.matches("<g ").count(), 3);
        assert_eq!(svg.matches("<path ").count(), books.len());
        assert!(svg.contains("tokens/&lt;odd&gt; &amp; &quot;view&quot;") && !svg.contains("<odd>"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        let (right, bottom) = (PLOT_AT.0 + PLOT.0 + 0.06, PLOT_AT.1 + PLOT.1 + 0.06);
        for path in svg.split("<path d=\"M").skip(1).map(|path| &path[..path.find('"').expect("an end")]) {
            for point in path.split('L') {
                let (x, y) = point.split_once(' ').expect("two coordinates");
                let (x, y): (f64, f64) = (x.parse().expect("x"), y.parse().expect("y"));
                assert!((PLOT_AT.0 - 0.06..right).contains(&x) && (PLOT_AT.1 - 0.06..bottom).contains(&y), "{x} {y}");
            }
        }
        assert!(path_points(&svg) < 8000, "the picture stays small");
        assert_eq!(draw("test", &books), svg);
    }

    fn path_points(svg: &str) -> usize {
        svg.matches('L').count()
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([999, 1000, 9949, 9950, 12_345, 1_000_000].map(short), ["999", "1k", "9.9k", "10k", "12k", "1M"]);
        assert_eq!([0, 1, 2, 3, 5].map(percent), ["100 %", "10 %", "1 %", "0.1 %", "0.001 %"]);
    }
}
