#!/usr/bin/env python3
"""Makes the data sets of this folder: small ones in the layouts of MagnaTagATune, NSynth, Harmonix, GTZAN, Isophonics
and PianoSyllabus, with labels that are exact, since the labels come first and the sound is made from them.

    python3 examples/benchmark/make.py OUT        # 11 MB, four minutes of processor time

needs, beside Python's standard library, these Debian packages:

    apt-get install --no-install-recommends fluidsynth mma opus-tools timgm6mb-soundfont musescore-general-soundfont-small

Recordings of the train and valid splits sound through TimGM6mb, those of test through MuseScore_General_Lite (pieces of
`pianosyllabus`, whose five splits overlap, through either). See README.md for what is in it.
"""

import argparse
import csv
import json
import math
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "benches" / "learning"))
import render  # noqa: E402  grooves, chords, checks, sound

RATE = render.RATE
SECTIONS = [("intro", 4), ("verse", 8), ("chorus", 8), ("bridge", 4), ("chorus", 8), ("outro", 4)]
# What sounds in which section: so its function can be heard.
GROOVES = {"intro": ["Ballad", "PopBallad"], "verse": ["8Beat", "SoftRock"], "chorus": ["60sRock", "BasicRock"],
           "bridge": ["BossaNova", "Beguine"], "outro": ["GuitarBallad", "RockBallad"]}
# MMA's suffix, Harte's quality, semitones of the chord.
QUALITIES = {"": ("maj", (0, 4, 7)), "m": ("min", (0, 3, 7)), "7": ("7", (0, 4, 7, 10)), "M7": ("maj7", (0, 4, 7, 11)),
             "m7": ("min7", (0, 3, 7, 10)), "sus4": ("sus4", (0, 5, 7))}
PROGRESSIONS = {"intro": [[(0, "M7"), (5, "M7")], [(9, "m7"), (5, "M7")]],
                "verse": [[(0, ""), (9, "m"), (5, ""), (7, "7")], [(0, ""), (7, ""), (9, "m"), (5, "")]],
                "chorus": [[(5, ""), (7, ""), (0, ""), (9, "m")], [(9, "m"), (5, ""), (0, ""), (7, "")]],
                "bridge": [[(2, "m7"), (7, "sus4"), (4, "m"), (9, "m7")], [(8, ""), (3, ""), (10, ""), (7, "7")]],
                "outro": [[(5, ""), (0, "")], [(2, "m7"), (0, "M7")]]}
EXCERPTS = [("jazz", "Swing"), ("jazz", "BigBand"), ("blues", "Shuffleboggie"), ("country", "Bluegrass"),
            ("country", "CountrySwing"), ("rock", "60sRock"), ("rock", "Twist"), ("reggae", "Ska"), ("pop", "8Beat"),
            ("disco", "Trance"), ("classical", "VieneseWaltz"), ("pop", "ChaCha")]
FAMILIES = [("keyboard", "acoustic", 0), ("keyboard", "electronic", 4), ("mallet", "acoustic", 11), ("organ", "electronic", 16),
            ("guitar", "acoustic", 24), ("string", "acoustic", 48), ("brass", "acoustic", 56), ("reed", "acoustic", 71),
            ("flute", "acoustic", 73), ("synth_lead", "synthetic", 80)]
NOTES = {"train": (FAMILIES, range(48, 84)),
         "valid": ([("keyboard", "acoustic", 1), ("string", "acoustic", 40), ("brass", "acoustic", 60)], range(48, 84, 3)),
         "test": ([("keyboard", "acoustic", 2), ("guitar", "acoustic", 25), ("string", "acoustic", 42),
                   ("reed", "acoustic", 68), ("organ", "electronic", 19)], range(48, 84, 2))}
