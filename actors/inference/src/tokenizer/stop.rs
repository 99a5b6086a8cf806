//! Ends an answer before the first of its stop texts.

/// What became of a piece of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopping {
    /// This much can be shown; the rest may be the beginning of a stop text.
    Go(String),
    /// A stop text is complete; this is what stands before it.
    Stop(String),
}

/// Looks for stop texts in text that comes in pieces. How it is cut into pieces makes no difference: the stop text
/// that is complete first counts, of several the longest.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// The end of what was heard; a proper prefix of some stop text.
    held: String,
}

impl StopMatcher {
    /// Looks for these texts; empty ones are never found.
    #[must_use]
    pub fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self {
            stops,
            held: String::new(),
        }
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &str) -> Stopping {
        self.held.push_str(piece);
        if let Some(start) = self.first_match() {
            self.held.truncate(start);
            return Stopping::Stop(std::mem::take(&mut self.held));
        }
        let keep = self.held.len() - self.possible_prefix_len();
        let rest = self.held.split_off(keep);
        Stopping::Go(std::mem::replace(&mut self.held, rest))
    }

    /// What was held back, now that nothing follows.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the stop text begins that ends first.
    fn first_match(&self) -> Option<usize> {
        let found = |stop: &String| {
            self.held
                .find(stop)
                .map(|start| (start + stop.len(), start))
        };
        self.stops
            .iter()
            .filter_map(found)
            .min()
            .map(|(_, start)| start)
    }

    /// Length of the longest end of what is held that is a proper prefix of a stop text.
    fn possible_prefix_len(&self) -> usize {
        let prefix_at_end = |stop: &String| {
            let lens = stop.char_indices().map(|(len, _)| len).rev();
            lens.into_iter()
                .find(|len| self.held.ends_with(&stop[..*len]))
                .unwrap_or(0)
        };
        self.stops.iter().map(prefix_at_end).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn feed<'a>(stops: &[String], pieces: impl IntoIterator<Item = &'a str>) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.to_vec());
        let mut shown = String::new();
        for piece in pieces {
            match matcher.push(piece) {
                Stopping::Go(text) => shown.push_str(&text),
                Stopping::Stop(text) => return (shown + &text, true),
            }
        }
        (shown + &matcher.finish(), false)
    }

    /// The definition: the shortest beginning of the text that ends with a stop text, without it.
    fn plain(stops: &[String], text: &str) -> (String, bool) {
        for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
            let ended = stops
                .iter()
                .filter(|stop| !stop.is_empty() && text[..end].ends_with(*stop));
            if let Some(longest) = ended.map(String::len).max() {
                return (text[..end - longest].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    #[test]
    fn a_part_of_a_stop_text_is_held_back() {
        let mut matcher = StopMatcher::new(vec!["STOP".into()]);
        assert_eq!(matcher.push("one ST"), Stopping::Go("one ".into()));
        assert_eq!(matcher.push("ST"), Stopping::Go("ST".into()));
        assert_eq!(matcher.push("OP two"), Stopping::Stop(String::new()));
    }

    #[test]
    fn what_was_held_comes_out_at_the_end() {
        let mut matcher = StopMatcher::new(vec!["END".into()]);
        assert_eq!(matcher.push("the EN"), Stopping::Go("the ".into()));
        assert_eq!(matcher.finish(), "EN");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            stops in prop::collection::vec("[abö]{0,4}", 0..4),
            pieces in prop::collection::vec("[abö]{0,4}", 0..12),
        ) {
            let text = pieces.concat();
            let whole = plain(&stops, &text);
            prop_assert_eq!(feed(&stops, pieces.iter().map(String::as_str)), whole);
        }
    }
}
