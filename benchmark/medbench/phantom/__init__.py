"""Synthetic chest radiographs with reports and ground truth: medbench's embedded default data.

Everything in here is a *phantom*: drawn by formulas, of nobody, for testing methods and programs. It is
written in the real datasets' own file layouts (`mimic_cxr`, `rsna`), so that the same adapters read both.

`anatomy` draws the normal chest, `findings` what may be wrong with it, `study` decides by lot who has what,
`render` exposes the film, `grammar` words the report; `mimic_cxr` and `rsna` write files through `writing`.
"""

from medbench.phantom.study import PHANTOM_VERSION

__all__ = ["PHANTOM_VERSION"]
