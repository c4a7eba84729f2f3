//! The files that a file includes, found before it is parsed: its anchors need what they define.

use std::ops::Range;

use saphyr_parser::Event;

use super::Scan;

/// What stands under `include` in a file.
#[derive(Debug, PartialEq)]
pub(crate) struct Includes {
    /// The byte at which the key starts.
    pub(crate) at: usize,
    /// The items and where they stand; `None` for one that is no text.
    pub(crate) items: Vec<(Option<String>, Range<usize>)>,
}

impl Includes {
    /// Looks for the key, up to the first mistake: what stands below is none of its business.
    pub(crate) fn find(text: &str) -> Option<Self> {
        let mut scan = Scan::new(text);
        if !matches!(scan.content()?.0, Event::MappingStart(..)) {
            return None;
        }
        loop {
            let (event, span) = scan.content()?;
            let include = match &event {
                Event::MappingEnd => return None,
                Event::Scalar(key, ..) => key == "include",
                _ => false,
            };
            let at = scan.value(&event, span, 1)?.range.start;
            let (event, span) = scan.content()?;
            if include {
                let items = if matches!(event, Event::SequenceStart(..)) { scan.items()? } else { Vec::new() };
                return Some(Self { at, items });
            }
            scan.value(&event, span, 1)?;
        }
    }
}

impl Scan<'_> {
    /// The items of a list of texts, after its start.
    fn items(&mut self) -> Option<Vec<(Option<String>, Range<usize>)>> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.content()?;
            let text = match &event {
                Event::SequenceEnd => return Some(items),
                Event::Scalar(text, ..) => Some(text.to_string()),
                _ => None,
            };
            items.push((text, self.value(&event, span, 2)?.range));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Includes;

    #[test]
    fn includes_are_found_above_what_is_wrong() {
        let text = "# a graph\n---\nomar: 1\ninclude:\n  - a.yaml\n  - 'b c.yaml'\n  - [x]\nnodes: *nowhere\n";
        let includes = Includes::find(text).expect("there");
        assert!(text[includes.at..].starts_with("include:"));
        let items: Vec<_> = includes.items.iter().map(|(item, at)| (item.as_deref(), &text[at.clone()])).collect();
        assert_eq!(items[..2], [(Some("a.yaml"), "a.yaml"), (Some("b c.yaml"), "'b c.yaml'")]);
        assert_eq!(items[2].0, None);
        assert_eq!(Includes::find("omar: 1\nnodes: {include: [x]}\n"), None);
        assert_eq!(Includes::find("include: a.yaml\n").expect("there").items, []);
    }
}
