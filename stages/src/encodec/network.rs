//! The layers of a SEANet encoder, for any kind of layer: shapes, weights in memory, tensors on a device.

/// A causal convolution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConvolutionShape {
    /// Prefix of its tensors in the published layout.
    pub(super) name: String,
    pub(super) in_channels: usize,
    pub(super) out_channels: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
}

impl ConvolutionShape {
    /// Rows before the first that its window reaches: the padding on the left.
    pub(super) const fn context(&self) -> usize {
        (self.kernel - 1) * self.dilation + 1 - self.stride
    }

    /// Rows after the last that make the last window full.
    pub(super) const fn extra(&self, rows: usize) -> usize {
        rows.next_multiple_of(self.stride) - rows
    }
}

/// One layer of an LSTM that is as wide as its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LstmShape {
    /// Prefix of its tensors in the published layout.
    pub(super) name: String,
    /// Index of the layer, the suffix of its tensors.
    pub(super) layer: usize,
    pub(super) size: usize,
}

/// `shortcut(x) + outer(elu(inner(elu(x))))`; no shortcut: `x`.
pub(super) struct Residual<C> {
    pub(super) inner: C,
    pub(super) outer: C,
    pub(super) shortcut: Option<C>,
}

/// Residual blocks, ELU and a convolution that lowers the rate and doubles the channels.
pub(super) struct Stage<C> {
    pub(super) residuals: Vec<Residual<C>>,
    pub(super) down: C,
}

/// An encoder: convolution, stages, LSTM with a skip connection, ELU, convolution.
pub(super) struct Network<C, L> {
    pub(super) first: C,
    pub(super) stages: Vec<Stage<C>>,
    pub(super) lstm: Vec<L>,
    pub(super) last: C,
}

impl<C, L> Network<C, L> {
    /// The same network of other layers.
    pub(super) fn try_map<D, M, E>(
        &self,
        mut convolution: impl FnMut(&C) -> Result<D, E>,
        lstm: impl FnMut(&L) -> Result<M, E>,
    ) -> Result<Network<D, M>, E> {
        let first = convolution(&self.first)?;
        let mut stages = Vec::new();
        for stage in &self.stages {
            let mut residuals = Vec::new();
            for Residual { inner, outer, shortcut } in &stage.residuals {
                residuals.push(Residual {
                    inner: convolution(inner)?,
                    outer: convolution(outer)?,
                    shortcut: shortcut.as_ref().map(&mut convolution).transpose()?,
                });
            }
            stages.push(Stage { residuals, down: convolution(&stage.down)? });
        }
        let lstm = self.lstm.iter().map(lstm).collect::<Result<_, _>>()?;
        Ok(Network { first, stages, lstm, last: convolution(&self.last)? })
    }
}