# The fifty tags of MagnaTagATune, by popularity.
TAGS = """guitar;classical;slow;techno;strings;drums;electronic;rock;fast;piano;ambient;beat;violin;vocal;synth;female;indian;
opera;male;singing;vocals;no vocals;harpsichord;loud;quiet;flute;woman;male vocal;no vocal;pop;soft;sitar;solo;man;classic;
choir;voice;new age;dance;male voice;female vocal;beats;harp;cello;no voice;weird;country;metal;female voice;choral
""".replace("\n", "").split(";")
SOLOS = {"guitar": (24, []), "piano": (0, ["classical"]), "violin": (40, ["classical", "strings"]), "flute": (73, ["classical"]),
         "harpsichord": (6, ["classical"]), "sitar": (104, ["indian"]), "choir": (52, ["choral"]), "harp": (46, []),
         "cello": (42, ["classical", "strings"]), "strings": (48, ["classical"]), "synth": (81, ["electronic"])}
BANDS = {"60sRock": ["rock", "guitar"], "BasicRock": ["rock", "guitar"], "Bluegrass": ["country", "guitar"],
         "Trance": ["techno", "electronic", "dance"]}
COMPOSERS = ["Albéniz I.", "Bartók B.", "Clementi M.", "Diabelli A.", "Grieg E.", "Köhler L.", "Tansman A."]


def encode(wav, out, kilobits):
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [render.program("opusenc"), "--quiet", "--serial", "1", "--discard-comments", "--bitrate", str(kilobits), wav, out]
    subprocess.run([str(part) for part in command], check=True)


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def midi(path, notes):
    """(start in s, length in s, program, pitch, velocity) in any order; programs have channels of their own."""
    channels = {program: channel if channel < 9 else channel + 1 for channel, program in enumerate(sorted({n[2] for n in notes}))}
    events = [(0, 0, bytes([0xC0 | channel, program])) for program, channel in channels.items()]
    for start, length, program, pitch, velocity in notes:
        channel = channels[program]
        events.append((round(start * 1000), 2, bytes([0x90 | channel, pitch, velocity])))
        events.append((round((start + length) * 1000), 1, bytes([0x80 | channel, pitch, 0])))
    track, now = bytearray(b"\x00\xff\x51\x03" + (500_000).to_bytes(3, "big")), 0
    for at, _, message in sorted(events):
        track += render.variable_length(at - now) + message
        now = at
    track += render.variable_length(500) + b"\xff\x2f\x00"
    path.write_bytes(b"MThd" + struct.pack(">IHHH", 6, 0, 1, 500) + b"MTrk" + struct.pack(">I", len(track)) + track)


class Studio:
    def __init__(self, fonts, folder):
        self.fonts, self.folder = fonts, folder

    def record(self, takes, seconds, font, kilobits):
        """Takes of equal length, (notes, out) each: played one after the other, since a soundfont loads slowly, and cut."""
        length = math.ceil(seconds) + 2  # what sounds on has two seconds to end
        notes = [(start + i * length, *rest) for i, (take, _) in enumerate(takes) for start, *rest in take]
        midi(self.folder / "notes.mid", notes)
        samples = self.synthesize(self.folder / "notes.mid", font)
        for i, (_, out) in enumerate(takes):
            self.keep(samples[i * length * RATE:int((i * length + seconds) * RATE)], out, kilobits)

    def synthesize(self, source, font):
        wav = self.folder / "stereo.wav"
        render.synthesize(self.fonts[font], source, wav)
        return render.read_mono(wav)

    def keep(self, samples, out, kilobits):
        if not samples or max(samples) < 64:
            render.fail(f"{out.name} is silent")
        render.write_mono(self.folder / "mono.wav", samples)
        encode(self.folder / "mono.wav", out, kilobits)

    def play(self, text, seconds, font, out, kilobits, sounding, meter):
        """Lets MMA play a chart, and checks that it plays what the labels say."""
        chart, source = self.folder / "chart.mma", self.folder / "chart.mid"
        chart.write_text(text)
        source.unlink(missing_ok=True)
        result = subprocess.run([render.program("mma"), "-f", str(source), str(chart)], capture_output=True, text=True)
        if result.returncode or not source.exists():
            render.fail(f"mma could not play {out.name}: {result.stdout.strip()[-300:]}")
        share = render.agreement(render.midi_notes(source), sounding, meter)
        if share < 0.8:
            render.fail(f"{out.name}: {share:.2f} of its notes are in the labelled chords")
        self.keep(self.synthesize(source, font)[:int(seconds * RATE)], out, kilobits)


