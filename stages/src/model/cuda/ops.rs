//! The operations of [`op`](crate::model::op) by fused kernels: shapes and meanings are documented there.

use super::launch::{Arg, Grid, launch, room, storage};
use crate::model::op::given::{given, storage_of};
use crate::model::pass::{BatchStatistics, Dropout};
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, Result, Shape, Tensor};

/// The kernels that are launched.
#[cfg(test)]
pub(super) const NAMES: [&str; 18] = [
    "adamw",
    "gelu_forward",
    "gelu_backward",
    "residual_forward",
    "residual_backward",
    "glu_forward",
    "glu_backward",
    "layer_norm_forward",
    "layer_norm_backward",
    "layer_norm_parameters",
    "cross_entropy",
    "add_pieces",
    "column_sums",
    "batch_norm_gelu_forward",
    "batch_norm_gelu_sums",
    "batch_norm_gelu_backward",
    "depthwise_forward",
    "depthwise_parameters",
];

/// Pieces of rows whose sums are added up in a second step.
const MOST_PIECES: usize = 256;

fn device_of(x: &Tensor) -> Result<CudaDevice> {
    Ok(x.device().as_cuda_device()?.clone())
}

fn tensor(values: CudaSlice<f32>, shape: impl Into<Shape>, device: &CudaDevice) -> Tensor {
    Tensor::from_storage(storage(values, device), shape, BackpropOp::none(), false)
}

/// Rows and columns, the last dimension being the columns.
fn extents(x: &Tensor) -> (usize, usize) {
    let columns = x.dims().last().copied().unwrap_or(1).max(1);
    (x.elem_count() / columns, columns)
}

/// Columns and dropout as the kernels take them.
fn dropped(columns: usize, drop: Option<Dropout>) -> [Arg<'static>; 5] {
    let (key, first_row, threshold, scale) = drop.map_or((0, 0, 0, 0.0), Dropout::words);
    [Arg::U32(columns as u32), Arg::U64(key), Arg::U64(first_row), Arg::U32(threshold), Arg::F32(scale)]
}

/// Rows of a piece, and pieces.
fn pieces(rows: usize) -> (usize, usize) {
    let per_piece = rows.div_ceil(MOST_PIECES).max(1);
    (per_piece, rows.div_ceil(per_piece).max(1))
}

/// Adds up partial sums `(pieces, n)`.
fn add_pieces(device: &CudaDevice, partial: &CudaSlice<f32>, pieces: usize, n: usize, scale: f32) -> Result<Tensor> {
    let sums = room(device, n)?;
    let args = [Arg::U64(n as u64), Arg::New(partial), Arg::New(&sums), Arg::U32(pieces as u32), Arg::F32(scale)];
    launch(device, "add_pieces", Grid::elements(n), &args)?;
    Ok(tensor(sums, n, device))
}

pub(crate) fn gelu(x: &Tensor, drop: Option<Dropout>) -> Result<Tensor> {
    let (x, device, (rows, columns)) = (x.contiguous()?, device_of(x)?, extents(x));
    let n = rows * columns;
    let y = room(&device, n)?;
    let [columns_arg, key, first, threshold, scale] = dropped(columns, drop);
    let args = [Arg::U64(n as u64), Arg::Tensor(&x), Arg::New(&y), columns_arg, key, first, threshold, scale];
    launch(&device, "gelu_forward", Grid::elements(n), &args)?;
    given("gelu", &[&x], storage(y, &device), x.shape().clone(), move |inputs, grad| {
        let (device, dx) = (device_of(grad)?, room(&device, n)?);
        let [columns, key, first, threshold, scale] = dropped(columns, drop);
        let (x, dx_arg) = (Arg::Tensor(inputs[0]), Arg::New(&dx));
        let args = [Arg::U64(n as u64), x, Arg::Tensor(grad), dx_arg, columns, key, first, threshold, scale];
        launch(&device, "gelu_backward", Grid::elements(n), &args)?;
        Ok(vec![tensor(dx, grad.shape().clone(), &device)])
    })
}

