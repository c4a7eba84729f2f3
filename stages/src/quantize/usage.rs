//! Which codes are used: the health of a codebook.
//!
//! Counts are added up as tokens arrive, and counters of different crops or workers merge in any order. Usage alone
//! hides imbalance (a code used once counts as used), so perplexity stands beside it. A codebook that says next to
//! nothing about its input has [collapsed](Collapse): a model that is trained on it learns next to nothing.

use std::fmt;

use super::QuantizeError;

/// A perplexity below this share of the ideal is a collapse. Music repeats itself, so a healthy frozen codebook stays
/// well below the ideal too: on ten minutes of it, 256 random codes for standardised mel reach 9 %.
pub const COLLAPSED_PERPLEXITY: f64 = 0.05;

/// One code with more than this share of the tokens is a collapse.
pub const COLLAPSED_SHARE: f64 = 0.5;

/// With fewer tokens nothing is said: a few seconds of music have a right to be monotonous.
pub const JUDGED_TOKENS: u64 = 1000;

/// Counts of the codes of one codebook.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CodeUsage {
    counts: Vec<u64>,
}

/// Why a codebook is as good as useless.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Collapse {
    /// One code has more than [`COLLAPSED_SHARE`] of the tokens.
    OneCode {
        /// Which.
        code: u16,
        /// Its share, 0..1.
        share: f64,
    },
    /// The perplexity is below [`COLLAPSED_PERPLEXITY`] of the ideal.
    FewCodes {
        /// The perplexity.
        perplexity: f64,
        /// What equally frequent codes would reach.
        ideal: u64,
    },
}

impl fmt::Display for Collapse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OneCode { code, share } => write!(f, "code {code} has {:.0} % of the tokens", 100.0 * share),
            Self::FewCodes { perplexity, ideal } => write!(f, "its perplexity is {perplexity:.1} of {ideal}"),
        }
    }
}

impl CodeUsage {
    /// No code seen yet.
    pub fn new(codebook_size: usize) -> Self {
        Self { counts: vec![0; codebook_size] }
    }

    /// Code `i` was seen `counts[i]` times.
    pub fn from_counts(counts: Vec<u64>) -> Self {
        Self { counts }
    }

    /// Forgets what was seen.
    pub fn clear(&mut self) {
        self.counts.fill(0);
    }

    /// Counts tokens; for several codebooks, step through their column.
    ///
    /// # Errors
    /// [`QuantizeError::Param`] when a token is not below the codebook size; tokens before it are counted.
    pub fn add<'a>(&mut self, tokens: impl IntoIterator<Item = &'a u16>) -> Result<(), QuantizeError> {
        let size = self.counts.len();
        for &token in tokens {
            let count = self.counts.get_mut(usize::from(token));
            *count.ok_or_else(|| QuantizeError::param("token", token, format!("below {size}")))? += 1;
        }
        Ok(())
    }

    /// Adds the counts of another counter.
    ///
    /// # Errors
    /// [`QuantizeError::Length`] when it counts another number of codes.
    pub fn merge(&mut self, other: &Self) -> Result<(), QuantizeError> {
        QuantizeError::check_len("counts", other.counts.len(), self.counts.len())?;
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        Ok(())
    }

    /// How often each code was seen, `(codebook_size,)`.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Tokens seen.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Different codes seen.
    pub fn used(&self) -> usize {
        self.counts.iter().filter(|&&count| count > 0).count()
    }

    /// Share of the codes seen at least once, in percent.
    pub fn usage_percent(&self) -> f64 {
        100.0 * self.used() as f64 / self.counts.len().max(1) as f64
    }

    /// Shannon entropy of the codes, bits; 0 when nothing was seen.
    pub fn entropy_bits(&self) -> f64 {
        let total = self.total() as f64;
        let shares = self.counts.iter().filter(|&&count| count > 0).map(|&count| count as f64 / total);
        // The sum of one share of 1 is -0.
        shares.map(|p| -p * p.log2()).sum::<f64>().max(0.0)
    }

    /// `2^entropy`: how many equally frequent codes would be as hard to predict. 1 to `codebook_size`.
    pub fn perplexity(&self) -> f64 {
        self.entropy_bits().exp2()
    }

    /// The perplexity that equally frequent codes would have: as many as there are, or as there are tokens.
    pub fn ideal_perplexity(&self) -> u64 {
        self.total().min(self.counts.len() as u64)
    }

    /// Whether, and how, the codebook has collapsed. `None` also for fewer than [`JUDGED_TOKENS`] tokens, and for two
    /// codes or fewer, of which one always has half of the tokens.
    pub fn collapse(&self) -> Option<Collapse> {
        if self.total() < JUDGED_TOKENS || self.counts.len() <= 2 {
            return None;
        }
        let (code, count) = self.top(1)[0];
        let share = count as f64 / self.total() as f64;
        let (perplexity, ideal) = (self.perplexity(), self.ideal_perplexity());
        if share > COLLAPSED_SHARE {
            return Some(Collapse::OneCode { code, share });
        }
        (perplexity < COLLAPSED_PERPLEXITY * ideal as f64).then_some(Collapse::FewCodes { perplexity, ideal })
    }

    /// The `n` most frequent codes with their counts, most frequent first, lower codes first among equals.
    pub fn top(&self, n: usize) -> Vec<(u16, u64)> {
        let mut codes: Vec<(u16, u64)> =
            (0..=u16::MAX).zip(self.counts.iter().copied()).filter(|&(_, count)| count > 0).collect();
        codes.sort_by_key(|&(code, count)| (std::cmp::Reverse(count), code));
        codes.truncate(n);
        codes
    }
}

