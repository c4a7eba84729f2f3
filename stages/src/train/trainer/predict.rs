//! What a trainer's model says about crops: which positions are masked, and which codes it predicts there.

use super::{Minibatch, TrainError, Trainer};
use crate::model::{Pass, Stream};
use candle_core::{D, Tensor};

/// Predictions of the masked positions of a minibatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predictions {
    /// Masked positions as flat indices `example * positions + position`, ascending.
    pub masked: Vec<u32>,
    /// The most likely codes of these positions, `(masked, streams)` flat.
    pub codes: Vec<u32>,
}

impl Trainer {
    /// The positions that [`Trainer::evaluate`] masks, as flat indices `example * positions + position`, ascending. They
    /// depend on the seed and the crops of the minibatch only.
    ///
    /// # Errors
    /// As [`Trainer::evaluate`].
    pub fn valid_mask(&self, minibatch: &Minibatch) -> Result<Vec<u32>, TrainError> {
        self.check(minibatch)?;
        Ok(self.masked_for_evaluation(minibatch)?.1)
    }

    /// Patches on the device, with what an evaluation masks replaced, and the flat indices of the masked rows.
    pub(super) fn masked_for_evaluation(&self, minibatch: &Minibatch) -> Result<(Tensor, Vec<u32>), TrainError> {
        let masks = self.masks(minibatch, Stream::new(self.seed, "valid mask"), self.step)?;
        let (patches, rows) = self.config.masking.apply_to_minibatch(&minibatch.patches, &masks.streams)?;
        Ok((patches.to_device(&self.device)?, rows))
    }

    /// Predicts the codes of the positions that [`Trainer::evaluate`] masks, by the weights that it evaluates.
    ///
    /// # Errors
    /// As [`Trainer::evaluate`].
    pub fn predict(&self, minibatch: &Minibatch) -> Result<Predictions, TrainError> {
        let (batch, positions, _) = self.check(minibatch)?;
        let (patches, masked) = self.masked_for_evaluation(minibatch)?;
        let index = Tensor::from_slice(&masked, masked.len(), &self.device)?;
        let run = || -> Result<Vec<u32>, TrainError> {
            let hidden = self.model.encoder().forward(&patches, &mut Pass::evaluate(self.form))?.detach();
            let rows = hidden.reshape((batch * positions, hidden.dim(D::Minus1)?))?.index_select(&index, 0)?;
            // (1, masked, codebook_size, streams): the codes are the slower axis.
            let logits = self.model.logits(&rows.unsqueeze(0)?, self.form)?.detach();
            Ok(logits.transpose(2, 3)?.contiguous()?.argmax(D::Minus1)?.flatten_all()?.to_vec1()?)
        };
        let codes = match &self.average {
            Some(average) => average.instead(self.model.weights(), run)?,
            None => run()?,
        };
        Ok(Predictions { masked, codes })
    }
}
