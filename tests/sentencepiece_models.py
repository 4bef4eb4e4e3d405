"""SentencePiece model files whose pieces are changed. The package's own message classes need the newest protobuf."""

import functools

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


@functools.cache
def _model_class():
    """The message of a model as far as the tests change it; what else it has is kept as it is."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="pieces.proto", package="pieces", syntax="proto2")
    piece = file.message_type.add(name="Piece")
    piece.field.add(name="piece", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    piece.field.add(name="score", number=2, type=field.TYPE_FLOAT, label=field.LABEL_OPTIONAL)
    rules = file.message_type.add(name="Rules")
    rules.field.add(name="remove_extra_whitespaces", number=4, type=field.TYPE_BOOL, label=field.LABEL_OPTIONAL)
    model = file.message_type.add(name="Model")
    for name, number, label, message in (
        ("pieces", 1, field.LABEL_REPEATED, "Piece"),
        ("normalizer_spec", 3, field.LABEL_OPTIONAL, "Rules"),
    ):
        model.field.add(name=name, number=number, type=field.TYPE_MESSAGE, label=label, type_name=f".pieces.{message}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("pieces.Model"))


def read(path):
    """The model of a file: `pieces` with `piece` and `score`, `normalizer_spec`; `SerializeToString` gives it back."""
    return _model_class().FromString(path.read_bytes())
