"""The report of a study, worded from its truth: what there is, where, how large, how sure, since when.

A report is a list of sentences, and a sentence carries its claims. The CheXpert labels are read off the
claims, as the real labels are read off the real reports. Nothing is claimed that the film does not show,
and every finding of the film is mentioned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medbench.phantom.findings import Finding, Kind
from medbench.phantom.study import Patient, Study

CHEXPERT = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
"""The 14 label columns, in the order of the real file."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a sentence says about one kind of finding."""

    kind: Kind
    value: float
    """1 present, 0 absent, -1 perhaps."""
    side: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One or two grammatical sentences of a report, and what they claim."""

    text: str
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """A whole report."""

    text: str
    """As filed: headers and paragraphs."""
    findings: str
    """The FINDINGS paragraph alone; may be empty."""
    impression: str
    """The IMPRESSION paragraph alone; may be empty."""
    claims: tuple[Claim, ...]
    labels: Mapping[str, float]
    """CheXpert labels: 1 present, 0 absent, -1 uncertain; a column that is not mentioned is missing."""


class _Voice:
    """Chooses words. One stream of random numbers, drawn at once because small draws are slow."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._numbers = rng.random(400).tolist()
        self._next = 0

    def number(self) -> float:
        value = self._numbers[self._next % len(self._numbers)]
        self._next += 1
        return float(value)

    def chance(self, p: float) -> bool:
        return self.number() < p

    def pick(self, *options: str) -> str:
        return options[int(self.number() * len(options))]

    def shuffle(self, items: list[Sentence]) -> list[Sentence]:
        return [item for _, item in sorted(((self.number(), i), item) for i, item in enumerate(items))]


_ZONES: Mapping[str, tuple[str, ...]] = {
    "upper": ("upper lobe", "upper lung zone", "upper lung", "upper zone"),
    "mid": ("mid lung", "mid lung zone", "midlung", "mid zone"),
    "lower": ("lower lobe", "lung base", "lower lung zone", "base", "lower lung"),
}


def _place(voice: _Voice, f: Finding) -> str:
    """'right lower lobe', 'left lung base', ..."""
    return f"{f.side} {voice.pick(*_ZONES[f.zone])}"


def _earlier(f: Finding, study: Study) -> Finding | None:
    return next((p for p in study.prior or () if p.texture == f.texture and p.kind == f.kind), None)


def trend(f: Finding, study: Study) -> str:
    """How a finding compares with the prior study: "", "new", "larger", "smaller" or "same"."""
    if study.prior is None:
        return ""
    before = _earlier(f, study)
    if before is None:
        return "new"
    step = f.extent - before.extent
    return "larger" if step > 0.12 else "smaller" if step < -0.12 else "same"


def _since(voice: _Voice, how: str) -> str:
    """A clause on change, with its leading comma, or nothing."""
    if how == "new":
        return voice.pick(
            ", new since the prior study",
            ", new from prior",
            ", which is new",
            ", not seen previously",
            ", new compared to the prior exam",
        )
    if how == "larger":
        return voice.pick(
            ", increased from prior",
            ", worse since the prior exam",
            ", progressed in the interval",
            ", increased compared to the previous radiograph",
            ", larger than before",
        )
    if how == "smaller":
        return voice.pick(
            ", decreased from prior",
            ", improved since the prior exam",
            ", smaller than on the previous study",
            ", with interval improvement",
            ", partially resolved",
        )
    if how == "same":
        return voice.pick(
            ", unchanged",
            ", stable from prior",
            ", not significantly changed",
            ", similar to the prior study",
            ", stable in appearance",
        )
    return ""


