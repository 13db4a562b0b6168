"""The Python way in: `medbench.load`."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import medbench
from medbench.errors import MedbenchError, UsageError, WeightsError
from medbench.loading import LoadedMethod
from medbench.weights import save
from medbench_methods import medbench_methods
from medbench_methods.released.encoder import ReleasedEncoder

FILM = (np.linspace(0, 255, 90 * 120).reshape(90, 120)).astype(np.uint8)
TEXTS = ["No focal consolidation. The heart is enlarged.", "pleural effusion"]


def test_importing_medbench_is_light() -> None:
    code = "import sys, medbench; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)


@pytest.fixture(scope="module")
def fresh() -> LoadedMethod:
    return medbench.load("place", recipe="micro", embed=16, queries=3)


def test_fresh_weights_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    medbench.load("clip", recipe="micro", reports=TEXTS * 3, temperature=0.2)
    said = capsys.readouterr().err
    assert "clip: FRESH weights (seed 0); nothing was pretrained" in said
    assert "PHANTOM" not in said


def test_a_film_in_any_form_is_the_same_film(fresh: LoadedMethod, tmp_path: Path) -> None:
    Image.fromarray(FILM).save(tmp_path / "film.png")
    ready = fresh.preprocess(FILM)
    assert ready.shape == (3, 64, 64) and ready.dtype == torch.float32
    for film in (
        tmp_path / "film.png",
        str(tmp_path / "film.png"),
        Image.fromarray(FILM),
        np.repeat(FILM[:, :, None], 3, 2),
        FILM / 255,
    ):
        torch.testing.assert_close(fresh.preprocess(film), ready)
    several = fresh.encode_image([FILM, FILM, ready])
    assert several.pooled.shape[0] == 3 and not several.pooled.requires_grad
    torch.testing.assert_close(several.pooled[0], fresh.encode_image(ready).pooled[0], rtol=1e-4, atol=1e-5)
    assert fresh.encode_image(FILM, pyramid=True).pyramid is not None


@pytest.mark.parametrize(
    "film", [FILM.astype(np.int32), FILM.astype(float), np.zeros((2, 3, 4, 5), np.uint8), 3, Image.new("I", (8, 8))]
)  # fmt: skip
def test_what_is_no_film_is_refused(fresh: LoadedMethod, film: object) -> None:
    with pytest.raises(UsageError, match="expected"):
        fresh.preprocess(film)  # type: ignore[arg-type]


PROVIDES = {spec.name: spec.provides for spec in medbench_methods()}
WITH_TEXT = [
    spec.name
    for spec in medbench_methods()
    if any(part.startswith("text") for part in spec.provides) and not spec.released_only
]


def test_the_methods_with_a_text_half() -> None:
    assert {"mgca", "gloria", "clip", "place"} <= set(WITH_TEXT)


@pytest.mark.parametrize("name", WITH_TEXT)
def test_strings_and_token_ids_give_the_same_features(name: str) -> None:
    fresh = medbench.load(name, recipe="micro", reports=TEXTS * 20)
    text = fresh.tokenize(TEXTS)
    assert text.mask[1].sum() >= 4  # two words are not too few here
    one = fresh.encode_text(TEXTS)
    for other in (fresh.encode_text(text), fresh.encode_text(text.ids, text.mask.long())):
        torch.testing.assert_close(one.pooled, other.pooled)
        torch.testing.assert_close(one.local, other.local)
        assert torch.equal(one.mask, other.mask)
    single = fresh.encode_text(TEXTS[1])
    torch.testing.assert_close(single.pooled[0], one.pooled[1], rtol=1e-4, atol=1e-4)
    if "embedding" in PROVIDES[name]:
        vectors = fresh.embed_text(one)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    with pytest.raises(UsageError, match=r"token id 99999, expected 0 to"):
        fresh.encode_text(torch.tensor([[2, 99999, 3]]))
    with pytest.raises(UsageError, match=r"5000 token ids a text, expected at most"):
        fresh.encode_text(torch.zeros(1, 5000, dtype=torch.int64))


def test_image_encoders_say_that_they_take_no_texts() -> None:
    loaded = medbench.load("random", recipe="micro")
    image = loaded.encode_image(FILM)
    for call in (
        lambda: loaded.encode_text("pleural effusion"),
        lambda: loaded.tokenize(["pleural effusion"]),
        lambda: loaded.embed_image(image),
    ):
        with pytest.raises(UsageError, match="random: this model has no text half"):
            call()
    with pytest.raises(UsageError, match="takes no token ids"):
        loaded.encode_text(torch.zeros(1, 3, dtype=torch.int64))


def test_losses_of_pairs_have_gradients(fresh: LoadedMethod) -> None:
    losses = fresh.losses(([FILM, 255 - FILM], TEXTS))
    assert set(losses) == {"ita", "cta", "pcma", "cce"}
    assert all(value.requires_grad for value in losses.values())
    with pytest.raises(UsageError, match="1 images and 2 texts"):
        fresh.losses((FILM, TEXTS))


def test_finished_weights_come_back(fresh: LoadedMethod, tmp_path: Path) -> None:
    save(fresh.method, tmp_path / "weights", {"method": "place"})
    again = medbench.load("place", tmp_path / "weights")
    torch.testing.assert_close(again.encode_image(FILM).pooled, fresh.encode_image(FILM).pooled)
    for call, message in (
        (lambda: medbench.load("clip", tmp_path / "weights"), "weights of the method `place`"),
        (lambda: medbench.load("place", tmp_path / "weights", queries=5), "bring their own config"),
        (lambda: medbench.load("place", tmp_path / "nothing.pth"), "no released checkpoints are known"),
    ):
        with pytest.raises(MedbenchError, match=message):
            call()


def test_a_released_file_is_imported_on_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = ReleasedEncoder(ReleasedEncoder.recipes["micro"].config).eval()
    torch.save(source.model.image_encoder.body.state_dict(), tmp_path / "a.pth")
    small = {"backbone": "resnet18", "layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256)}
    loaded = medbench.load("released", tmp_path / "a.pth", size=64, resize=72, **small)
    assert "matched:" in capsys.readouterr().err
    assert len(loaded.info["released"]["sha256"]) == 64
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = source.model.encode_image(images).pooled
    torch.testing.assert_close(loaded.encode_image(images).pooled, expected)


def test_which_part_and_which_prefix_of_a_released_file(tmp_path: Path) -> None:
    source = ReleasedEncoder(ReleasedEncoder.recipes["micro"].config).eval()
    state = source.model.image_encoder.body.state_dict()
    torch.save(
        {f"{head}.{k}": t for head in ("student", "teacher") for k, t in state.items()}, tmp_path / "a.pth"
    )
    small = {
        "backbone": "resnet18",
        "layers": (1, 1, 1, 1),
        "channels": (32, 64, 128, 256),
        "size": 64,
        "resize": 72,
    }
    with pytest.raises(WeightsError, match="more than one whole encoder"):
        medbench.load("released", tmp_path / "a.pth", **small)
    loaded = medbench.load("released", tmp_path / "a.pth", part="image", prefix="teacher", **small)
    assert loaded.info["released"]["where"] == "teacher.*"
    for options, message in (
        ({"part": "all"}, "no whole model can be imported"),
        ({"part": "half"}, "expected 'image' or 'all'"),
    ):
        with pytest.raises(UsageError, match=message):
            medbench.load("released", tmp_path / "a.pth", **options, **small)
    with pytest.raises(UsageError, match="part and prefix are of files"):
        medbench.load("clip", recipe="micro", prefix="teacher")


def test_a_path_is_a_value(tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    with pytest.raises(WeightsError, match=re.escape(f"{str(tmp_path / 'bert')!r}")):
        medbench.load("clip", recipe="micro", text_encoder=tmp_path / "bert", text_mlm_epochs=0, offline=True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("plaice",), UsageError, "Did you mean 'place'"),
        (("kad",), WeightsError, "checkpoint=FILE"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str], error: type[MedbenchError], message: str) -> None:
    with pytest.raises(error, match=message):
        medbench.load(*arguments)
    with pytest.raises(UsageError, match="no recipe 'huge'"):
        medbench.load("clip", recipe="huge")
    with pytest.raises(UsageError, match="no such field"):
        medbench.load("clip", recipe="micro", temprature=0.1)
