//! What the configuration and the tensors of a published model say together.
//!
//! Where both say something they must agree; where the configuration is silent the tensors decide, and what neither says
//! is as the published package has it. Three things hold whatever the configuration says, since the published weights
//! were made so: attention is causal, the depthwise kernel has the length that the tensors have (31; configurations say
//! 5), and no norm comes before the attention.

mod section;
mod views;

use std::collections::{BTreeMap, HashMap};

use candle_core::Tensor;

use crate::dsp::view::ViewConfig;
use crate::model::import::ImportError;
use crate::model::import::gin::{Binding, Config, Value};
use crate::model::{ConformerConfig, Norm, PositionEncoding};

use section::Section;

/// What the package takes for `alpha_deepnorm` when a configuration is silent.
const ALPHA: f64 = 2.632_148_025_904_984_8;
/// The same for `beta_deepnorm`.
const BETA: f64 = 0.022_386_873_579_657_126;

/// Configurables that say which class does what.
const BUILD: &str = "build_module";
const MODULE: &str = "MaskingModel";
const NET: &str = "Conformer";

/// What a published model is.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) sample_rate: u32,
    pub(super) views: Vec<(ViewConfig, usize)>,
    pub(super) model: ConformerConfig,
    pub(super) notes: Vec<String>,
    pub(super) ignored: BTreeMap<String, String>,
}

/// The shapes of the tensors, and the name of their file for messages.
pub(super) struct Tensors<'a> {
    pub(super) file: &'a str,
    pub(super) all: &'a HashMap<String, Tensor>,
}

/// How a caller may bend the reading.
#[derive(Debug, Clone, Default)]
pub(super) struct Bend<'a> {
    /// Bindings to leave aside although nobody knows them.
    pub(super) ignore: &'a [String],
    /// Folder with the weights of EnCodec.
    pub(super) encodec: Option<&'a std::path::Path>,
}

/// Works out what a model is.
///
/// # Errors
/// The first line that cannot be followed, or the first disagreement, naming both sides.
pub(super) fn interpret(config: &Config, tensors: &Tensors<'_>, bend: &Bend<'_>) -> Result<Published, ImportError> {
    let mut used = Used::default();
    check_net(config, &mut used)?;
    let (model, net_patch) = conformer(config, tensors, bend, &mut used)?;
    let views = views::input(config, net_patch, bend, &mut used)?;
    let sample_rate = views::sample_rate(&views);
    let views: Vec<(ViewConfig, usize)> = views.into_iter().map(|view| (view.config, view.patch_frames)).collect();
    check_embedding(&views, tensors)?;
    let mut ignored = BTreeMap::new();
    for binding in config.bindings() {
        if !used.taken.contains(&binding.name()) {
            ignored
                .insert(binding.name(), config.resolve(binding).unwrap_or_else(|_| binding.value.clone()).to_string());
        }
    }
    Ok(Published { sample_rate, views, model, notes: used.notes, ignored })
}

/// Which bindings decided something, and what is worth a remark.
#[derive(Debug, Default)]
pub(super) struct Used {
    pub(super) taken: Vec<String>,
    pub(super) notes: Vec<String>,
}

fn check_net(config: &Config, used: &mut Used) -> Result<(), ImportError> {
    let Some(binding) = config.find(BUILD, "net") else { return Ok(()) };
    used.taken.push(binding.name());
    match config.resolve(binding)? {
        Value::Reference(name) if name.rsplit('.').next() == Some(NET) => Ok(()),
        other => Err(binding.error(format!("expected the net `@nets.conformer.Conformer`, found {other}"))),
    }
}

/// A patch size, and the binding that states it.
type Placed<'a> = (&'a Binding, [usize; 2]);

/// The conformer, and the patch shape that its section may carry.
fn conformer<'a>(
    config: &'a Config,
    tensors: &Tensors<'_>,
    bend: &Bend<'_>,
    used: &mut Used,
) -> Result<(ConformerConfig, Option<Placed<'a>>), ImportError> {
    let section = Section::new(config, NET, bend.ignore);
    let shapes = Shapes::read(tensors)?;
    let layers = section.agree("depth", shapes.layers, &shapes.words("blocks", shapes.layers))?;
    let dim = section.agree("embed_dim", shapes.dim, &shapes.words("a width of", shapes.dim))?;
    let ratio = shapes.hidden as f64 / shapes.dim as f64;
    if let Some((binding, written)) = section.number("mlp_ratio")?
        && (written - ratio).abs() > 1e-9
    {
        return Err(shapes.disagrees(binding, &format!("feed-forward layers {ratio} times as wide as the model")));
    }
    if !shapes.hidden.is_multiple_of(shapes.dim) {
        let message =
            format!("`{}`: feed-forward layers of {} are no multiple of {}", tensors.file, shapes.hidden, dim);
        return Err(ImportError::Mismatch(message));
    }
    let heads = heads(&section, &shapes)?;
    let rotary = section.agree_flag("use_rope", shapes.pairs.is_some(), &shapes, "rotary frequencies")?;
    let deepnorm = section.agree_flag("use_deepnorm", shapes.deepnorm, &shapes, "the norm of DeepNorm")?;
    let value = |parameter: &'static str, default: f64| {
        Ok::<f64, ImportError>(section.number(parameter)?.map_or(default, |found| found.1))
    };
    let norm = if deepnorm {
        if section.number("alpha_deepnorm")?.is_none() {
            used.notes.push(format!(
                "`alpha_deepnorm` is not written: {ALPHA} is taken, the default of the published package"
            ));
        }
        Norm::Deepnorm { alpha: Some(value("alpha_deepnorm", ALPHA)?), beta: Some(value("beta_deepnorm", BETA)?) }
    } else {
        section.number("alpha_deepnorm")?;
        section.number("beta_deepnorm")?;
        Norm::Plain
    };
    if let Some((binding, kernel)) = section.whole("conv_kernel_size")?
        && kernel != shapes.kernel
    {
        used.notes.push(format!(
            "`{}` is {kernel} in the configuration and {} in the tensors: the tensors hold, as in all published models",
            binding.name(),
            shapes.kernel
        ));
    }
    used.notes.push("attention is causal, as released".to_owned());
    let model = ConformerConfig {
        ff_factor: shapes.hidden / shapes.dim,
        kernel: shapes.kernel,
        dropout: value("dropout", 0.2)?,
        input_dropout: value("input_dropout", 0.0)?,
        residual_factor: value("mlp_residual_factor", 4.0)?,
        causal: true,
        norm,
        positions: if rotary { PositionEncoding::Rotary } else { PositionEncoding::Sinusoidal },
        ..ConformerConfig::new(layers, dim, heads)
    };
    let patch = section.pair("patch_size")?;
    section.leave("num_patches");
    model.validate().map_err(|error| ImportError::Mismatch(format!("`{}`: {error}", tensors.file)))?;
    section.finish(&mut used.taken)?;
    Ok((model, patch))
}

