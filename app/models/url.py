"""Where the id of a model, which may contain slashes as ids of hubs do, is the end of a URL's path."""

from starlette.convertors import PathConvertor


class ModelIdConvertor(PathConvertor):
    """Matches any text that does not end as the paths `/{model}/tensors` and `/{model}/files/{name}` do.

    So these paths belong to their own routes for every method, and `DELETE .../tensors` deletes no model.
    """

    regex = "(?!.*/(?:tensors|files/[^/]+)$).+"
