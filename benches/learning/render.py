#!/usr/bin/env python3
"""Renders labelled music for the quick probes of configs/probe.yaml: songs with chords and beats, notes with pitch and
instrument. Nothing of it is anybody's recording, and every label is exact, since the labels come first.

    python3 benches/learning/render.py OUT          # 1.8 h of audio, 320 MB, three minutes of processor time

needs, beside Python's standard library, three Debian packages and a fourth for the test set:

    apt-get install --no-install-recommends fluidsynth mma timgm6mb-soundfont musescore-general-soundfont-small

Train and valid sound through TimGM6mb, test through MuseScore_General_Lite (or --test-soundfont): timbres that no probe
and no model has heard. Songs of the splits differ in groove too, notes in program (see FAMILIES).

    OUT/audio/{songs,notes}/*.wav    24 kHz, 16 bit, mono
    OUT/manifest.csv                 for the stage `files`: path,id,split
    OUT/labels.csv                   path,task,start,end,label; times in seconds
        task chord        start and end of a chord, Harte syntax (A:min7); N for none
        task beat         start of a beat; label is its place in the bar, from 1
        task pitch        MIDI number of the note that the whole file is
        task instrument   its General MIDI family
"""

import argparse
import array
import csv
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import wave

RATE = 24_000
NOTE, TAIL = 1.5, 0.5  # seconds a note is held, and what follows
PITCHES = range(36, 85)

# General MIDI programs from 0: for training (every pitch by some), for valid, and for test through another soundfont
# (the last two are new there as programs too).
FAMILIES = {
    "piano": ([0, 1, 3, 4], [5], [0, 5, 6, 2]),
    "mallet": ([8, 9, 11, 12], [13], [11, 13, 10, 15]),
    "organ": ([16, 17, 19, 20], [21], [19, 21, 18, 22]),
    "guitar": ([24, 25, 26, 28], [27], [25, 27, 29, 30]),
    "bass": ([32, 33, 35, 38], [34], [33, 34, 36, 39]),
    "strings": ([40, 42, 44, 48], [41], [42, 41, 49, 50]),
    "voice": ([52], [54], [52, 53]),
    "brass": ([56, 57, 60, 61], [58], [57, 58, 59, 62]),
    "reed": ([64, 65, 68, 71], [66], [71, 66, 67, 70]),
    "pipe": ([72, 73, 75, 79], [74], [73, 74, 76, 78]),
    "lead": ([80, 81, 82, 87], [83], [81, 83, 84, 85]),
    "pad": ([88, 89, 90, 94], [91], [89, 91, 92, 95]),
}
# Grooves of MMA's library by beats in a bar; each split has its own.
GROOVES = {
    "train": ["Swing", "BossaNova", "8Beat", "Ballad", "PopBallad", "RockBallad", "Samba", "ChaCha", "Rhumba", "Tango",
              "Polka", "Jive", "Shuffleboggie", "SlowCountry", "CountrySwing", "BasicRock", "60sRock", "Twist",
              "Waltz", "CountryWaltz", "SoftRock", "Beguine", "FoxTrot", "GuitarBallad"],
    "valid": ["Mambo", "50sRock", "EasySwing", "JazzWaltz", "Calypso", "R&B"],
    "test": ["Salsa", "Merengue", "Bluegrass", "Dixie", "BigBand", "Ska", "Quickstep", "VieneseWaltz", "Trance",
             "JazzRock", "Broadway", "Son"],
}
WALTZES = {"Waltz", "CountryWaltz", "JazzWaltz", "VieneseWaltz"}
ROOTS = ["C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"]
# MMA's name, Harte's name, and semitones over the root.
QUALITIES = {"": ("maj", (0, 4, 7)), "m": ("min", (0, 3, 7)), "7": ("7", (0, 4, 7, 10)),
             "M7": ("maj7", (0, 4, 7, 11)), "m7": ("min7", (0, 3, 7, 10))}
# Four bars each: (semitones over the tonic, quality).
MAJOR = [[(0, ""), (9, "m"), (5, ""), (7, "7")], [(0, ""), (7, ""), (9, "m"), (5, "")],
         [(2, "m7"), (7, "7"), (0, "M7"), (9, "m7")], [(0, ""), (5, ""), (0, ""), (7, "")],
         [(9, "m"), (5, ""), (0, ""), (7, "")], [(0, "M7"), (4, "m"), (5, ""), (7, "7")]]
MINOR = [[(0, "m"), (8, ""), (3, ""), (10, "")], [(0, "m"), (5, "m"), (7, "7"), (0, "m")],
         [(0, "m"), (10, ""), (8, ""), (7, "")], [(0, "m7"), (5, "m7"), (0, "m7"), (7, "m")]]
BARS = 32