/// Heads follow from the rotary frequencies, one for every two values of a head; without them only the text knows.
fn heads(section: &Section<'_, '_>, shapes: &Shapes<'_>) -> Result<usize, ImportError> {
    match shapes.pairs {
        Some(pairs) if pairs > 0 && shapes.dim.is_multiple_of(2 * pairs) => {
            let heads = shapes.dim / (2 * pairs);
            section.agree("num_heads", heads, &format!("{pairs} rotary frequencies, which makes {heads} heads"))
        }
        Some(pairs) => {
            let message =
                format!("`{}`: {pairs} rotary frequencies do not divide a width of {}", shapes.file, shapes.dim);
            Err(ImportError::Mismatch(message))
        }
        None => Ok(section.whole("num_heads")?.map_or(8, |found| found.1)),
    }
}

/// The embedding takes patches of just the values that the views give.
fn check_embedding(views: &[(ViewConfig, usize)], tensors: &Tensors<'_>) -> Result<(), ImportError> {
    let expected: usize = views.iter().map(|(view, frames)| view.bins() * frames).sum();
    let found = match tensors.all.get("embedding_layer.weight").map(Tensor::dims) {
        Some(&[_, found]) => found,
        Some(other) => {
            let message =
                format!("`{}`: tensor `embedding_layer.weight` has shape {other:?}, expected a matrix", tensors.file);
            return Err(ImportError::Mismatch(message));
        }
        None => {
            let message = format!("`{}`: tensor `embedding_layer.weight` is missing", tensors.file);
            return Err(ImportError::Mismatch(message));
        }
    };
    if expected == found {
        return Ok(());
    }
    let words: Vec<String> =
        views.iter().map(|(view, frames)| format!("{} {} x {frames}", view.name(), view.bins())).collect();
    Err(ImportError::Mismatch(format!(
        "the configuration makes patches of {expected} values ({}), the tensor `embedding_layer.weight` of `{}` takes \
         {found}: they are not of one model",
        words.join(" + "),
        tensors.file
    )))
}

/// What can be read off the tensors.
struct Shapes<'a> {
    file: &'a str,
    layers: usize,
    dim: usize,
    hidden: usize,
    kernel: usize,
    /// Rotary frequencies of a head.
    pairs: Option<usize>,
    deepnorm: bool,
}

impl<'a> Shapes<'a> {
    fn read(tensors: &Tensors<'a>) -> Result<Self, ImportError> {
        let numbers = tensors
            .all
            .keys()
            .filter_map(|name| name.strip_prefix("net.layers.")?.split('.').next()?.parse::<usize>().ok());
        let Some(last) = numbers.max() else {
            let mut names: Vec<&str> = tensors.all.keys().map(String::as_str).collect();
            names.sort_unstable();
            names.truncate(3);
            let message = format!(
                "`{}` holds no tensors `net.layers.N...`: it is no OMAR-RQ encoder (its first tensors are {})",
                tensors.file,
                names.join(", ")
            );
            return Err(ImportError::Mismatch(message));
        };
        let shape = |name: &str, rank: usize| {
            let name = format!("net.layers.0.{name}");
            let refused =
                |reason: String| ImportError::Mismatch(format!("`{}`: tensor `{name}` {reason}", tensors.file));
            let dims = tensors.all.get(&name).ok_or_else(|| refused("is missing".to_owned()))?.dims();
            if dims.len() == rank && !dims.contains(&0) {
                Ok(dims)
            } else {
                Err(refused(format!("has shape {dims:?}, expected {rank} dimensions")))
            }
        };
        let (ff, conv) = (shape("ff1.module.1.weight", 2)?, shape("conv_block.module.2.weight", 3)?);
        Ok(Self {
            file: tensors.file,
            layers: last + 1,
            dim: ff[1],
            hidden: ff[0],
            kernel: conv[2],
            pairs: shape("attention.rotary_emb.freqs", 1).ok().map(|dims| dims[0]),
            deepnorm: tensors.all.contains_key("net.layers.0.norm1.layer_norm.weight"),
        })
    }

    fn words(&self, what: &str, count: usize) -> String {
        if what.ends_with("of") {
            format!("the tensors of `{}` have {what} {count}", self.file)
        } else {
            format!("the tensors of `{}` have {count} {what}", self.file)
        }
    }

    fn disagrees(&self, binding: &Binding, found: &str) -> ImportError {
        binding.error(format!(
            "`{} = {}`, but the tensors of `{}` have {found}",
            binding.name(),
            binding.value,
            self.file
        ))
    }
}
