//! One encoder for all threads: whoever has the turn computes for those who wait.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::encoder::{Encoder, Heard, Hidden};

/// Hidden states of a crop: one per chosen layer.
pub(super) type Layers = Vec<Hidden>;

/// Where an answer will be: the layers, or why there are none.
type Answer = Arc<Mutex<Option<Result<Vec<Layers>, String>>>>;

/// Crops of one request, and where their result goes.
struct Request {
    positions: usize,
    heard: Vec<Heard>,
    result: Answer,
}

/// An encoder that several threads share.
pub(super) struct SharedEncoder {
    encoder: Arc<dyn Encoder>,
    layers: Vec<usize>,
    /// Crops at once.
    most: usize,
    waiting: Mutex<Vec<Request>>,
    turn: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SharedEncoder {
    pub(super) fn new(encoder: Arc<dyn Encoder>, layers: Vec<usize>, most: usize) -> Self {
        Self { encoder, layers, most, waiting: Mutex::default(), turn: Mutex::default() }
    }

    /// The encoder.
    pub(super) fn encoder(&self) -> &dyn Encoder {
        &*self.encoder
    }

    /// Hidden states of crops with equally many positions, in their order.
    ///
    /// Requests are left in a list before the turn is waited for. Who gets the turn first computes for the others whose
    /// crops have as many positions, as far as they fit; they find their results there when their turn comes.
    pub(super) fn run(&self, heard: Vec<Heard>) -> Result<Vec<Layers>, String> {
        let result = Arc::new(Mutex::new(None));
        let positions = heard.first().map_or(0, |heard| heard.positions);
        lock(&self.waiting).push(Request { positions, heard, result: result.clone() });
        let turn = lock(&self.turn);
        if let Some(done) = lock(&result).take() {
            return done;
        }
        let requests = self.take(&result);
        let crops: Vec<&Heard> = requests.iter().flat_map(|request| &request.heard).collect();
        let computed = self.encoder.forward(&crops, &self.layers).map_err(|error| error.to_string());
        let mut computed = computed.map(Vec::into_iter);
        for request in &requests {
            let own = match &mut computed {
                Ok(rows) => Ok(rows.take(request.heard.len()).collect()),
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
        let mut crops: usize = requests.iter().map(|request| request.heard.len()).sum();
        let mut index = 0;
        while index < waiting.len() {
            let more = waiting[index].heard.len();
            if waiting[index].positions == positions && crops + more <= self.most {
                crops += more;
                requests.push(waiting.remove(index));
            } else {
                index += 1;
            }
        }
        requests
    }
}