def _opening(voice: _Voice, phrase: str) -> str:
    """A noun phrase made into a statement."""
    form = int(voice.number() * 5)
    article = "an" if phrase[0] in "aeiou" else "a"
    if form == 0:
        return f"There is {article} {phrase}"
    if form == 1:
        return f"{article.capitalize()} {phrase} is {voice.pick('seen', 'present', 'noted', 'identified')}"
    if form == 2:
        return f"{phrase.capitalize()} is {voice.pick('seen', 'noted')}"
    if form == 3:
        return f"{phrase.capitalize()}"
    return f"{voice.pick('Note is made of', 'There is evidence of', 'Findings include')} {article} {phrase}"


def _positive(f: Finding, value: float = 1.0) -> Claim:
    return Claim(f.kind, value, f.side, f.zone)


def _hedged(f: Finding) -> bool:
    if f.kind in ("pneumonia", "nodule"):
        return f.doubtful
    return f.kind in ("effusion", "edema", "pneumothorax") and f.doubtful and f.severity == 1


# One function a kind: findings of that kind -> sentences for FINDINGS ("long") or IMPRESSION (short).


def _pneumonia(voice: _Voice, found: Sequence[Finding], study: Study, long: bool) -> list[Sentence]:
    sentences = []
    for f in found:
        size = {
            1: ("small", "faint", "subtle", "mild", "patchy", "focal"),
            2: ("patchy", "moderate", "ill-defined", "hazy", "heterogeneous"),
            3: ("large", "extensive", "confluent", "dense", "severe"),
        }[f.severity]
        if f.variety == "consolidation":
            noun = voice.pick("consolidation", "airspace consolidation", "parenchymal consolidation")
            if long and voice.chance(0.4):
                noun += voice.pick(" with air bronchograms", " containing air bronchograms")
        else:
            noun = voice.pick(
                "opacity", "airspace opacity", "opacification", "infiltrate", "parenchymal opacity"
            )
        place = _place(voice, f)
        since = _since(voice, trend(f, study))
        hedge = _hedged(f)
        if hedge:
            means = voice.pick(
                ", which may represent early pneumonia",
                ", possibly pneumonia",
                "; pneumonia cannot be excluded",
                ", questionable for infection",
                ", pneumonia is possible in the appropriate clinical setting",
            )
        else:
            means = voice.pick(
                ", concerning for pneumonia",
                ", consistent with pneumonia",
                ", compatible with pneumonia",
                ", most likely pneumonia",
                ", worrisome for infection",
                " reflecting pneumonia",
            )
        if long:
            text = _opening(voice, f"{voice.pick(*size)} {noun} in the {place}") + since
            if voice.chance(0.5):
                text += means
        elif hedge:
            text = voice.pick(
                f"Possible {place} pneumonia{since}",
                f"{voice.pick(*size).capitalize()} {place} {noun}{means}",
                f"Questionable {noun} in the {place}, pneumonia not excluded",
                f"Equivocal {place} opacity; early pneumonia is not excluded",
            )
        else:
            text = voice.pick(
                f"{place.capitalize()} pneumonia{since}",
                f"{voice.pick(*size).capitalize()} {place} {noun}{means}",
                f"{noun.capitalize()} in the {place}{since}{means}",
                f"Findings {voice.pick('consistent with', 'concerning for')} {place} pneumonia",
            )
        sentences.append(Sentence(text + ".", (_positive(f, -1.0 if hedge else 1.0),)))
    return sentences


_AMOUNT = {1: ("small", "trace", "tiny"), 2: ("moderate", "moderate-sized"), 3: ("large", "massive")}


