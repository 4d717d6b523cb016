"""AR-hits: targets that the context already showed after the same token."""

import numpy as np

from data.ar_hits import FrequentBigrams, ar_hits, count_frequent

VOCAB = 10


def nothing_frequent() -> FrequentBigrams:
    return FrequentBigrams(VOCAB, np.empty(0, np.int64), 0)


def test_a_target_hits_where_its_bigram_stands_earlier_in_the_same_sample() -> None:
    tokens = np.array([[1, 2, 3, 1, 2, 4, 1, 2], [1, 2, 3, 3, 3, 3, 5, 5]])
    expected = [
        #  12     23     31     12    24     41     12
        [False, False, False, True, False, False, True],
        #  12     23     33     33    33    35     55
        [False, False, False, True, True, False, False],
    ]
    assert ar_hits(tokens, nothing_frequent()).tolist() == expected


def test_frequent_bigrams_are_known_by_heart_and_do_not_count() -> None:
    tokens = np.array([[1, 2, 3, 1, 2, 3]])
    frequent = FrequentBigrams(VOCAB, np.array([1 * VOCAB + 2]), 100)
    assert ar_hits(tokens, frequent).tolist() == [[False, False, False, False, True]]


def test_counting_is_the_same_in_blocks_and_scales_with_the_text() -> None:
    samples = np.random.default_rng(0).integers(4, size=(40, 26))
    samples[:, :2] = (1, 2)
    fetch = lambda numbers: samples[numbers]  # noqa: E731
    whole = count_frequent(fetch, 40, VOCAB, most_tokens=1000, frequent=70)
    blocks = count_frequent(fetch, 40, VOCAB, most_tokens=1000, frequent=70, samples_at_once=7)
    assert whole.counted_tokens == 1000
    np.testing.assert_array_equal(whole.keys, blocks.keys)
    pairs = samples[:, :-1] * VOCAB + samples[:, 1:]
    keys, counts = np.unique(pairs, return_counts=True)
    np.testing.assert_array_equal(whole.keys, keys[counts > 70])
    assert 0 < len(whole.keys) < len(keys)
    tenth = count_frequent(fetch, 40, VOCAB, most_tokens=10_000, frequent=700)
    np.testing.assert_array_equal(tenth.keys, whole.keys)
    early = count_frequent(fetch, 40, VOCAB, most_tokens=100, frequent=7, samples_at_once=4)
    assert early.counted_tokens == 100
