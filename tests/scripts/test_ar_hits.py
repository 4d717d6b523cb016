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


def test_counting_in_blocks_and_what_is_frequent() -> None:
    samples = np.random.default_rng(0).integers(4, size=(40, 26))
    samples[:, :2] = (1, 2)
    whole = count_frequent([samples], VOCAB, frequent_share=0.07)
    blocks = count_frequent([samples[:7], samples[7:9], samples[9:]], VOCAB, frequent_share=0.07, keys_at_once=180)
    assert whole.counted == blocks.counted == 1000
    np.testing.assert_array_equal(whole.keys, blocks.keys)
    keys, counts = np.unique(samples[:, :-1] * VOCAB + samples[:, 1:], return_counts=True)
    np.testing.assert_array_equal(whole.keys, keys[counts > 70])
    assert 0 < len(whole.keys) < len(keys)
    few = count_frequent([np.array([[1, 2, 1, 2, 3, 4, 3, 4, 3, 4]])], VOCAB, frequent_share=0.0)
    assert few.keys.tolist() == [3 * VOCAB + 4]  # what stands only twice is never frequent
    assert count_frequent([], VOCAB).keys.size == 0