def _effusion(voice: _Voice, found: Sequence[Finding], study: Study, long: bool) -> list[Sentence]:
    if len(found) == 2 and not any(_hedged(f) for f in found):
        a, b = found
        claims = (_positive(a), _positive(b))
        how = trend(a, study)
        since = _since(voice, how) if how == trend(b, study) else ""
        if a.severity == b.severity:
            size = voice.pick(*_AMOUNT[a.severity])
            text = voice.pick(
                f"{size.capitalize()} bilateral pleural effusions{since}",
                f"There are {size} bilateral pleural effusions{since}",
                f"Bilateral {size} pleural effusions{since}",
                f"{size.capitalize()} pleural effusions are present on both sides{since}",
            )
        else:
            x, y = (voice.pick(*_AMOUNT[f.severity]) for f in (a, b))
            text = voice.pick(
                f"{x.capitalize()} {a.side} and {y} {b.side} pleural effusions{since}",
                f"There are bilateral pleural effusions, {x} on the {a.side} and {y} on the {b.side}{since}",
            )
        return [Sentence(text + ".", claims)]
    sentences = []
    for f in found:
        size = voice.pick(*_AMOUNT[f.severity])
        since = _since(voice, trend(f, study))
        hedge = _hedged(f)
        if hedge:
            text = voice.pick(
                f"Possible {size} {f.side} pleural effusion{since}",
                f"Slight blunting of the {f.side} costophrenic angle may represent a {size} pleural effusion",
                f"A {size} {f.side} pleural effusion is difficult to exclude",
                f"{size.capitalize()} {f.side} pleural effusion, if any",
            )
        else:
            options = [
                _opening(voice, f"{size} {f.side} pleural effusion") + since,
                f"{f.side.capitalize()} pleural effusion is {size}{since}",
                f"{size.capitalize()} pleural effusion on the {f.side}{since}",
            ]
            if f.severity == 1:
                options.append(
                    f"Blunting of the {f.side} costophrenic angle, in keeping with a {size} pleural effusion"
                )
            elif f.severity == 3 and long:
                options.append(
                    f"The {f.side} hemithorax is largely opacified by a {size} pleural effusion{since}"
                )
            text = voice.pick(*options)
        sentences.append(Sentence(text + ".", (_positive(f, -1.0 if hedge else 1.0),)))
    return sentences


def _atelectasis(voice: _Voice, found: Sequence[Finding], study: Study, long: bool) -> list[Sentence]:
    sentences = []
    for f in found:
        since = _since(voice, trend(f, study))
        place = f"{f.side} {voice.pick('lung base', 'base', 'lower lobe', 'lower lung')}"
        if f.variety == "plate":
            noun = voice.pick(
                "linear atelectasis",
                "plate-like atelectasis",
                "subsegmental atelectasis",
                "bandlike atelectasis",
            )
        else:
            noun = voice.pick("atelectasis", "basilar atelectasis", "atelectatic change")
            if long and f.severity > 1:
                noun += voice.pick(" with volume loss", " with elevation of the hemidiaphragm", "")
        size = {1: ("mild ", "minimal ", "minor "), 2: ("moderate ", ""), 3: ("marked ", "substantial ")}[
            f.severity
        ]
        text = voice.pick(
            f"{(voice.pick(*size) + noun).capitalize()} at the {place}{since}",
            f"There is {voice.pick(*size)}{noun} in the {place}{since}",
            f"{f.side.capitalize()} basilar opacity with volume loss, likely atelectasis{since}"
            if f.variety == "basal"
            else f"Linear opacities at the {place}, consistent with atelectasis{since}",
        )
        sentences.append(Sentence(text + ".", (_positive(f),)))
    return sentences


def _edema(voice: _Voice, found: Sequence[Finding], study: Study, long: bool) -> list[Sentence]:
    f = found[0]
    since = _since(voice, trend(f, study))
    size = {1: ("mild", "minimal"), 2: ("moderate",), 3: ("severe", "florid")}[f.severity]
    word = voice.pick(*size)
    if _hedged(f):
        text = voice.pick(
            f"Possible {word} pulmonary edema{since}",
            f"Perihilar haziness may reflect {word} pulmonary edema",
            f"{word.capitalize()} interstitial edema is suspected{since}",
        )
        return [Sentence(text + ".", (_positive(f, -1.0),))]
    options = [
        f"{word.capitalize()} pulmonary edema{since}",
        f"There is {word} pulmonary edema{since}",
        f"{word.capitalize()} {voice.pick('interstitial', 'lung')} edema with vascular congestion{since}",
        f"Findings consistent with {word} pulmonary edema{since}",
    ]
    if long:
        options.append(
            f"Bilateral perihilar haze in a {voice.pick('bat-wing', 'butterfly')} distribution, "
            f"in keeping with {word} pulmonary edema{since}"
            if f.variety == "batwing"
            else f"Septal lines and indistinct vessels indicate {word} interstitial edema{since}"
        )
    return [Sentence(voice.pick(*options) + ".", (_positive(f),))]


