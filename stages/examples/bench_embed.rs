//! How long does an encoder of a published size take for 30 s of music, against PyTorch?
//!
//! `bench_embed FOLDER` imports the published model in a folder, of any family, and embeds on demand: each line of the
//! input names the number of crops, their positions, and two files of raw little-endian f32, one with what the front end
//! makes of a crop (patches, samples or spectrum), and one for the last of its hidden states. The answer is the processor
//! time in milliseconds per crop, of all threads, for all hidden states; the first line says what was imported.
//! `benches/peers/embed.py` and `benches/peers/encoders.py` use it.

#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]

mod measure;

use std::error::Error;
use std::path::Path;

use candle_core::Device;
use measure::spent_ms;
use omar_stages::encoder::import::{ImportOptions, read};
use omar_stages::encoder::{Heard, Want};

fn main() -> Result<(), Box<dyn Error>> {
    measure::keep_freed_memory();
    let folder = std::env::args().nth(1).ok_or("expected the folder of a published model")?;
    let imported = read(Path::new(&folder), &ImportOptions::default())?.write(&Path::new(&folder).join("imported"))?;
    let facts = imported.manifest.facts();
    let layers: Vec<usize> = (0..facts.layers).collect();
    let want = Want { deepest: facts.layers - 1, device: &Device::Cpu, untrained: None, encodec: None };
    let encoder = imported.encoder(&want)?;
    println!("{}: {}", facts.family, imported.manifest.describe().model);
    for line in std::io::stdin().lines() {
        let line = line?;
        let [batch, positions, input, output] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(format!("`{line}` is not BATCH POSITIONS INPUT OUTPUT").into());
        };
        let batch: usize = batch.parse()?;
        let bytes = std::fs::read(input)?;
        let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect();
        let heard = Heard { positions: positions.parse()?, values };
        let crops = vec![&heard; batch];
        let mut states = Vec::new();
        let ms = spent_ms(|| encoder.states(&crops, &layers).map(|all| states = all))? / batch as f64;
        let last = states.last().ok_or("an encoder has layers")?.get(0)?.flatten_all()?.to_vec1::<f32>()?;
        std::fs::write(output, last.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?;
        println!("{ms}");
    }
    Ok(())
}
