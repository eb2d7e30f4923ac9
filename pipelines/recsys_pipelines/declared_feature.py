"""What the declarations of features share: names and columns, and how ids reach the model."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from recsys_pipelines.sources.location import Location
from recsys_pipelines.strict import Strict

ColumnName = Annotated[str, Field(min_length=1)]  # of the source, whatever it is called

NO_KEEP = (
    "`keep` chooses from the vocabulary that training gives, and makes every other id unknown: it goes "
    "with neither a fixed `vocabulary`, `encoding: hash` nor `unknown: hash`"
)


class DeclaredFeature(Strict):
    """Keys of every kind: `name` or `names`, and `column` or `columns` for what is read, by default what is named."""

    suffix: ClassVar[str] = ""  # what follows a column in the name of a feature that has none of its own
    implied: ClassVar[str] = "names"  # of `names` and `columns` the one a dump leaves out where it follows
    # keys that came later, which a dump leaves out where they have these values, so that digests stay as they were
    later: ClassVar[Mapping[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _one_rule(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        declared = cls._spelled_out(dict(raw))
        for single, many in (("name", "names"), ("column", "columns")):
            if single in declared and many in declared:
                raise ValueError(f"give `{single}` or `{many}`, not both")
            if single in declared and single not in cls.model_fields:
                declared[many] = (declared.pop(single),)
            elif many in declared and many not in cls.model_fields:
                values = declared.pop(many)
                if not isinstance(values, list | tuple) or len(values) != 1:
                    raise ValueError(f"`{many}`: this kind takes one {single} (value {values!r})")
                declared[single] = values[0]
        return cls._completed(declared)

    @classmethod
    def _spelled_out(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Return the keys without a spelling that only this kind has."""
        return raw

    @classmethod
    def _completed(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Give `names` and `columns` each from the other, where one is missing."""
        if "names" not in cls.model_fields:  # of a kind that makes one feature
            return raw
        names, columns = raw.get("names"), raw.get("columns")
        if isinstance(names, list | tuple) and columns is None:
            raw["columns"] = tuple(names)
        elif isinstance(columns, list | tuple) and names is None:
            raw["names"] = tuple(f"{column}{cls.suffix}" for column in columns)
        elif (
            isinstance(names, list | tuple)
            and isinstance(columns, list | tuple)
            and len(names) != len(columns)
        ):
            raise ValueError(
                f"`names` are {len(names)} and `columns` {len(columns)}: give each column the name of its feature"
            )
        return raw

    @model_serializer(mode="wrap")
    def _without_implied(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dump: dict[str, Any] = handler(self)
        others = {key: value for key, value in self.__dict__.items() if key != self.implied}
        if self.implied in dump and self._completed(others).get(self.implied) == getattr(self, self.implied):
            del dump[self.implied]
        return {
            key: value for key, value in dump.items() if key not in self.later or value != self.later[key]
        }


class EncodedFeature(DeclaredFeature):
    """How the 64-bit ids of a feature reach the model.

    `vocabulary` numbers the ids seen in training; `hash` keeps the id itself. An id outside the vocabulary (new, or seen
    fewer than `min_count` times) gets the one code of unknown ids, or with `unknown: hash` stays a 64-bit id of its own,
    below 0 where no code is (for tables that give rare ids hashed rows).

    `form: fingerprint` holds the vocabulary in 3 to 4.5 bytes an id, where `exact` takes 13.7: ids are not kept, and
    one in 256 that are outside has the code of an id inside.
    """

    categorical: ClassVar[bool] = True
    later: ClassVar[Mapping[str, Any]] = {"form": "exact"}

    encoding: Literal["vocabulary", "hash"] = "vocabulary"  # how ids become numbers
    form: Literal["exact", "fingerprint"] = "exact"  # how the vocabulary is held
    min_count: int = Field(1, ge=1)  # rows of training that an id needs for a code
    unknown: Literal["code", "hash"] = "code"  # what an id without a code becomes

    @model_validator(mode="after")
    def _encoding_agrees(self) -> Self:
        if self.encoding == "hash" and self.min_count > 1:
            raise ValueError("`min_count` needs a vocabulary to count in: set `encoding: vocabulary`")
        if self.encoding == "hash" and self.form != "exact":
            raise ValueError("`form: fingerprint` needs a vocabulary to hold: set `encoding: vocabulary`")
        if self.encoding == "hash" and self.unknown == "hash":
            raise ValueError(
                "`unknown: hash` needs a vocabulary to be unknown to: set `encoding: vocabulary`"
            )
        return self


class KeptFeature(EncodedFeature):
    """Ids of which some alone may have a code.

    `keep` names a folder that says which (`features.kept`): the vocabulary that training gives then has codes only for
    those of its 64-bit ids that the folder lists, and every other id is unknown.
    """

    keep: Location | None = None  # folder of the ids that may have a code

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        if self.keep is not None and (self.encoding, self.unknown) != ("vocabulary", "code"):
            raise ValueError(NO_KEEP)
        return self