def _pneumothorax(voice: _Voice, found: Sequence[Finding], study: Study, long: bool) -> list[Sentence]:
    sentences = []
    for f in found:
        size = voice.pick(*{1: ("small", "tiny"), 2: ("moderate",), 3: ("large",)}[f.severity])
        since = _since(voice, trend(f, study))
        hedge = _hedged(f)
        if hedge:
            text = voice.pick(
                f"Possible {size} {f.side} apical pneumothorax{since}",
                f"A {size} {f.side} apical pneumothorax is difficult to exclude",
            )
        else:
            text = voice.pick(
                _opening(voice, f"{size} {f.side} {voice.pick('apical ', '')}pneumothorax") + since,
                f"{size.capitalize()} {f.side} pneumothorax{since}",
                f"A pleural line at the {f.side} apex indicates a {size} pneumothorax{since}",
            )
        sentences.append(Sentence(text + ".", (_positive(f, -1.0 if hedge else 1.0),)))
    return sentences


def _nodule(voice: _Voice, found: Sequence[Finding], study: Study, long: bool) -> list[Sentence]:
    sentences = []
    for f in found:
        noun = f.variety
        look = voice.pick(
            *(
                ("rounded", "well-circumscribed", "solitary")
                if noun == "nodule"
                else ("large", "rounded", "lobulated")
            )
        )
        where = voice.pick("in the", "projecting over the", "within the")
        since = _since(voice, trend(f, study))
        hedge = _hedged(f)
        place = _place(voice, f)
        if hedge:
            text = voice.pick(
                f"Possible {noun} {where} {place}{since}",
                f"Questionable {look} density in the {place} may represent a {noun}",
            )
        else:
            text = voice.pick(
                _opening(voice, f"{look} {noun} {where} {place}") + since,
                f"{place.capitalize()} {noun}{since}",
                f"{look.capitalize()} {place} {noun}{since}",
            )
        if not long and voice.chance(0.5):
            text += voice.pick("; CT is recommended", ". Recommend chest CT for further evaluation")
        sentences.append(Sentence(text + ".", (_positive(f, -1.0 if hedge else 1.0),)))
    return sentences


def _fracture(voice: _Voice, found: Sequence[Finding], study: Study, long: bool) -> list[Sentence]:
    sentences = []
    for f in found:
        age = (
            voice.pick("acute", "displaced", "mildly displaced")
            if f.variety == "acute"
            else voice.pick("healed", "old")
        )
        where = voice.pick("", "lateral ", "posterolateral ")
        text = voice.pick(
            _opening(voice, f"{age} {f.side} {where}rib fracture"),
            f"{age.capitalize()} fracture of a {f.side} {where}rib",
            f"{f.side.capitalize()} {where}rib fracture, {age}",
        )
        sentences.append(Sentence(text + ".", (_positive(f),)))
    return sentences


def _cardiomegaly(voice: _Voice, found: Sequence[Finding], study: Study, long: bool) -> list[Sentence]:
    f = found[0]
    since = _since(voice, trend(f, study))
    word = {1: ("mild", "mildly"), 2: ("moderate", "moderately"), 3: ("severe", "severely")}[f.severity]
    text = voice.pick(
        f"{word[0].capitalize()} cardiomegaly{since}",
        f"The heart is {word[1]} enlarged{since}",
        f"Heart size is {word[1]} enlarged{since}",
        f"The cardiac silhouette is {word[1]} enlarged{since}",
        f"There is {word[0]} enlargement of the cardiac silhouette{since}",
    )
    return [Sentence(text + ".", (_positive(f),))]


