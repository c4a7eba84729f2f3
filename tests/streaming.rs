//! Are the first results there long before the last file is read?

mod program;

use std::time::Duration;

use program::{Options, Program, walk};

#[test]
fn shards_are_committed_while_the_run_goes_on() {
    let program = Program::new(&Options { tracks: 150, ..Options::default() });
    let mut child = program.spawn(&["run", "graph.yaml", "--threads", "1"]);
    let committed = || {
        walk(&program.path("cache"))
            .iter()
            .filter(|path| {
                path.extension().is_some_and(|e| e == "json")
                    && path.parent().is_some_and(|folder| folder.ends_with("_commits"))
            })
            .count()
    };
    while committed() == 0 {
        assert!(child.try_wait().expect("the child can be asked").is_none(), "it ended before anything was committed");
        std::thread::sleep(Duration::from_millis(1));
    }
    let first = committed();
    assert!(child.wait().expect("it ends").success());
    assert!(committed() >= 2 * first, "{first} of {} shards were committed at once", committed());
}
