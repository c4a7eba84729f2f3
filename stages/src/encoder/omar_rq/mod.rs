//! OMAR-RQ: a causal or bidirectional conformer over patches of one or several views of the audio, side by side.
//!
//! **Hidden states**: layer `k` is the output of block `k`, from 0; the patch embedding is none of them.

mod import;
mod published;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};

use crate::dsp::patch::PatchShape;
use crate::dsp::view::{View, ViewConfig};
use crate::model::{self, ConformerConfig, Form, FrozenEncoder, Pass};

use super::blocks::Kept;
use super::family::{Description, Facts, Family, FrontEnd, Heard, Want};
use super::import::{Found, ImportOptions, Imported};
use super::{Encoder, EncoderError, EncoderFolder, EncoderManifest, ManifestView};

/// The configuration of a published model.
pub(super) const CONFIG: &str = "config.gin";

impl Family for ConformerConfig {
    const NAME: &'static str = "omar_rq";

    fn recognises(found: &Found) -> bool {
        found.has_gin || found.tensors.keys().any(|name| name.starts_with("net.layers."))
    }

    fn import(found: Found, options: &ImportOptions) -> Result<Imported, EncoderError> {
        import::read(&found, options)
    }

    fn facts(&self, manifest: &EncoderManifest) -> Facts {
        let hop = manifest.patch_samples as usize;
        Facts {
            family: Self::NAME,
            sample_rate: manifest.sample_rate,
            hop,
            first_centre: hop as f64 / 2.0,
            layers: self.layers,
            dim: self.dim,
            summary: 0,
            min_samples: hop,
            max_samples: None,
        }
    }

    fn describe(&self, manifest: &EncoderManifest) -> Description {
        let norm = self.alpha().map_or_else(|| "no DeepNorm".to_owned(), |alpha| format!("DeepNorm alpha {alpha:.4}"));
        let model = format!(
            "{} layers, {} heads, kernel {}, residual factor {}, {norm}, {:?} positions, {}",
            self.layers,
            self.heads,
            self.kernel,
            self.residual_factor,
            self.positions,
            if self.causal { "causal" } else { "bidirectional" }
        );
        let view = |view: &ManifestView| match (&view.mean[..], &view.std[..]) {
            ([], _) => format!("{} not", view.name),
            ([mean], [std]) => format!("{} by mean {mean}, deviation {std}", view.name),
            _ => format!("{} per bin", view.name),
        };
        Description {
            hears: manifest.views_in_words(),
            model: model.to_lowercase().replace("deepnorm", "DeepNorm"),
            normalised: manifest.views.iter().map(view).collect::<Vec<_>>().join("; "),
        }
    }

    fn files(&self, manifest: &EncoderManifest, encodec: Option<&Path>) -> Result<Vec<PathBuf>, String> {
        Ok(manifest.view_configs(encodec)?.iter().flat_map(|view| view.0.files()).collect())
    }

    fn load(&self, folder: &EncoderFolder, want: &Want<'_>) -> Result<Arc<dyn Encoder>, EncoderError> {
        let layers = want.deepest + 1;
        let network = match want.untrained {
            Some(seed) => folder.load_untrained(layers, seed, want.device)?,
            None => folder.load(layers, want.device)?,
        };
        let at_views = |reason: String| EncoderError::damaged(&folder.manifest_path, reason);
        let planned = folder.manifest.view_configs(want.encodec).map_err(at_views)?;
        let view = |(config, shape): (ViewConfig, PatchShape)| match config.build(want.device) {
            Ok(view) => Ok((view, shape)),
            Err(error) => Err(at_views(format!("view `{}`: {error}", config.name()))),
        };
        let views = planned.into_iter().map(view).collect::<Result<_, _>>()?;
        Ok(Arc::new(OmarRq {
            facts: folder.manifest.facts(),
            licence: folder.manifest.licence.clone(),
            patch_dim: network.patch_dim(),
            network: if want.device.is_cpu() {
                let frozen = network.freeze();
                Network::Frozen(
                    frozen.map_err(|error| EncoderError::damaged(&folder.manifest_path, error.to_string()))?,
                )
            } else {
                Network::Tensors(network)
            },
            views: Mutex::new(Views(views)),
            device: want.device.clone(),
        }))
    }
}

/// The network in the form that its device has.
enum Network {
    /// On the CPU.
    Frozen(FrozenEncoder),
    /// On other devices.
    Tensors(model::Encoder),
}

/// A loaded encoder.
struct OmarRq {
    facts: Facts,
    licence: String,
    network: Network,
    patch_dim: usize,
    /// Those that every thread's own are made of.
    views: Mutex<Views>,
    device: Device,
}

impl Encoder for OmarRq {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn licence(&self) -> &str {
        &self.licence
    }

    fn front_end(&self) -> Box<dyn FrontEnd> {
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        Box::new(Views(views.0.iter().map(|(view, shape)| (view.another(), *shape)).collect()))
    }

    fn states(&self, crops: &[&Heard], layers: &[usize]) -> candle_core::Result<Vec<Tensor>> {
        let positions = crops.first().map_or(0, |crop| crop.positions);
        let patches: Vec<&[f32]> = crops.iter().map(|crop| &crop.values[..]).collect();
        let patches = patches.concat();
        let mut kept = Kept::new(layers);
        match &self.network {
            Network::Frozen(network) => {
                network.forward_layers(&patches, (crops.len(), positions), |layer, state| kept.offer(layer, &state))?;
            }
            Network::Tensors(network) => {
                let input = Tensor::from_vec(patches, (crops.len(), positions, self.patch_dim), &self.device)?;
                let mut pass = Pass::evaluate(Form::for_device(&self.device));
                for (layer, state) in network.forward_layers(&input, &mut pass)?.into_iter().enumerate() {
                    kept.offer(layer, &state);
                }
            }
        }
        kept.finish()
    }
}

/// The views that go in, with the shapes of their patches.
struct Views(Vec<(Box<dyn View>, PatchShape)>);

impl FrontEnd for Views {
    /// The patches of all views side by side.
    fn hear(&mut self, samples: &[f32]) -> Result<Heard, String> {
        let mut parts = Vec::new();
        for (view, shape) in &mut self.0 {
            let features = view.forward(samples).map_err(|error| error.to_string())?;
            if !features.iter().all(|value| value.is_finite()) {
                return Err("a view has values that are not finite".to_owned());
            }
            parts.push((shape.positions(features.len() / shape.bins), *shape, features));
        }
        // Transforms treat the ends of a signal in their own ways: what all views have is kept.
        let positions = parts.iter().map(|part| part.0).min().unwrap_or(0);
        let dim: usize = parts.iter().map(|part| part.1.values()).sum();
        let mut values = vec![0.0; positions * dim];
        let mut at = 0;
        for (_, shape, features) in &parts {
            let width = shape.values();
            let mut cut = vec![0.0; positions * width];
            shape.cut_into(features, &mut cut).map_err(|error| error.to_string())?;
            for (to, from) in values.chunks_exact_mut(dim).zip(cut.chunks_exact(width)) {
                to[at..at + width].copy_from_slice(from);
            }
            at += width;
        }
        Ok(Heard { positions, values })
    }
}
