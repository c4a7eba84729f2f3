//! The arithmetic of the CUDA kernels, where there is no GPU: `kernels.cu` compiled as C++, a block of threads emulated,
//! results compared with this crate's operations and their gradients. Skipped, with a word, where there is no C++
//! compiler.

use super::op;
use super::pass::{Dropout, Form, Pass};
use super::random::Stream;
use candle_core::{Device, Result, Tensor, Var};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Threads of an emulated block.
const THREADS: usize = 8;

/// The program, if there is a compiler for it.
fn program() -> Option<&'static PathBuf> {
    static PROGRAM: OnceLock<Option<(PathBuf, tempfile::TempDir)>> = OnceLock::new();
    let built = PROGRAM.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("host");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/model/cuda/host.cpp");
        let compiler =
            Command::new("c++").args(["-std=c++20", "-O1", "-pthread", "-o"]).arg(&path).arg(source).output();
        match compiler {
            Ok(output) if output.status.success() => Some((path, folder)),
            Ok(output) => panic!("host.cpp does not compile:\n{}", String::from_utf8_lossy(&output.stderr)),
            Err(_) => {
                eprintln!("no C++ compiler: the CUDA kernels are not checked");
                None
            }
        }
    });
    built.as_ref().map(|built| &built.0)
}

#[derive(Clone)]
enum Arg {
    Floats(Vec<f32>),
    Words(Vec<u32>),
    U32(u32),
    U64(u64),
    F32(f32),
}

impl Arg {
    fn of(t: &Tensor) -> Result<Self> {
        Ok(Self::Floats(t.flatten_all()?.to_vec1()?))
    }

    fn room(len: usize) -> Self {
        Self::Floats(vec![f32::NAN; len])
    }

    fn bytes(&self) -> Vec<u8> {
        let array = |tag: u8, words: Vec<u32>| -> Vec<u8> {
            let length = (words.len() as u64).to_le_bytes();
            std::iter::once(tag).chain(length).chain(words.into_iter().flat_map(u32::to_le_bytes)).collect()
        };
        match self {
            Self::Floats(values) => array(b'f', values.iter().map(|value| value.to_bits()).collect()),
            Self::Words(values) => array(b'u', values.clone()),
            Self::U32(value) => std::iter::once(b'I').chain(value.to_le_bytes()).collect(),
            Self::U64(value) => std::iter::once(b'L').chain(value.to_le_bytes()).collect(),
            Self::F32(value) => std::iter::once(b'F').chain(value.to_le_bytes()).collect(),
        }
    }
}

/// The float arrays among the arguments after a launch.
fn launch(kernel: &str, blocks: [usize; 3], args: &[Arg]) -> Vec<Vec<f32>> {
    let program = program().expect("callers see that there is one");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("arguments");
    std::fs::write(&path, args.iter().flat_map(Arg::bytes).collect::<Vec<u8>>()).expect("arguments are written");
    let [x, y, z] = blocks.map(|count| count.to_string());
    let output = Command::new(program).args([kernel, &x, &y, &z, &THREADS.to_string()]).arg(&path).output();
    let output = output.expect("the program starts");
    assert!(output.status.success(), "{kernel}: {}", String::from_utf8_lossy(&output.stderr));
    let bytes = std::fs::read(&path).expect("results are there");
    let mut values = bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().expect("4 bytes")));
    let arrays = args.iter().filter_map(|arg| if let Arg::Floats(values) = arg { Some(values.len()) } else { None });
    arrays.map(|len| values.by_ref().take(len).collect()).collect()
}

fn normal(name: &str, shape: &[usize]) -> Result<Var> {
    let stream = Stream::new(21, "kernels on the host").named(name);
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(|i| stream.normal(i)).collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)
}

