"""The two ends of the model: tokens to activations, activations to logits.

In: Tokens, and at the other end the payload of the last block. Out: the first payload, whose layout all layers share,
and what becomes of a Prediction: logits_TBV unless the caller says otherwise. Always: batch first outside the model,
sequence first inside; both ends are split by vocabulary, and with tied embeddings both use the same weight.
"""

from torch import Tensor, nn

from model.config import ModelConfig
from model.layout import Layout
from model.norm import Norm
from model.payload import Payload, Tokens
from model.prediction import Finish, Prediction
from model.surroundings import Surroundings


class Embedding(nn.Module):
    """Tokens to activations, and with tied embeddings also activations to logits."""

    def __init__(self, config: ModelConfig, around: Surroundings) -> None:
        super().__init__()
        self.config = config
        self.sharding = around.sharding
        self.recorder = around.recorder
        self.kernels = around.kernels
        self.context = around.context
        self.cross_entropy = around.kernels.rowwise.cross_entropy
        self.embedding = around.sharding.vocab_embedding(config.vocab_size, config.hidden_size)

    @property
    def weight(self) -> Tensor:
        """This rank's part of the vocabulary, [V/size, D]."""
        weight = self.embedding.weight
        assert isinstance(weight, Tensor)
        return weight

    def forward(self, tokens: Tokens) -> Payload:
        tokens_BT, documents = (tokens, None) if isinstance(tokens, Tensor) else tokens
        x_TBD = self.embedding(tokens_BT)
        layout = Layout.of(self.config, tokens_BT.shape[1], documents, x_TBD, self.kernels, self.context)
        return Payload(x_TBD, layout)

    def predict(self, payload: Payload, finish: Finish = Prediction.logits) -> Tensor:
        """``finish`` of the tied head's prediction."""
        return finish(Prediction(payload.x_TBD, self.weight, self.sharding, self.recorder, self.cross_entropy))


class FinalNorm(nn.Module):
    """The norm between the last block and the head."""

    def __init__(self, config: ModelConfig, around: Surroundings) -> None:
        super().__init__()
        self.final_norm = Norm(config.hidden_size, config.norm_eps, around)

    def forward(self, payload: Payload) -> Payload:
        return Payload(self.final_norm(payload.x_TBD), payload.layout)


class Head(nn.Module):
    """Activations to a prediction with a weight of its own (untied embeddings)."""

    def __init__(self, config: ModelConfig, around: Surroundings) -> None:
        super().__init__()
        self.sharding = around.sharding
        self.recorder = around.recorder
        self.cross_entropy = around.kernels.rowwise.cross_entropy
        # Its own parameter, not a layer's: what reads it must be what ZeRO 3 gathers it for.
        self.weight = around.sharding.vocab_linear(config.hidden_size, config.vocab_size).get_parameter("weight")

    def forward(self, payload: Payload, finish: Finish = Prediction.logits) -> Tensor:
        return finish(Prediction(payload.x_TBD, self.weight, self.sharding, self.recorder, self.cross_entropy))
