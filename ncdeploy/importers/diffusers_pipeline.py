"""What stands in a folder that diffusers wrote, beside the weights: which network, its scheduler, and other parts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ncdeploy.denoisers.foreign.diffusers_families import FAMILIES
from ncdeploy.errors import FileError, InputError
from ncdeploy.importers.diffusers_files import read_json

UNET = "UNet2DModel"
NETWORKS = ("unet_ema", "unet", "transformer")
DECODERS = ("vae", "vqvae", "movq")  # what turns latents into pictures, by the names it has beside a network
# What the file of an average says of how it was made, among the settings of its network.
AVERAGE = (
    "decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power",
)  # fmt: skip
# What pipelines guide by unless they are told otherwise.
GUIDES = {
    "StableDiffusionPipeline": 7.5, "StableDiffusionXLPipeline": 5.0, "StableDiffusion3Pipeline": 7.0,
    "DiTPipeline": 4.0, "PixArtAlphaPipeline": 4.5, "PixArtSigmaPipeline": 4.5,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """root: the folder that was named; folder: of the network; top: of the whole pipeline; index: its model_index.json
    or {}; parts: what that names beside network and scheduler, and its class; decoder: the folder of the autoencoder;
    notes: what is to be said of the choice."""

    root: Path
    folder: Path
    top: Path
    index: Mapping[str, Any]
    parts: Mapping[str, str]
    decoder: Path | None
    notes: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The class of the pipeline, or ""."""
        return str(self.index.get("_class_name", ""))

    def not_taken_over(self, *taken: str) -> tuple[str, ...]:
        """A note on each part that is left; `taken` are those that are not, beside the decoder."""
        taken = (*taken, "" if self.decoder is None else self.decoder.name)
        left = {name: kind for name, kind in self.parts.items() if name not in taken}
        return tuple(f"{name} ({kind}) of the pipeline is not taken over" for name, kind in left.items())

    def scheduler(self) -> Path | None:
        """Its file, if there is one."""
        places = [self.root / "scheduler", self.root, self.folder]
        if self.folder.name in NETWORKS:
            places.append(self.folder.parent / "scheduler")
            if self.folder.parent.name.startswith("checkpoint-"):
                places.append(self.folder.parent.parent / "scheduler")
        files = (place / "scheduler_config.json" for place in places)
        return next((file for file in files if file.is_file()), None)


def read_pipeline(root: Path, ema: bool | None) -> Pipeline:
    """Raises FileError for a pipeline of latents without its autoencoder, InputError for a choice that there is not."""
    folder, notes = _network_folder(root, ema)
    top = folder.parent if folder.name in NETWORKS else root
    index = read_json(top / "model_index.json") if (top / "model_index.json").is_file() else {}
    parts = {
        name: str(kind[1]) for name, kind in index.items()
        if not name.startswith("_") and isinstance(kind, list) and len(kind) == 2 and kind[1] is not None
        and name not in (*NETWORKS, "scheduler")
    }  # fmt: skip
    decoders = [name for name in DECODERS if name in parts or (top / name / "config.json").is_file()]
    decoders += [name for name, kind in parts.items() if kind.startswith(("Autoencoder", "VQModel"))]
    decoder = top / decoders[0] if decoders else None
    if decoder is not None and (decoder.name != decoders[0] or not (decoder / "config.json").is_file()):
        raise FileError(
            f"{top}: is a latent pipeline, and {decoders[0]}, which makes pictures of its latents, is missing beside "
            "the network; copy the whole pipeline"
        )
    return Pipeline(root=root, folder=folder, top=top, index=index, parts=parts, decoder=decoder, notes=tuple(notes))


def read_settings(folder: Path) -> tuple[str, dict[str, Any]]:
    """The class of a network, and the arguments that it is made with."""
    file = folder / "config.json"
    if not file.is_file():
        raise FileError(f"{folder}: has no config.json; expected a folder that diffusers wrote, a model or a pipeline")
    config = read_json(file)
    kind = config.get("_class_name")
    if kind not in (UNET, *FAMILIES):
        raise FileError(f"{file}: describes a {str(kind)[:60]}; expected one of {', '.join((UNET, *FAMILIES))}")
    return kind, {name: value for name, value in config.items() if not name.startswith("_") and name not in AVERAGE}


def _network_folder(root: Path, ema: bool | None) -> tuple[Path, list[str]]:
    """Where the network is, and what is to be said of the choice."""
    there = [name for name in NETWORKS if (root / name / "config.json").is_file()]
    both = "unet_ema" in there and "unet" in there
    if ema is not None and not both:
        raise InputError(f"ema: {root} has no choice between unet_ema and unet; leave --ema and --no-ema out")
    if both:
        chosen, left = ("unet", "unet_ema") if ema is False else ("unet_ema", "unet")
        return root / chosen, [f"the weights are those of {chosen}; {left} beside it is left out (--ema or --no-ema)"]
    if len(there) > 1:
        raise InputError(f"{root}: has several networks, {' and '.join(there)}; name the folder of one")
    if there:
        return root / there[0], []
    if root.name == "unet" and (root.parent / "unet_ema" / "config.json").is_file():
        return root, ["the weights are those of unet; unet_ema beside it holds the averaged ones"]
    return root, []
