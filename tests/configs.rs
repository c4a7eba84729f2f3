//! Does every graph that we ship mean something, from a fresh clone?

use std::fs;
use std::path::Path;

use omar_flow::Plan;

#[test]
fn every_config_binds() {
    let registry = omar_stages::ops::registry();
    let mut found = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs")).expect("the folder is there") {
        let path = entry.expect("readable").path();
        if let Err(report) = Plan::load(&path, &[], &registry) {
            panic!("{}:\n{}", path.display(), report.render(false));
        }
        found += 1;
    }
    assert!(found >= 2);
}
