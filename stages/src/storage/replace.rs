//! Small files that are replaced as a whole.

use std::io::Write as _;
use std::path::Path;

use crate::error::StageError;

/// Writes a file, and its folder if need be: readers see the old content or the new, never a part.
///
/// # Errors
/// When the file system refuses.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), StageError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|error| StageError::io(folder, error))?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let refused = |error| StageError::io(path, error);
    let written = std::fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // Nothing is lost with it, and the error that matters is the one above.
        let _gone = std::fs::remove_file(&temporary);
    }
    written.map_err(refused)
}
