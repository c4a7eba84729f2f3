//! One encoder for all threads: whoever has the turn computes for those who wait.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};

use crate::model::{Encoder, Form, Pass};

/// Hidden states of a crop: per chosen layer, positions one after the other.
pub(super) type Layers = Vec<Vec<f32>>;

/// Where an answer will be: the layers, or why there are none.
type Answer = Arc<Mutex<Option<Result<Vec<Layers>, String>>>>;

/// Crops of one request, and where their result goes.
struct Request {
    positions: usize,
    patches: Vec<Vec<f32>>,
    result: Answer,
}

/// An encoder that several threads share.
pub(super) struct SharedEncoder {
    encoder: Encoder,
    layers: Vec<usize>,
    device: Device,
    /// Crops at once.
    most: usize,
    waiting: Mutex<Vec<Request>>,
    turn: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SharedEncoder {
    pub(super) fn new(encoder: Encoder, layers: Vec<usize>, device: Device, most: usize) -> Self {
        Self { encoder, layers, device, most, waiting: Mutex::default(), turn: Mutex::default() }
    }

    /// Hidden states of crops of equal length, in their order.
    ///
    /// Requests are left in a list before the turn is waited for. Who gets the turn first computes for the others whose
    /// crops have the same length, as far as they fit; they find their results there when their turn comes.
    pub(super) fn run(&self, positions: usize, patches: Vec<Vec<f32>>) -> Result<Vec<Layers>, String> {
        let result = Arc::new(Mutex::new(None));
        lock(&self.waiting).push(Request { positions, patches, result: result.clone() });
        let turn = lock(&self.turn);
        if let Some(done) = lock(&result).take() {
            return done;
        }
        let requests = self.take(&result);
        let crops: Vec<&[f32]> =
            requests.iter().flat_map(|request| request.patches.iter().map(Vec::as_slice)).collect();
        let computed = self.compute(positions, &crops).map_err(|error| error.to_string());
        let mut computed = computed.map(Vec::into_iter);
        for request in &requests {
            let own = match &mut computed {
                Ok(rows) => Ok(rows.take(request.patches.len()).collect()),
                Err(error) => Err(error.clone()),
            };
            *lock(&request.result) = Some(own);
        }
        drop(turn);
        lock(&result).take().unwrap_or_else(|| Err("the encoder lost a request".to_owned()))
    }

    /// The own request and those that can be computed with it.
    fn take(&self, own: &Answer) -> Vec<Request> {
        let mut waiting = lock(&self.waiting);
        let at = waiting.iter().position(|request| Arc::ptr_eq(&request.result, own));
        let mut requests: Vec<Request> = at.map(|at| waiting.remove(at)).into_iter().collect();
        let Some(positions) = requests.first().map(|request| request.positions) else { return requests };
        let mut crops: usize = requests.iter().map(|request| request.patches.len()).sum();
        let mut index = 0;
        while index < waiting.len() {
            let more = waiting[index].patches.len();
            if waiting[index].positions == positions && crops + more <= self.most {
                crops += more;
                requests.push(waiting.remove(index));
            } else {
                index += 1;
            }
        }
        requests
    }

    fn compute(&self, positions: usize, crops: &[&[f32]]) -> candle_core::Result<Vec<Layers>> {
        let shape = (crops.len(), positions, self.encoder.patch_dim());
        let input = Tensor::from_vec(crops.concat(), shape, &self.device)?;
        let mut pass = Pass::evaluate(Form::for_device(&self.device));
        let mut hidden: Vec<Option<Tensor>> =
            self.encoder.forward_layers(&input, &mut pass)?.into_iter().map(Some).collect();
        let chosen: Vec<Tensor> = self.layers.iter().filter_map(|layer| hidden[*layer].take()).collect();
        drop(hidden);
        let mut results: Vec<Layers> = vec![Vec::new(); crops.len()];
        for layer in chosen {
            let values = layer.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
            for (result, values) in results.iter_mut().zip(values.chunks_exact(values.len() / crops.len())) {
                result.push(values.to_vec());
            }
        }
        Ok(results)
    }
}