def fail(message):
    sys.exit(f"render.py: {message}")


def program(name):
    return shutil.which(name) or fail(f"`{name}` is not installed: apt-get install --no-install-recommends {name}")


def synthesize(soundfont, midi, wav):
    # fluidsynth says 0 when the soundfont is missing: what it wrote is what counts.
    command = [program("fluidsynth"), "-ni", "-q", "-R", "0", "-C", "0", "-g", "0.5", "-r", str(RATE), "-F", wav,
               soundfont, midi]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode or not wav.exists():
        fail(f"fluidsynth could not render {midi} with {soundfont}: {result.stderr.strip()}")


def read_mono(path):
    with wave.open(str(path)) as source:
        stereo = array.array("h", source.readframes(source.getnframes()))
    return array.array("h", ((a + b) // 2 for a, b in zip(stereo[::2], stereo[1::2])))


def write_mono(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as sink:
        sink.setnchannels(1)
        sink.setsampwidth(2)
        sink.setframerate(RATE)
        sink.writeframes(samples.tobytes())


def variable_length(value):
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(0x80 | value & 0x7F)
    return bytes(reversed(digits))


def write_notes(path, notes):
    """A MIDI file with one note after the other: at 1000 ticks a second, (program, pitch) each."""
    track, wait = bytearray(), 0
    for number, pitch in notes:
        track += variable_length(wait) + bytes([0xC0, number])
        track += variable_length(0) + bytes([0x90, pitch, 96])
        track += variable_length(int(NOTE * 1000)) + bytes([0x80, pitch, 0])
        # All sound off before the next: a long release must not sound into it.
        track += variable_length(int(TAIL * 1000)) + bytes([0xB0, 120, 0])
        wait = 500
    track += variable_length(500) + b"\xff\x2f\x00"
    tempo = b"\x00\xff\x51\x03" + (500_000).to_bytes(3, "big")
    head = b"MThd" + struct.pack(">IHHH", 6, 0, 1, 500)
    path.write_bytes(head + b"MTrk" + struct.pack(">I", len(tempo) + len(track)) + tempo + track)


def render_notes(out, split, soundfont, labels, temporary):
    column = {"train": 0, "valid": 1, "test": 2}[split]
    notes = []
    for family, programs in FAMILIES.items():
        step = {"train": 2, "valid": 2, "test": 3}[split]
        if len(programs[column]) == 1 and split == "train":
            step = 1
        for number in programs[column]:
            notes += [(family, number, pitch) for pitch in PITCHES if (pitch + number) % step == 0]
    midi, wav = temporary / f"{split}.mid", temporary / f"{split}.wav"
    write_notes(midi, [(number, pitch) for _, number, pitch in notes])
    synthesize(soundfont, midi, wav)
    samples = read_mono(wav)
    wav.unlink()
    rows, silent = [], 0
    for i, (family, number, pitch) in enumerate(notes):
        at = int(i * (NOTE + TAIL + 0.5) * RATE)
        note = samples[at:at + int((NOTE + TAIL) * RATE)]
        if not note or max(note) < 64:
            silent += 1
            continue
        path = f"audio/notes/{split}_{number:03}_{pitch:03}.wav"
        write_mono(out / path, note)
        rows.append((path, path, split))
        labels.append((path, "pitch", "", "", pitch))
        labels.append((path, "instrument", "", "", family))
    print(f"{split}: {len(rows)} notes, {silent} silent ones left out")
    return rows


def compose(groove, dice):
    """A song as MMA reads it, and its chords and beats."""
    tempo, meter = dice.randrange(76, 168, 2), 3 if groove in WALTZES else 4
    lines = [f"Tempo {tempo}", f"RndSeed {dice.randrange(1, 1 << 16)}", f"Groove {groove}"]
    beat = 60.0 / tempo
    chords, sounding = [], []
    for section in range(BARS // 8):
        major, tonic = dice.random() < 0.5, dice.randrange(12)
        phrase = dice.choice(MAJOR if major else MINOR) + dice.choice(MAJOR if major else MINOR)
        for bar, (degree, quality) in enumerate(phrase):
            root = (tonic + degree) % 12
            harte, semitones = QUALITIES[quality]
            at = (section * 8 + bar) * meter * beat
            lines.append(f"{section * 8 + bar + 1} {ROOTS[root]}{quality}")
            chords.append((at, at + meter * beat, f"{ROOTS[root]}:{harte}"))
            sounding.append({(root + s) % 12 for s in semitones})
    beats = [(i * beat, i % meter + 1) for i in range(BARS * meter)]
    return "\n".join(lines) + "\n", chords, beats, sounding, BARS * meter * beat


def midi_notes(path):
    """(start, end, pitch, channel) in beats of every note of a MIDI file."""
    data = path.read_bytes()
    division, at, notes = struct.unpack(">H", data[12:14])[0], 14, []
    while at < len(data):
        size = struct.unpack(">I", data[at + 4:at + 8])[0]
        i, end, now, status, open_notes = at + 8, at + 8 + size, 0, 0, {}
        at = end

        def number():
            nonlocal i
            value = 0
            while True:
                i += 1
                value = value << 7 | data[i - 1] & 0x7F
                if data[i - 1] < 0x80:
                    return value

        while i < end:
            now += number()
            if data[i] & 0x80:
                status, i = data[i], i + 1
            if status in (0xFF, 0xF0, 0xF7):
                i += status == 0xFF
                length = number()
                i += length
            elif status & 0xE0 == 0xC0:
                i += 1
            else:
                first, second, i = data[i], data[i + 1], i + 2
                key = (status & 15, first)
                if status & 0xF0 == 0x90 and second:
                    open_notes[key] = now
                elif status & 0xE0 == 0x80 and key in open_notes:
                    notes.append((open_notes.pop(key) / division, now / division, first, key[0]))
    return notes


def agreement(notes, sounding, meter):
    """Share of the sounding time of pitched notes that is in the labelled chord: a groove that plays something else than
    it is told (there is one) or another meter is not a truth."""
    inside = total = 0.0
    for start, end, pitch, channel in notes:
        bar = int(start / meter + 0.02)
        if channel == 9 or bar >= len(sounding):
            continue
        end = min(end, (bar + 1) * meter)
        total += max(0.0, end - start)
        inside += max(0.0, end - start) if pitch % 12 in sounding[bar] else 0.0
    return inside / total if total else 0.0


def render_songs(out, split, soundfont, labels, temporary):
    rows = []
    for i, groove in enumerate(GROOVES[split]):
        # The same songs wherever and in whatever order they are made.
        text, chords, beats, sounding, length = compose(groove, random.Random(f"{split} {groove}"))
        source, midi, wav = (temporary / f"song.{end}" for end in ("mma", "mid", "wav"))
        source.write_text(text)
        result = subprocess.run([program("mma"), "-f", str(midi), str(source)], capture_output=True, text=True)
        if result.returncode or not midi.exists():
            print(f"{split}: {groove} left out: {result.stdout.strip()[-200:]}")
            continue
        meter = 3 if groove in WALTZES else 4
        notes = midi_notes(midi)
        share, last = agreement(notes, sounding, meter), max(end for _, end, _, _ in notes)
        if share < 0.8 or not BARS * meter - 4 < last < BARS * meter + 4:
            print(f"{split}: {groove} left out: {share:.2f} of its notes are in the chord, {last:.0f} beats long")
            continue
        synthesize(soundfont, midi, wav)
        samples = read_mono(wav)[:int((length + 1.0) * RATE)]
        midi.unlink(), wav.unlink()
        name = groove.lower().replace("&", "n")
        path = f"audio/songs/{split}_{i:02}_{name}.wav"
        write_mono(out / path, samples)
        rows.append((path, path, split))
        labels += [(path, "chord", f"{start:.4f}", f"{end:.4f}", name) for start, end, name in chords]
        labels += [(path, "beat", f"{at:.4f}", "", place) for at, place in beats]
    print(f"{split}: {len(rows)} songs")
    return rows


def find_soundfont(given, names, package):
    places = [pathlib.Path(given)] if given else [
        pathlib.Path(folder) / name for folder in ("/usr/share/sounds/sf2", "/usr/share/sounds/sf3") for name in names]
    for place in places:
        if place.exists():
            return place
    return fail(f"no soundfont at {' or '.join(map(str, places))}: apt-get install --no-install-recommends {package}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--soundfont", help="of train and valid")
    parser.add_argument("--test-soundfont", help="of test")
    options = parser.parse_args()
    soundfont = find_soundfont(options.soundfont, ["TimGM6mb.sf2"], "timgm6mb-soundfont")
    other = find_soundfont(options.test_soundfont, ["MuseScore_General_Lite.sf3"], "musescore-general-soundfont-small")
    options.out.mkdir(parents=True, exist_ok=True)
    labels, recordings = [], []
    with tempfile.TemporaryDirectory() as temporary:
        temporary = pathlib.Path(temporary)
        for split in ("train", "valid", "test"):
            font = other if split == "test" else soundfont
            recordings += render_notes(options.out, split, font, labels, temporary)
            recordings += render_songs(options.out, split, font, labels, temporary)
    for name, head, rows in (("labels", ("path", "task", "start", "end", "label"), labels),
                             ("manifest", ("path", "id", "split"), recordings)):
        with open(options.out / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([head, *rows])


if __name__ == "__main__":
    main()
