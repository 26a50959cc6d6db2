"""Token features of the picture descriptor by known answers: which patch sees what, and where it is."""

from __future__ import annotations

import numpy as np

from bundlecache.features import registry as features


def test_picture_tokens_see_their_own_patch_and_know_where_it_is():
    encoder = features.load("descriptor-tokens:picture", modality="image", catalogue=None)
    picture = np.full((2, 64, 64, 3), 255, np.uint8)
    picture[0, 20:28, 36:44] = (255, 0, 0)  # row 1, column 2
    picture[1, 20:28, 36:44] = (0, 255, 255)
    tokens = encoder.encode(list(picture))  # [2, 16, 46]
    hues, colour, place = tokens[:, :, :24], tokens[:, :, 32:35], tokens[:, :, 38:]
    here = 4 * 1 + 2
    assert [np.flatnonzero(each.any(axis=1)).tolist() for each in hues] == [[here], [here]]
    np.testing.assert_allclose(hues[0, here, [0, 12]], 4.0)  # all of 16 patches' share: red in bin 0
    np.testing.assert_allclose(hues[1, here, [6, 18]], 4.0, rtol=1e-6)  # the opposite colour
    np.testing.assert_allclose(colour[0, here], [1.0, 0.75, 0.75])  # 64 of its 256 pixels
    assert place[0].argmax(axis=1).tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert (place[0, :, 4:].argmax(axis=1) == np.arange(16) % 4).all()