/// `alpha x + weight dropout(y)`.
pub(crate) fn residual(x: &Tensor, y: &Tensor, alpha: f64, weight: f64, drop: Option<Dropout>) -> Result<Tensor> {
    let (x, y, device, (rows, columns)) = (x.contiguous()?, y.contiguous()?, device_of(x)?, extents(x));
    if x.shape() != y.shape() {
        candle_core::bail!("residual: shapes {:?} and {:?} differ", x.shape(), y.shape());
    }
    let (n, alpha, weight) = (rows * columns, alpha as f32, weight as f32);
    let z = room(&device, n)?;
    let [columns_arg, key, first, threshold, scale] = dropped(columns, drop);
    let (tensors, factors) = ((Arg::Tensor(&x), Arg::Tensor(&y)), (Arg::F32(alpha), Arg::F32(weight)));
    let args = [
        Arg::U64(n as u64),
        tensors.0,
        tensors.1,
        Arg::New(&z),
        factors.0,
        factors.1,
        columns_arg,
        key,
        first,
        threshold,
        scale,
    ];
    launch(&device, "residual_forward", Grid::elements(n), &args)?;
    given("residual", &[&x, &y], storage(z, &device), x.shape().clone(), move |_, grad| {
        let dx = if alpha == 1.0 { grad.clone() } else { (grad * f64::from(alpha))? };
        Ok(vec![dx, residual_slope(grad, weight, columns, drop)?])
    })
}

/// `weight dropout(grad)`.
fn residual_slope(grad: &Tensor, weight: f32, columns: usize, drop: Option<Dropout>) -> Result<Tensor> {
    let (n, device) = (grad.elem_count(), device_of(grad)?);
    let dy = room(&device, n)?;
    let [columns, key, first, threshold, scale] = dropped(columns, drop);
    let (g, dy_arg) = (Arg::Tensor(grad), Arg::New(&dy));
    let args = [Arg::U64(n as u64), g, dy_arg, Arg::F32(weight), columns, key, first, threshold, scale];
    launch(&device, "residual_backward", Grid::elements(n), &args)?;
    Ok(tensor(dy, grad.shape().clone(), &device))
}

pub(crate) fn dropout(x: &Tensor, drop: Dropout) -> Result<Tensor> {
    let (x, (_, columns)) = (x.contiguous()?, extents(x));
    // Linear, hence its own gradient.
    let y = storage_of(&residual_slope(&x.detach(), 1.0, columns, Some(drop))?)?;
    given("dropout", &[&x], y, x.shape().clone(), move |_, grad| {
        Ok(vec![residual_slope(grad, 1.0, columns, Some(drop))?])
    })
}

pub(crate) fn glu(x: &Tensor) -> Result<Tensor> {
    let (x, device, (rows, width)) = (x.contiguous()?, device_of(x)?, extents(x));
    if width % 2 != 0 {
        candle_core::bail!("glu: the last dimension must be even, found {width}");
    }
    let (columns, n) = (width / 2, rows * width / 2);
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = columns;
    }
    let y = room(&device, n)?;
    let args = [Arg::U64(n as u64), Arg::Tensor(&x), Arg::New(&y), Arg::U32(columns as u32)];
    launch(&device, "glu_forward", Grid::elements(n), &args)?;
    given("glu", &[&x], storage(y, &device), shape, move |inputs, grad| {
        let (device, dx) = (device_of(grad)?, room(&device, 2 * n)?);
        let (x, g, columns) = (Arg::Tensor(inputs[0]), Arg::Tensor(grad), Arg::U32(columns as u32));
        launch(&device, "glu_backward", Grid::elements(n), &[Arg::U64(n as u64), x, g, Arg::New(&dx), columns])?;
        Ok(vec![tensor(dx, inputs[0].shape().clone(), &device)])
    })
}

pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let (x, device, (rows, columns)) = (x.contiguous()?, device_of(x)?, extents(x));
    let (y, moments) = (room(&device, rows * columns)?, room(&device, 2 * rows)?);
    let (x_arg, w, b) = (Arg::Tensor(&x), Arg::Tensor(weight), Arg::Tensor(bias));
    let args = [x_arg, w, b, Arg::New(&y), Arg::New(&moments), Arg::U32(columns as u32), Arg::F32(eps as f32)];
    launch(&device, "layer_norm_forward", Grid::rows(rows), &args)?;
    given("layer_norm", &[&x, weight, bias], storage(y, &device), x.shape().clone(), move |inputs, grad| {
        let (device, (x, w)) = (device_of(grad)?, (inputs[0], inputs[1]));
        let dx = room(&device, rows * columns)?;
        let (x_arg, g) = (Arg::Tensor(x), Arg::Tensor(grad));
        let args = [x_arg, Arg::Tensor(w), Arg::New(&moments), g, Arg::New(&dx), Arg::U32(columns as u32)];
        launch(&device, "layer_norm_backward", Grid::rows(rows), &args)?;
        let (per_piece, count) = pieces(rows);
        let partial = room(&device, count * 2 * columns)?;
        let args = [
            Arg::Tensor(x),
            Arg::New(&moments),
            Arg::Tensor(grad),
            Arg::New(&partial),
            Arg::U64(rows as u64),
            Arg::U32(columns as u32),
            Arg::U32(per_piece as u32),
        ];
        launch(&device, "layer_norm_parameters", Grid::columns(columns, count, 1), &args)?;
        let sums = add_pieces(&device, &partial, count, 2 * columns, 1.0)?;
        let dx = tensor(dx, x.shape().clone(), &device);
        Ok(vec![dx, sums.narrow(0, 0, columns)?, sums.narrow(0, columns, columns)?])
    })
}

