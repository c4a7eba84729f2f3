//! Which codes are used: the health of a codebook.
//!
//! Counts are added up as tokens arrive, and counters of different crops or workers merge in any order. Usage alone
//! hides imbalance (a code used once counts as used), so perplexity stands beside it.

use super::QuantizeError;

/// Counts of the codes of one codebook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeUsage {
    counts: Vec<u64>,
}

impl CodeUsage {
    /// No code seen yet.
    pub fn new(codebook_size: usize) -> Self {
        Self { counts: vec![0; codebook_size] }
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