#[cfg(test)]
mod tests {
    use super::CodeUsage;
    use proptest::prelude::*;

    #[test]
    fn equal_counts_have_the_perplexity_of_their_number() {
        let mut usage = CodeUsage::new(16);
        usage.add(&[0, 3, 5, 7, 0, 3, 5, 7]).unwrap();
        assert_eq!((usage.used(), usage.total()), (4, 8));
        assert_eq!(usage.usage_percent(), 25.0);
        assert_eq!(usage.entropy_bits(), 2.0);
        assert_eq!(usage.perplexity(), 4.0);
    }

    #[test]
    fn one_code_or_none_has_perplexity_one() {
        let mut usage = CodeUsage::new(4);
        assert_eq!(usage.perplexity(), 1.0);
        usage.add(&[2, 2]).unwrap();
        assert_eq!(usage.perplexity(), 1.0);
    }

    #[test]
    fn the_most_frequent_codes_come_first_and_the_lower_of_equals() {
        let mut usage = CodeUsage::new(65_536);
        usage.add(&[9, 65_535, 9, 4, 65_535, 1]).unwrap();
        assert_eq!(usage.top(3), [(9, 2), (65_535, 2), (1, 1)]);
    }

    #[test]
    fn a_collapse_is_one_code_for_most_tokens_or_few_codes_of_many() {
        let usage = |counts: &dyn Fn(u64) -> u64| CodeUsage::from_counts((0..1000).map(counts).collect());
        assert_eq!(usage(&|_| 1).collapse(), None);
        assert_eq!(usage(&|code| u64::from(code < 51) * 100).collapse(), None, "5.1 %");
        let few = usage(&|code| u64::from(code < 49) * 100).collapse().unwrap();
        assert_eq!(few.to_string(), "its perplexity is 49.0 of 1000");
        let one = usage(&|code| if code == 7 { 1100 } else { 1 }).collapse().unwrap();
        assert_eq!(one.to_string(), "code 7 has 52 % of the tokens");
        assert_eq!(usage(&|code| u64::from(code == 0) * 999).collapse(), None, "too few tokens to tell");
        assert_eq!(CodeUsage::from_counts(vec![900, 300]).collapse(), None, "two codes");
    }

    #[test]
    fn a_token_outside_the_codebook_is_refused() {
        assert_eq!(CodeUsage::new(4).add(&[4]).unwrap_err().to_string(), "`token` is 4, expected below 4");
        assert!(CodeUsage::new(4).merge(&CodeUsage::new(5)).is_err());
    }

    proptest! {
        #[test]
        fn counting_in_parts_and_merging_is_counting_at_once(
            tokens in prop::collection::vec(0u16..50, 0..200), cut in 0usize..200
        ) {
            let mut whole = CodeUsage::new(50);
            whole.add(&tokens).unwrap();
            let (head, tail) = tokens.split_at(cut.min(tokens.len()));
            let (mut a, mut b) = (CodeUsage::new(50), CodeUsage::new(50));
            a.add(tail).unwrap();
            b.add(head).unwrap();
            a.merge(&b).unwrap();
            prop_assert_eq!(a, whole);
        }
    }
}