def _device(voice: _Voice, found: Sequence[Finding], study: Study, long: bool) -> list[Sentence]:
    sentences = []
    for f in found:
        if f.variety == "ett":
            text = voice.pick(
                "Endotracheal tube terminates above the carina",
                "The ET tube is in standard position",
                "The tip of the endotracheal tube lies above the carina",
            )
        elif f.variety == "ng":
            text = voice.pick(
                "Enteric tube courses below the diaphragm",
                "A nasogastric tube ends in the stomach",
                "The NG tube tip projects over the stomach",
            )
        elif f.variety == "line":
            route = (
                voice.pick("internal jugular", "IJ")
                if f.side == "right"
                else voice.pick("subclavian", "PICC")
            )
            text = voice.pick(
                f"{f.side.capitalize()} {route} central venous catheter tip is in the SVC",
                f"A {f.side} {route} line terminates in the superior vena cava",
                f"{f.side.capitalize()} {route} catheter ends in the SVC",
            )
        else:
            text = voice.pick(
                f"{f.side.capitalize()} chest wall pacemaker with right atrial and ventricular leads",
                f"A {f.side}-sided dual-lead pacemaker is in place",
                f"{f.side.capitalize()} pectoral pacer with intact leads",
            )
        if trend(f, study) == "new" and voice.chance(0.5):
            text += voice.pick(", newly placed", ", new since the prior study")
        sentences.append(Sentence(text + ".", (_positive(f),)))
    return sentences


def _foreign(voice: _Voice, found: Sequence[Finding], study: Study, long: bool) -> list[Sentence]:
    sentences = []
    for f in found:
        noun = {
            "buttons": ("Buttons overlie the midline", "Clothing buttons project over the chest"),
            "necklace": (
                "A necklace overlies the thoracic inlet",
                "Necklace artifact projects over the neck",
            ),
            "coin": (
                "A round metallic foreign body is seen in the midline",
                "A coin-shaped radiopaque foreign body is present",
            ),
        }[f.variety]
        sentences.append(Sentence(voice.pick(*noun) + ".", (_positive(f),)))
    return sentences


_POSITIVE: Mapping[Kind, Callable[[_Voice, Sequence[Finding], Study, bool], list[Sentence]]] = {
    "pneumonia": _pneumonia,
    "effusion": _effusion,
    "atelectasis": _atelectasis,
    "edema": _edema,
    "pneumothorax": _pneumothorax,
    "nodule": _nodule,
    "cardiomegaly": _cardiomegaly,
    "fracture": _fracture,
    "device": _device,
    "foreign": _foreign,
}
"""In the order of an impression: what is urgent or asked for comes first."""
_LUNG: tuple[Kind, ...] = ("pneumonia", "atelectasis", "edema", "nodule")


