"""What tokens mean, from the retrieval encoder: half of each embedding that the demo model starts with.

Matching "How high is …?" with "… rises to 4,806 metres" is learnt sooner where "high", "height" and "rises" start
out close together. The encoder is the demo's own (all-MiniLM-L6-v2); it has read the web, the model has not.
"""

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from service.adapters.encoder import EncoderConfig, SentenceEncoder


def token_meanings(tokenizer: Tokenizer, dim: int) -> Tensor:
    """(vocabulary, dim) float32: the tokens' encodings, reduced to their `dim` main directions, of unit spread."""
    words = [tokenizer.decode([id_]).strip() or "." for id_ in range(tokenizer.get_vocab_size())]
    encodings = SentenceEncoder(EncoderConfig(), "passage").encode(words, batch_size=64)
    centred = encodings - encodings.mean(axis=0)
    directions = np.linalg.svd(centred, full_matrices=False).Vh[:dim]
    reduced = torch.from_numpy(centred @ directions.T)
    return reduced / reduced.square().mean().sqrt()
