"""Start the server, like `lmapps serve`: settings -> engine and plugins -> page and API."""

import sys

from lmapps.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