def _negatives(voice: _Voice, study: Study) -> list[Sentence]:
    """What is absent, as far as a radiologist would say so."""
    gone = {k for k in _POSITIVE if not study.has(k)}
    sentences: list[Sentence] = []

    def say(text: str, *kinds: Kind) -> None:
        sentences.append(Sentence(text, tuple(Claim(kind, 0.0) for kind in kinds)))

    if "effusion" in gone and "pneumothorax" in gone:
        both: tuple[Kind, Kind] = ("effusion", "pneumothorax")
        say(
            voice.pick(
                "No pleural effusion or pneumothorax.",
                "There is no pleural effusion or pneumothorax.",
                "No pneumothorax or pleural effusion is seen.",
                "No evidence of pleural effusion or pneumothorax.",
                "The pleural surfaces are clear without effusion or pneumothorax.",
                "There is no effusion. No pneumothorax.",
            ),
            *both,
        )
    elif "effusion" in gone and voice.chance(0.7):
        say(
            voice.pick("No pleural effusion.", "There is no effusion.", "No pleural effusion is identified."),
            "effusion",
        )
    elif "pneumothorax" in gone and voice.chance(0.8):
        say(
            voice.pick("No pneumothorax.", "There is no pneumothorax.", "No evidence of pneumothorax."),
            "pneumothorax",
        )
    if all(k in gone for k in (*_LUNG, "effusion")):
        say(
            voice.pick(
                "The lungs are clear.",
                "Lungs are well expanded and clear.",
                "The lungs are clear without focal consolidation.",
                "No focal consolidation is seen.",
                "There is no focal airspace opacity to suggest pneumonia.",
                "Both lungs are clear.",
                "Lungs are clear bilaterally.",
            ),
            "pneumonia",
        )
    elif "pneumonia" in gone and voice.chance(0.75):
        say(
            voice.pick(
                "No focal consolidation.",
                "There is no focal consolidation concerning for pneumonia.",
                "No evidence of pneumonia.",
                "No confluent airspace opacity to suggest pneumonia.",
                "No new focal consolidation."
                if study.prior is not None
                else "No focal airspace consolidation.",
            ),
            "pneumonia",
        )
    if "cardiomegaly" in gone and voice.chance(0.85):
        say(
            voice.pick(
                "The cardiomediastinal silhouette is normal.",
                "Heart size is normal.",
                "Cardiac and mediastinal contours are within normal limits.",
                "The heart is not enlarged.",
                "Cardiomediastinal silhouette is unremarkable.",
                "The heart is normal in size.",
                "Heart and mediastinum are within normal limits.",
            ),
            "cardiomegaly",
        )
    if "edema" in gone and voice.chance(0.45):
        say(
            voice.pick(
                "No pulmonary edema.",
                "There is no pulmonary vascular congestion.",
                "Pulmonary vasculature is normal.",
                "No evidence of pulmonary edema.",
                "Pulmonary vascularity is within normal limits.",
            ),
            "edema",
        )
    if "fracture" in gone and voice.chance(0.45):
        say(
            voice.pick(
                "No acute osseous abnormality.",
                "The osseous structures are intact.",
                "Bony structures are unremarkable.",
                "No displaced rib fracture is seen.",
                "Imaged osseous structures are intact.",
            ),
            "fracture",
        )
    if "nodule" in gone and voice.chance(0.12):
        say(voice.pick("No suspicious pulmonary nodule.", "No pulmonary nodule or mass."), "nodule")
    return sentences


def _resolved(voice: _Voice, study: Study) -> list[Sentence]:
    """Findings of the prior study that are gone."""
    names: Mapping[str, str] = {
        "pneumonia": "opacity",
        "effusion": "pleural effusion",
        "pneumothorax": "pneumothorax",
        "edema": "pulmonary edema",
    }
    sentences = []
    for before in study.prior or ():
        if before.kind in names and not study.has(before.kind):
            where = f"{before.side} " if before.side in ("right", "left") else ""
            where += f"{voice.pick(*_ZONES[before.zone])} " if before.kind == "pneumonia" else ""
            name = where + names[before.kind]
            text = voice.pick(
                f"Previously seen {name} has resolved.",
                f"Interval resolution of the {name}.",
                f"The {name} is no longer seen.",
            )
            sentences.append(Sentence(text, (Claim(before.kind, 0.0),)))
    return sentences


