"""An opened workspace: its catalogue, store and question sets. What a verb lacks is made first, and said.

``Workspace`` (project.py) and ``Run`` (runs.py) are the faces; both work on one session.
"""

from __future__ import annotations

import os
from functools import cached_property, partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from .. import threads
from ..catalogue.catalogue import Catalogue
from ..console.reporter import DEFAULT_DATA, Reporter
from ..errors import BundlecacheError, Command
from ..modalities import MODALITIES
from ..workspace import WorkspaceFolder, read_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..baselines.sources import Sources
    from ..candidates.index import Index
    from ..questions.question_file import Questions
    from ..recipes.recipe import Recipe
    from ..store.store import Matrix, Store, TableInfo
    from ..train.unimp.answers import UnimpAnswers


PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
"""How many processes torchrun or accelerate started; each runs the whole command."""
IS_FOLLOWER = os.environ.get("RANK", "0") != "0"
"""Whether this is one of several processes, and not the one that prints and writes."""


class Session:
    """The parts of one workspace, and what is made of them when it is missing.

    Raises
    ------
    CatalogueError
        When the folder holds no catalogue, or one that cannot be read.
    """

    def __init__(self, root: Path | str = DEFAULT_DATA, *, allow_outside: bool = False, quiet: bool = False) -> None:
        threads.prepare()
        self.folder = WorkspaceFolder(root, allow_outside)  # type: ignore[arg-type]
        self.say = Reporter(self.folder.root, quiet=quiet or IS_FOLLOWER)
        self.catalogue = Catalogue.read(self.folder)
        self.similar_indexes: dict[str, Index] = {}  # by the versions of their vectors, the last used one last
        self.fused_vectors: dict[str, Matrix] = {}  # by run
        self.unimp_answers: dict[tuple[str, str], UnimpAnswers] = {}  # by run and device
        for note in self.catalogue.notes:
            self.say.note(f"note: {note}")

    @cached_property
    def store(self) -> Store:
        """The embedding store."""
        from ..store.store import Store

        return Store(self.folder.store, self.say.bar)

    def run_encoders(self, modality: str, specs: Sequence[str] = (), **options: Any) -> list[Any]:
        """Run encoders of one modality; those that the store has already, or else the default one, if none is named.

        Those of the store are the encoders that ran together last, and those that the newest run reads.
        """
        from ..features import encode_workspace as stage_a
        from ..features import registry
        from ..store.coverage import encoders_in_use

        run = partial(stage_a.encode, self.folder, self.catalogue, self.store, modality)
        if specs:
            return run(specs, self.say, source="--encoder", **options)
        used = encoders_in_use(self.store, self._encoders_of_newest_run()).get(modality)
        if used is None:
            return run(
                [registry.DEFAULTS[modality]], self.say, source="default: embedded, no weights needed", **options
            )
        if not used.last_pass:
            self.say.note(f"{modality}: its vectors were imported, so nothing is encoded in their place")
        given = options.pop("load", None) or {}
        made: list[Any] = []
        for infos, source in ((used.others, "the newest run reads it"), (used.last_pass, "the store has it already")):
            for load, alike in groupby(infos, key=lambda info: _as_stored(info, given)):
                made += run([info.spec for info in alike], self.say, source=source, load=load, **options)
        return made

    def _encoders_of_newest_run(self) -> list[str]:
        """The encoders whose vectors the newest finished run reads; none where there is no run, or it is damaged."""
        try:
            return [encoder["spec"] for encoder in read_manifest(self.folder.run(None, None))["encoders"]]
        except (BundlecacheError, KeyError):
            return []

    def matrices(self, modalities: Sequence[str] = ()) -> dict[str, Matrix]:
        """Modality -> its stored vectors [I, d]; an empty store is filled with the default encoders first."""
        from ..features import encode_workspace as stage_a

        stored = self.store.modalities()
        if not stored:
            require_one_process("encode")
            self.say.note(
                "Nothing is encoded yet, so the default encoders run now", Command("encode", "--modality", "all")
            )
            for modality in stage_a.encodable(self.catalogue, self.say):
                self.run_encoders(modality)
            stored = self.store.modalities()
        missing = [name for name in MODALITIES if name not in stored and self.catalogue.has_source(name).any()]
        if missing and not modalities:
            self.say.warn(f"Without {', '.join(missing)}:", "nothing of it is encoded", Command("encode"))
        return {name: self.store.matrix(self.catalogue.item_ids, name) for name in modalities or stored}

    def every_matrix(self) -> dict[str, Matrix]:
        """Encoder -> the vectors of its newest table; token features are left out, they are no vector of an item."""
        self.matrices()
        newest = {info.spec: info for info in reversed(self.store.tables()) if info.rows and not info.tokens}
        return {
            spec: self.store.matrix(self.catalogue.item_ids, info.modality, spec, info.table)
            for spec, info in reversed(newest.items())
        }

    def matrices_of(self, encoders: Sequence[str]) -> list[Matrix]:
        """The stored vectors of these encoders, in their order.

        Raises
        ------
        BundlecacheError
            When the store has none of one of them.
        """
        modality = {info.spec: info.modality for info in self.store.tables() if info.rows}
        for spec in encoders:
            if spec not in modality:
                raise BundlecacheError(
                    f"The store holds no vectors of {spec}; it has those of {', '.join(modality) or 'none'}.",
                    hint=Command("encode", "--encoder", spec, "--modality", "MODALITY"),
                )
        return [self.store.matrix(self.catalogue.item_ids, modality[spec], spec) for spec in dict.fromkeys(encoders)]

    def training_matrices(self, recipe: Recipe) -> dict[str, Matrix]:
        """What a training reads: the vectors by modality, other fields of the same encoder, and encoders that the recipe names."""
        from ..store.coverage import current_tables

        matrices = self.matrices()
        others = [info.spec for chosen in current_tables(self.store.tables()).values() for info in chosen[1:]]
        encoders = list(dict.fromkeys([*others, *(name for name in recipe.fusion.modalities if ":" in name)]))
        return {**matrices, **dict(zip(encoders, self.matrices_of(encoders), strict=True))}

    def sources(self, matrices: dict[str, Matrix]) -> Sources:
        """What baselines learn from, with those that need torch."""
        from ..baselines.sources import Sources
        from ..train.set_encoder_baseline import LEARNERS

        return Sources(self.catalogue, matrices, learners=LEARNERS)

    def default_test_sets(self, options: int | None = None) -> list[str]:
        """Names of the test sets that are answered when none is named; of so many options, frozen where there are none."""
        from ..questions import question_sets

        if options is None:
            return question_sets.default_names(self.folder, "test")
        usual = question_sets.usual_names("test", options)
        if not set(usual) & set(question_sets.names(self.folder)):
            self.say.note(
                f"No questions of {options} options yet: freezing them now", Command("questions", "--options", options)
            )
            self._freeze(options=options)
        return usual

    def all_test_sets(self) -> list[str]:
        """Names of all test sets; the usual ones are frozen where there are none at all."""
        from ..questions import question_sets

        made = [name for name in question_sets.names(self.folder) if name.startswith("test-")]
        if made:
            return made
        self.say.note("No test questions yet: freezing them now", Command("questions"))
        self._freeze()
        return question_sets.default_names(self.folder, "test")

    def validation_set(self, name: str | None = None) -> Questions:
        """The questions that weights are chosen on; the usual sets are frozen where there are none at all.

        Raises
        ------
        BundlecacheError
            When ``name`` holds no validation questions: test questions never choose weights.
        """
        from ..questions import question_sets

        if not question_sets.names(self.folder):
            require_one_process("questions")
            self.say.note("No questions yet: freezing them now", Command("questions"))
            self._freeze()
        (valid,) = self.question_sets([name or question_sets.default_names(self.folder, "valid")[0]])
        if valid.split != "valid":
            raise BundlecacheError(
                f"{valid.name} holds {valid.split} questions; weights are chosen on validation questions only.",
                hint=f"--validation {question_sets.default_names(self.folder, 'valid')[0]}",
            )
        return valid

    def ablation_sets(self, options: int, kinds: Sequence[str]) -> tuple[Questions, dict[str, Questions]]:
        """The random validation questions of so many options, and test questions by kind; frozen where they are missing."""
        from ..questions import question_sets
        from ..questions.freeze import name_of

        columns = {f"test-{kind}": name_of("test", kind, options) for kind in kinds}
        chosen_on = name_of("valid", "random", options)
        if not {chosen_on, *columns.values()} <= set(question_sets.names(self.folder)):
            self._freeze(options=options, kinds=list(dict.fromkeys(["random", *kinds])))
        valid, *tests = self.question_sets([chosen_on, *columns.values()])
        return valid, dict(zip(columns, tests, strict=True))

    def _freeze(self, **options: Any) -> None:
        from ..questions import question_sets

        question_sets.freeze_missing(
            self.folder,
            self.catalogue,
            self.store,
            matrices=self.matrices,
            say=self.say.note,
            bar=partial(self.say.bar, "questions"),
            **options,
        )

    def question_sets(self, names: Sequence[str]) -> list[Questions]:
        """Frozen question sets by name.

        Raises
        ------
        QuestionsError
            When one is missing or damaged: nothing is ever drawn again silently.
        """
        from ..questions.question_sets import load_all

        return load_all(self.folder, self.catalogue, names, say=self.say.note)


def _as_stored(info: TableInfo, given: dict[str, Any]) -> dict[str, Any]:
    """The options of loading an encoder under which the vectors of a table were made, but for those that were ``given``."""
    from ..features import registry

    made = {"dtype": info.dtype, **registry.options_from_preprocess(info.preprocess)}
    return {**made, **{name: value for name, value in given.items() if value not in (None, "auto")}}


def require_one_process(verb: str) -> None:
    """Refuse to make what is missing where several processes would make it at once.

    Raises
    ------
    BundlecacheError
        Naming the command that makes it.
    """
    if PROCESSES > 1:
        raise BundlecacheError(
            f"{PROCESSES} processes were started, but what they share is not made yet.", hint=Command(verb)
        )
