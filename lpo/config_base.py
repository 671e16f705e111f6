"""What every section of a configuration is made of."""

from __future__ import annotations

from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused. The text under a field is its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SectionOfKinds(Section):
    """A section of which one setting decides which others mean anything.

    Settings that nothing would read are refused, so that none is accepted and ignored; and they are left out of what
    is stored, so that it can be read again.
    """


    @property
    def kind(self) -> str:
        """The kind, as named in errors."""
        raise NotImplementedError

    @property
    def meaningless(self) -> set[str]:
        """Settings that nothing would read."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _every_setting_is_read(self) -> SectionOfKinds:
        stray = sorted(self.model_fields_set & self.meaningless)
        if stray:
            raise ValueError(f"{self.kind} has no {', '.join(stray)}")
        return self

    @model_serializer(mode="wrap")
    def _meaningful_alone(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = cast(dict[str, Any], handler(self))
        return {name: value for name, value in values.items() if name not in self.meaningless}


class SamplingConfig(Section):
    """How text is drawn."""

    temperature: float = Field(default=0.7, ge=0)
    """0 takes the most probable token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Smallest set of tokens with this much probability; 1 keeps all."""
    top_k: int = Field(default=0, ge=0)
    """0 keeps all tokens."""
    repetition_penalty: float = Field(default=1.0, gt=0)
    """As in transformers; 1 is off."""