def _neutral(voice: _Voice, patient: Patient, study: Study) -> list[Sentence]:
    """Remarks on the film and on age, which claim nothing."""
    film, a = study.films[0], patient.anatomy
    options: list[str] = []
    if film.inspiration < 0.4:
        options.append(
            voice.pick("Lung volumes are low.", "Low lung volumes.", "Inspiratory effort is poor.")
        )
    if abs(film.turn) > 0.45:
        options.append(voice.pick("The patient is rotated.", "Patient rotation limits assessment."))
    if a.age > 68:
        options.append(voice.pick("The aorta is tortuous.", "The thoracic aorta is unfolded."))
    if a.age > 60:
        options.append(
            voice.pick("Mild degenerative changes of the spine.", "Degenerative changes are noted.")
        )
    if abs(a.scoliosis) > 0.025:
        options.append(voice.pick("Mild scoliosis of the thoracic spine.", "There is slight scoliosis."))
    options.append(
        voice.pick("Hilar contours are normal.", "The trachea is midline.", "Hila are unremarkable.")
    )
    return [Sentence(text) for text in options if voice.chance(0.4)]


def _impression(voice: _Voice, study: Study) -> list[Sentence]:
    sentences: list[Sentence] = []
    for kind, word in _POSITIVE.items():
        found = [f for f in study.findings if f.kind == kind]
        if found and (kind not in ("device", "foreign", "fracture") or voice.chance(0.5)):
            sentences += word(voice, found, study, False)
    if study.normal:
        text = voice.pick(
            "No acute cardiopulmonary process.",
            "No acute cardiopulmonary abnormality.",
            "No acute intrathoracic process.",
            "Normal chest radiograph." if not study.findings else "No acute cardiopulmonary disease.",
            "No evidence of acute cardiopulmonary disease.",
            "No radiographic evidence of pneumonia.",
            "No evidence of pneumonia.",
            "Clear lungs. No acute findings.",
        )
        sentences.insert(0, Sentence(text, (Claim("pneumonia", 0.0),)))
    elif not study.has("pneumonia") and voice.chance(0.35):
        text = voice.pick("No evidence of pneumonia.", "No focal consolidation.", "No definite pneumonia.")
        sentences.append(Sentence(text, (Claim("pneumonia", 0.0),)))
    return sentences


_REASONS = (
    "cough",
    "fever",
    "shortness of breath",
    "chest pain",
    "fever and cough",
    "hypoxia",
    "altered mental status",
    "weakness",
    "dyspnea on exertion",
    "leukocytosis",
    "a fall",
    "palpitations",
    "a history of smoking",
    "a history of heart failure",
    "status post surgery",
)
_QUESTIONS = (
    "evaluate for pneumonia",
    "eval for acute process",
    "? pneumonia",
    "assess for effusion",
    "r/o pneumothorax",
    "? edema",
    "evaluate for interval change",
    "any acute cardiopulmonary process",
    "rule out infiltrate",
)
_LABEL: Mapping[Kind, tuple[str, ...]] = {
    "atelectasis": ("Atelectasis",),
    "cardiomegaly": ("Cardiomegaly",),
    "edema": ("Edema",),
    "fracture": ("Fracture",),
    "nodule": ("Lung Lesion",),
    "effusion": ("Pleural Effusion",),
    "pneumonia": ("Pneumonia",),
    "pneumothorax": ("Pneumothorax",),
    "device": ("Support Devices",),
    "foreign": (),
}


def _labels(claims: Sequence[Claim], study: Study) -> dict[str, float]:
    """CheXpert labels of the claims: a positive claim beats an uncertain one, which beats a negative one."""
    rank = {1.0: 2, -1.0: 1, 0.0: 0}
    labels: dict[str, float] = {}
    for claim in claims:
        for name in _LABEL[claim.kind]:
            if name not in labels or rank[claim.value] > rank[labels[name]]:
                labels[name] = claim.value
    lungs = [f for f in study.findings if f.kind == "pneumonia"]
    if any(claim.kind == "pneumonia" and claim.value != 0.0 for claim in claims):
        # the opacity itself is plain even where its cause is in doubt
        labels["Lung Opacity"] = 1.0
        if any(f.variety == "consolidation" for f in lungs):
            labels["Consolidation"] = 1.0
    elif labels.get("Pneumonia") == 0.0:
        labels["Consolidation"] = 0.0
    if study.normal:
        labels["No Finding"] = 1.0
    return labels


