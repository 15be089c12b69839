"""Where the id of a model, which may contain slashes as ids of hubs do, is the end of a URL's path."""

from starlette.convertors import PathConvertor

#: A file of a model; those of a sentence-transformers model's modules are in folders such as `1_Pooling`.
FILE = r"(?:(?:\d+_[A-Za-z]+|additional_chat_templates)/)?[^/]+"


class ModelIdConvertor(PathConvertor):
    """Matches any text that does not end as the paths `/{model}/tensors` and `/{model}/files/{name}` do.

    So these paths belong to their own routes for every method, and `DELETE .../tensors` deletes no model.
    """

    regex = f"(?!.*/(?:tensors|files/{FILE})$).+"


class ModelFileConvertor(PathConvertor):
    """Matches the name of a model's file."""

    regex = FILE
