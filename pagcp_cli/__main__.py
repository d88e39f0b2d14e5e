"""`python -m pagcp_cli`: the console script, with the same import path.

`python -m` puts the working folder first on the import path, where a user's own `specs/` or `passes/` would be
taken for this project's. It goes to the end, as the spec's folder does.
"""

import os
import sys

if not getattr(sys.flags, "safe_path", False) and sys.path and os.path.realpath(sys.path[0] or ".") == os.getcwd():
    sys.path.append(sys.path.pop(0))

from pagcp_cli.main import main

main()