def _paragraph(text: str) -> str:
    """The text in lines of at most 78 characters, indented by one; `textwrap` is many times slower."""
    lines, line = [], ""
    for word in text.split(" "):
        if len(line) + len(word) >= 78:
            lines.append(line)
            line = ""
        line += f" {word}"
    return "\n".join([*lines, line])


def write_report(patient: Patient, study: Study, rng: np.random.Generator) -> Report:
    """Word the report of one study.

    Args:
        patient: Whose study it is.
        study: One of the patient's studies.
        rng: Chooses the words; the facts come from the study alone.
    """
    voice = _Voice(rng)
    body: list[Sentence] = []
    for kind, word in _POSITIVE.items():
        found = [f for f in study.findings if f.kind == kind]
        if found:
            body += word(voice, found, study, True)
    body += _negatives(voice, study) + _resolved(voice, study) + _neutral(voice, patient, study)
    if voice.chance(0.6):
        body = voice.shuffle(body)
    closing = _impression(voice, study)
    # some reports have one paragraph only; what it holds must then be complete
    shape = voice.number()
    if shape < 0.05:
        closing = []
    elif shape < 0.09 and {c for s in closing for c in s.claims} >= {
        c for s in body for c in s.claims if c.value
    }:
        body = []
    findings = " ".join(s.text for s in body)
    if len(closing) > 1 and voice.chance(0.5):
        impression = " ".join(f"{n}. {s.text}" for n, s in enumerate(closing, 1))
    else:
        impression = " ".join(s.text for s in closing)
    claims = tuple(claim for s in (*body, *closing) for claim in s.claims)
    parts = [_header(voice, patient, study)]
    if findings:
        parts.append(" FINDINGS:\n\n" + _paragraph(findings))
    if impression:
        parts.append(" IMPRESSION:\n\n" + _paragraph(impression))
    text = "\n\n".join(parts) + "\n"
    return Report(text, findings, impression, claims, _labels(claims, study))


def _header(voice: _Voice, patient: Patient, study: Study) -> str:
    portable = study.films[0].view == "AP"
    person = ("woman", "female", "F") if patient.anatomy.sex == "F" else ("man", "male", "M")
    exam = (
        voice.pick("CHEST (PORTABLE AP)", "PORTABLE CHEST RADIOGRAPH", "Chest portable AP")
        if portable
        else voice.pick("CHEST (PA)", "Chest radiograph, PA view", "CHEST RADIOGRAPH")
    )
    reason = voice.pick(*_REASONS)
    question = voice.pick(*_QUESTIONS)
    indication = voice.pick(
        f"___ year old {voice.pick(*person)} with {reason} // {question}",
        f"___-year-old {voice.pick(*person)} with {reason}, {question}.",
        f"History: ___{person[2]} with {reason}  // {question}",
    )
    if study.prior is None:
        comparison = voice.pick("None.", "None available.", "No prior studies for comparison.")
    else:
        comparison = voice.pick(
            "Chest radiograph ___.", "Radiograph from ___.", "Prior chest radiograph dated ___."
        )
    lines = [
        " " * 33 + "FINAL REPORT",
        f" EXAMINATION:  {exam}",
        _paragraph(f"INDICATION:  {indication}"),
    ]
    if voice.chance(0.6):
        view = "AP" if portable else "PA"
        technique = voice.pick(f"Single {view} view of the chest", f"Frontal {view} radiograph of the chest.")
        lines.append(f" TECHNIQUE:  {technique}")
    lines.append(f" COMPARISON:  {comparison}")
    return "\n\n".join(lines)
