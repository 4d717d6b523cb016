"""The texts of a study.

In: CorpusSettings, the study's folder. Out: FOLDER/NAME/{train,validation}. Always: what is finished is not made again;
made-up texts share one tokenizer, so that a model can go on from one to the next.
"""

import os
from pathlib import Path

from common.errors import InputError, nearest
from data.prepare import SUMMARY_FILE, PrepareConfig, prepare
from scripts.replication.sections import CorpusSettings
from scripts.retrieval.classes import write_data_set
from scripts.retrieval.corpus import build_corpus
from scripts.retrieval.documents import CURRICULUM

LABELLED = "labelled"
"""folder, among those of the texts, of data sets for in-context tasks, by the name of their corpus"""
SEED = 0
"""of what is made up; the order in which it is read is the run's"""


def check_recipe(corpus: CorpusSettings) -> None:
    """Raises InputError for a recipe that there is not."""
    if corpus.recipe is not None and corpus.recipe not in CURRICULUM:
        known = ", ".join(CURRICULUM)
        hint = nearest(corpus.recipe, CURRICULUM)
        raise InputError(f"corpora: {corpus.name}: unknown recipe '{corpus.recipe}'{hint}; known: {known}")


def build(corpus: CorpusSettings, folder: Path) -> None:
    """Makes the shards, where they are missing."""
    workers = os.cpu_count() or 1
    output = folder / corpus.name
    if corpus.prepared is not None or (output / SUMMARY_FILE).exists():
        return
    print(f"preparing {output}", flush=True)
    if corpus.recipe is not None:
        recipe = CURRICULUM[corpus.recipe]
        if recipe.most_classes:
            write_data_set(folder / LABELLED / corpus.name, recipe.most_classes, SEED)
        build_corpus(folder, corpus.name, recipe, max(1, corpus.tokens // recipe.length), SEED, workers)
        return
    assert corpus.input is not None
    prepare(PrepareConfig(input=corpus.input, output=str(output), vocab_size=corpus.vocab_size, workers=workers))
