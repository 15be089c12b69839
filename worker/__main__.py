"""`python -P -m worker`: one worker process. `permafrost worker` and `permafrost serve` start it."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        # Without -P Python looks for modules in the folder that it was started in, first: anybody's files, and this
        # process holds the signing key.
        del sys.path[0]
    from worker.main import main

    main()
