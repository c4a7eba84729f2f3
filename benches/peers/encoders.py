"""MusicFM, MERT and MAEST against PyTorch: encoders of the published sizes, 30 s crops, one core, processor time.

    cargo build --release --workspace --example bench_embed
    taskset -c 0 python benches/peers/encoders.py target/release/examples/bench_embed [FAMILY ...] [ROUNDS]

MERT is transformers' HubertModel, MAEST its audio spectrogram transformer with MAEST's patches, and MusicFM the blocks of
its wav2vec2-conformer after two residual blocks of convolutions. Random weights are saved under the published names and
imported by the contestant. Contestants alternate; the numbers are medians of milliseconds per crop, from what the front
end makes of the audio (samples or spectrum) to all hidden states. Also prints the largest difference of the last one.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["RAYON_NUM_THREADS"] = "1"

import numpy
import torch
from torch import nn
from transformers import ASTConfig, ASTForAudioClassification, HubertConfig, HubertModel, Wav2Vec2ConformerConfig
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerEncoder

import timing
from serving import Encoding, Serving


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        for number, (channels, stride) in enumerate(((inputs, 2), (outputs, 1), (inputs, 2)), 1):
            setattr(self, f"conv{number}", nn.Conv2d(channels, outputs, 3, stride, 1))
            setattr(self, f"bn{number}", nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.bn3(self.conv3(x)))


class Stem(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(Residual(1, 512), Residual(512, 512))
        self.linear = nn.Linear(512 * 32, 1024)

    def forward(self, x):
        x = self.conv(x[:, None])
        return self.linear(x.permute(0, 3, 1, 2).flatten(2))


class MusicFm(nn.Module):
    """A position every four frames of a spectrogram `(batch, 128, frames)`."""

    def __init__(self):
        super().__init__()
        self.conv = Stem()
        config = Wav2Vec2ConformerConfig(
            hidden_size=1024, num_hidden_layers=12, num_attention_heads=16, intermediate_size=4096,
            hidden_act="swish", position_embeddings_type="rotary", layerdrop=0.0,
        )
        self.conformer = Wav2Vec2ConformerEncoder(config)

    def forward(self, spectrogram):
        return self.conformer(self.conv(spectrogram), output_hidden_states=True).hidden_states


def musicfm(folder: Path):
    model = MusicFm().eval()
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    frequencies = model.conformer.embed_positions.inv_freq
    tensors["model.conformer.embed_positions.inv_freq"] = torch.tensor(frequencies.tolist())
    tensors["model.preprocessor_melspec_2048.mel_stft.mel_scale.fb"] = torch.rand(1025, 128)
    torch.save({"state_dict": tensors}, folder / "pretrained_fma.pt")
    (folder / "fma_stats.json").write_text(json.dumps({"melspec_2048_mean": 3.07, "melspec_2048_std": 21.0}))
    spectrogram = torch.randn(3000, 128)
    return spectrogram, 750, lambda batch: model(spectrogram.T.expand(batch, -1, -1).contiguous())


def mert(folder: Path):
    config = HubertConfig(conv_bias=False, feat_extract_norm="group", feat_proj_layer_norm=True)
    model = HubertModel(config).eval()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    # What it is called where it is published.
    (folder / "config.json").write_text(json.dumps(model.config.to_dict() | {"model_type": "mert_model"}))
    samples = torch.randn(720_000)
    crops = lambda batch: samples.expand(batch, -1).contiguous()
    return samples, 2249, lambda batch: model(crops(batch), output_hidden_states=True).hidden_states


def maest(folder: Path):
    config = ASTConfig(
        num_mel_bins=96, max_length=1876, patch_size=16, frequency_stride=10, time_stride=10, layer_norm_eps=1e-6
    )
    model = ASTForAudioClassification(config).eval()
    # The published names, which are not those of the modules in newer versions.
    model.save_pretrained(folder)
    spectrogram = torch.randn(1876, 96)

    def states(batch: int):
        x = spectrogram.expand(batch, -1, -1).contiguous()
        found = model.audio_spectrogram_transformer(x, output_hidden_states=True)
        return (*found.hidden_states, found.last_hidden_state)

    return spectrogram, 187, states


FAMILIES = {"musicfm": musicfm, "mert": mert, "maest": maest}


def theirs(states, batch: int) -> float:
    start = time.process_time()
    states(batch)
    return (time.process_time() - start) * 1e3 / batch


def compare(name: str, binary: str, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        folder = Path(folder)
        values, positions, states = FAMILIES[name](folder)
        values.numpy().astype("<f4").tofile(folder / "in.f32")
        ours = Encoding(Serving(binary, folder), folder, positions)
        print(ours.serving.what, flush=True)
        ours.run(1)
        expected = states(1)[-1][0].numpy()
        found = ours.output().reshape(expected.shape)
        error = numpy.abs(found - expected).max() / numpy.abs(expected).max()
        print(f"{name}: largest difference {error:.1e} of the largest value", flush=True)
        contestants = {"ours": lambda: ours.run(1), "pytorch": lambda: theirs(states, 1)}
        times = timing.alternate(contestants, rounds, warm_up=0)
        ours_ms, theirs_ms = (one.median for one in times.values())
        best = {contestant: f"{one.best:.0f}" for contestant, one in times.items()}
        print(
            f"{name}: {ours_ms:.0f} ms per 30 s crop, PyTorch {theirs_ms:.0f} ms ({theirs_ms / ours_ms:.2f} x); "
            f"best {best}",
            flush=True,
        )
        ours.serving.close()


def main(binary: str, words: list[str]) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    rounds = next((int(word) for word in words if word.isdigit()), 3)
    for name in [word for word in words if not word.isdigit()] or FAMILIES:
        compare(name, binary, rounds)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
