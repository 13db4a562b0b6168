"""Where sentences end, and where they only seem to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medbench.data.report_sentences import clean_sentences, split_sentences


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("1. No change.\n2. No effusion.", ["No change", "No effusion"]),
        ("1. No change 2. No effusion", ["No change", "No effusion"]),
        ("1) Clear. 2) Small heart.", ["Clear", "Small heart"]),
        ("1.No change 2.No effusion", ["No change", "No effusion"]),
        ("Stage 1. No effusion.", ["Stage 1", "No effusion"]),
        ("Grade 2. No effusion.", ["Grade 2", "No effusion"]),
        ("Dr. ___ was called. Clear.", ["Dr. ___ was called", "Clear"]),
        ("Seen by Dr. A. Smith today.", ["Seen by Dr. A. Smith today"]),
        ("Called to dr. XXXX at XXXX.", ["Called to dr. XXXX at XXXX"]),
        ("Nodule of 2.5 cm. No effusion.", ["Nodule of 2.5 cm", "No effusion"]),
        ("2.5 cm. in diameter", ["2.5 cm. in diameter"]),
        ("At 10:30 a.m. on ___ by phone. Stable.", ["At 10:30 a.m. on ___ by phone", "Stable"]),
        ("At 10:30 A.M. The lungs are clear.", ["At 10:30 A.M", "The lungs are clear"]),
        ("at XXXX p.m. XXXX, XXXX", ["at XXXX p.m. XXXX, XXXX"]),
        ("Compared to ___. XXXX lungs.", ["Compared to ___", "XXXX lungs"]),
        ("Normal chest x-XXXX. No change", ["Normal chest x-XXXX", "No change"]),
        ("Edema vs. pneumonia, e.g. aspiration.", ["Edema vs. pneumonia, e.g. aspiration"]),
        ("lungs are clear. no effusion.", ["lungs are clear", "no effusion"]),
        ("Lungs are clear.No effusion.", ["Lungs are clear", "No effusion"]),
        (
            "Film no. 5 is better. Pneumothorax? no. yes!",
            ["Film no. 5 is better", "Pneumothorax", "no", "yes"],
        ),
        ("Rt. lung clear. Lt. base hazy.", ["Rt. lung clear", "Lt. base hazy"]),
        ("Rt. CP angle blunted. L. CP angle sharp.", ["Rt. CP angle blunted", "L. CP angle sharp"]),
        (
            "Effusion on the rt. No edema. Small on the Lt.",
            ["Effusion on the rt", "No edema", "Small on the Lt"],
        ),
        ("Opacity in R. upper lobe. R. upper lobe", ["Opacity in R. upper lobe", "R. upper lobe"]),
        ("C. difficile. S. aureus. E. coli.", ["C. difficile", "S. aureus", "E. coli"]),
        ("1. Rt. lung clear. 2. S. aureus.", ["Rt. lung clear", "S. aureus"]),
        ("Hepatitis C. No effusion.", ["Hepatitis C", "No effusion"]),
        ("sin hallazg . cardiomegali .", ["sin hallazg", "cardiomegali"]),
        ("", []),
        (" ... ", []),
    ],
)
def test_split(text: str, pieces: list[str]) -> None:
    assert split_sentences(text) == pieces


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Nodule, 2.5 cm. FOLLOW-UP in 1/2 year.", ["nodule 2.5 cm", "follow-up in 1/2 year"]),
        ("___-year-old; compared to ___.", ["year-old compared to"]),
        ("XXXX. Heart's size: normal (unchanged).", ["heart's size normal unchanged"]),
        ("Normal.", ["normal"]),
        ("Derrame pleural; patrón normal.", ["derrame pleural patrón normal"]),
        ("___. XXXX.", []),
        # A list that begins at 2 leaves its numbers; what has no letter says nothing.
        ("2. No effusion. 3. Clear.", ["no effusion", "clear"]),
        ("Clear.\n2.\n", ["clear"]),
        ("2.5. 10:30. 1/2. 12. 3 cm.", ["3 cm"]),
        ("4.", []),
    ],
)
def test_clean(text: str, expected: list[str]) -> None:
    assert clean_sentences(text) == expected


@given(st.text(st.sampled_from("aB1. 23\n_X)?:"), max_size=60) | st.text(max_size=100))
def test_no_letter_is_lost(text: str) -> None:
    pieces = split_sentences(text)
    letters = "".join(c for c in text if c.isalpha())
    assert "".join(c for piece in pieces for c in piece if c.isalpha()) == letters
    assert all(sentence == " ".join(sentence.split()) != "" for sentence in clean_sentences(text))