def chart(sections, tempo, dice, meter=4):
    """MMA text, chords as (bar, Harte), pitch classes by bar, sections as (bar, name)."""
    lines, chords, sounding, starts, bar = [f"Tempo {tempo}", f"RndSeed {dice.randrange(1, 1 << 16)}"], [], [], [], 0
    tonic, chosen = dice.randrange(12), {}
    for name, groove, bars, progression in sections:
        starts.append((bar, name))
        lines.append(f"Groove {groove}")
        pattern = chosen.setdefault(name, progression)
        for i in range(bars):
            degree, quality = pattern[i % len(pattern)]
            root, (harte, semitones) = (tonic + degree) % 12, QUALITIES[quality]
            slash, bass = ("", "")
            if name == "verse" and i % 4 == 2 and quality == "":
                slash, bass = f"/{render.ROOTS[(root + 4) % 12]}", "/3"
            lines.append(f"{bar + 1} {render.ROOTS[root]}{quality}{slash}")
            chords.append((bar, f"{render.ROOTS[root]}:{harte}{bass}"))
            sounding.append({(root + s) % 12 for s in semitones})
            bar += 1
    return "\n".join(lines) + "\n", chords, sounding, starts, bar


def songs(out, studio):
    splits = {"train": 11, "validation": 3, "test": 4}
    lists, metadata, shared, number = {}, [["File", "Title", "Artist", "Release", "Duration", "BPM"]], [], 0
    for split, count in splits.items():
        for _ in range(count):
            number += 1
            dice = random.Random(f"song {number}")
            tempo = dice.randrange(116, 148, 2)
            sections = [(name, dice.choice(GROOVES[name]), bars, dice.choice(PROGRESSIONS[name])) for name, bars in SECTIONS]
            grooves = {}
            sections = [(name, grooves.setdefault(name, groove), bars, p) for name, groove, bars, p in sections]
            text, chords, sounding, starts, bars = chart(sections, tempo, dice)
            beat, name = 60.0 / tempo, f"{number:04}_song{number:02}"
            end = bars * 4 * beat
            studio.play(text, end + 1.0, "test" if split == "test" else "train", out / f"songs/audio/{name}.opus", 18, sounding, 4)
            base = out / "songs/harmonix/dataset"
            write(base / f"beats_and_downbeats/{name}.txt",
                  [f"{i * beat:.6f}\t{i % 4 + 1}\t{i // 4 + 1}" for i in range(bars * 4)])
            write(base / f"segments/{name}.txt", [f"{bar * 4 * beat:.6f} {label}" for bar, label in starts] + [f"{end:.6f} end"])
            rows = [(bar * 4 * beat, (bar + 1) * 4 * beat, label) for bar, label in chords] + [(end, end + 1.0, "N")]
            write(out / f"songs/chords/{name}.lab", [f"{a:.6f}\t{b:.6f}\t{label}" for a, b, label in rows])
            lists.setdefault(split, []).append(name)
            shared.append((name, {"validation": "valid"}.get(split, split)))
            metadata.append([name, f"Song {number}", "omar-flow", "benchmark", f"{end + 1.0:.2f}", tempo])
    for split, names in lists.items():
        write(out / f"songs/harmonix/splits/{split}.txt", names)
    write(out / "songs/harmonix/beats.split", [f"{name}\t{'val' if s == 'valid' else 'train'}" for name, s in shared if s != "test"])
    for target, rows in (("harmonix/metadata.csv", metadata), ("chords.csv", [("id", "split"), *shared])):
        with open(out / "songs" / target, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    print(f"songs: {number}")


def excerpts(out, studio):
    for number, (genre, groove) in enumerate(EXCERPTS):
        dice = random.Random(f"excerpt {number}")
        tempo, meter = dice.randrange(84, 160, 2), 3 if groove in render.WALTZES else 4
        beat = 60.0 / tempo
        bars = math.ceil(20.0 / (meter * beat))
        progression = dice.choice(PROGRESSIONS["verse"] + PROGRESSIONS["chorus"])
        text, _, sounding, _, _ = chart([("chorus", groove, bars, progression)], tempo, dice)
        studio.play(text, 20.0, "test", out / f"gtzan/audio/{genre}.{number:05}.opus", 20, sounding, meter)
        beats = [(i * beat, i % meter + 1) for i in range(bars * meter) if i * beat < 20.0]
        single = genre == "jazz"  # as some of the published files are
        lines = [f"{at:.6f}" if single else f"{at:.6f}\t{place}" for at, place in beats]
        write(out / f"gtzan/beats/gtzan_{genre}_{number:05}.beats", lines)
    print(f"gtzan: {len(EXCERPTS)}")


def notes(out, studio):
    sources = {"acoustic": 0, "electronic": 1, "synthetic": 2}
    families = ["bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal"]
    instrument = 0
    for split, (programs, pitches) in NOTES.items():
        examples, takes = {}, []
        for family, source, program in programs:
            instrument += 1
            for pitch in pitches:
                name = f"{family}_{source}_{instrument:03}-{pitch:03}-100"
                path = out / f"nsynth/nsynth-{split}/audio/{name}.opus"
                takes.append(([(0.0, 0.8, program, pitch, 100)], path))
                examples[name] = {
                    "note": len(examples), "note_str": name, "instrument": instrument, "instrument_str": name[:name.index("-")],
                    "pitch": pitch, "velocity": 100, "sample_rate": RATE, "qualities": [0] * 10, "qualities_str": [],
                    "instrument_family": families.index(family), "instrument_family_str": family,
                    "instrument_source": sources[source], "instrument_source_str": source}
        studio.record(takes, 1.0, "test" if split == "test" else "train", 20)
        path = out / f"nsynth/nsynth-{split}/examples.json"
        path.write_text(json.dumps(examples, indent=1) + "\n", encoding="utf-8")
        print(f"nsynth, {split}: {len(examples)}")


def melody(dice, program, seconds, fast):
    step, scale, tonic = 0.16 if fast else 0.6, (0, 2, 4, 5, 7, 9, 11), dice.randrange(52, 64)
    at, place, notes = 0.0, 7, []
    while at < seconds - step:
        place = min(14, max(0, place + dice.choice((-2, -1, 1, 2))))
        notes.append((at, step * 0.95, program, tonic + 12 * (place // 7) + scale[place % 7], dice.randrange(70, 110)))
        at += step
    return notes


def clips(out, studio):
    folders = [f"{i:x}" for i in range(16)]
    rows, seconds, takes = [], 6.0, {"train": [], "test": []}
    kinds = [("solo", name, fast) for name in SOLOS for fast in (False, True)] + [("band", name, fast) for name in BANDS for fast in (False, True)]
    for i in range(96):
        kind, name, fast = kinds[i % len(kinds)]
        dice, folder = random.Random(f"clip {i}"), folders[(i * 7 + i // len(kinds)) % 16]
        path = f"{folder}/omar_flow-benchmark-{i:02}-{name.lower()}-0-6"
        font = "test" if folder in "def" else "train"
        tags = {"fast" if fast else "slow", "no vocals", "no vocal", "no voice"}
        if kind == "solo":
            program, more = SOLOS[name]
            tags |= {name, "solo", *more}
            if name == "choir":
                tags -= {"no vocals", "no vocal", "no voice"}
            takes[font].append((melody(dice, program, seconds, fast), out / f"magnatagatune/audio/{path}.opus"))
        else:
            tags |= {"drums", "beat", "beats", *BANDS[name]}
            tempo = dice.randrange(150, 170, 2) if fast else dice.randrange(76, 90, 2)
            bars = math.ceil(seconds * tempo / 240.0)
            text, _, sounding, _, _ = chart([("chorus", name, bars, dice.choice(PROGRESSIONS["chorus"]))], tempo, dice)
            studio.play(text, seconds, font, out / f"magnatagatune/audio/{path}.opus", 18, sounding, 4)
        rows.append([i + 1, *(int(tag in tags) for tag in TAGS), f"{path}.mp3"])
    for font, of_font in takes.items():
        studio.record(of_font, seconds, font, 18)
    path = out / "magnatagatune/annotations_final.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([["clip_id", *TAGS, "mp3_path"], *rows])
    print(f"magnatagatune: {len(rows)}")


def etude(dice, grade, seconds):
    """Notes of a piece: the higher the grade the more notes a second, voices, leaps and range; two hands from grade 2."""
    scale, tonic = (0, 2, 4, 5, 7, 9, 11), dice.randrange(57, 64)
    step = 1.0 / (1.2 + 0.95 * grade) * dice.uniform(0.93, 1.07)
    at, place, notes = 0.0, 7, []
    leap, top = 1 + grade // 2, 7 + grade
    pitch = lambda p, base: base + 12 * (p // 7) + scale[p % 7]  # noqa: E731
    while at < seconds - step:
        place = min(top, max(-grade, place + dice.randrange(-leap, leap + 1)))
        voices = 1 + (grade >= 4) + (grade >= 8) if dice.random() < 0.25 + 0.05 * grade else 1
        for voice in range(voices):
            notes.append((at, step * 0.95, 0, min(100, pitch(place + 2 * voice, tonic)), dice.randrange(64, 104)))
        at += step
    if grade >= 2:
        left, at = step * (6 if grade < 4 else 4 if grade < 7 else 2), 0.0
        while at < seconds - left:
            notes.append((at, left * 0.9, 0, max(28, pitch(dice.randrange(-leap - 2, 3), tonic - 24)), dice.randrange(60, 90)))
            at += left
    return notes


def pieces(out, studio):
    seconds, names, takes = 8.0, {}, {"train": [], "test": []}
    for grade in range(11):
        for i, composer in enumerate(COMPOSERS):
            dice = random.Random(f"piece {grade} {i}")
            name = f"{composer}Etude {grade * len(COMPOSERS) + i + 1}"
            takes["test" if i % 2 else "train"].append((etude(dice, grade, seconds), out / f"pianosyllabus/audio/{name}.opus"))
            names.setdefault(grade, []).append(name)
    for font, of_font in takes.items():
        studio.record(of_font, seconds, font, 18)
    splits = {}
    for fold in range(5):
        parts = {"train": {}, "val": {}, "test": {}}
        for grade, of in names.items():
            order = random.Random(f"fold {fold} {grade}").sample(of, len(of))
            for place, name in enumerate(order):
                parts["train" if place < 4 else "val" if place < 5 else "test"][name] = grade
        splits[str(fold)] = parts
    path = out / "pianosyllabus/split_audio.json"
    path.write_text(json.dumps(splits, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"pianosyllabus: {sum(map(len, names.values()))}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--soundfont", help="of train and valid")
    parser.add_argument("--test-soundfont", help="of test")
    parser.add_argument("--only", choices=["songs", "gtzan", "nsynth", "magnatagatune", "pianosyllabus"])
    options = parser.parse_args()
    fonts = {"train": render.find_soundfont(options.soundfont, ["TimGM6mb.sf2"], "timgm6mb-soundfont"),
             "test": render.find_soundfont(options.test_soundfont, ["MuseScore_General_Lite.sf3"],
                                           "musescore-general-soundfont-small")}
    with tempfile.TemporaryDirectory() as folder:
        studio = Studio(fonts, pathlib.Path(folder))
        for name, make in (("songs", songs), ("gtzan", excerpts), ("nsynth", notes), ("magnatagatune", clips),
                           ("pianosyllabus", pieces)):
            if options.only in (None, name):
                make(options.out, studio)


if __name__ == "__main__":
    main()