#[track_caller]
fn close(what: &str, found: &[f32], expected: &Tensor) -> Result<()> {
    let expected: Vec<f32> = expected.flatten_all()?.to_vec1()?;
    assert_eq!(found.len(), expected.len(), "{what}");
    let top = expected.iter().fold(1e-3f32, |top, value| top.max(value.abs()));
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let off = (found - expected).abs();
        assert!(off < 1e-5 * top, "{what}, element {i}: {found} for {expected}");
    }
    Ok(())
}

/// Value of an operation, the gradient that it is handed, and the gradients of its inputs.
fn oracle(inputs: &[&Var], f: impl Fn(&[&Tensor]) -> Result<Tensor>) -> Result<(Tensor, Tensor, Vec<Tensor>)> {
    let tensors: Vec<&Tensor> = inputs.iter().map(|var| var.as_tensor()).collect();
    let y = f(&tensors)?;
    let g = normal("gradient", y.dims())?.as_detached_tensor();
    let mut grads = (&y * &g)?.sum_all()?.backward()?;
    let grads = inputs.iter().map(|var| grads.remove(var).expect("every input has a gradient")).collect();
    Ok((y.detach(), g, grads))
}

/// Columns and dropout as the kernels take them.
fn dropped(columns: usize, drop: Option<Dropout>) -> [Arg; 5] {
    let (key, first_row, threshold, scale) = drop.map_or((0, 0, 0, 0.0), Dropout::words);
    [Arg::U32(columns as u32), Arg::U64(key), Arg::U64(first_row), Arg::U32(threshold), Arg::F32(scale)]
}

fn sum_pieces(partial: &[f32], pieces: usize, scale: f32) -> Vec<f32> {
    let n = partial.len() / pieces;
    let args =
        [Arg::U64(n as u64), Arg::Floats(partial.to_vec()), Arg::room(n), Arg::U32(pieces as u32), Arg::F32(scale)];
    launch("add_pieces", [3, 1, 1], &args)[1].clone()
}

const BATCH: usize = 2;
const POSITIONS: usize = 19;
const ROWS: usize = BATCH * POSITIONS;
const COLUMNS: usize = 21;
const N: usize = ROWS * COLUMNS;
/// Rows of a piece, and pieces; the last one is shorter.
const PIECES: (usize, usize) = (11, 4);
const ELEMENTS: [usize; 3] = [7, 1, 1];

fn by_columns(layers: usize) -> [usize; 3] {
    [COLUMNS.div_ceil(THREADS), PIECES.1, layers]
}

#[test]
fn activations_and_residuals_with_dropout() -> Result<()> {
    if program().is_none() {
        return Ok(());
    }
    let pass = || Pass::train(Form::Kernels, 5, 6).from_example(3);
    let (x, y) = (normal("x", &[BATCH, POSITIONS, COLUMNS])?, normal("y", &[BATCH, POSITIONS, COLUMNS])?);
    for drop in [None, pass().dropout(0.3)] {
        let n = Arg::U64(N as u64);
        let [c, k, f, t, s] = dropped(COLUMNS, drop.map(|drop| drop.per_example(POSITIONS)));
        let tail = || [c.clone(), k.clone(), f.clone(), t.clone(), s.clone()];
        let (value, g, grads) = oracle(&[&x], |t| op::gelu(t[0], drop, Form::Kernels))?;
        let args = [vec![n.clone(), Arg::of(&x)?, Arg::room(N)], tail().to_vec()].concat();
        close("gelu", &launch("gelu_forward", ELEMENTS, &args)[1], &value)?;
        let args = [vec![n.clone(), Arg::of(&x)?, Arg::of(&g)?, Arg::room(N)], tail().to_vec()].concat();
        close("gelu back", &launch("gelu_backward", ELEMENTS, &args)[2], &grads[0])?;

        let (value, g, grads) = oracle(&[&x, &y], |t| op::residual(t[0], t[1], 2.6, 4.0, drop, Form::Kernels))?;
        let tensors = vec![n.clone(), Arg::of(&x)?, Arg::of(&y)?, Arg::room(N), Arg::F32(2.6), Arg::F32(4.0)];
        let args = [tensors, tail().to_vec()].concat();
        close("residual", &launch("residual_forward", ELEMENTS, &args)[2], &value)?;
        let args = [vec![n.clone(), Arg::of(&g)?, Arg::room(N), Arg::F32(4.0)], tail().to_vec()].concat();
        close("residual back", &launch("residual_backward", ELEMENTS, &args)[1], &grads[1])?;
    }
    let x = normal("wide", &[BATCH, POSITIONS, 2 * COLUMNS])?;
    let (value, g, grads) = oracle(&[&x], |t| op::glu(t[0], Form::Kernels))?;
    let args = [Arg::U64(N as u64), Arg::of(&x)?, Arg::room(N), Arg::U32(COLUMNS as u32)];
    close("glu", &launch("glu_forward", ELEMENTS, &args)[1], &value)?;
    let args = [Arg::U64(N as u64), Arg::of(&x)?, Arg::of(&g)?, Arg::room(2 * N), Arg::U32(COLUMNS as u32)];
    close("glu back", &launch("glu_backward", ELEMENTS, &args)[2], &grads[0])
}

