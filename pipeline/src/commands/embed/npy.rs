//! Embeddings as NumPy arrays (format 1.0, <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).
//!
//! For a recording `a/b.mp3`: `a/b.mp3.layer_6.npy`, f32 `(vectors, dim)`, for every layer, and `a/b.mp3.times.npy`, f64
//! `(vectors,)`: where each vector's interval starts, in seconds. Written row by row, so a recording may be of any length.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};

use arrow::array::{Float64Array, RecordBatch};
use omar_schemas::{Edge, Embeddings, EmbeddingsSpec, Origin, column};
use omar_stages::StageError;
use omar_stages::storage::durable::{publish, temporary_for};
use omar_stages::storage::{TrackFile, locate};

/// Bytes before the values, the same for any number of vectors.
const HEADER: usize = 128;

/// Writes the rows in a cache folder to arrays below `folder`.
pub(super) fn write(rows: &Path, folder: &Path) -> Result<(), StageError> {
    let located = locate(rows).map_err(|error| StageError::Failed(error.to_string()))?;
    for file in located {
        let file = TrackFile::open(&file.path)?;
        let spec = Embeddings::spec(file.schema())?;
        let mut current: Option<Track> = None;
        for batch in file.scan(None, None)? {
            let batch = batch?;
            for row in 0..batch.num_rows() {
                let origin = Origin::read(&batch, row)?;
                if current.as_ref().is_none_or(|track| track.origin != origin) {
                    current.take().map_or(Ok(()), Track::finish)?;
                    current = Some(Track::create(origin.clone(), folder, &spec)?);
                }
                if let Some(track) = &mut current {
                    track.add(&batch, row, &spec)?;
                }
            }
        }
        current.map_or(Ok(()), Track::finish)?;
    }
    Ok(())
}

/// The arrays of one recording.
struct Track {
    origin: Origin,
    times: Array,
    layers: Vec<Array>,
}

impl Track {
    fn create(origin: Origin, folder: &Path, spec: &EmbeddingsSpec) -> Result<Self, StageError> {
        // Paths of a corpus may lead anywhere; the arrays stay below the folder.
        let inside: PathBuf =
            Path::new(&origin.path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
        let at = |what: &str| {
            let mut path = folder.join(&inside).into_os_string();
            path.push(format!(".{what}.npy"));
            PathBuf::from(path)
        };
        let times = Array::create(at("times"), "<f8", None)?;
        let layer = |layer: &u32| Array::create(at(&Embeddings::column(*layer)), "<f4", Some(spec.dim));
        let layers = spec.layers.iter().map(layer).collect::<Result<_, _>>()?;
        Ok(Self { origin, times, layers })
    }

    fn add(&mut self, batch: &RecordBatch, row: usize, spec: &EmbeddingsSpec) -> Result<(), StageError> {
        let start_s = column::<Float64Array>(batch, "start_s")?.value(row);
        let mut count = 0;
        for (array, layer) in self.layers.iter_mut().zip(&spec.layers) {
            let values = Embeddings::vectors(batch, *layer, row)?;
            count = values.len() / spec.dim.max(1) as usize;
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            array.add(&bytes, count)?;
        }
        let at = |index: usize| start_s + spec.rate.map_or(0.0, |rate| index as f64 / rate);
        let bytes: Vec<u8> = (0..count).flat_map(|index| at(index).to_le_bytes()).collect();
        self.times.add(&bytes, count)
    }

    fn finish(self) -> Result<(), StageError> {
        self.layers.into_iter().chain([self.times]).try_for_each(Array::finish)
    }
}

/// One array whose length is known at the end.
struct Array {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    element: &'static str,
    /// Values per row; `None` for a vector.
    width: Option<u32>,
    rows: usize,
}

impl Array {
    fn create(path: PathBuf, element: &'static str, width: Option<u32>) -> Result<Self, StageError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|error| StageError::io(folder, error))?;
        let temporary = temporary_for(&path);
        let create = || {
            let mut file = BufWriter::new(File::create(&temporary)?);
            file.write_all(&[0; HEADER])?;
            Ok(file)
        };
        let file = create().map_err(|error| StageError::io(&path, error))?;
        Ok(Self { path, temporary, file, element, width, rows: 0 })
    }

    fn add(&mut self, bytes: &[u8], rows: usize) -> Result<(), StageError> {
        self.rows += rows;
        self.file.write_all(bytes).map_err(|error| StageError::io(&self.path, error))
    }

    fn finish(self) -> Result<(), StageError> {
        let Self { path, temporary, mut file, element, width, rows } = self;
        let mut write = || {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header(element, rows, width))?;
            file.flush()?;
            file.get_ref().sync_all()
        };
        write().map_err(|error| StageError::io(&path, error))?;
        drop(file);
        Ok(publish(&temporary, &path)?)
    }
}

fn header(element: &str, rows: usize, width: Option<u32>) -> [u8; HEADER] {
    let shape = width.map_or_else(|| format!("({rows},)"), |width| format!("({rows}, {width})"));
    let text = format!("{{'descr': '{element}', 'fortran_order': False, 'shape': {shape}, }}");
    let mut header = [b' '; HEADER];
    header[..8].copy_from_slice(b"\x93NUMPY\x01\x00");
    header[8..10].copy_from_slice(&(HEADER as u16 - 10).to_le_bytes());
    header[10..10 + text.len()].copy_from_slice(text.as_bytes());
    header[HEADER - 1] = b'\n';
    header
}

#[cfg(test)]
mod tests {
    use super::header;

    #[test]
    fn headers_are_as_numpy_writes_them() {
        let header = header("<f4", 123_456_789_012, Some(1024));
        let text = std::str::from_utf8(&header[10..]).expect("ASCII");
        assert_eq!(text.trim_end(), "{'descr': '<f4', 'fortran_order': False, 'shape': (123456789012, 1024), }");
        assert!(text.ends_with(" \n") && header.len().is_multiple_of(64));
    }
}