/// Mean of `x`, or of the squared distance from `mean`, per column.
fn column_means(device: &CudaDevice, x: &Tensor, mean: Option<&Tensor>) -> Result<Tensor> {
    let (rows, columns) = extents(x);
    let (per_piece, count) = pieces(rows);
    let partial = room(device, count * columns)?;
    let args = [
        Arg::Tensor(x),
        Arg::Tensor(mean.unwrap_or(x)),
        Arg::U32(u32::from(mean.is_some())),
        Arg::New(&partial),
        Arg::U64(rows as u64),
        Arg::U32(columns as u32),
        Arg::U32(per_piece as u32),
    ];
    launch(device, "column_sums", Grid::columns(columns, count, 1), &args)?;
    add_pieces(device, &partial, count, columns, 1.0 / rows as f32)
}

pub(crate) fn batch_norm_gelu_train(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, BatchStatistics)> {
    let (x, device, (rows, columns)) = (x.contiguous()?, device_of(x)?, extents(x));
    let (n, eps) = (rows * columns, eps as f32);
    let mean = column_means(&device, &x.detach(), None)?;
    let variance = column_means(&device, &x.detach(), Some(&mean))?;
    let y = room(&device, n)?;
    let args = [
        Arg::U64(n as u64),
        Arg::Tensor(&x),
        Arg::Tensor(&mean),
        Arg::Tensor(&variance),
        Arg::Tensor(weight),
        Arg::Tensor(bias),
        Arg::New(&y),
        Arg::U32(columns as u32),
        Arg::F32(eps),
    ];
    launch(&device, "batch_norm_gelu_forward", Grid::elements(n), &args)?;
    let statistics = BatchStatistics { mean: mean.clone(), variance: variance.clone(), count: rows };
    let backward = move |inputs: &[&Tensor], grad: &Tensor| {
        batch_norm_gelu_back((inputs[0], inputs[1], inputs[2]), (&mean, &variance), grad, eps)
    };
    let y = given("batch_norm_gelu", &[&x, weight, bias], storage(y, &device), x.shape().clone(), backward)?;
    Ok((y, statistics))
}

fn batch_norm_gelu_back(
    (x, weight, bias): (&Tensor, &Tensor, &Tensor),
    (mean, variance): (&Tensor, &Tensor),
    grad: &Tensor,
    eps: f32,
) -> Result<Vec<Tensor>> {
    let (device, (rows, columns)) = (device_of(x)?, extents(x));
    let (per_piece, count) = pieces(rows);
    let (dx, partial) = (room(&device, rows * columns)?, room(&device, count * 2 * columns)?);
    let args = [
        Arg::Tensor(x),
        Arg::Tensor(mean),
        Arg::Tensor(variance),
        Arg::Tensor(weight),
        Arg::Tensor(bias),
        Arg::Tensor(grad),
        Arg::New(&dx),
        Arg::New(&partial),
        Arg::U64(rows as u64),
        Arg::U32(columns as u32),
        Arg::U32(per_piece as u32),
        Arg::F32(eps),
    ];
    launch(&device, "batch_norm_gelu_sums", Grid::columns(columns, count, 1), &args)?;
    let sums = add_pieces(&device, &partial, count, 2 * columns, 1.0)?;
    let args = [
        Arg::U64((rows * columns) as u64),
        Arg::Tensor(x),
        Arg::Tensor(mean),
        Arg::Tensor(variance),
        Arg::Tensor(weight),
        Arg::Tensor(&sums),
        Arg::New(&dx),
        Arg::U32(columns as u32),
        Arg::F32(eps),
        Arg::F32(1.0 / rows as f32),
    ];
    launch(&device, "batch_norm_gelu_backward", Grid::elements(rows * columns), &args)?;
    let dx = tensor(dx, x.shape().clone(), &device);
    Ok(vec![dx, sums.narrow(0, 0, columns)?, sums.narrow(0, columns, columns)?])
}