#[test]
fn layer_norm() -> Result<()> {
    if program().is_none() {
        return Ok(());
    }
    let (x, w, b) = (normal("x", &[BATCH, POSITIONS, COLUMNS])?, normal("w", &[COLUMNS])?, normal("b", &[COLUMNS])?);
    let (value, g, grads) = oracle(&[&x, &w, &b], |t| op::layer_norm(t[0], t[1], t[2], 6.1e-5, Form::Kernels))?;
    let columns = Arg::U32(COLUMNS as u32);
    let tensors = [Arg::of(&x)?, Arg::of(&w)?, Arg::of(&b)?, Arg::room(N), Arg::room(2 * ROWS)];
    let args = [tensors.to_vec(), vec![columns.clone(), Arg::F32(6.1e-5)]].concat();
    let found = launch("layer_norm_forward", [ROWS, 1, 1], &args);
    close("layer norm", &found[3], &value)?;
    let moments = Arg::Floats(found[4].clone());
    let args = [Arg::of(&x)?, Arg::of(&w)?, moments.clone(), Arg::of(&g)?, Arg::room(N), columns.clone()];
    close("layer norm back", &launch("layer_norm_backward", [ROWS, 1, 1], &args)[4], &grads[0])?;
    let partial = Arg::room(PIECES.1 * 2 * COLUMNS);
    let rows = [Arg::U64(ROWS as u64), columns, Arg::U32(PIECES.0 as u32)];
    let args = [vec![Arg::of(&x)?, moments, Arg::of(&g)?, partial], rows.to_vec()].concat();
    let sums = sum_pieces(&launch("layer_norm_parameters", by_columns(1), &args)[3], PIECES.1, 1.0);
    close("weight of layer norm", &sums[..COLUMNS], &grads[1])?;
    close("bias of layer norm", &sums[COLUMNS..], &grads[2])
}

