//! Results that were computed outside the graph, put into it together with their gradient.

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail,
};
use std::sync::{Mutex, PoisonError};

/// A copy of what a tensor holds.
pub(in crate::model) fn storage_of(tensor: &Tensor) -> Result<Storage> {
    let tensor = tensor.force_contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    storage.try_clone(layout)
}

/// `output`, of this `shape`, as the result of an operation on `inputs`, of which there are one to three.
///
/// `backward` is handed the inputs and the gradient of the result, and gives those of the inputs.
pub(in crate::model) fn given(
    name: &'static str,
    inputs: &[&Tensor],
    output: Storage,
    shape: impl Into<Shape>,
    backward: impl Fn(&[&Tensor], &Tensor) -> Result<Vec<Tensor>> + Send + Sync + 'static,
) -> Result<Tensor> {
    let op = Given { name, output: Mutex::new(Some(output)), shape: shape.into(), backward };
    match inputs {
        [x] => x.apply_op1(op),
        [x, y] => x.apply_op2(y, op),
        [x, y, z] => x.apply_op3(y, z, op),
        _ => bail!("{name}: expected one to three inputs, found {}", inputs.len()),
    }
}

struct Given<B> {
    name: &'static str,
    output: Mutex<Option<Storage>>,
    shape: Shape,
    backward: B,
}

impl<B: Fn(&[&Tensor], &Tensor) -> Result<Vec<Tensor>>> Given<B> {
    fn take(&self) -> Result<Storage> {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner).take();
        output.ok_or_else(|| candle_core::Error::Msg(format!("{}: the result was taken already", self.name)))
    }

    fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        match self.take()? {
            Storage::Cpu(output) => Ok((output, self.shape.clone())),
            _ => bail!("{}: the inputs are on the CPU, the result is not", self.name),
        }
    }

    fn cuda(&self) -> Result<(CudaStorage, Shape)> {
        match self.take()? {
            Storage::Cuda(output) => Ok((output, self.shape.clone())),
            _ => bail!("{}: the inputs are on a GPU, the result is not", self.name),
        }
    }

    fn gradients<const N: usize>(&self, inputs: [&Tensor; N], grad: &Tensor) -> Result<[Option<Tensor>; N]> {
        // Detached, or the gradients would grow a graph of their own.
        let detached = inputs.map(Tensor::detach);
        let found = (self.backward)(&detached.each_ref()[..], &grad.contiguous()?)?;
        let mut found = found.into_iter();
        Ok(std::array::from_fn(|_| found.next()))
    }
}

impl<B: Fn(&[&Tensor], &Tensor) -> Result<Vec<Tensor>> + Send + Sync> CustomOp1 for Given<B> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let [dx] = self.gradients([x], grad)?;
        Ok(dx)
    }
}

impl<B: Fn(&[&Tensor], &Tensor) -> Result<Vec<Tensor>> + Send + Sync> CustomOp2 for Given<B> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dy] = self.gradients([x, y], grad)?;
        Ok((dx, dy))
    }
}

impl<B: Fn(&[&Tensor], &Tensor) -> Result<Vec<Tensor>> + Send + Sync> CustomOp3 for Given<B> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        z: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dy, dz] = self.gradients([x, y, z], grad)?;
        Ok((dx, dy, dz))
    }
}
