//! `import MODEL`: a published model to an encoder of ours.

use std::path::{Path, PathBuf};

use omar_stages::encoder::EncoderFolder;
use omar_stages::encoder::import::{ImportOptions, read};

use super::{write_message, write_result};
use crate::cli::{Exit, ImportArgs};
use crate::hub;

/// Where encoders are kept.
const MODELS: &str = "models";

/// What a repository is named with.
const HUB: &str = "hf:";

/// Imports a model.
pub fn import(args: &ImportArgs) -> Exit {
    match perform(args) {
        Ok(encoder) if args.json => {
            write_result(&encoder.manifest.to_text());
            Exit::Done
        }
        Ok(encoder) => {
            write_result(&describe(&encoder));
            Exit::Done
        }
        Err(message) => {
            write_message(&format!("error: {message}\n"));
            Exit::Failed
        }
    }
}

fn perform(args: &ImportArgs) -> Result<EncoderFolder, String> {
    let mut options = ImportOptions {
        name: args.name.clone(),
        place: None,
        licence: args.licence.clone(),
        ignore: args.ignore.clone(),
        encodec: args.encodec.clone(),
    };
    let source = match args.model.strip_prefix(HUB) {
        Some(repository) => {
            let repository = hub::Repository::parse(repository)?;
            options.name.get_or_insert_with(|| repository.name().to_owned());
            options.place = Some(repository.to_string());
            hub::download(&repository, &Path::new(MODELS).join("downloads").join(repository.folder()))?
        }
        None => PathBuf::from(&args.model),
    };
    let imported = read(&source, &options).map_err(|error| error.to_string())?;
    let folder = args.to.clone().unwrap_or_else(|| Path::new(MODELS).join(&imported.manifest.name));
    imported.write(&folder).map_err(|error| error.to_string())
}

/// The encoder in words.
fn describe(encoder: &EncoderFolder) -> String {
    let manifest = &encoder.manifest;
    let (facts, words) = (manifest.facts(), manifest.describe());
    let gives = format!(
        "{} vectors of {} per second, layers 0 to {}",
        manifest.rate,
        facts.dim,
        facts.layers.saturating_sub(1)
    );
    let pooled = match facts.summary {
        0 => String::new(),
        summary => format!("; pooled, vectors of {}", summary + facts.dim),
    };
    let lines = [
        ("encoder", format!("{} in {}", manifest.name, encoder.weights.parent().unwrap_or(Path::new(".")).display())),
        ("family", facts.family.to_owned()),
        ("hears", format!("{} at {} Hz", words.hears, manifest.sample_rate)),
        ("gives", gives + &pooled),
        ("model", words.model),
        ("normalised", words.normalised),
        ("licence", manifest.licence.clone()),
        ("from", manifest.source.place.clone()),
    ];
    let mut text: String = lines.iter().map(|(name, value)| format!("{name:>10}  {value}\n")).collect();
    for file in &manifest.source.files {
        text += &format!(
            "{:>10}  {} {} bytes, blake3 {}\n",
            "",
            file.name,
            file.bytes,
            &file.blake3[..16.min(file.blake3.len())]
        );
    }
    for note in &manifest.notes {
        text += &format!("{:>10}  {note}\n", "note");
    }
    let counts = [
        ("bindings that do not decide what it computes", manifest.ignored.len()),
        ("tensors of other parts", manifest.dropped.len()),
    ];
    for (what, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        text += &format!("{:>10}  {count} {what}, listed in manifest.json\n", "left out");
    }
    text
}