#[test]
fn batch_norm_and_gelu() -> Result<()> {
    if program().is_none() {
        return Ok(());
    }
    let (x, w, b) = (normal("x", &[BATCH, POSITIONS, COLUMNS])?, normal("w", &[COLUMNS])?, normal("b", &[COLUMNS])?);
    let run = |t: &[&Tensor]| op::batch_norm_gelu_train(t[0], t[1], t[2], 6.1e-5, Form::Kernels, None);
    let (value, g, grads) = oracle(&[&x, &w, &b], |t| Ok(run(t)?.0))?;
    let statistics = run(&[&x, &w, &b])?.1;
    let extents = [Arg::U64(ROWS as u64), Arg::U32(COLUMNS as u32), Arg::U32(PIECES.0 as u32)];
    let partial = || Arg::room(PIECES.1 * COLUMNS);
    let args = [vec![Arg::of(&x)?, Arg::of(&x)?, Arg::U32(0), partial()], extents.to_vec()].concat();
    let mean = sum_pieces(&launch("column_sums", by_columns(1), &args)[2], PIECES.1, 1.0 / ROWS as f32);
    close("mean", &mean, &statistics.mean)?;
    let mean = Arg::Floats(mean);
    let args = [vec![Arg::of(&x)?, mean.clone(), Arg::U32(1), partial()], extents.to_vec()].concat();
    let variance = sum_pieces(&launch("column_sums", by_columns(1), &args)[2], PIECES.1, 1.0 / ROWS as f32);
    close("variance", &variance, &statistics.variance)?;
    let variance = Arg::Floats(variance);
    let (n, columns, eps) = (Arg::U64(N as u64), Arg::U32(COLUMNS as u32), Arg::F32(6.1e-5));
    let of_batch = || -> Result<Vec<Arg>> { Ok(vec![Arg::of(&x)?, mean.clone(), variance.clone(), Arg::of(&w)?]) };
    let tail = vec![Arg::of(&b)?, Arg::room(N), columns.clone(), eps.clone()];
    let args = [vec![n.clone()], of_batch()?, tail].concat();
    close("batch norm", &launch("batch_norm_gelu_forward", ELEMENTS, &args)[5], &value)?;
    let tail = vec![Arg::of(&b)?, Arg::of(&g)?, Arg::room(N), Arg::room(PIECES.1 * 2 * COLUMNS)];
    let args = [of_batch()?, tail, extents.to_vec(), vec![eps.clone()]].concat();
    let found = launch("batch_norm_gelu_sums", by_columns(1), &args);
    let sums = sum_pieces(&found[7], PIECES.1, 1.0);
    close("weight of batch norm", &sums[..COLUMNS], &grads[1])?;
    close("bias of batch norm", &sums[COLUMNS..], &grads[2])?;
    let tail = vec![Arg::Floats(sums), Arg::Floats(found[6].clone()), columns, eps, Arg::F32(1.0 / ROWS as f32)];
    let args = [vec![n], of_batch()?, tail].concat();
    close("batch norm back", &launch("batch_norm_gelu_backward", ELEMENTS, &args)[5], &grads[0])
}

#[test]
fn depthwise_convolution() -> Result<()> {
    if program().is_none() {
        return Ok(());
    }
    // More taps than positions on either side, too.
    for taps in [5, 31] {
        let (x, w) = (normal("x", &[BATCH, POSITIONS, COLUMNS])?, normal("w", &[COLUMNS, 1, taps])?);
        let b = normal("b", &[COLUMNS])?;
        let (value, g, grads) = oracle(&[&x, &w, &b], |t| op::depthwise(t[0], t[1], t[2], Form::Kernels))?;
        let tail = |reversed| [POSITIONS, COLUMNS, taps, reversed].map(|value| Arg::U32(value as u32)).to_vec();
        let n = Arg::U64(N as u64);
        let args = [vec![n.clone(), Arg::of(&x)?, Arg::of(&w)?, Arg::of(&b)?, Arg::room(N)], tail(0)].concat();
        close("depthwise", &launch("depthwise_forward", ELEMENTS, &args)[3], &value)?;
        let args = [vec![n, Arg::of(&g)?, Arg::of(&w)?, Arg::of(&b)?, Arg::room(N)], tail(1)].concat();
        close("depthwise back", &launch("depthwise_forward", ELEMENTS, &args)[3], &grads[0])?;
        let partial = Arg::room(PIECES.1 * (taps + 1) * COLUMNS);
        let tail = [POSITIONS, COLUMNS, taps, PIECES.0].map(|value| Arg::U32(value as u32));
        let args = [vec![Arg::of(&x)?, Arg::of(&g)?, partial, Arg::U64(ROWS as u64)], tail.to_vec()].concat();
        let sums = sum_pieces(&launch("depthwise_parameters", by_columns(taps + 1), &args)[2], PIECES.1, 1.0);
        let (dw, db) = sums.split_at(taps * COLUMNS);
        let dw = Tensor::from_slice(dw, (taps, COLUMNS), &Device::Cpu)?.t()?.contiguous()?;
        close("weight of depthwise", &dw.flatten_all()?.to_vec1::<f32>()?, &grads[1])?;
        close("bias of depthwise", db, &grads[2])?;
    }
    Ok(())
}

