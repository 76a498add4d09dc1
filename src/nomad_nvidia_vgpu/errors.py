# SPDX-License-Identifier: MPL-2.0
"""Every exception of this program, by whose fault it is.

    VgpuError
    ├── ConfigError          the operator wrote something that cannot be
    ├── HardwareError        a GPU or its driver does not do what it should
    │   ├── DriverError          the driver as a whole: not installed, not loaded, mismatched
    │   │   └── StaleLibraryError    it was replaced under this process
    │   ├── NoSuchGpuError       the GPUs have been renumbered
    │   ├── GpuError             one GPU: lost, in need of a reset, not answering
    │   └── MpsError             the MPS tools or daemon of one GPU
    ├── RequestError         Nomad asked for vGPUs that cannot be given
    └── NotBegunError        the program could not begin its work

A sentence says what failed, on which GPU or option, and the value seen; the remedy says what to
do. (go-plugin has its own `HandshakeError` in `goplugin.handshake`, because that package stands
alone.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class Problem(str):
    """What is wrong and what to do about it; as text both, with a colon between them."""

    __slots__ = ("remedy", "sentence")

    sentence: str
    remedy: str
    """Empty where nobody can do anything, or nothing is wrong."""

    def __new__(cls, sentence: str, remedy: str = "", *, text: str | None = None) -> "Problem":  # noqa: PYI034  3.10 has no Self
        """`text`: where the sentence says the remedy too, all that is to be read."""
        both = f"{sentence}: {remedy}" if remedy else sentence
        made = super().__new__(cls, both if text is None else text)
        made.sentence, made.remedy = sentence, remedy
        return made

    def __reduce__(self) -> tuple[object, ...]:
        """Lets `doctor` get it from a process of its own."""
        return _problem, (self.sentence, self.remedy, str(self))

    def about(self, subject: str) -> "Problem":
        """The same, with what it is about before it: a file, an option, a GPU."""
        before = f"{subject}: "
        return Problem(before + self.sentence, self.remedy, text=before + self)


def _problem(sentence: str, remedy: str, text: str) -> Problem:
    return Problem(sentence, remedy, text=text)


NOTHING = Problem("")
"""Nothing is wrong."""


def together(problems: Iterable[Problem]) -> Problem:
    """Several as one, each said once; NOTHING of none."""
    found = [problem for problem in dict.fromkeys(problems) if problem]
    if len(found) == 1:
        return found[0]
    sentences, remedies = ([p.sentence for p in found], [p.remedy for p in found if p.remedy])
    return Problem("; ".join(sentences), "; ".join(remedies), text="; ".join(found))


def problem_of(text: str) -> Problem:
    """`text` with its remedy if it has any."""
    return text if isinstance(text, Problem) else Problem(text)


class VgpuError(Exception):
    """Base of all; its text is that of its `problem`."""

    def __init__(self, sentence: str, remedy: str = "") -> None:
        """`sentence`: a whole `Problem`, or what failed, and `remedy` what to do."""
        self.problem = Problem(sentence, remedy) if remedy else problem_of(sentence)
        super().__init__(self.problem)


class ConfigError(VgpuError):
    """The config block, or a file that holds one, has problems: all of them, one sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        """`problems`: one sentence each, without a final stop; at least one."""
        self.problems = tuple(map(problem_of, problems))
        numbered = (f"({number}) {p}" for number, p in enumerate(self.problems, 1))
        several = len(self.problems) > 1
        super().__init__(Problem("; ".join(numbered)) if several else self.problems[0])


class HardwareError(VgpuError):
    """A GPU or its driver fails."""


class DriverError(HardwareError):
    """The driver as a whole cannot be used now; it may be later."""


class StaleLibraryError(DriverError):
    """The driver was replaced while this process had its library: only a new process can use it."""


class NoSuchGpuError(HardwareError):
    """The driver has fewer GPUs than a moment ago; those left may have other indexes now."""


class GpuError(HardwareError):
    """One GPU cannot be used now; the others may be fine."""

    def __init__(self, sentence: str, remedy: str = "", *, grave: bool = False) -> None:
        """`grave`: nothing on it will work again before a reset or a reboot."""
        super().__init__(sentence, remedy)
        self.grave = grave


class MpsError(HardwareError):
    """The MPS tools of this node, or the MPS daemon of one GPU, cannot be used now."""


class RequestError(VgpuError):
    """A reservation names vGPUs that are unknown or must not be used."""


class NotBegunError(VgpuError):
    """What runs behind Nomad's calls could not be started; it may be at the next call."""
