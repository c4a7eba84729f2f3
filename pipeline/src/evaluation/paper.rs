//! What the paper reports (arXiv 2507.03482, table 4), to hold figures against.

/// A model of the paper.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) model: &'static str,
    /// In the order of [`TASKS`].
    pub(crate) values: [f64; 6],
}

/// Tasks, and what the paper reports of them.
pub(crate) const TASKS: [(&str, &str); 6] = [
    ("tagging", "mAP"),
    ("difficulty", "MSE"),
    ("pitch", "accuracy"),
    ("chords", "accuracy"),
    ("beats", "F"),
    ("structure", "accuracy"),
];

/// Table 4.
pub(crate) const ROWS: [Row; 7] = [
    Row { model: "OMAR-RQ base", values: [0.482, 1.65, 0.892, 0.657, 0.783, 0.647] },
    Row { model: "OMAR-RQ multicodebook", values: [0.488, 1.66, 0.897, 0.675, 0.775, 0.639] },
    Row { model: "OMAR-RQ multifeature", values: [0.467, 1.76, 0.938, 0.734, 0.833, 0.623] },
    Row { model: "OMAR-RQ multifeature-25hz", values: [0.463, 1.79, 0.932, 0.728, 0.848, 0.628] },
    Row { model: "OMAR-RQ multifeature-25hz-fsq", values: [0.463, 1.71, 0.940, 0.749, 0.855, 0.628] },
    Row { model: "MERT-330M", values: [0.441, 1.89, 0.922, 0.609, 0.868, 0.393] },
    Row { model: "MusicFM-FMA", values: [0.448, 1.78, 0.857, 0.644, 0.847, 0.635] },
];

/// What the paper reports of a task: models with values.
pub(crate) fn of(task: &str) -> Vec<(&'static str, f64)> {
    let place = TASKS.iter().position(|(name, _)| *name == task);
    place.into_iter().flat_map(|place| ROWS.iter().map(move |row| (row.model, row.values[place]))).collect()
}