#[test]
fn cross_entropy() -> Result<()> {
    if program().is_none() {
        return Ok(());
    }
    let (rows, codes, scale) = (9usize, 37usize, 0.25f32);
    let logits = normal("logits", &[rows, codes])?;
    let stream = Stream::new(2, "targets");
    let targets: Vec<u32> = (0..rows as u64).map(|i| stream.below(i, codes) as u32).collect();
    let index = Tensor::from_slice(&targets, (rows, 1), &Device::Cpu)?;
    let losses = (logits.exp()?.sum_keepdim(1)?.log()? - logits.gather(&index, 1)?)?;
    let grads = (losses.sum_all()? * f64::from(scale))?.backward()?;
    let args = [
        Arg::of(&logits)?,
        Arg::Words(targets.clone()),
        Arg::room(rows),
        Arg::room(rows),
        Arg::U32(codes as u32),
        Arg::F32(scale),
    ];
    let found = launch("cross_entropy", [rows, 1, 1], &args);
    close("slopes", &found[0], grads.get(&logits).expect("logits have a gradient"))?;
    close("loss", &found[1], &losses.squeeze(1)?)?;
    let correct = logits.argmax(1)?.eq(&index.squeeze(1)?)?.to_dtype(candle_core::DType::F32)?;
    close("correct", &found[2], &correct)?;
    // Of equal logits, the first is the prediction.
    let equal = [Arg::Floats(vec![1.0; 2 * codes]), Arg::Words(vec![0, 1]), Arg::room(2), Arg::room(2)];
    let args = [equal.to_vec(), vec![Arg::U32(codes as u32), Arg::F32(scale)]].concat();
    assert_eq!(launch("cross_entropy", [2, 1, 1], &args)[2], [1.0, 0.0]);
    Ok(())
}

#[test]
fn adamw() -> Result<()> {
    if program().is_none() {
        return Ok(());
    }
    let n = 50;
    let [p, g, m] = ["p", "g", "m"].map(|name| normal(name, &[n]));
    let (p, g, m) = (p?.as_detached_tensor(), g?.as_detached_tensor(), m?.as_detached_tensor());
    let v = normal("v", &[n])?.sqr()?;
    let (scale, decay, rate, root, eps) = (0.5, 0.999, 0.01, 3.0, 1e-8);
    let gradient = (&g * scale)?;
    let new_m = ((&m * 0.9)? + (&gradient * (1.0 - 0.9))?)?;
    let new_v = ((&v * 0.999)? + (gradient.sqr()? * (1.0 - 0.999))?)?;
    let new_p = ((&p * decay)? - (&new_m / ((new_v.sqrt()? * root)? + eps)?)?.affine(rate, 0.0)?)?;
    let constants = [scale, decay, rate, root, eps, 1.0 - 0.9, 0.999, 1.0 - 0.999].map(|value| Arg::F32(value as f32));
    let tensors = vec![Arg::U64(n as u64), Arg::of(&p)?, Arg::of(&g)?, Arg::of(&m)?, Arg::of(&v)?];
    let found = launch("adamw", [2, 1, 1], &[tensors, constants.to_vec()].concat());
    close("parameter", &found[0], &new_p)?;
    close("first moment", &found[2], &new_m)?;
    close("second moment", &found[3], &new_v)
}
