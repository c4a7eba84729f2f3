//! `top RUN`: watch a run.

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{write_json, write_message, write_result};
use crate::cli::{Exit, TopArgs};
use crate::live::load::Picture;
use crate::live::read::{self, ReadError};
use crate::live::table::{self, Look};
use crate::stop::Stop;
use crate::terminal;

/// Between two looks at the run, and at the keyboard.
const EVERY: Duration = Duration::from_secs(1);
const KEYS: Duration = Duration::from_millis(50);

/// Columns where nobody says how many there are.
const WIDTH: usize = 160;

/// How long a run that has not begun is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Shows a run until it ends, or once.
pub fn top(args: &TopArgs) -> Exit {
    let live = !args.once && !args.json && io::stdout().is_terminal();
    let first = match (read::now(&args.run), live) {
        (Err(ReadError::NoRecords { .. }), true) => wait(&args.run),
        (found, _) => found,
    };
    let picture = match first {
        Ok(picture) => picture,
        Err(error) => return refused(&error),
    };
    if args.json {
        write_json(&picture.to_json());
    } else if live && picture.state().goes_on() {
        return watch(&args.run, picture);
    } else {
        write_result(&(frame(&picture).join("\n") + "\n"));
    }
    Exit::Done
}

fn refused(error: &ReadError) -> Exit {
    write_message(&format!("error: {error}\n"));
    if matches!(error, ReadError::Io { .. }) { Exit::Failed } else { Exit::Usage }
}

/// A run that was started a moment ago has yet to list its corpus.
fn wait(run: &Path) -> Result<Picture, ReadError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match read::now(run) {
            Err(ReadError::NoRecords { .. }) if Instant::now() < until => std::thread::sleep(EVERY / 4),
            found => return found,
        }
    }
}

fn frame(picture: &Picture) -> Vec<String> {
    let width = terminal::width_of_stdout().unwrap_or(WIDTH);
    table::lines(picture, Look { width, colour: terminal::colour_of(&io::stdout()) })
}

/// Redraws until the run has ended, or q or Ctrl-C is pressed. What was last seen stays on the screen.
fn watch(run: &Path, mut picture: Picture) -> Exit {
    let stop = match Stop::on_signals() {
        Ok(stop) => stop,
        Err(error) => {
            write_message(&format!("error: signal handlers cannot be installed: {error}\n"));
            return Exit::Failed;
        }
    };
    let mut screen = Screen::open();
    let error = loop {
        screen.draw(&frame(&picture));
        if !picture.state().goes_on() {
            break None;
        }
        let next = Instant::now() + EVERY;
        while Instant::now() < next && !stop.is_requested() && !screen.quits() {
            std::thread::sleep(KEYS);
        }
        if stop.is_requested() || screen.quit {
            break None;
        }
        match read::now(run) {
            Ok(found) => picture = found,
            Err(error) => break Some(error),
        }
    };
    drop(screen);
    write_result(&(frame(&picture).join("\n") + "\n"));
    error.map_or(Exit::Done, |error| refused(&error))
}

/// The terminal's other screen, where a frame replaces the one before it. Dropping it brings back what was there.
struct Screen {
    /// How the keyboard was set, if its keys are read one by one now.
    keyboard: Option<String>,
    quit: bool,
}

impl Screen {
    fn open() -> Self {
        // `stty` is everywhere where there are terminals, and undoes exactly what it did.
        let keyboard = io::stdin().is_terminal().then(|| stty(&["-g"])).flatten();
        let keyboard = keyboard.filter(|_| stty(&["-icanon", "-echo", "min", "0", "time", "0"]).is_some());
        write_result("\x1b[?1049h\x1b[?25l");
        Self { keyboard, quit: false }
    }

    fn draw(&self, lines: &[String]) {
        let rows = terminal::height_of_stdout().unwrap_or(usize::MAX);
        let keys =
            if self.keyboard.is_some() { "q ends this; the run goes on" } else { "Ctrl-C ends this; the run goes on" };
        let mut text = String::from("\x1b[H");
        for line in lines.iter().map(String::as_str).chain(["", keys]).take(rows) {
            text += line;
            text += "\x1b[K\r\n";
        }
        // No line feed after the last row, which would scroll.
        text.truncate(text.len() - 2);
        text += "\x1b[J";
        write_result(&text);
    }

    /// Whether q was pressed.
    fn quits(&mut self) -> bool {
        if self.keyboard.is_some() {
            let mut keys = [0; 16];
            let read = io::stdin().lock().read(&mut keys).unwrap_or(0);
            self.quit |= keys[..read].iter().any(|key| matches!(key, b'q' | b'Q' | 3 | 4));
        }
        self.quit
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout().lock();
        let _gone = out.write_all(b"\x1b[?25h\x1b[?1049l").and_then(|()| out.flush());
        if let Some(keyboard) = &self.keyboard {
            let _as_it_was = stty(&[keyboard]);
        }
    }
}

/// What `stty` says about the terminal of stdin; `None` when it fails.
fn stty(arguments: &[&str]) -> Option<String> {
    let output = Command::new("stty").args(arguments).stdin(Stdio::inherit()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