pub(crate) fn depthwise(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (x, device, (rows, columns)) = (x.contiguous()?, device_of(x)?, extents(x));
    let (positions, taps) = (x.dim(1)?, weight.dim(2)?);
    let y = room(&device, rows * columns)?;
    convolve(&device, &x, weight, bias, &y, taps, false)?;
    given("depthwise", &[&x, weight, bias], storage(y, &device), x.shape().clone(), move |inputs, grad| {
        let (device, (x, weight, bias)) = (device_of(grad)?, (inputs[0], inputs[1], inputs[2]));
        let dx = room(&device, rows * columns)?;
        convolve(&device, grad, weight, bias, &dx, taps, true)?;
        let (per_piece, count) = pieces(rows);
        let partial = room(&device, count * (taps + 1) * columns)?;
        let args = [
            Arg::Tensor(x),
            Arg::Tensor(grad),
            Arg::New(&partial),
            Arg::U64(rows as u64),
            Arg::U32(positions as u32),
            Arg::U32(columns as u32),
            Arg::U32(taps as u32),
            Arg::U32(per_piece as u32),
        ];
        launch(&device, "depthwise_parameters", Grid::columns(columns, count, taps + 1), &args)?;
        let sums = add_pieces(&device, &partial, count, (taps + 1) * columns, 1.0)?.reshape((taps + 1, columns))?;
        let dw = sums.narrow(0, 0, taps)?.t()?.contiguous()?.reshape(weight.shape())?;
        let dx = tensor(dx, x.shape().clone(), &device);
        Ok(vec![dx, dw, sums.narrow(0, taps, 1)?.reshape(columns)?])
    })
}

fn convolve(
    device: &CudaDevice,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    y: &CudaSlice<f32>,
    taps: usize,
    reversed: bool,
) -> Result<()> {
    let (n, positions, (_, columns)) = (x.elem_count(), x.dim(1)?, extents(x));
    let args = [
        Arg::U64(n as u64),
        Arg::Tensor(x),
        Arg::Tensor(weight),
        Arg::Tensor(bias),
        Arg::New(y),
        Arg::U32(positions as u32),
        Arg::U32(columns as u32),
        Arg::U32(taps as u32),
        Arg::U32(u32::from(reversed)),
    ];
    launch(device, "depthwise_forward", Grid::elements(n), &args)
}

/// Turns logits `(rows, codes)` into their gradient in place; loss, and whether the target was predicted, per row.
pub(crate) fn cross_entropy(logits: &Tensor, targets: &Tensor, scale: f64) -> Result<(Tensor, Tensor)> {
    let (device, (rows, codes)) = (device_of(logits)?, extents(logits));
    let (loss, correct) = (room(&device, rows)?, room(&device, rows)?);
    let (logits, targets) = (Arg::Tensor(logits), Arg::Tensor(targets));
    let args = [logits, targets, Arg::New(&loss), Arg::New(&correct), Arg::U32(codes as u32), Arg::F32(scale as f32)];
    launch(&device, "cross_entropy", Grid::rows(rows), &args)?;
    Ok((tensor(loss, rows, &device), tensor(correct, rows, &device)))
}

/// Updates a parameter and its moments in place; `constants` are gradient scale, decay, rate, root, epsilon, and the
/// betas.
pub(crate) fn adamw(
    parameter: &Tensor,
    gradient: &Tensor,
    m: &Tensor,
    v: &Tensor,
    constants: [f64; 5],
    [beta1, beta2]: [f64; 2],
) -> Result<()> {
    let n = parameter.elem_count();
    let [scale, decay, rate, root, eps] = constants.map(|value| Arg::F32(value as f32));
    let [first, beta, second] = [1.0 - beta1, beta2, 1.0 - beta2].map(|value| Arg::F32(value as f32));
    let (p, g, m, v) = (Arg::Tensor(parameter), Arg::Tensor(gradient), Arg::Tensor(m), Arg::Tensor(v));
    let args = [Arg::U64(n as u64), p, g, m, v, scale, decay, rate, root, eps, first, beta, second];
    launch(&device_of(parameter)?, "adamw", Grid::elements(n), &args)
}
