//! Patches: the tiles of a feature matrix that become positions of a sequence.

use super::DspError;

/// The tile that becomes one position: all bins of a view by a few frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchShape {
    /// Frames in a patch.
    pub frames: usize,
    /// Bins in a patch: all that the view has.
    pub bins: usize,
}

impl PatchShape {
    /// A patch of `frames` x `bins`.
    ///
    /// # Errors
    /// [`DspError::Param`] when either is zero.
    pub fn new(frames: usize, bins: usize) -> Result<Self, DspError> {
        for (param, value) in [("frames", frames), ("bins", bins)] {
            if value == 0 {
                return Err(DspError::param(param, value, "1 or more"));
            }
        }
        Ok(Self { frames, bins })
    }

    /// Values in one patch.
    pub fn values(self) -> usize {
        self.frames * self.bins
    }

    /// Whole patches in `frames` frames; the frames after the last whole one are dropped.
    pub fn positions(self, frames: usize) -> usize {
        frames / self.frames
    }

    /// Cuts features into patches, each flattened bin-major (all frames of bin 0, then of bin 1, ...): the order that
    /// the input layer and the quantizers of the published models expect.
    ///
    /// # Shapes
    /// `features`: `(frames, bins)`; `patches`: `(positions, bins * frames per patch)`. Fewer positions than the
    /// features hold may be asked for; frames after them are not read.
    ///
    /// # Errors
    /// [`DspError::Length`] when `features` is no matrix of `bins` or too short, or `patches` not whole.
    pub fn cut_into(self, features: &[f32], patches: &mut [f32]) -> Result<(), DspError> {
        let positions = self.check(features.len(), patches.len())?;
        let tiles = features.chunks_exact(self.values());
        for (tile, patch) in tiles.zip(patches.chunks_exact_mut(self.values())).take(positions) {
            for (bin, row) in patch.chunks_exact_mut(self.frames).enumerate() {
                for (frame, slot) in row.iter_mut().enumerate() {
                    *slot = tile[frame * self.bins + bin];
                }
            }
        }
        Ok(())
    }

    /// All whole patches, in a new vector.
    ///
    /// # Errors
    /// [`DspError::Length`] when `features` is no matrix of `bins`.
    pub fn cut(self, features: &[f32]) -> Result<Vec<f32>, DspError> {
        let mut patches = vec![0.0; self.positions(features.len() / self.bins) * self.values()];
        self.cut_into(features, &mut patches)?;
        Ok(patches)
    }

    /// Puts patches back together: the inverse of [`PatchShape::cut_into`] but for the frames that it dropped, which
    /// are left as they are.
    ///
    /// # Shapes
    /// `patches`: `(positions, bins * frames per patch)`; `features`: `(frames, bins)`.
    ///
    /// # Errors
    /// [`DspError::Length`] as in [`PatchShape::cut_into`].
    pub fn join_into(self, patches: &[f32], features: &mut [f32]) -> Result<(), DspError> {
        let positions = self.check(features.len(), patches.len())?;
        let tiles = features.chunks_exact_mut(self.values());
        for (tile, patch) in tiles.zip(patches.chunks_exact(self.values())).take(positions) {
            for (bin, row) in patch.chunks_exact(self.frames).enumerate() {
                for (frame, value) in row.iter().enumerate() {
                    tile[frame * self.bins + bin] = *value;
                }
            }
        }
        Ok(())
    }

    /// The number of positions in `patches` values, when both lengths fit.
    fn check(self, features: usize, patches: usize) -> Result<usize, DspError> {
        DspError::check_len("features", features, features / self.bins * self.bins)?;
        let positions = patches / self.values();
        DspError::check_len("patches", patches, positions * self.values())?;
        let held = self.positions(features / self.bins);
        if positions > held {
            return Err(DspError::Length { buffer: "patches", found: patches, expected: held * self.values() });
        }
        Ok(positions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patches_are_flattened_bin_major() {
        // Frame t, bin b holds 10 t + b.
        let features = [0.0, 1.0, 2.0, 10.0, 11.0, 12.0, 20.0, 21.0, 22.0];
        let shape = PatchShape::new(2, 3).unwrap();
        assert_eq!(shape.cut(&features).unwrap(), [0.0, 10.0, 1.0, 11.0, 2.0, 12.0]);
    }

    #[test]
    fn thirty_seconds_make_750_positions_of_every_view_at_25_hz() {
        assert_eq!(PatchShape::new(3, 96).unwrap().positions(2251), 750);
        assert_eq!(PatchShape::new(960, 1).unwrap().positions(720_000), 750);
    }

    #[test]
    fn more_positions_than_there_are_is_an_error() {
        let shape = PatchShape::new(2, 3).unwrap();
        assert!(shape.cut_into(&[0.0; 9], &mut [0.0; 12]).is_err());
        assert!(shape.cut_into(&[0.0; 8], &mut [0.0; 6]).is_err());
        assert!(PatchShape::new(0, 3).is_err());
    }

    proptest! {
        #[test]
        fn cutting_and_joining_gives_the_features_back(frames in 1usize..6, bins in 1usize..7, total in 0usize..40) {
            let shape = PatchShape::new(frames, bins).unwrap();
            let features: Vec<f32> = (0..total * bins).map(|i| i as f32).collect();
            let patches = shape.cut(&features).unwrap();
            let mut back = vec![-1.0; features.len()];
            shape.join_into(&patches, &mut back).unwrap();
            let whole = shape.positions(total) * shape.values();
            prop_assert_eq!(&back[..whole], &features[..whole]);
            prop_assert!(back[whole..].iter().all(|&value| value == -1.0));
        }
    }
}
