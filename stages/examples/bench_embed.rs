//! How long does the encoder of the published `base` size take for 30 s of music, against PyTorch?
//!
//! `bench_embed FOLDER` imports the published model in a folder and embeds on demand: each line of the input names the
//! number of crops and two files of raw little-endian f32, one with the patches of a crop, `(positions, patch_dim)`, and
//! one for the output of its last layer. The answer is the processor time in milliseconds per crop, of all threads; the
//! first line says what was imported. `benches/peers/embed.py` uses it.

#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]

mod measure;

use std::error::Error;
use std::path::Path;

use candle_core::{Device, Tensor};
use measure::spent_ms;
use omar_stages::encoder::import::{ImportOptions, read};
use omar_stages::model::{Form, Pass};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("expected the folder of a published model")?;
    let imported = read(Path::new(&folder), &ImportOptions::default())?.write(&Path::new(&folder).join("imported"))?;
    let manifest = &imported.manifest;
    let encoder = imported.load(manifest.model.layers, &Device::Cpu)?;
    println!("{} layers of {}, {}", manifest.model.layers, manifest.model.dim, manifest.views_in_words());
    for line in std::io::stdin().lines() {
        let line = line?;
        let [batch, input, output] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(format!("`{line}` is not BATCH INPUT OUTPUT").into());
        };
        let batch: usize = batch.parse()?;
        let bytes = std::fs::read(input)?;
        let crop: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect();
        let positions = crop.len() / encoder.patch_dim();
        let shape = (batch, positions, encoder.patch_dim());
        let patches = Tensor::from_vec(crop.repeat(batch), shape, &Device::Cpu)?;
        let mut hidden = Vec::new();
        let forward = || encoder.forward_layers(&patches, &mut Pass::evaluate(Form::Kernels));
        let ms = spent_ms(|| forward().map(|layers| hidden = layers))? / batch as f64;
        let last = hidden.last().ok_or("an encoder has layers")?.get(0)?.flatten_all()?.to_vec1::<f32>()?;
        std::fs::write(output, last.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?;
        println!("{ms}");
    }
    Ok(())
}
